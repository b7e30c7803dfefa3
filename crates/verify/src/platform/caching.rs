//! Checks of `Cache-Control` and of intermediate caches.

use kith_readiness::{Check, CheckResponse, Run, Shortfall};
use serde_json::json;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "CAC-04",
    description: "reads as two people with the validators of their own and of each other, before and after a change; compares what \
           answers of each kind may be kept with what is to be",
    remediation: "see that no cache in front of the server keeps what says `private` or `no-store`, or takes `ETag` away",
    runs_last: false,
    run: |run| Box::pin(check_cache_control(run)),
}];

const ME: &str = "/api/v1/me";

async fn check_cache_control(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (run.account("partner-1").await?, run.account("partner-2").await?);
    let read = async |by: &kith_readiness::SyntheticAccount, tag: Option<&str>| {
        let client = tag.map_or_else(|| by.client.clone(), |tag| by.client.with("if-none-match", tag));
        client.get(ME).await
    };
    let mine = read(&ada, None).await?.expect(200)?;
    let others = read(&ben, None).await?.expect(200)?;
    let (tag, other_tag) = (tag(&mine)?, tag(&others)?);
    if tag == other_tag {
        return Err(Shortfall::fails("two people's profiles have one ETag"));
    }
    let known = read(&ada, Some(&tag)).await?.expect(304)?;
    if !known.body.is_empty() {
        return Err(Shortfall::fails("a 304 has a body"));
    }
    let foreign = read(&ben, Some(&tag)).await?.expect(200)?;
    if foreign.text_at("/id")? != ben.id {
        return Err(Shortfall::fails("somebody was shown another's profile"));
    }
    // Alternates between two users, so that a shared cache in between would return the wrong profile.
    for n in 0..6 {
        let reader = if n % 2 == 0 { &ada } else { &ben };
        if read(reader, None).await?.expect(200)?.text_at("/id")? != reader.id {
            return Err(Shortfall::fails(
                "of two people who read in turn, one was shown the other's profile",
            ));
        }
    }
    run.anonymous().get(ME).await?.expect(401)?;
    let nickname = run.marker("changed");
    ada.client.patch(ME, json!({ "nickname": nickname })).await?.expect(200)?;
    let changed = read(&ada, Some(&tag)).await?.expect(200)?;
    if changed.text_at("/nickname")? != nickname {
        return Err(Shortfall::fails("after a change the old state is shown"));
    }
    let kinds = matrix(run, &mine, &known).await?;
    Ok(format!(
        "304 for one's own state, 200 after a change and for anybody else; {kinds} kinds of answers say what may be kept"
    ))
}

fn tag(response: &CheckResponse) -> Result<String, Shortfall> {
    let tag = response.header("etag").map(str::to_owned);
    tag.ok_or_else(|| Shortfall::fails(format!("{} answered without an ETag", response.request)))
}

/// Checks `Cache-Control` of each kind of response. Returns the number of kinds.
async fn matrix(run: &Run, own: &CheckResponse, known: &CheckResponse) -> Result<usize, Shortfall> {
    let anonymous = run.anonymous();
    let ada = run.account("partner-1").await?;
    let body = json!({ "email": ada.email, "password": "" });
    let rows = [
        ("one's own state", own.clone(), "private"),
        ("one's own state that is known", known.clone(), "private"),
        ("a refusal", anonymous.get(ME).await?, "no-store"),
        ("what is not there", ada.client.get("/api/v1/no-such-path").await?, "no-store"),
        ("an answer about tokens", anonymous.post("/api/v1/auth/login", body).await?, "no-store"),
        ("open sessions", ada.client.get("/api/v1/auth/sessions").await?, "private"),
        ("the published keys", anonymous.get("/.well-known/jwks.json").await?, ""),
        ("the state of the server", anonymous.get("/livez").await?, "no-store"),
    ];
    let mut cache_controls = serde_json::Map::new();
    for (kind, response, wanted) in &rows {
        let cache_control = response.header("cache-control").unwrap_or_default();
        cache_controls.insert((*kind).to_owned(), cache_control.into());
        // `no-store` also forbids storage by shared caches.
        let holds =
            cache_control.contains(wanted) || (*wanted == "private" && cache_control.contains("no-store"));
        if cache_control.is_empty() || !holds {
            run.record("cache_control", cache_controls);
            return Err(Shortfall::fails(format!(
                "{kind} says {cache_control:?} of being kept, without {wanted:?}"
            )));
        }
    }
    run.record("cache_control", cache_controls);
    Ok(rows.len())
}
