//! Checks of security headers, and of the grade by the rules of Mozilla's HTTP Observatory.

use bytes::Bytes;
use http::Method;
use kith_readiness::observatory::{self, Policy};
use kith_readiness::{Check, CheckResponse, NO_ID, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-05",
        description: "reads the headers of pages, JSON, redirects, rejections and 404 responses, and rates each by \
               the rules of the HTTP Observatory",
        remediation: "check which proxy between here and Kith removes the header; HSTS is sent in production mode",
        runs_last: false,
        run: |run| Box::pin(headers(run)),
    },
    Check {
        row: "SEC-06",
        description: "reads the Content-Security-Policy of every kind of response",
        remediation: "check which proxy between here and Kith replaces the policy",
        runs_last: false,
        run: |run| Box::pin(policies(run)),
    },
    Check {
        row: "SEC-07",
        description: "computes the HTTP Observatory score and grade of the worst response",
        remediation: "fix the findings of SEC-05 and SEC-10",
        runs_last: false,
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

/// Fetches one response of each kind and returns it with a description.
async fn fetch_responses(run: &Run) -> Result<Vec<(&'static str, CheckResponse)>, Shortfall> {
    let anonymous = run.anonymous();
    let page = anonymous.get("/docs").await?.expect(200)?;
    let account = run.account("reads-lists").await?;
    let html = page.text();
    let script =
        html.split(" src=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("/docs").to_owned();
    let etag = page.header("etag").unwrap_or("*").to_owned();
    let broken = Bytes::from_static(b"{");
    Ok(vec![
        ("page", page),
        ("script", anonymous.get(&script).await?.expect(200)?),
        ("JSON", account.client.get("/api/v1/me").await?.expect(200)?),
        ("document", anonymous.get("/openapi.json").await?.expect(200)?),
        ("sign-in", sign_in(run).await?),
        ("health", anonymous.get("/livez").await?.expect(200)?),
        ("nothing", anonymous.get("/api/v1/ping").await?.expect(204)?),
        ("not modified", anonymous.with("if-none-match", &etag).get("/docs").await?.expect(304)?),
        ("redirect", anonymous.get("/swagger").await?.expect(308)?),
        ("malformed", account.client.send(Method::PATCH, "/api/v1/me", broken).await?.expect(400)?),
        ("unauthenticated", anonymous.get("/api/v1/me").await?.expect(401)?),
        ("forbidden", account.client.get("/api/v1/admin/users").await?.expect(403)?),
        ("unknown id", account.client.get(&format!("/api/v1/partners/requests/{NO_ID}")).await?.expect(404)?),
        ("unknown path", anonymous.get("/kith-verify").await?.expect(404)?),
        ("unknown method", anonymous.delete("/api/v1/ping", Value::Null).await?.expect(405)?),
    ])
}

/// Sends a refresh request that is rejected, and returns the response. The caller checks it for cookies.
async fn sign_in(run: &Run) -> Result<CheckResponse, Shortfall> {
    let token = json!({ "refresh_token": "kith-verify" });
    run.anonymous().post("/api/v1/auth/refresh", token).await?.expect(401)
}

/// Returns true if responses must have an HSTS header. Browsers ignore it over plain HTTP.
fn requires_hsts(run: &Run) -> bool {
    !super::tls::is_loopback_http(&run.deployment().target().url)
}

/// Returns the Observatory scores of a response. Scores for HSTS are left out unless `needs_hsts` is set.
fn rule_scores(response: &CheckResponse, needs_hsts: bool) -> Vec<observatory::RuleScore> {
    let mut scores = observatory::rule_scores(&response.headers, &response.text());
    scores.retain(|rule_score| needs_hsts || rule_score.rule != "strict-transport-security");
    scores
}

async fn headers(run: &Run) -> Result<String, Shortfall> {
    let (responses, needs_hsts) = (fetch_responses(run).await?, requires_hsts(run));
    let mut worst = i32::MAX;
    for (kind, response) in &responses {
        for (name, values) in REQUIRED_HEADERS {
            let sent: Vec<_> = response.headers.get_all(*name).iter().collect();
            let is_well = matches!(sent[..], [one] if values.iter().any(|value| one == value));
            if !is_well {
                let request = &response.request;
                return Err(Shortfall::fails(format!(
                    "{request} ({kind}) has {name} {sent:?} instead of {}",
                    values[0]
                )));
            }
        }
        let scores = rule_scores(response, needs_hsts);
        if let Some(rule_score) = scores.iter().find(|rule_score| rule_score.modifier < 0) {
            let (request, rule, cost) = (&response.request, rule_score.rule, -rule_score.modifier);
            return Err(Shortfall::fails(format!(
                "{request} ({kind}) loses {cost} points by the rule {rule}"
            )));
        }
        worst = worst.min(observatory::score(&scores));
    }
    let grade = observatory::grade(worst);
    run.record("kinds_of_answers", responses.len());
    run.record("score", worst);
    run.record("grade", grade);
    let but = if needs_hsts {
        ""
    } else {
        "; HSTS was not verified, because it has no effect over plain HTTP on this machine"
    };
    Ok(format!(
        "{} kinds of responses have all of {} headers; by the rules of the HTTP Observatory the worst has \
         {worst} points, grade {grade}{but}",
        responses.len(),
        REQUIRED_HEADERS.len()
    ))
}

async fn policies(run: &Run) -> Result<String, Shortfall> {
    let responses = fetch_responses(run).await?;
    let mut different = Vec::new();
    for (kind, response) in &responses {
        let fails = |what: &str| Err(Shortfall::fails(format!("{} ({kind}) {what}", response.request)));
        let sent: Vec<_> = response.headers.get_all("content-security-policy").iter().collect();
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
    run.record("policies", different.len());
    Ok(format!(
        "{} kinds of responses have {} policies, each with default-src 'none' and without unsafe or foreign \
         sources",
        responses.len(),
        different.len()
    ))
}

async fn grade(run: &Run) -> Result<String, Shortfall> {
    let (responses, needs_hsts) = (fetch_responses(run).await?, requires_hsts(run));
    let scored = responses
        .iter()
        .map(|(kind, response)| (observatory::score(&rule_scores(response, needs_hsts)), kind));
    let Some((worst, kind)) = scored.min() else { return Err(Shortfall::fails("nothing answered")) };
    let grade = observatory::grade(worst);
    run.record("score", worst);
    run.record("grade", grade);
    if worst < 90 {
        return Err(Shortfall::fails(format!(
            "the worst response ({kind}) has {worst} points, grade {grade}"
        )));
    }
    match super::tls::scan(run).await {
        Ok(tls) => Ok(format!("the worst response has {worst} points, grade {grade}; {tls}")),
        Err(Shortfall::NotApplicable(reason)) => {
            Ok(format!("the worst response has {worst} points, grade {grade}; {reason}"))
        }
        Err(short) => Err(short),
    }
}
