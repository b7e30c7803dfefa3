//! Checks of API keys: their scopes, their expiry, and that the server stores only digests of them.

use std::time::Duration;

use kith_kernel::Timestamp;
use kith_readiness::{Check, Client, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "ACC-13",
    description: "creates two API keys with one scope; calls an operation in the scope, one outside it and one for \
           users only; lets one key expire and revokes the other; reads the server's count of stored keys",
    remediation: "revoke all API keys until the fault is fixed: `kith api-keys list`, `kith api-keys revoke`",
    runs_last: false,
    run: |run| Box::pin(check_api_key(run)),
}];

const KEYS: &str = "/api/v1/admin/api-keys";
const ALLOWED: &str = "/api/v1/admin/facts";
const NOT_ALLOWED: &str = "/api/v1/audit";
const FOR_PEOPLE: &str = "/api/v1/me";
const LIFETIME: Duration = Duration::from_secs(2);

/// API key that was created for this run.
struct CheckKey {
    id: String,
    text: String,
    created_at: Timestamp,
}

async fn check_api_key(run: &Run) -> Result<String, Shortfall> {
    // Only an administrator can create keys.
    run.facts().await?;
    let admin = run.admin().await?.with_base_url(run.node());
    let key = make(run, &admin, None).await?;
    let found = judge(run, &admin, &key).await;
    let revoked = revoke(&admin, &key).await;
    found?;
    revoked?;
    let with_key = with(run, &key);
    with_key.get(ALLOWED).await?.expect_problem(401, "unauthenticated")?;
    let stored = run.facts().await?["modules"]["api_keys.stored"].take();
    run.record("api_keys", stored.clone());
    let (keys, digests) = (stored["keys"].as_i64().unwrap_or(0), stored["digests"].as_i64().unwrap_or(-1));
    if keys == 0 || keys != digests {
        return Err(Shortfall::fails(format!("of {keys} keys {digests} are stored as digests")));
    }
    Ok(format!(
        "a key with the scope facts.read was accepted within its scope, rejected outside it, and rejected \
         after revocation; another key was rejected after it expired; all {keys} keys are stored as digests"
    ))
}

fn with(run: &Run, key: &CheckKey) -> Client {
    run.anonymous().with_base_url(run.node()).with_token(&key.text)
}

async fn make(run: &Run, admin: &Client, expires_at: Option<Timestamp>) -> Result<CheckKey, Shortfall> {
    let body = json!({ "name": run.marker("api-key"), "scopes": ["facts.read"], "expires_at": expires_at });
    let created = admin.post(KEYS, body).await?.expect(201)?;
    let created_at = serde_json::from_value(created.json()["created_at"].take());
    let created_at =
        created_at.map_err(|_| Shortfall::fails("the response has no creation time of the key"))?;
    Ok(CheckKey { id: created.text_at("/id")?, text: created.text_at("/key")?, created_at })
}

async fn revoke(admin: &Client, key: &CheckKey) -> Result<(), Shortfall> {
    admin.delete(&format!("{KEYS}/{}", key.id), Value::Null).await?.expect(204).map(drop)
}

/// Checks that a key can use exactly the operations of its scopes, and that a key is rejected after it has
/// expired.
async fn judge(run: &Run, admin: &Client, key: &CheckKey) -> Result<(), Shortfall> {
    let with_key = with(run, key);
    with_key.get(ALLOWED).await?.expect(200)?;
    with_key.get(NOT_ALLOWED).await?.expect_problem(403, "forbidden")?;
    with_key.get(FOR_PEOPLE).await?.expect_problem(403, "api_key_not_accepted")?;
    let shown = admin.get(&format!("{KEYS}/{}", key.id)).await?.expect(200)?;
    if shown.text().contains(&key.text) {
        return Err(Shortfall::fails("a key is returned again after its creation"));
    }
    let brief = make(run, admin, Some(key.created_at + LIFETIME)).await?;
    let with_brief = with(run, &brief);
    let at_first = with_brief.get(ALLOWED).await?.status;
    with_brief.wait(LIFETIME + Duration::from_millis(100)).await;
    let in_the_end = with_brief.get(ALLOWED).await?;
    revoke(admin, &brief).await?;
    in_the_end.expect_problem(401, "unauthenticated")?;
    if at_first == 200 {
        Ok(())
    } else {
        Err(Shortfall::fails(format!("a request with a new key returned {at_first} instead of 200")))
    }
}
