//! PRT-02, PRT-03: tests of conflicting operations at the same moment. One succeeds, and none is partially
//! applied.

use hyper::Method;
use hyper::body::Bytes;
use kith_store::Error;
use serde_json::{Value, json};

use crate::bond_model::find_faults;
use crate::support::{BREAKUP, PASSWORD, REQUESTS, TestApp, TestResponse, TestUser, on_every_engine, rounds};

const INVITES: &str = "/api/v1/partners/invites";
const ROUNDS: usize = 40;
/// Number of rounds of tests that need new accounts in each round.
const SHORT_ROUNDS: usize = 20;

on_every_engine! {
    with crate::support::race;
    one_of_concurrent_decisions_wins,
    one_of_concurrent_breakups_wins,
    invite_is_redeemed_once,
    block_overrides_concurrent_accept,
    user_deleted_during_accept_has_no_bond,
}

async fn ask(from: &TestUser, to: &TestUser) -> String {
    let request = from.post(REQUESTS, json!({ "to": { "user_id": to.id } })).await.expect(201);
    request["id"].as_str().expect("an id").to_owned()
}

async fn step(who: &TestUser, request: &str, verb: &str) -> TestResponse {
    who.post(&format!("{REQUESTS}/{request}/{verb}"), Value::Null).await
}

async fn status(who: &TestUser, request: &str) -> Value {
    who.get(&format!("{REQUESTS}/{request}")).await.expect(200)["status"].clone()
}

async fn check_tables(app: &TestApp, round: usize) {
    assert_eq!(find_faults(app).await, [], "round {round}");
}

/// Removes cooldowns of earlier rounds.
async fn forget_refusals(app: &TestApp) {
    let forgotten = app.db().write(|tx| tx.exec("DELETE FROM partner_refusals", &[]));
    forgotten.await.map_err(|error: Error| error).expect("the rejections are deleted");
}

async fn one_of_concurrent_decisions_wins(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let mut won = [0; 3];
    for round in 0..rounds(ROUNDS) {
        let id = ask(&ada, &ben).await;
        // The request that is sent first wins more often, so the order rotates.
        let responses = match round % 3 {
            0 => {
                let (a, r, c) = tokio::join!(
                    step(&ben, &id, "accept"),
                    step(&ben, &id, "reject"),
                    step(&ada, &id, "cancel")
                );
                [a, r, c]
            }
            1 => {
                let (r, c, a) = tokio::join!(
                    step(&ben, &id, "reject"),
                    step(&ada, &id, "cancel"),
                    step(&ben, &id, "accept")
                );
                [a, r, c]
            }
            _ => {
                let (c, a, r) = tokio::join!(
                    step(&ada, &id, "cancel"),
                    step(&ben, &id, "accept"),
                    step(&ben, &id, "reject")
                );
                [a, r, c]
            }
        };
        let winners: Vec<_> = (0..3).filter(|n| responses[*n].status == 200).collect();
        let [winner] = winners[..] else { panic!("round {round}: {responses:#?}") };
        won[winner] += 1;
        for loser in responses.into_iter().filter(|response| response.status != 200) {
            loser.expect_problem(409, "request_not_pending");
        }
        let expected = ["accepted", "rejected", "cancelled"][winner];
        for who in [&ada, &ben] {
            assert_eq!(status(who, &id).await, expected);
            assert_eq!(who.partners().current().await.is_null(), winner != 0);
        }
        check_tables(app, round).await;
        if winner == 0 {
            ada.post(BREAKUP, json!({})).await.expect(200);
        }
        forget_refusals(app).await;
    }
    println!("{} rounds: accept, reject and cancel won {won:?} times", rounds(ROUNDS));
}

async fn one_of_concurrent_breakups_wins(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    for round in 0..rounds(ROUNDS) {
        step(&ben, &ask(&ada, &ben).await, "accept").await.expect(200);
        let (one, other) = tokio::join!(ada.post(BREAKUP, json!({})), ben.post(BREAKUP, json!({})));
        let (ended, late) = if one.status == 200 { (one, other) } else { (other, one) };
        late.expect_problem(409, "not_bonded");
        let breakups = ended.expect(200)["bond"]["breakups"].as_array().map(Vec::len);
        assert_eq!(breakups, Some(round + 1), "each breakup is recorded once");
        check_tables(app, round).await;
    }
    let ended = app.events().await.iter().filter(|event| event.event.kind == "bond.ended").count();
    assert_eq!(ended, rounds(ROUNDS));
}

async fn invite_is_redeemed_once(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    for round in 0..rounds(ROUNDS) {
        let invite = ada.post(INVITES, Value::Null).await.expect(201);
        let body = json!({ "to": { "invite_code": invite["code"] } });
        let (one, other) = tokio::join!(ben.post(REQUESTS, body.clone()), eve.post(REQUESTS, body));
        let (winner, used, late) = if one.status == 201 { (&ben, one, other) } else { (&eve, other, one) };
        late.expect_problem(404, "not_found");
        let id = used.expect(201)["id"].as_str().expect("an id").to_owned();
        let waiting = ada.get(&format!("{REQUESTS}?direction=incoming&status=pending")).await.expect(200);
        assert_eq!(waiting["items"].as_array().map(Vec::len), Some(1), "round {round}");
        assert_eq!(ada.get(INVITES).await.expect(200)["items"], json!([]));
        step(winner, &id, "cancel").await.expect(200);
        check_tables(app, round).await;
        forget_refusals(app).await;
    }
}

/// The sender or the receiver blocks the other at the moment when the request is accepted. Then they have no
/// bond.
async fn block_overrides_concurrent_accept(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let mut accepted = 0;
    for round in 0..rounds(ROUNDS) {
        let id = ask(&ada, &ben).await;
        let (blocker, blocked) = if round % 2 == 0 { (&ada, &ben) } else { (&ben, &ada) };
        let path = format!("/api/v1/blocks/{}", blocked.id);
        let (block, accept) = tokio::join!(blocker.put(&path, Value::Null), step(&ben, &id, "accept"));
        block.expect(200);
        match (accept.status, round % 2) {
            (200, _) => accepted += 1,
            (_, 0) => _ = accept.expect_problem(409, "request_not_pending"),
            _ => _ = accept.expect_problem(404, "not_found"),
        }
        for who in [&ada, &ben] {
            assert_eq!(who.partners().current().await, Value::Null, "round {round}");
        }
        check_tables(app, round).await;
        blocker.delete(&path, Value::Null).await.expect(204);
        // Cancels the withheld request, so that the next round can begin.
        if status(&ada, &id).await == "pending" {
            step(&ada, &id, "cancel").await.expect(200);
        }
        forget_refusals(app).await;
    }
    println!("{} rounds of block and accept: {accepted} accepted first", rounds(ROUNDS));
}

async fn user_deleted_during_accept_has_no_bond(app: &TestApp) {
    let ben = app.user("ben").await;
    let mut accepted = 0;
    for round in 0..rounds(SHORT_ROUNDS) {
        let ada = app.user(&format!("ada{round}")).await;
        let id = ask(&ada, &ben).await;
        let password = Bytes::from(json!({ "password": PASSWORD }).to_string());
        let leave = ada.send(Method::DELETE, "/api/v1/me", password);
        let (left, accept) = tokio::join!(leave, step(&ben, &id, "accept"));
        left.expect(202);
        if accept.status == 200 {
            accepted += 1;
        } else {
            accept.expect_problem(409, "request_not_pending");
        }
        assert_eq!(ben.partners().current().await, Value::Null, "round {round}");
        check_tables(app, round).await;
    }
    println!("{} rounds of leaving and accept: {accepted} accepted first", rounds(SHORT_ROUNDS));
}
