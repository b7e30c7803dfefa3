//! PRT-03: tests that the histories of concurrent partner operations of several users are linearizable, on
//! one node and on two nodes.

mod checker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use kith_store::Error;
use serde_json::{Value, json};

use self::checker::{Call, ClientOperation, OperationResult, is_linearizable};
use crate::bond_model::find_faults;
use crate::support::{REQUESTS, TestApp, TestResponse, TestUser, note_trials, on_every_engine, rounds};

const HISTORIES: usize = 30;
const CLIENTS: usize = 6;
const OPERATIONS: usize = 6;

on_every_engine! {
    with crate::support::race;
    every_history_is_linearizable,
}

/// Records histories with four, five and six users in turn.
async fn every_history_is_linearizable(app: &TestApp) {
    let users = app.register_users("p", 6).await;
    let (mut bonds, mut overlaps) = (0, 0);
    let histories = rounds(HISTORIES);
    for seed in 1..=histories {
        let history = play(&users[..4 + seed % 3], seed as u64).await;
        assert!(is_linearizable(&history), "seed {seed}: {history:#?}");
        assert_eq!(find_faults(app).await, [], "seed {seed}");
        let bonded =
            |call: &&Call| matches!(call.result, OperationResult::Accepted | OperationResult::Crossed(_));
        bonds += history.iter().filter(bonded).count();
        overlaps += history.iter().filter(|one| history.iter().any(|other| overlap(one, other))).count();
        wipe(app).await;
    }
    let calls = histories * CLIENTS * OPERATIONS;
    note_trials("PRT-03", "a history of concurrent operations is linearizable", histories);
    println!("{histories} histories, {calls} calls, {overlaps} of them concurrent, {bonds} bonds reported");
    assert!(bonds > histories / 2 && overlaps > calls / 2, "too few bonds or concurrent calls");
}

fn overlap(one: &Call, other: &Call) -> bool {
    one.began < other.began && other.began < one.ended
}

/// Deterministic random numbers.
struct DeterministicRng(u64);

impl DeterministicRng {
    fn below(&mut self, n: usize) -> usize {
        // Knuth's MMIX linear congruential generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

async fn play(users: &[TestUser], seed: u64) -> Vec<Call> {
    let (clock, sent) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let clients = (0..CLIENTS).map(async |client| {
        let mut rng = DeterministicRng(seed * 1_000 + client as u64);
        let mut calls = Vec::new();
        for _ in 0..OPERATIONS {
            let operation = choose(&mut rng, users.len(), &sent);
            let began = clock.fetch_add(1, Ordering::SeqCst);
            let result = perform(users, &operation).await;
            let ended = clock.fetch_add(1, Ordering::SeqCst);
            if let (ClientOperation::Send { to, .. }, OperationResult::Sent(id)) = (&operation, &result) {
                sent.lock().expect("no thread panicked while it held the lock").push((*to, id.clone()));
            }
            calls.push(Call { operation, result, began, ended });
        }
        calls
    });
    join_all(clients).await.concat()
}

fn choose(rng: &mut DeterministicRng, users: usize, sent: &Mutex<Vec<(usize, String)>>) -> ClientOperation {
    let user = rng.below(users);
    let other = (user + 1 + rng.below(users - 1)) % users;
    let sent = sent.lock().expect("no thread panicked while it held the lock");
    match rng.below(10) {
        0..=3 if !sent.is_empty() => {
            let (user, request) = sent[sent.len() - 1 - rng.below(sent.len().min(4))].clone();
            ClientOperation::Accept { user, request }
        }
        0..=5 => ClientOperation::Send { from: user, to: other },
        6 | 7 => ClientOperation::BreakUp { user },
        8 if rng.below(2) == 0 => ClientOperation::Block { user, other },
        8 => ClientOperation::Unblock { user, other },
        _ => ClientOperation::GetPartner { user },
    }
}

async fn perform(users: &[TestUser], operation: &ClientOperation) -> OperationResult {
    let number = |partner: &Value| users.iter().position(|user| *partner == user.id);
    match operation {
        ClientOperation::Send { from, to } => {
            let response = users[*from].post(REQUESTS, json!({ "to": { "user_id": users[*to].id } })).await;
            let id = response.body["id"].as_str().unwrap_or_default().to_owned();
            match response.status {
                200 => OperationResult::Repeated(id),
                201 if response.body.get("bond").is_some() => OperationResult::Crossed(id),
                201 => OperationResult::Sent(id),
                _ => rejection_result(response),
            }
        }
        ClientOperation::Accept { user, request } => {
            let response = users[*user].post(&format!("{REQUESTS}/{request}/accept"), Value::Null).await;
            if response.status == 200 { OperationResult::Accepted } else { rejection_result(response) }
        }
        ClientOperation::BreakUp { user } => {
            let response = users[*user].post("/api/v1/partners/breakup", json!({})).await;
            match response.status {
                200 => OperationResult::BondEnded(
                    number(&response.body["bond"]["partner"]["id"]).expect("the partner is a known user"),
                ),
                _ => rejection_result(response),
            }
        }
        ClientOperation::Block { user, other } => {
            users[*user].put(&format!("/api/v1/blocks/{}", users[*other].id), Value::Null).await.expect(200);
            OperationResult::Done
        }
        ClientOperation::Unblock { user, other } => {
            users[*user]
                .delete(&format!("/api/v1/blocks/{}", users[*other].id), Value::Null)
                .await
                .expect(204);
            OperationResult::Done
        }
        ClientOperation::GetPartner { user } => {
            let response = users[*user].get("/api/v1/partners/current").await.expect(200);
            OperationResult::Partner(number(&response["bond"]["partner"]["id"]))
        }
    }
}

fn rejection_result(response: TestResponse) -> OperationResult {
    match (response.status, response.body["code"].as_str()) {
        (409, Some("slot_occupied")) => OperationResult::Occupied,
        (409, Some("request_not_pending")) => OperationResult::NotPending,
        (409, Some("not_bonded")) => OperationResult::NotBonded,
        (404, _) => OperationResult::NotFound,
        _ => panic!("{response:#?}"),
    }
}

/// Deletes all bonds, requests and blocks.
async fn wipe(app: &TestApp) {
    let wiped = app.db().write(|tx| {
        for sql in [
            "DELETE FROM bond_slots",
            "DELETE FROM breakups",
            "DELETE FROM partner_requests",
            "DELETE FROM bonds",
            "DELETE FROM blocks",
        ] {
            tx.exec(sql, &[])?;
        }
        Ok::<_, Error>(())
    });
    wiped.await.expect("the requests are deleted");
}

fn call(began: usize, ended: usize, operation: ClientOperation, result: OperationResult) -> Call {
    Call { operation, result, began, ended }
}

/// Tests that the checker rejects impossible histories.
#[test]
fn impossible_history_is_rejected() {
    let sent = |id: &str| OperationResult::Sent(id.to_owned());
    let accept = |user, id: &str| ClientOperation::Accept { user, request: id.to_owned() };
    let send = |from, to| ClientOperation::Send { from, to };
    let both = |second_result: OperationResult, second_began| {
        vec![
            call(0, 1, send(0, 1), sent("a")),
            call(2, 3, send(2, 1), sent("b")),
            call(4, 7, accept(1, "a"), OperationResult::Accepted),
            call(second_began, 8, accept(1, "b"), second_result),
        ]
    };
    assert!(is_linearizable(&both(OperationResult::NotPending, 5)));
    assert!(!is_linearizable(&both(OperationResult::Accepted, 5)), "a user cannot have two bonds");
    let mut with_breakup = both(OperationResult::NotPending, 5);
    with_breakup.push(call(9, 10, ClientOperation::GetPartner { user: 1 }, OperationResult::Partner(None)));
    assert!(!is_linearizable(&with_breakup), "a bond cannot disappear without a breakup");
    with_breakup.push(call(6, 11, ClientOperation::BreakUp { user: 0 }, OperationResult::BondEnded(1)));
    assert!(is_linearizable(&with_breakup), "a concurrent breakup explains the missing bond");
    with_breakup.last_mut().expect("a breakup").began = 10;
    assert!(!is_linearizable(&with_breakup), "a later breakup does not explain the missing bond");
    let crossed = |result| vec![call(0, 3, send(0, 1), sent("a")), call(1, 2, send(1, 0), result)];
    assert!(is_linearizable(&crossed(OperationResult::Crossed("b".into()))));
    assert!(!is_linearizable(&crossed(sent("b"))), "crossed requests form a bond");
    let past_a_block = |began| {
        vec![
            call(0, 1, send(0, 1), sent("a")),
            call(2, 4, ClientOperation::Block { user: 0, other: 1 }, OperationResult::Done),
            call(began, 6, accept(1, "a"), OperationResult::Accepted),
        ]
    };
    assert!(
        is_linearizable(&past_a_block(3)) && !is_linearizable(&past_a_block(5)),
        "a request can be accepted during a block call but not after it"
    );
}
