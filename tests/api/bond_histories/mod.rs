//! PRT-03: concurrent operations of several users on the same slots, on one or two nodes, have linearizable
//! histories.

mod checker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use kith_store::Error;
use serde_json::{Value, json};

use self::checker::{Call, Deed, Told, is_linearizable};
use crate::bond_model::find_faults;
use crate::support::{Answer, Person, REQUESTS, TestApp, note_trials, on_every_engine, rounds};

const HISTORIES: usize = 30;
const CLIENTS: usize = 6;
const OPERATIONS: usize = 6;

on_every_engine! {
    with crate::support::race;
    every_history_is_linearizable,
}

/// Four to six users, in turn.
async fn every_history_is_linearizable(app: &TestApp) {
    let people = app.crowd("p", 6).await;
    let (mut bonds, mut overlaps) = (0, 0);
    let histories = rounds(HISTORIES);
    for seed in 1..=histories {
        let history = play(&people[..4 + seed % 3], seed as u64).await;
        assert!(is_linearizable(&history), "seed {seed}: {history:#?}");
        assert_eq!(find_faults(app).await, [], "seed {seed}");
        let bonded = |call: &&Call| matches!(call.told, Told::Accepted | Told::Crossed(_));
        bonds += history.iter().filter(bonded).count();
        overlaps += history.iter().filter(|one| history.iter().any(|other| overlap(one, other))).count();
        wipe(app).await;
    }
    let calls = histories * CLIENTS * OPERATIONS;
    note_trials("PRT-03", "a history of concurrent operations is linearizable", histories);
    println!(
        "{histories} histories, {calls} calls, {overlaps} of them at once with others, {bonds} bonds told"
    );
    assert!(bonds > histories / 2 && overlaps > calls / 2, "too little happened at once");
}

fn overlap(one: &Call, other: &Call) -> bool {
    one.began < other.began && other.began < one.ended
}

/// Deterministic random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        // Knuth's MMIX linear congruential generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

async fn play(people: &[Person], seed: u64) -> Vec<Call> {
    let (clock, sent) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let clients = (0..CLIENTS).map(async |client| {
        let mut dice = Dice(seed * 1_000 + client as u64);
        let mut calls = Vec::new();
        for _ in 0..OPERATIONS {
            let deed = choose(&mut dice, people.len(), &sent);
            let began = clock.fetch_add(1, Ordering::SeqCst);
            let told = carry_out(people, &deed).await;
            let ended = clock.fetch_add(1, Ordering::SeqCst);
            if let (Deed::Send { to, .. }, Told::Sent(id)) = (&deed, &told) {
                sent.lock().expect("no panic before").push((*to, id.clone()));
            }
            calls.push(Call { deed, told, began, ended });
        }
        calls
    });
    join_all(clients).await.concat()
}

fn choose(dice: &mut Dice, people: usize, sent: &Mutex<Vec<(usize, String)>>) -> Deed {
    let who = dice.below(people);
    let whom = (who + 1 + dice.below(people - 1)) % people;
    let sent = sent.lock().expect("no panic before");
    match dice.below(10) {
        0..=3 if !sent.is_empty() => {
            let (who, request) = sent[sent.len() - 1 - dice.below(sent.len().min(4))].clone();
            Deed::Accept { who, request }
        }
        0..=5 => Deed::Send { from: who, to: whom },
        6 | 7 => Deed::BreakUp { who },
        8 if dice.below(2) == 0 => Deed::Block { who, whom },
        8 => Deed::Unblock { who, whom },
        _ => Deed::Look { who },
    }
}

async fn carry_out(people: &[Person], deed: &Deed) -> Told {
    let number = |partner: &Value| people.iter().position(|person| *partner == person.id);
    match deed {
        Deed::Send { from, to } => {
            let answer = people[*from].post(REQUESTS, json!({ "to": { "user_id": people[*to].id } })).await;
            let id = answer.body["id"].as_str().unwrap_or_default().to_owned();
            match answer.status {
                200 => Told::Repeated(id),
                201 if answer.body.get("bond").is_some() => Told::Crossed(id),
                201 => Told::Sent(id),
                _ => refusal(answer),
            }
        }
        Deed::Accept { who, request } => {
            let answer = people[*who].post(&format!("{REQUESTS}/{request}/accept"), Value::Null).await;
            if answer.status == 200 { Told::Accepted } else { refusal(answer) }
        }
        Deed::BreakUp { who } => {
            let answer = people[*who].post("/api/v1/partners/breakup", json!({})).await;
            match answer.status {
                200 => Told::Parted(number(&answer.body["bond"]["partner"]["id"]).expect("one of them")),
                _ => refusal(answer),
            }
        }
        Deed::Block { who, whom } => {
            people[*who].put(&format!("/api/v1/blocks/{}", people[*whom].id), Value::Null).await.expect(200);
            Told::Done
        }
        Deed::Unblock { who, whom } => {
            people[*who]
                .delete(&format!("/api/v1/blocks/{}", people[*whom].id), Value::Null)
                .await
                .expect(204);
            Told::Done
        }
        Deed::Look { who } => {
            let answer = people[*who].get("/api/v1/partners/current").await.expect(200);
            Told::Saw(number(&answer["bond"]["partner"]["id"]))
        }
    }
}

fn refusal(answer: Answer) -> Told {
    match (answer.status, answer.body["code"].as_str()) {
        (409, Some("slot_occupied")) => Told::Occupied,
        (409, Some("request_not_pending")) => Told::NotPending,
        (409, Some("not_bonded")) => Told::NotBonded,
        (404, _) => Told::NotFound,
        _ => panic!("{answer:#?}"),
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
    wiped.await.expect("nothing left");
}

fn call(began: usize, ended: usize, deed: Deed, told: Told) -> Call {
    Call { deed, told, began, ended }
}

/// Test of the checker: it rejects impossible histories.
#[test]
fn impossible_history_is_rejected() {
    let sent = |id: &str| Told::Sent(id.to_owned());
    let accept = |who, id: &str| Deed::Accept { who, request: id.to_owned() };
    let send = |from, to| Deed::Send { from, to };
    let both = |second_told: Told, second_began| {
        vec![
            call(0, 1, send(0, 1), sent("a")),
            call(2, 3, send(2, 1), sent("b")),
            call(4, 7, accept(1, "a"), Told::Accepted),
            call(second_began, 8, accept(1, "b"), second_told),
        ]
    };
    assert!(is_linearizable(&both(Told::NotPending, 5)));
    assert!(!is_linearizable(&both(Told::Accepted, 5)), "two bonds in one slot");
    let mut parted = both(Told::NotPending, 5);
    parted.push(call(9, 10, Deed::Look { who: 1 }, Told::Saw(None)));
    assert!(!is_linearizable(&parted), "a bond that nobody ended is gone");
    parted.push(call(6, 11, Deed::BreakUp { who: 0 }, Told::Parted(1)));
    assert!(is_linearizable(&parted), "somebody ended it meanwhile");
    parted.last_mut().expect("a breakup").began = 10;
    assert!(!is_linearizable(&parted), "but not later");
    let crossed = |told| vec![call(0, 3, send(0, 1), sent("a")), call(1, 2, send(1, 0), told)];
    assert!(is_linearizable(&crossed(Told::Crossed("b".into()))));
    assert!(!is_linearizable(&crossed(sent("b"))), "two who ask each other are partners");
    let past_a_block = |began| {
        vec![
            call(0, 1, send(0, 1), sent("a")),
            call(2, 4, Deed::Block { who: 0, whom: 1 }, Told::Done),
            call(began, 6, accept(1, "a"), Told::Accepted),
        ]
    };
    assert!(is_linearizable(&past_a_block(3)) && !is_linearizable(&past_a_block(5)), "past a block");
}
