//! Checks `Cache-Control` headers, and that no intermediate cache mixes up users.

use kith_readiness::{Check, CheckResponse, Run, Shortfall};
use serde_json::json;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "CAC-04",
    description: "reads as two users with their own validators and with each other's, before and after a change; \
           compares the Cache-Control of each kind of response with the expected one",
    remediation: "check that no cache in front of the server stores `private` or `no-store` responses or removes \
           `ETag`",
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
        return Err(Shortfall::fails("the profiles of two users have the same ETag"));
    }
    let known = read(&ada, Some(&tag)).await?.expect(304)?;
    if !known.body.is_empty() {
        return Err(Shortfall::fails("a 304 has a body"));
    }
    let foreign = read(&ben, Some(&tag)).await?.expect(200)?;
    if foreign.text_at("/id")? != ben.id {
        return Err(Shortfall::fails("a user got the profile of another user"));
    }
    // Two users read alternately, so a shared cache between here and the server would return the wrong
    // profile.
    for n in 0..6 {
        let reader = if n % 2 == 0 { &ada } else { &ben };
        if read(reader, None).await?.expect(200)?.text_at("/id")? != reader.id {
            return Err(Shortfall::fails(
                "of two users who read alternately, one got the profile of the other",
            ));
        }
    }
    run.anonymous().get(ME).await?.expect(401)?;
    let nickname = run.marker("changed");
    ada.client.patch(ME, json!({ "nickname": nickname })).await?.expect(200)?;
    let changed = read(&ada, Some(&tag)).await?.expect(200)?;
    if changed.text_at("/nickname")? != nickname {
        return Err(Shortfall::fails("after a change the old state is returned"));
    }
    let kinds = matrix(run, &mine, &known).await?;
    Ok(format!(
        "304 for the user's own unchanged state, 200 after a change and for other users; {kinds} kinds of \
         responses have the expected Cache-Control"
    ))
}

fn tag(response: &CheckResponse) -> Result<String, Shortfall> {
    let tag = response.header("etag").map(str::to_owned);
    tag.ok_or_else(|| Shortfall::fails(format!("the response to {} has no ETag", response.request)))
}

/// Checks the `Cache-Control` header of each kind of response. Returns the number of kinds.
async fn matrix(run: &Run, own: &CheckResponse, known: &CheckResponse) -> Result<usize, Shortfall> {
    let anonymous = run.anonymous();
    let ada = run.account("partner-1").await?;
    let body = json!({ "email": ada.email, "password": "" });
    let rows = [
        ("own state", own.clone(), "private"),
        ("own unchanged state", known.clone(), "private"),
        ("a rejection", anonymous.get(ME).await?, "no-store"),
        ("a missing resource", ada.client.get("/api/v1/no-such-path").await?, "no-store"),
        ("a response to a log-in", anonymous.post("/api/v1/auth/login", body).await?, "no-store"),
        ("open sessions", ada.client.get("/api/v1/auth/sessions").await?, "private"),
        ("the key set", anonymous.get("/.well-known/jwks.json").await?, ""),
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
                "the Cache-Control of {kind} is {cache_control:?}, without {wanted:?}"
            )));
        }
    }
    run.record("cache_control", cache_controls);
    Ok(rows.len())
}
