//! The people whom checks of several features share, and what these do again and again, all of it over HTTP.
//! Never a rule: what must come of it each check says itself.

use kith_readiness::{Answer, Person, Run, Shortfall};
use serde_json::{Value, json};

/// Where partner requests are sent and read.
pub const REQUESTS: &str = "/api/v1/partners/requests";

/// The `n`th of those who are partners now and then, free of any. Nobody of them may send more than five requests in a
/// minute, over all checks: whoever writes a check counts what is there already.
pub async fn single(run: &Run, n: usize) -> Result<Person, Shortfall> {
    let person = run.person(&format!("partner-{n}")).await?;
    // Looking first would use up the limit of those who look at their partner.
    person.client.post("/api/v1/partners/breakup", json!({})).await?.expect_any(&[200, 409])?;
    Ok(person)
}

/// Somebody for checks of accounts, who is nobody's partner.
pub async fn signed_in(run: &Run) -> Result<Person, Shortfall> {
    run.person("signs-in").await
}

/// Fails with what was found unless it is as it has to be.
pub fn ensure(holds: bool, found: impl FnOnce() -> String) -> Result<(), Shortfall> {
    if holds { Ok(()) } else { Err(Shortfall::fails(found())) }
}

/// Signs in again: a session of its own.
pub async fn log_in(run: &Run, person: &Person) -> Result<Answer, Shortfall> {
    try_password(run, &person.email, &person.password).await?.expect(200)
}

/// What a log-in with this password is answered.
pub async fn try_password(run: &Run, email: &str, password: &str) -> Result<Answer, Shortfall> {
    let body = json!({ "email": email, "password": password });
    Ok(run.anonymous().at(run.node()).post("/api/v1/auth/login", body).await?)
}

/// What renewing a session is answered.
pub async fn refresh(run: &Run, token: &str) -> Result<Answer, Shortfall> {
    let body = json!({ "refresh_token": token });
    Ok(run.anonymous().at(run.node()).post("/api/v1/auth/refresh", body).await?)
}

/// The bond that somebody has now, or null.
pub async fn current(of: &Person) -> Result<Value, Shortfall> {
    Ok(of.client.get("/api/v1/partners/current").await?.expect(200)?.json()["bond"].take())
}

/// Sends a request, and says which it is.
pub async fn ask(from: &Person, to: &Person) -> Result<String, Shortfall> {
    let body = json!({ "to": { "user_id": to.id } });
    from.client.post(REQUESTS, body).await?.expect(201)?.text_at("/id")
}

/// What accepting, rejecting or cancelling a request is answered.
pub async fn decide(by: &Person, request: &str, step: &str) -> Result<Answer, Shortfall> {
    Ok(by.client.post(&format!("{REQUESTS}/{request}/{step}"), Value::Null).await?)
}

/// Makes the two partners, and says by which bond.
pub async fn bond(one: &Person, other: &Person) -> Result<String, Shortfall> {
    let request = ask(one, other).await?;
    decide(other, &request, "accept").await?.expect(200)?.text_at("/bond/id")
}

/// Ends somebody's bond.
pub async fn break_up(by: &Person) -> Result<Answer, Shortfall> {
    by.client.post("/api/v1/partners/breakup", json!({})).await?.expect(200)
}

/// How a request stands, as one of its two sees it.
pub async fn status(of: &Person, request: &str) -> Result<String, Shortfall> {
    of.client.get(&format!("{REQUESTS}/{request}")).await?.expect(200)?.text_at("/status")
}

/// Fails unless a request stands so.
pub async fn ensure_status(of: &Person, request: &str, wanted: &str) -> Result<(), Shortfall> {
    let found = status(of, request).await?;
    ensure(found == wanted, || format!("request {request} reads {found} instead of {wanted}"))
}

/// The items of a list.
pub async fn items(of: &Person, path: &str) -> Result<Vec<Value>, Shortfall> {
    let mut answer = of.client.get(path).await?.expect(200)?.json();
    serde_json::from_value(answer["items"].take())
        .map_err(|_| Shortfall::fails(format!("GET {path} answered without items")))
}
