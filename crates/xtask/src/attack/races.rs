//! Attacks with concurrent requests of which at most one may succeed.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, PASSWORD, text};
use super::report::AttackReport;
use super::wire::RawResponse;

const AT_ONCE: usize = 8;
const RACE: Duration = Duration::from_secs(20);

/// Calls `ask` in `AT_ONCE` threads at the same moment. Returns the responses.
fn run_concurrently(ask: impl Fn(usize) -> Result<RawResponse> + Sync) -> Result<Vec<RawResponse>> {
    let start = Barrier::new(AT_ONCE);
    std::thread::scope(|scope| {
        let racer = |n| {
            let (start, ask) = (&start, &ask);
            scope.spawn(move || {
                start.wait();
                ask(n)
            })
        };
        let racers: Vec<_> = (0..AT_ONCE).map(racer).collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer does not panic")).collect()
    })
}

fn count(responses: &[RawResponse], status: u16) -> usize {
    responses.iter().filter(|response| response.status == status).count()
}

fn statuses(responses: &[RawResponse]) -> String {
    let mut all: Vec<_> = responses.iter().map(|response| response.status).collect();
    all.sort_unstable();
    format!("{all:?}")
}

/// Runs all attacks with concurrent requests.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("races");
    report.attack("one address registered at once, in two spellings", RACE, || {
        let responses = run_concurrently(|n| {
            let email = if n % 2 == 0 { "race@example.org" } else { "RACE@Example.org" };
            let body = json!({ "email": email, "password": PASSWORD, "display_name": "Racer" });
            server.call("POST", "/api/v1/auth/register", None, &body)
        })?;
        let summary = statuses(&responses);
        ensure!(count(&responses, 201) == 1 && count(&responses, 409) == AT_ONCE - 1, "{summary}");
        Ok(summary)
    });
    report.attack("one refresh token spent at once", RACE, || refresh(server));
    report.attack("one request accepted at once", RACE, || accept(server));
    report.attack("several requests accepted at once", RACE, || race_for_slot(server));
    report.attack("one Idempotency-Key at once", RACE, || {
        let key = [("idempotency-key", "race-0001")];
        let body = json!({ "data": { "race": true } });
        let responses = run_concurrently(|_| {
            server.call_with("POST", "/api/v1/spaces/me/race", &server.eve, &key, &body)
        })?;
        let made = server.get(&server.eve, "/api/v1/spaces/me/race?limit=100")?.expect(200)?;
        let made = made["items"].as_array().map_or(0, Vec::len);
        ensure!(made == 1, "{made} items after {}", statuses(&responses));
        Ok(format!("one item after {}", statuses(&responses)))
    });
}

/// Uses one refresh token concurrently. A token that was just used returns the same pair of tokens again,
/// never a second pair. Use of an older token ends the session.
fn refresh(server: &AttackedServer) -> Result<String> {
    let racer = server.register("refresher")?;
    let spend =
        |token: &str| server.call("POST", "/api/v1/auth/refresh", None, &json!({ "refresh_token": token }));
    let responses = run_concurrently(|_| spend(&racer.refresh))?;
    let summary = statuses(&responses);
    ensure!(
        count(&responses, 200) > 0 && count(&responses, 200) + count(&responses, 401) == AT_ONCE,
        "{summary}"
    );
    let tokens = responses.iter().filter(|response| response.status == 200);
    let pairs: BTreeSet<_> = tokens.map(|response| response.json()["refresh_token"].to_string()).collect();
    ensure!(pairs.len() == 1, "{} different tokens for one", pairs.len());
    let won = responses.iter().find(|response| response.status == 200).context("a winner")?;
    let next = text(&spend(&text(&won.json()["refresh_token"])?)?.expect(200)?["refresh_token"])?;
    let stolen = spend(&racer.refresh)?;
    ensure!(stolen.status == 401, "an old token returned {}", stolen.status);
    let after = spend(&next)?;
    ensure!(after.status == 401, "the session continues after a reuse: {}", after.status);
    Ok(format!("{summary}, one pair; a reuse ends the session"))
}

fn accept(server: &AttackedServer) -> Result<String> {
    let [one, other] = ["accepted", "accepter"].map(|name| server.register(name));
    let (one, other) = (one?, other?);
    let sent = server.post(&one, "/api/v1/partners/requests", &json!({ "to": { "user_id": other.id } }))?;
    let path = format!("/api/v1/partners/requests/{}/accept", text(&sent.expect(201)?["id"])?);
    let responses = run_concurrently(|_| server.post(&other, &path, &Value::Null))?;
    let bonds: BTreeSet<_> = responses
        .iter()
        .filter(|one| one.status == 200)
        .map(|one| one.json()["bond"]["id"].to_string())
        .collect();
    ensure!(bonds.len() == 1, "{} bonds after {}", bonds.len(), statuses(&responses));
    Ok(format!("one bond after {}", statuses(&responses)))
}

fn race_for_slot(server: &AttackedServer) -> Result<String> {
    let wanted = server.register("wanted")?;
    let mut paths = Vec::new();
    for n in 0..AT_ONCE {
        let suitor = server.register(&format!("suitor{n}"))?;
        let to = json!({ "to": { "user_id": wanted.id } });
        let sent = server.post(&suitor, "/api/v1/partners/requests", &to)?.expect(201)?;
        paths.push(format!("/api/v1/partners/requests/{}/accept", text(&sent["id"])?));
    }
    let responses = run_concurrently(|n| server.post(&wanted, &paths[n], &Value::Null))?;
    let summary = statuses(&responses);
    ensure!(count(&responses, 200) == 1, "{summary}");
    Ok(summary)
}
