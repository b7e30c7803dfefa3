//! Checks of log-in: a correct password, a wrong password, and the lockout after five failures.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_readiness::{Check, CheckResponse, Run, Shortfall};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use crate::synthetic_accounts::{ensure, log_in, signed_in, try_password};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "ACC-02",
        description: "signs in with the correct password, a wrong password and an unknown address, and reads the claims of the token",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_log_in(run)),
    },
    Check {
        row: "ACC-07",
        description: "sends five wrong passwords for a synthetic account, then the correct one; signs in to another \
               account from the same address, and reads the audit log",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_lockout(run)),
    },
];

const WRONG: &str = "not this one";

/// Decodes one part of a token as JSON. Part 0 is the header, part 1 contains the claims.
pub(super) fn read(token: &str, part: usize) -> Result<Value, Shortfall> {
    let text = token.split('.').nth(part).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let json = text.and_then(|text| serde_json::from_slice(&text).ok());
    json.ok_or_else(|| Shortfall::fails("the access token is not a JWT"))
}

async fn check_log_in(run: &Run) -> Result<String, Shortfall> {
    let ada = signed_in(run).await?;
    let session = log_in(run, &ada).await?;
    let (access, refresh) = (session.text_at("/access_token")?, session.text_at("/refresh_token")?);
    ensure(!refresh.is_empty() && refresh != access, || {
        "the refresh token is empty or equal to the access token".to_owned()
    })?;
    let (header, claims) = (read(&access, 0)?, read(&access, 1)?);
    let lasts = claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(end, start)| end - start);
    run.record("header", json!({ "alg": header["alg"], "typ": header["typ"], "kid": "…" }));
    run.record("claims", json!({ "iss": claims["iss"], "aud": claims["aud"], "sub": "…", "exp-iat": lasts }));
    ensure(claims["sub"] == *ada.id, || "the subject of the token is another user".to_owned())?;
    let claimed = session.json()["expires_in"].as_i64();
    ensure(lasts.is_some() && lasts == claimed, || {
        format!("the token is valid for {lasts:?} s, but expires_in is {claimed:?}")
    })?;
    let client = run.anonymous().with_token(&access);
    let me = client.get("/api/v1/me").await?.expect(200)?.text_at("/id")?;
    ensure(me == ada.id, || "the token is accepted as that of another user".to_owned())?;

    let wrong = try_password(run, &ada.email, WRONG).await?;
    let unknown = try_password(run, &format!("nobody-{}", ada.email), WRONG).await?;
    let (wrong, unknown) = (refusal(wrong)?, refusal(unknown)?);
    ensure(wrong == unknown, || {
        "the responses to a wrong password and to an unknown address differ".to_owned()
    })?;
    // A successful log-in resets the failure counter, so that later checks are not affected.
    log_in(run, &ada).await?;
    Ok(format!(
        "the correct password returns both tokens, the access token valid for {} s; a wrong password and an \
         unknown address return the same 401",
        lasts.unwrap_or_default()
    ))
}

/// Returns the problem in a rejected log-in, without its request id.
fn refusal(response: CheckResponse) -> Result<Value, Shortfall> {
    let mut problem = response.expect_problem(401, "invalid_credentials")?.json();
    let claimed = problem.to_string();
    ensure(!claimed.contains("token"), || "the response to a rejected log-in mentions tokens".to_owned())?;
    problem["request_id"].take();
    Ok(problem)
}

/// Number of failed log-ins that lock an account.
const FAILURES_UNTIL_LOCKED: usize = 5;

async fn check_lockout(run: &Run) -> Result<String, Shortfall> {
    let ada = run.account("locked-out").await?;
    for _ in 0..FAILURES_UNTIL_LOCKED {
        try_password(run, &ada.email, WRONG).await?.expect_problem(401, "invalid_credentials")?;
    }
    let locked = try_password(run, &ada.email, &ada.password).await?.expect_problem(423, "locked")?;
    let wait = locked.retry_after().unwrap_or_default();
    ensure((1..=60).contains(&wait), || {
        format!("the first lock has a Retry-After of {wait} s instead of at most 60")
    })?;
    run.record("locked_for_s", wait);
    let other = signed_in(run).await?;
    log_in(run, &other).await?;
    // A lockout does not end existing sessions.
    ada.client.get("/api/v1/me").await?.expect(200)?;
    let path = format!("/api/v1/audit?limit=100&action=session.refused&object={}", ada.id);
    let entries = run.get_as_admin(&path).await?["items"].as_array().map_or(0, Vec::len);
    run.record("audit_entries", entries);
    ensure(entries == FAILURES_UNTIL_LOCKED, || {
        format!("{FAILURES_UNTIL_LOCKED} failed log-ins created {entries} audit entries")
    })?;
    Ok(format!(
        "after {FAILURES_UNTIL_LOCKED} failures the correct password is rejected for {wait} s; another \
         account can sign in from the same address; {entries} audit entries record the failures"
    ))
}
