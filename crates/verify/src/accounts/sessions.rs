//! Checks of sessions: token lifetimes, listing, revocation, and reuse of refresh tokens.

use std::time::Duration;

use kith_readiness::{Check, CheckResponse, Client, Run, Shortfall};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use super::sign_in::read;
use crate::synthetic_accounts::{ensure, items, log_in, refresh, signed_in};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "ACC-05",
        description: "signs in at one node and calls each of the other nodes directly",
        remediation: "give all nodes the same JWT_SECRET, JWT_REFRESH_SECRET and database",
        runs_last: false,
        run: |run| Box::pin(check_session_on_all_nodes(run)),
    },
    Check {
        row: "ACC-08",
        description: "opens three sessions, lists them, logs out of one and ends another from the third",
        remediation: "set auth.access_token_minutes to about 15; look up the request id of the failed step in the log",
        runs_last: false,
        run: |run| Box::pin(check_revocation(run)),
    },
    Check {
        row: "DRV-01",
        description: "refreshes a session, sends the used refresh token again at once and after 16 seconds, and then the newer tokens",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_refresh_rotation(run)),
    },
];

const SESSIONS: &str = "/api/v1/auth/sessions";
const ME: &str = "/api/v1/me";
/// Maximum lifetime of an access token in seconds.
const MAX_ACCESS_TOKEN_S: i64 = 3_600;
/// Time to wait before an old refresh token is used again. It is longer than the 15 s in which a used refresh
/// token returns the same pair of tokens again.
const AFTER_REUSE_GRACE: Duration = Duration::from_secs(16);

async fn check_session_on_all_nodes(run: &Run) -> Result<String, Shortfall> {
    let others = &run.deployment().target().other_nodes;
    if others.is_empty() {
        if run.facts().await?["database"]["engine"] == "sqlite" {
            return Err(Shortfall::NotApplicable(
                "the deployment has one node: a SQLite database belongs to one process".to_owned(),
            ));
        }
        return Err(Shortfall::unmeasured("only one node is known", "name another with --node"));
    }
    let ada = signed_in(run).await?;
    let body = json!({ "email": ada.email, "password": ada.password });
    let session = run.anonymous().post("/api/v1/auth/login", body).await?.expect(200)?;
    let mut refresh = session.text_at("/refresh_token")?;
    for node in others {
        let client = run.anonymous().with_base_url(node);
        let me = client.with_token(&session.text_at("/access_token")?).get(ME).await?.expect(200)?;
        ensure(me.text_at("/id")? == ada.id, || format!("{node} accepts the token as that of another user"))?;
        let refreshed =
            client.post("/api/v1/auth/refresh", json!({ "refresh_token": refresh })).await?.expect(200)?;
        refresh = refreshed.text_at("/refresh_token")?;
    }
    run.record("other_nodes", others.len());
    Ok(format!("a session of one node is accepted and refreshed on {} other nodes", others.len()))
}

/// Session that the check created by a log-in.
struct NewSession {
    client: Client,
    refresh: String,
    id: String,
}

impl NewSession {
    fn of(run: &Run, response: &CheckResponse) -> Result<Self, Shortfall> {
        let access = response.text_at("/access_token")?;
        let claims = read(&access, 1)?;
        let lasts = claims["exp"].as_i64().unwrap_or(i64::MAX) - claims["iat"].as_i64().unwrap_or_default();
        ensure(lasts <= MAX_ACCESS_TOKEN_S, || {
            format!("an access token is valid for {lasts} s, more than {MAX_ACCESS_TOKEN_S}")
        })?;
        run.record("access_token_s", lasts);
        Ok(Self {
            client: run.anonymous().with_base_url(run.node()).with_token(&access),
            refresh: response.text_at("/refresh_token")?,
            id: claims["sid"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Fails unless both the access token and the refresh token of the session are rejected.
    async fn ensure_ended(&self, run: &Run, how: &str) -> Result<(), Shortfall> {
        let access = self.client.get(ME).await?.status;
        let renewal = refresh(run, &self.refresh).await?.status;
        ensure((access, renewal) == (401, 401), || {
            format!(
                "after {how} the access token gets {access} and the refresh token {renewal} instead of 401"
            )
        })
    }
}

async fn check_revocation(run: &Run) -> Result<String, Shortfall> {
    let ada = signed_in(run).await?;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(NewSession::of(run, &log_in(run, &ada).await?)?);
    }
    let [mine, left, ended] = &sessions[..] else { unreachable!("three sessions were opened") };
    let ada = kith_readiness::SyntheticAccount { client: mine.client.clone(), ..ada };
    let before = items(&ada, SESSIONS).await?;
    let is_there = |all: &[Value], one: &NewSession| all.iter().any(|session| session["id"] == *one.id);
    ensure(sessions.iter().all(|one| is_there(&before, one)), || "an open session is not listed".to_owned())?;
    let current: Vec<_> = before.iter().filter(|session| session["current"] == true).collect();
    ensure(current.len() == 1 && current[0]["id"] == *mine.id, || {
        "the list does not mark the caller's session as current".to_owned()
    })?;

    let anonymous = run.anonymous().with_base_url(run.node());
    anonymous.post("/api/v1/auth/logout", json!({ "refresh_token": left.refresh })).await?.expect(204)?;
    left.ensure_ended(run, "a log-out").await?;
    let between = items(&ada, SESSIONS).await?;
    ensure(between.len() + 1 == before.len() && !is_there(&between, left), || {
        format!("a log-out left {} of {} sessions in the list", between.len(), before.len())
    })?;
    mine.client.delete(&format!("{SESSIONS}/{}", ended.id), Value::Null).await?.expect(204)?;
    ended.ensure_ended(run, "a session was ended").await?;
    let after = items(&ada, SESSIONS).await?;
    ensure(after.len() + 2 == before.len() && is_there(&after, mine), || {
        format!("after two sessions ended, {} of {} are listed", after.len(), before.len())
    })?;
    anonymous.post("/api/v1/auth/logout", json!({ "refresh_token": mine.refresh })).await?.expect(204)?;
    run.record("sessions_listed", json!([before.len(), between.len(), after.len()]));
    Ok("access tokens are short-lived; each session is listed, and its tokens are rejected as soon as it is \
        logged out or ended"
        .to_owned())
}

async fn check_refresh_rotation(run: &Run) -> Result<String, Shortfall> {
    let ada = signed_in(run).await?;
    let first = log_in(run, &ada).await?.text_at("/refresh_token")?;
    let refreshed = refresh(run, &first).await?.expect(200)?;
    let (second, access) = (refreshed.text_at("/refresh_token")?, refreshed.text_at("/access_token")?);
    ensure(second != first, || "a refresh returned the same refresh token".to_owned())?;
    let again = refresh(run, &first).await?.expect(200)?.text_at("/refresh_token")?;
    ensure(again == second, || "a repetition within the grace period returned a different token".to_owned())?;
    let client = run.anonymous().with_base_url(run.node()).with_token(&access);
    client.get(ME).await?.expect(200)?;
    tokio::time::sleep(AFTER_REUSE_GRACE).await;
    refresh(run, &first).await?.expect_problem(401, "invalid_refresh_token")?;
    refresh(run, &second).await?.expect_problem(401, "invalid_refresh_token")?;
    client.get(ME).await?.expect(401)?;
    run.record("replayed_after_s", AFTER_REUSE_GRACE.as_secs());
    Ok("an immediate repetition returns the same token; one after 16 s is rejected and ends the session, \
        including newer tokens"
        .to_owned())
}
