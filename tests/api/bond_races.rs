//! PRT-03: many users compete at the same moment to become the partner of one user. In each round exactly one
//! succeeds.

use std::time::Instant;

use futures_util::future::join_all;
use kith_store::{Error, params};
use serde_json::Value;

use crate::support::{REQUESTS, TestApp, TestUser, note_trials, on_every_engine, rounds};

const CLIENTS: usize = 50;
const ROUNDS: usize = 20;

on_every_engine! {
    with crate::support::race;
    one_of_fifty_concurrent_accepts_wins,
    one_of_fifty_concurrent_crossings_wins,
}

/// Fifty users have sent requests to one user, who accepts all at the same moment.
async fn one_of_fifty_concurrent_accepts_wins(app: &TestApp) {
    let wanted = app.user("wanted").await;
    let suitors = app.register_users("suitor", CLIENTS).await;
    let report = Rounds::start("accepts");
    for _ in 0..rounds(ROUNDS) {
        let requests = join_all(suitors.iter().map(|suitor| suitor.partners().send(&wanted))).await;
        let accepts = requests.into_iter().map(async |request| {
            let id = request.expect(201)["id"].as_str().expect("an id").to_owned();
            let response = wanted.post(&format!("{REQUESTS}/{id}/accept"), Value::Null).await;
            if response.status == 409 {
                response.expect_problem(409, "request_not_pending");
                return None;
            }
            Some(response.expect(200)["bond"]["partner"]["id"].clone())
        });
        let partners: Vec<_> = join_all(accepts).await.into_iter().flatten().collect();
        check_one_bond(app, &wanted, &suitors, &partners).await;
        reset(app).await;
    }
    report.report(rounds(ROUNDS));
}

/// Fifty users send requests to one user, who sends a request to each of them at the same moment. The first
/// two requests that cross form the bond.
async fn one_of_fifty_concurrent_crossings_wins(app: &TestApp) {
    let wanted = app.user("wanted").await;
    let suitors = app.register_users("suitor", CLIENTS).await;
    let report = Rounds::start("crossings");
    for _ in 0..rounds(ROUNDS) {
        let crossings = suitors.iter().map(async |suitor| {
            let (theirs, ours) =
                tokio::join!(suitor.partners().send(&wanted), wanted.partners().send(suitor));
            // The other senders' requests still succeed, because the receiver's bond is not revealed.
            let theirs = theirs.expect(201);
            if ours.status == 409 {
                ours.expect_problem(409, "slot_occupied");
                return theirs.get("bond").map(|_| suitor.id.clone());
            }
            let ours = ours.expect(201);
            assert!(
                theirs.get("bond").is_none() || ours.get("bond").is_none(),
                "one request created two bonds"
            );
            theirs.get("bond").or(ours.get("bond")).map(|_| suitor.id.clone())
        });
        let partners: Vec<_> = join_all(crossings).await.into_iter().flatten().map(Value::from).collect();
        check_one_bond(app, &wanted, &suitors, &partners).await;
        reset(app).await;
    }
    report.report(rounds(ROUNDS));
}

/// Fails unless exactly one response reported a bond, and this bond exists.
async fn check_one_bond(app: &TestApp, wanted: &TestUser, suitors: &[TestUser], partners: &[Value]) {
    let [partner] = partners else { panic!("{} winners: {partners:?}", partners.len()) };
    let current =
        async |who: &TestUser| who.get("/api/v1/partners/current").await.expect(200)["bond"].clone();
    let bond = current(wanted).await;
    assert_eq!(&bond["partner"]["id"], partner);
    let winner = suitors.iter().find(|suitor| *partner == suitor.id).expect("a suitor");
    assert_eq!(current(winner).await["id"], bond["id"]);
    let counted = app.db().read(|q| {
        q.one(
            "SELECT (SELECT COUNT(*) FROM bond_slots), (SELECT COUNT(*) FROM bonds WHERE ended_at IS NULL)",
            &[],
            |row| Ok::<(i64, i64), Error>((row.get(0)?, row.get(1)?)),
        )
    });
    assert_eq!(
        counted.await.expect("the counts"),
        Some((2, 1)),
        "two slots are filled and one bond is active"
    );
}

/// Resets bonds and requests, so that the accounts can be reused.
async fn reset(app: &TestApp) {
    let now = app.now();
    let cleared = app.db().write(move |tx| {
        tx.exec("DELETE FROM bond_slots", &[])?;
        tx.exec("UPDATE bonds SET ended_at = $1 WHERE ended_at IS NULL", params![now])?;
        tx.exec("UPDATE partner_requests SET status = 'cancelled' WHERE status = 'pending'", &[])
    });
    cleared.await.map_err(|error: Error| error).expect("a reset");
}

/// Prints the duration of the rounds.
struct Rounds {
    of: &'static str,
    started: Instant,
}

impl Rounds {
    #[expect(clippy::disallowed_methods, reason = "reports how long the rounds took")]
    fn start(of: &'static str) -> Self {
        Self { of, started: Instant::now() }
    }

    fn report(&self, rounds: usize) {
        let took = self.started.elapsed();
        note_trials("PRT-03", &format!("{CLIENTS} concurrent {} for one slot: one winner", self.of), rounds);
        println!("PRT-03: {rounds} rounds of {CLIENTS} racing {}: one winner each, in {took:.1?}", self.of);
    }
}
