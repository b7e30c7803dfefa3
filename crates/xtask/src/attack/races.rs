//! Attacks with concurrent requests of which at most one may succeed.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::report::Report;
use super::wire::Answer;
use super::world::{PASSWORD, World, text};

const AT_ONCE: usize = 8;
const RACE: Duration = Duration::from_secs(20);

/// Calls `ask` in `AT_ONCE` threads at the same moment.
fn together(ask: impl Fn(usize) -> Result<Answer> + Sync) -> Result<Vec<Answer>> {
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

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

fn statuses(answers: &[Answer]) -> String {
    let mut all: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    all.sort_unstable();
    format!("{all:?}")
}

/// Runs all races.
pub fn run(world: &World, report: &mut Report) {
    report.group("races");
    report.attack("one address registered at once, in two spellings", RACE, || {
        let answers = together(|n| {
            let email = if n % 2 == 0 { "race@example.org" } else { "RACE@Example.org" };
            let body = json!({ "email": email, "password": PASSWORD, "display_name": "Racer" });
            world.call("POST", "/api/v1/auth/register", None, &body)
        })?;
        let said = statuses(&answers);
        ensure!(count(&answers, 201) == 1 && count(&answers, 409) == AT_ONCE - 1, "{said}");
        Ok(said)
    });
    report.attack("one refresh token spent at once", RACE, || refresh(world));
    report.attack("one request accepted at once", RACE, || accept(world));
    report.attack("several requests accepted at once", RACE, || slot(world));
    report.attack("one Idempotency-Key at once", RACE, || {
        let key = [("idempotency-key", "race-0001")];
        let body = json!({ "data": { "race": true } });
        let answers =
            together(|_| world.call_with("POST", "/api/v1/spaces/me/race", &world.eve, &key, &body))?;
        let made = world.get(&world.eve, "/api/v1/spaces/me/race?limit=100")?.expect(200)?;
        let made = made["items"].as_array().map_or(0, Vec::len);
        ensure!(made == 1, "{made} items after {}", statuses(&answers));
        Ok(format!("one item after {}", statuses(&answers)))
    });
}

/// A token that was just used returns the same pair again, never a second one. Use of an older token ends the
/// session.
fn refresh(world: &World) -> Result<String> {
    let racer = world.register("refresher")?;
    let spend =
        |token: &str| world.call("POST", "/api/v1/auth/refresh", None, &json!({ "refresh_token": token }));
    let answers = together(|_| spend(&racer.refresh))?;
    let said = statuses(&answers);
    ensure!(count(&answers, 200) > 0 && count(&answers, 200) + count(&answers, 401) == AT_ONCE, "{said}");
    let tokens = answers.iter().filter(|answer| answer.status == 200);
    let pairs: BTreeSet<_> = tokens.map(|answer| answer.json()["refresh_token"].to_string()).collect();
    ensure!(pairs.len() == 1, "{} different tokens for one", pairs.len());
    let won = answers.iter().find(|answer| answer.status == 200).context("a winner")?;
    let next = text(&spend(&text(&won.json()["refresh_token"])?)?.expect(200)?["refresh_token"])?;
    let stolen = spend(&racer.refresh)?;
    ensure!(stolen.status == 401, "an old token returned {}", stolen.status);
    let after = spend(&next)?;
    ensure!(after.status == 401, "the session continues after a reuse: {}", after.status);
    Ok(format!("{said}, one pair; a reuse ends the session"))
}

fn accept(world: &World) -> Result<String> {
    let [one, other] = ["accepted", "accepter"].map(|name| world.register(name));
    let (one, other) = (one?, other?);
    let asked = world.post(&one, "/api/v1/partners/requests", &json!({ "to": { "user_id": other.id } }))?;
    let path = format!("/api/v1/partners/requests/{}/accept", text(&asked.expect(201)?["id"])?);
    let answers = together(|_| world.post(&other, &path, &Value::Null))?;
    let bonds: BTreeSet<_> = answers
        .iter()
        .filter(|one| one.status == 200)
        .map(|one| one.json()["bond"]["id"].to_string())
        .collect();
    ensure!(bonds.len() == 1, "{} bonds after {}", bonds.len(), statuses(&answers));
    Ok(format!("one bond after {}", statuses(&answers)))
}

fn slot(world: &World) -> Result<String> {
    let wanted = world.register("wanted")?;
    let mut paths = Vec::new();
    for n in 0..AT_ONCE {
        let suitor = world.register(&format!("suitor{n}"))?;
        let to = json!({ "to": { "user_id": wanted.id } });
        let asked = world.post(&suitor, "/api/v1/partners/requests", &to)?.expect(201)?;
        paths.push(format!("/api/v1/partners/requests/{}/accept", text(&asked["id"])?));
    }
    let answers = together(|n| world.post(&wanted, &paths[n], &Value::Null))?;
    let said = statuses(&answers);
    ensure!(count(&answers, 200) == 1, "{said}");
    Ok(said)
}
