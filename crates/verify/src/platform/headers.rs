//! Checks of security headers and of the Observatory grade.

use bytes::Bytes;
use http::Method;
use kith_readiness::observatory::{self, Policy};
use kith_readiness::{Answer, Check, NO_ID, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-05",
        does: "reads the headers of pages, JSON, redirects, rejections and 404 responses, and rates each by \
               the rules of the HTTP Observatory",
        mend: "check which proxy between here and Kith removes the header; HSTS is sent in production mode",
        last: false,
        run: |run| Box::pin(headers(run)),
    },
    Check {
        row: "SEC-06",
        does: "reads the Content-Security-Policy of every kind of response",
        mend: "check which proxy between here and Kith replaces the policy",
        last: false,
        run: |run| Box::pin(policies(run)),
    },
    Check {
        row: "SEC-07",
        does: "computes the HTTP Observatory score and grade of the worst response",
        mend: "fix the findings of SEC-05 and SEC-10",
        last: false,
        run: |run| Box::pin(grade(run)),
    },
];

/// Headers with their accepted values.
const REQUIRED_HEADERS: &[(&str, &[&str])] = &[
    ("x-content-type-options", &["nosniff"]),
    ("x-frame-options", &["DENY", "SAMEORIGIN"]),
    ("referrer-policy", &["no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin"]),
    ("cross-origin-opener-policy", &["same-origin"]),
    ("cross-origin-embedder-policy", &["require-corp", "credentialless"]),
    ("cross-origin-resource-policy", &["same-origin", "same-site"]),
];

/// Returns one response of each kind, with its description.
async fn answers(run: &Run) -> Result<Vec<(&'static str, Answer)>, Shortfall> {
    let nobody = run.anonymous();
    let page = nobody.get("/docs").await?.expect(200)?;
    let person = run.person("reads-lists").await?;
    let html = page.text();
    let script =
        html.split(" src=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("/docs").to_owned();
    let etag = page.header("etag").unwrap_or("*").to_owned();
    let broken = Bytes::from_static(b"{");
    Ok(vec![
        ("page", page),
        ("script", nobody.get(&script).await?.expect(200)?),
        ("JSON", person.client.get("/api/v1/me").await?.expect(200)?),
        ("document", nobody.get("/openapi.json").await?.expect(200)?),
        ("sign-in", sign_in(run).await?),
        ("health", nobody.get("/livez").await?.expect(200)?),
        ("nothing", nobody.get("/api/v1/ping").await?.expect(204)?),
        ("not modified", nobody.with("if-none-match", &etag).get("/docs").await?.expect(304)?),
        ("redirect", nobody.get("/swagger").await?.expect(308)?),
        ("malformed", person.client.send(Method::PATCH, "/api/v1/me", broken).await?.expect(400)?),
        ("unauthenticated", nobody.get("/api/v1/me").await?.expect(401)?),
        ("forbidden", person.client.get("/api/v1/admin/users").await?.expect(403)?),
        ("unknown id", person.client.get(&format!("/api/v1/partners/requests/{NO_ID}")).await?.expect(404)?),
        ("unknown path", nobody.get("/kith-verify").await?.expect(404)?),
        ("unknown method", nobody.delete("/api/v1/ping", Value::Null).await?.expect(405)?),
    ])
}

/// Returns the response to a rejected refresh, for the cookies it might set.
async fn sign_in(run: &Run) -> Result<Answer, Shortfall> {
    let token = json!({ "refresh_token": "kith-verify" });
    run.anonymous().post("/api/v1/auth/refresh", token).await?.expect(401)
}

/// Returns true if responses must carry HSTS. Browsers ignore it over plain HTTP.
fn needs_hsts(run: &Run) -> bool {
    !super::tls::is_loopback_http(&run.deployment().target().url)
}

/// Returns the applicable Observatory marks.
fn marks(answer: &Answer, needs_hsts: bool) -> Vec<observatory::Mark> {
    let mut marks = observatory::marks(&answer.headers, &answer.text());
    marks.retain(|mark| needs_hsts || mark.rule != "strict-transport-security");
    marks
}

async fn headers(run: &Run) -> Result<String, Shortfall> {
    let (answers, needs_hsts) = (answers(run).await?, needs_hsts(run));
    let mut worst = i32::MAX;
    for (kind, answer) in &answers {
        for (name, values) in REQUIRED_HEADERS {
            let sent: Vec<_> = answer.headers.get_all(*name).iter().collect();
            let is_well = matches!(sent[..], [one] if values.iter().any(|value| one == value));
            if !is_well {
                let asked = &answer.asked;
                return Err(Shortfall::fails(format!(
                    "{asked} ({kind}) has {name} {sent:?} instead of {}",
                    values[0]
                )));
            }
        }
        let marks = marks(answer, needs_hsts);
        if let Some(mark) = marks.iter().find(|mark| mark.modifier < 0) {
            let (asked, rule, cost) = (&answer.asked, mark.rule, -mark.modifier);
            return Err(Shortfall::fails(format!("{asked} ({kind}) loses {cost} points by the rule {rule}")));
        }
        worst = worst.min(observatory::score(&marks));
    }
    let grade = observatory::grade(worst);
    run.figure("kinds_of_answers", answers.len());
    run.figure("score", worst);
    run.figure("grade", grade);
    let but = if needs_hsts {
        ""
    } else {
        "; HSTS was not verified, because it has no effect over plain HTTP on this machine"
    };
    Ok(format!(
        "{} kinds of responses have all of {} headers; by the rules of the HTTP Observatory the worst has \
         {worst} points, grade {grade}{but}",
        answers.len(),
        REQUIRED_HEADERS.len()
    ))
}

async fn policies(run: &Run) -> Result<String, Shortfall> {
    let answers = answers(run).await?;
    let mut different = Vec::new();
    for (kind, answer) in &answers {
        let fails = |what: &str| Err(Shortfall::fails(format!("{} ({kind}) {what}", answer.asked)));
        let sent: Vec<_> = answer.headers.get_all("content-security-policy").iter().collect();
        let [policy] = sent[..] else { return fails(&format!("has {} policies", sent.len())) };
        let policy = Policy::parse(policy.to_str().unwrap_or_default());
        if let Some((directive, source)) = policy.unsafe_source() {
            return fails(&format!("allows {source} in {directive}"));
        }
        for directive in ["default-src", "base-uri", "form-action", "frame-ancestors"] {
            match policy.sources(directive) {
                Some([one]) if one == "'none'" => {}
                found => return fails(&format!("has {directive} {found:?} instead of 'none'")),
            }
        }
        for directive in ["script-src", "object-src", "style-src", "connect-src"] {
            let own = |source: &String| source == "'self'" || source == "'none'";
            if !policy.fetches(directive).is_some_and(|sources| sources.iter().all(own)) {
                return fails(&format!("allows other sources in {directive}"));
            }
        }
        if !different.contains(&policy) {
            different.push(policy);
        }
    }
    run.figure("policies", different.len());
    Ok(format!(
        "{} kinds of responses have {} policies, each with default-src 'none' and without unsafe or foreign \
         sources",
        answers.len(),
        different.len()
    ))
}

async fn grade(run: &Run) -> Result<String, Shortfall> {
    let (answers, needs_hsts) = (answers(run).await?, needs_hsts(run));
    let scored = answers.iter().map(|(kind, answer)| (observatory::score(&marks(answer, needs_hsts)), kind));
    let Some((worst, kind)) = scored.min() else { return Err(Shortfall::fails("nothing answered")) };
    let grade = observatory::grade(worst);
    run.figure("score", worst);
    run.figure("grade", grade);
    if worst < 90 {
        return Err(Shortfall::fails(format!(
            "the worst response ({kind}) has {worst} points, grade {grade}"
        )));
    }
    match super::tls::scan(run).await {
        Ok(tls) => Ok(format!("the worst response has {worst} points, grade {grade}; {tls}")),
        Err(Shortfall::NotApplicable(why)) => {
            Ok(format!("the worst response has {worst} points, grade {grade}; {why}"))
        }
        Err(short) => Err(short),
    }
}
