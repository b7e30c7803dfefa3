//! Tests of deliveries: which events a consumer receives, in which order, and how often.

use kith_consumers::{Progress, StartAt, delete_undeclared};
use kith_kernel::seconds;
use kith_store::testing::Fault;
use kith_store::{Error, contract};

use crate::support::{Node, Poison, recorder};

contract! {
    events_are_handled_once_in_order
    faults_before_cursor_commit_do_not_repeat_events
    failed_commit_does_not_count_as_attempt
    events_skipped_before_failover_are_read_again
    cursor_never_passes_the_end_of_the_log
    new_consumer_starts_after_last_event_or_at_oldest
    cursor_is_not_written_for_each_skipped_event
    cursor_of_an_undeclared_consumer_is_deleted
    moved_cursor_or_lost_lease_rolls_back_batch
    event_replaced_by_a_failover_is_not_handled
}

async fn events_are_handled_once_in_order(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    assert!(matches!(delivery.step().await.unwrap(), Progress::Idle { until: None, .. }));
    let subjects: Vec<u128> = (0..1_200).map(|n| n % 7).collect();
    let ctx = kith_consumers::Transactions::ctx(&node.on, "test");
    let emitted = node.on.store.write(move |tx| {
        for subject in &subjects {
            let subject = kith_kernel::uuid::Uuid::from_u128(*subject);
            let payload = serde_json::json!({});
            tx.emit(&ctx, kith_store::NewEvent { kind: "thing.done", subject, recipients: vec![], payload });
        }
        Ok::<_, Error>(())
    });
    emitted.await.unwrap();
    node.placed(1_200).await;
    assert_eq!(node.run(&mut delivery).await, 1_200);
    assert_eq!(node.handled("first").await, (1..=1_200).collect::<Vec<_>>());
    assert_eq!(node.cursor("first").await, 1_200);
    assert_eq!(node.run(&mut delivery).await, 0);
}

/// The faults are a lost connection or a full disk at each statement, a failed commit, and a lost response to
/// a commit.
async fn faults_before_cursor_commit_do_not_repeat_events(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    let mut faults: Vec<Fault> = (1..=8).map(|n| Fault::ConnectionLost { at_statement: n }).collect();
    faults.extend((1..=8).map(|n| Fault::DiskFull { at_statement: n }));
    faults.extend([Fault::CommitFails, Fault::CommitAnswerLost, Fault::Conflict]);
    let mut expected = Vec::new();
    for (n, fault) in (1..).zip(faults) {
        node.emit("thing.done", &[1, 2]).await;
        expected.extend([2 * n - 1, 2 * n]);
        node.on.store.inject(fault);
        // The result of a step does not matter: the next ones detect the state.
        for _ in 0..20 {
            if matches!(delivery.step().await, Ok(Progress::Idle { .. })) {
                break;
            }
        }
        node.run(&mut delivery).await;
        assert_eq!(node.handled("first").await, expected, "{fault:?}");
        node.exhaust_faults().await;
    }
    assert_eq!(node.status("first").await.pending, 0, "a database fault does not count as a failed attempt");
}

async fn failed_commit_does_not_count_as_attempt(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1]).await;
    for _ in 0..4 {
        node.on.store.inject(Fault::CommitFails);
        assert!(delivery.step().await.is_err());
    }
    assert_eq!(node.status("first").await.pending, 0, "no attempt is counted");
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [1]);
}

/// Events were skipped, but the cursor was not written yet. Then a failover to a replica without these events
/// replaces them with others.
async fn events_skipped_before_failover_are_read_again(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("other.done", &[1, 2, 3]).await;
    node.run(&mut delivery).await;
    assert_eq!(node.cursor("first").await, 0);
    // The log has the same number of events with other ids, and the second event is of a kind that is
    // handled.
    node.replace_events(&[("other.done", 1), ("thing.done", 2), ("other.done", 3)]).await;
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [2]);
}

/// After a failover, the log of the new primary is shorter than the log that was read before.
async fn cursor_never_passes_the_end_of_the_log(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1]).await;
    node.emit("other.done", &[1, 2, 3]).await;
    node.on.interpose(&[
        "DELETE FROM outbox WHERE id IN (SELECT event_id FROM outbox_positions WHERE position > 1)",
        "DELETE FROM outbox_positions WHERE position > 1",
    ]);
    assert_eq!(delivery.step().await.unwrap(), Progress::Outdated);
    node.run(&mut delivery).await;
    assert_eq!((node.handled("first").await, node.cursor("first").await), (vec![1], 1));
}

async fn new_consumer_starts_after_last_event_or_at_oldest(node: Node) {
    node.emit("thing.done", &[1, 2]).await;
    let from_now = recorder("from-now", StartAt::Now, Poison::default());
    let from_beginning = recorder("from-beginning", StartAt::Beginning, Poison::default());
    let (mut now, mut beginning) = (node.delivery(&from_now).await, node.delivery(&from_beginning).await);
    node.emit("thing.done", &[3]).await;
    // The consumers are declared again, as at every start. This does not change their cursors.
    node.declare(&[from_now, from_beginning]).await;
    node.run(&mut now).await;
    node.run(&mut beginning).await;
    assert_eq!(node.handled("from-now").await, [3]);
    assert_eq!(node.handled("from-beginning").await, [1, 2, 3]);
}

async fn cursor_is_not_written_for_each_skipped_event(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("other.done", &[1, 2]).await;
    assert_eq!(node.run(&mut delivery).await, 0);
    assert_eq!(node.cursor("first").await, 0);
    let step = delivery.step().await.unwrap();
    assert!(
        matches!(step, Progress::Idle { until: Some(_), .. }),
        "the delivery waits for the write: {step:?}"
    );
    node.advance(seconds(5));
    assert_eq!(node.run(&mut delivery).await, 0);
    assert_eq!((node.cursor("first").await, node.status("first").await.lag_events), (2, 0));
    node.emit("other.done", &[1]).await;
    node.emit("thing.done", &[1]).await;
    node.run(&mut delivery).await;
    assert_eq!((node.handled("first").await, node.cursor("first").await), (vec![4], 4));
}

async fn cursor_of_an_undeclared_consumer_is_deleted(node: Node) {
    let [old, new] = ["old", "new"].map(|name| recorder(name, StartAt::Now, Poison::default()));
    node.declare(&[old, new.clone()]).await;
    node.advance(seconds(60));
    node.declare(&[new]).await;
    let before = node.on.sources.clock.now();
    let forgotten = node.on.store.write(move |tx| delete_undeclared(tx, before)).await.unwrap();
    assert_eq!(forgotten, ["old"]);
    assert_eq!(node.cursor("new").await, 0);
}

/// A replay or another node moves the cursor between the read and the transaction.
async fn moved_cursor_or_lost_lease_rolls_back_batch(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2]).await;
    for change in
        ["UPDATE consumers SET owner = 'other'", "UPDATE consumers SET position = 1, owner = 'node'"]
    {
        node.on.interpose(&[change]);
        let step = delivery.step().await.unwrap();
        assert_eq!(step, Progress::Outdated, "{change}");
        assert_eq!(node.handled("first").await, [0; 0], "{change}");
        if change.contains("other") {
            assert_eq!(delivery.step().await.unwrap(), Progress::NotOwner);
            node.give_lease("first", "node").await;
        }
    }
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [2]);
}

/// A failover to a replica without the last events assigns their positions to other events.
async fn event_replaced_by_a_failover_is_not_handled(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2]).await;
    node.on.interpose(&[
        "UPDATE outbox_positions SET position = position + 10",
        "UPDATE outbox_positions SET position = 13 - position",
    ]);
    assert_eq!(delivery.step().await.unwrap(), Progress::Outdated);
    assert_eq!(node.run(&mut delivery).await, 2);
    let subjects = node.handled_with_subjects("first").await;
    assert!(subjects[0].1.ends_with('2') && subjects[1].1.ends_with('1'), "{subjects:?}");
}
