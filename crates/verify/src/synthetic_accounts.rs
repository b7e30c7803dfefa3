//! Synthetic accounts that checks of several features share, and requests that these checks have in common.
//! Each check states the responses that it expects.

use kith_readiness::{CheckResponse, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

/// Path of the partner requests.
pub const REQUESTS: &str = "/api/v1/partners/requests";

/// Returns the synthetic account `partner-{n}`, which the checks of bonds share. Ends its bond first, if it
/// has one. All checks together may send at most five partner requests per minute from one account: before a
/// new check sends requests from an account, count those that other checks send.
pub async fn unbonded_account(run: &Run, n: usize) -> Result<SyntheticAccount, Shortfall> {
    let account = run.account(&format!("partner-{n}")).await?;
    // Ends the bond, if there is one, without reading it first. A read would use up the rate limit of other
    // checks.
    account.client.post("/api/v1/partners/breakup", json!({})).await?.expect_any(&[200, 409])?;
    Ok(account)
}

/// Returns the signed-in account for checks that need no bond.
pub async fn signed_in(run: &Run) -> Result<SyntheticAccount, Shortfall> {
    run.account("signs-in").await
}

/// Returns an error with the text of `found` unless `holds` is true.
pub fn ensure(holds: bool, found: impl FnOnce() -> String) -> Result<(), Shortfall> {
    if holds { Ok(()) } else { Err(Shortfall::fails(found())) }
}

/// Logs in. Returns the response, which contains a new session.
pub async fn log_in(run: &Run, account: &SyntheticAccount) -> Result<CheckResponse, Shortfall> {
    try_password(run, &account.email, &account.password).await?.expect(200)
}

/// Tries to log in with a password and returns the response.
pub async fn try_password(run: &Run, email: &str, password: &str) -> Result<CheckResponse, Shortfall> {
    let body = json!({ "email": email, "password": password });
    Ok(run.anonymous().with_base_url(run.node()).post("/api/v1/auth/login", body).await?)
}

/// Tries to refresh a session and returns the response.
pub async fn refresh(run: &Run, token: &str) -> Result<CheckResponse, Shortfall> {
    let body = json!({ "refresh_token": token });
    Ok(run.anonymous().with_base_url(run.node()).post("/api/v1/auth/refresh", body).await?)
}

/// Returns the current bond of the user, or null.
pub async fn current(of: &SyntheticAccount) -> Result<Value, Shortfall> {
    Ok(of.client.get("/api/v1/partners/current").await?.expect(200)?.json()["bond"].take())
}

/// Sends a partner request and returns its id.
pub async fn send_request(from: &SyntheticAccount, to: &SyntheticAccount) -> Result<String, Shortfall> {
    let body = json!({ "to": { "user_id": to.id } });
    from.client.post(REQUESTS, body).await?.expect(201)?.text_at("/id")
}

/// Applies `step` (accept, reject or cancel) to a request and returns the response.
pub async fn decide(by: &SyntheticAccount, request: &str, step: &str) -> Result<CheckResponse, Shortfall> {
    Ok(by.client.post(&format!("{REQUESTS}/{request}/{step}"), Value::Null).await?)
}

/// Creates a bond between two users and returns its id.
pub async fn bond(one: &SyntheticAccount, other: &SyntheticAccount) -> Result<String, Shortfall> {
    let request = send_request(one, other).await?;
    decide(other, &request, "accept").await?.expect(200)?.text_at("/bond/id")
}

/// Ends the bond of the user `by` and returns the response.
pub async fn break_up(by: &SyntheticAccount) -> Result<CheckResponse, Shortfall> {
    by.client.post("/api/v1/partners/breakup", json!({})).await?.expect(200)
}

/// Returns the status of a request as seen by the user `of`.
pub async fn status(of: &SyntheticAccount, request: &str) -> Result<String, Shortfall> {
    of.client.get(&format!("{REQUESTS}/{request}")).await?.expect(200)?.text_at("/status")
}

/// Fails unless a request has the status `wanted` as seen by the user `of`.
pub async fn ensure_status(of: &SyntheticAccount, request: &str, wanted: &str) -> Result<(), Shortfall> {
    let found = status(of, request).await?;
    ensure(found == wanted, || format!("request {request} is {found} instead of {wanted}"))
}

/// Returns the items of a list's first page.
pub async fn items(of: &SyntheticAccount, path: &str) -> Result<Vec<Value>, Shortfall> {
    let mut response = of.client.get(path).await?.expect(200)?.json();
    serde_json::from_value(response["items"].take())
        .map_err(|_| Shortfall::fails(format!("the response to GET {path} has no items")))
}
