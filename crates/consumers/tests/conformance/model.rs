//! Model test: after random sequences of events, poison, faults and lost leases, each event is handled
//! exactly once or dead-lettered, in order of position within its subject.

use std::collections::{BTreeMap, BTreeSet};

use kith_consumers::{MAX_ATTEMPTS, Progress, StartAt};
use kith_kernel::{minutes, seconds};
use kith_store::contract;
use kith_store::testing::Fault;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::support::{Node, Poison, recorder};

contract! {
    random_sequences_handle_each_event_once_in_order
}

#[derive(Clone, Debug)]
enum Action {
    /// Emit one event per entry: its subject, and true if the consumer does not handle the kind of the event.
    Emit(Vec<(u8, bool)>),
    /// Run this number of delivery steps.
    Step(u8),
    /// Inject the database fault with this number, then run delivery steps.
    Fault(u8),
    /// Move the lease to another node between a read and a transaction.
    LoseLease,
    Wait,
}

fn acts() -> impl Strategy<Value = (Vec<Action>, BTreeSet<i64>)> {
    let act = prop_oneof![
        3 => proptest::collection::vec((0..4_u8, proptest::bool::weighted(0.3)), 1..6).prop_map(Action::Emit),
        3 => (1..6_u8).prop_map(Action::Step),
        2 => (0..11_u8).prop_map(Action::Fault),
        1 => Just(Action::LoseLease),
        1 => Just(Action::Wait),
    ];
    (proptest::collection::vec(act, 1..25), proptest::collection::btree_set(1..40_i64, 0..6))
}

fn fault(n: u8) -> Fault {
    match n {
        0 => Fault::CommitFails,
        1 => Fault::CommitAnswerLost,
        2 => Fault::Conflict,
        n => Fault::ConnectionLost { at_statement: u32::from(n - 2) },
    }
}

async fn random_sequences_handle_each_event_once_in_order(node: Node) {
    let rounds = if node.is_postgres() { 12 } else { 40 };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(rounds));
    for _ in 0..rounds {
        let (acts, poison) = acts().new_tree(&mut runner).unwrap().current();
        play(&node, &acts, poison).await;
    }
}

async fn play(node: &Node, acts: &[Action], poison: BTreeSet<i64>) {
    let cleared = node.on.store.write(|tx| {
        tx.exec("DELETE FROM handled", &[])?;
        tx.exec("DELETE FROM consumers", &[])?;
        tx.exec("DELETE FROM consumer_failures", &[])
    });
    cleared.await.unwrap();
    let start = node.on.store.last_position().await.unwrap();
    let poison: BTreeSet<i64> = poison.into_iter().map(|n| n + start).collect();
    let consumer = recorder("first", StartAt::Now, Poison::at(poison.clone()));
    let mut delivery = node.delivery(&consumer).await;
    let (mut emitted, mut wanted) = (start, Vec::new());
    for act in acts {
        match act {
            Action::Emit(subjects) => {
                for (subject, is_unwanted) in subjects {
                    emitted += 1;
                    let kind = if *is_unwanted { "other.done" } else { "thing.done" };
                    if !is_unwanted {
                        wanted.push(emitted);
                    }
                    node.emit(kind, &[u128::from(*subject)]).await;
                }
            }
            Action::Step(count) => {
                for _ in 0..*count {
                    let _ = delivery.step().await;
                }
            }
            Action::Fault(n) => {
                node.on.store.inject(fault(*n));
                for _ in 0..4 {
                    let _ = delivery.step().await;
                }
                node.exhaust_faults().await;
            }
            Action::LoseLease => {
                node.on.interpose(&["UPDATE consumers SET owner = 'other'"]);
                let _ = delivery.step().await;
                node.on.interpose(&[]);
                node.give_lease("first", "node").await;
            }
            Action::Wait => node.advance(seconds(3)),
        }
    }
    for _ in 0..=MAX_ATTEMPTS * 8 {
        while let Ok(Progress::More { .. } | Progress::Outdated) = delivery.step().await {}
        node.advance(minutes(1));
    }
    verify(node, &wanted, &poison, acts).await;
}

async fn verify(node: &Node, wanted: &[i64], poison: &BTreeSet<i64>, acts: &[Action]) {
    let handled = node.handled_with_subjects("first").await;
    let mut positions: Vec<i64> = handled.iter().map(|(position, _)| *position).collect();
    positions.sort_unstable();
    let (failed, expected): (Vec<i64>, Vec<i64>) =
        wanted.iter().partition(|position| poison.contains(position));
    assert_eq!(positions, expected, "{acts:?} with poison at {poison:?}");
    let mut last = BTreeMap::new();
    for (position, subject) in handled {
        let before = last.insert(subject, position);
        assert!(before.is_none_or(|before| before < position), "{position} after {before:?} in {acts:?}");
    }
    let status = node.status("first").await;
    let dead_letters = i64::try_from(failed.len()).unwrap();
    assert_eq!(
        (status.pending, status.dead_letters),
        (0, dead_letters),
        "{acts:?} with poison at {poison:?}"
    );
    assert_eq!(status.lag_events, 0);
}
