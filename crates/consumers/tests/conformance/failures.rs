//! Tests of events that a handler fails to handle.

use kith_consumers::{
    Consumer, HandlerError, MAX_ATTEMPTS, MAX_PENDING, StartAt, Transactions, list_dead_letters,
};
use kith_kernel::uuid::Uuid;
use kith_kernel::{minutes, seconds};
use kith_store::{Error, NewEvent, Query, contract};

use crate::support::{Node, Poison, record, recorder};

contract! {
    poison_event_is_dead_lettered_and_others_are_not_delayed
    later_events_of_a_failed_subject_wait_for_it
    recovered_event_is_handled_before_later_ones_of_subject
    changes_of_failed_handler_are_rolled_back
    error_panic_and_rejected_write_count_as_failures
    failure_of_removed_event_is_deleted
    cursor_stops_at_maximum_of_pending_failures
    failing_subject_does_not_delay_other_subjects
    event_that_the_database_always_rejects_is_dead_lettered
}

async fn poison_event_is_dead_lettered_and_others_are_not_delayed(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::at([3]));
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2, 3, 4, 5, 6]).await;
    assert_eq!(node.run(&mut delivery).await, 5, "a failing event does not stop other events");
    assert_eq!(node.handled("first").await, [1, 2, 4, 5, 6]);
    assert_eq!((node.status("first").await.pending, node.cursor("first").await), (1, 6));
    for attempt in 2..=MAX_ATTEMPTS {
        assert_eq!(node.status("first").await.dead_letters, 0, "before attempt {attempt}");
        node.advance(minutes(1));
        assert_eq!(node.run(&mut delivery).await, 0);
    }
    let status = node.status("first").await;
    assert_eq!((status.pending, status.dead_letters), (0, 1));
    let dead_letters = node.on.store.read(|q: &Query<'_>| list_dead_letters(q, "first", 10)).await.unwrap();
    assert_eq!((dead_letters[0].position, dead_letters[0].error.as_str()), (3, "poison at 3"));
}

async fn later_events_of_a_failed_subject_wait_for_it(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::at([1]));
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[7, 8, 7]).await;
    node.run(&mut delivery).await;
    node.emit("thing.done", &[7, 8]).await;
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [2, 5], "events 3 and 4 wait for event 1");
    for _ in 2..=MAX_ATTEMPTS {
        node.advance(minutes(1));
        node.run(&mut delivery).await;
    }
    assert_eq!(
        node.handled("first").await,
        [2, 5, 3, 4],
        "events 3 and 4 are handled once event 1 is dead-lettered"
    );
    assert_eq!(node.status("first").await.pending, 0);
}

async fn recovered_event_is_handled_before_later_ones_of_subject(node: Node) {
    let poison = Poison::at([1]);
    let consumer = recorder("first", StartAt::Beginning, poison.clone());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[7, 7, 8]).await;
    node.run(&mut delivery).await;
    poison.cure();
    assert_eq!(node.run(&mut delivery).await, 0, "the event is not retried before its backoff ends");
    node.advance(seconds(1));
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [3, 1, 2]);
    let status = node.status("first").await;
    assert_eq!((status.pending, status.dead_letters), (0, 0));
}

async fn changes_of_failed_handler_are_rolled_back(node: Node) {
    // The handler of `recorder` writes a row before it fails.
    let consumer = recorder("first", StartAt::Beginning, Poison::at(1..=40));
    let mut delivery = node.delivery(&consumer).await;
    let subjects: Vec<u128> = (1..=40).collect();
    node.emit("thing.done", &subjects).await;
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [0; 0]);
    assert_eq!(node.status("first").await.pending, 40);
}

async fn error_panic_and_rejected_write_count_as_failures(node: Node) {
    let consumer = Consumer::new("first", &["thing.*"], StartAt::Beginning, |tx, ctx, events| {
        for event in events {
            match event.position {
                1 => return Err(HandlerError::failed("with a NUL \0 and more")),
                2 => panic!("on purpose"),
                3 => {
                    tx.exec("INSERT INTO handled (n, consumer, position) VALUES (1, 'first', 3)", &[])?;
                }
                4 => {
                    // This fault is only detected when the transaction commits.
                    let subject = Uuid::nil();
                    let payload = serde_json::json!({ "text": "\0" });
                    let kind = "thing\0done";
                    tx.emit(ctx, NewEvent { kind, subject, recipients: vec![], payload });
                }
                _ => record(tx, "first", event)?,
            }
        }
        Ok(())
    });
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2, 3, 4, 5]).await;
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [5]);
    assert_eq!(node.status("first").await.pending, 4);
    for _ in 2..=MAX_ATTEMPTS {
        node.advance(minutes(1));
        node.run(&mut delivery).await;
    }
    assert_eq!(node.status("first").await.dead_letters, 4);
}

async fn failure_of_removed_event_is_deleted(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::at([1]));
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2]).await;
    node.run(&mut delivery).await;
    let deleted = node.on.store.write(|tx| tx.exec("DELETE FROM outbox_positions WHERE position = 1", &[]));
    assert_eq!(deleted.await.unwrap(), 1);
    node.advance(seconds(1));
    node.run(&mut delivery).await;
    assert_eq!(node.status("first").await.pending, 0);
}

/// Emits `count` events in one transaction, with the subjects that `subject` returns.
async fn emit_many(node: &Node, count: i64, subject: impl Fn(i64) -> u128 + Copy + Send + 'static) {
    let ctx = Transactions::ctx(&node.on, "test");
    let before = node.on.store.last_position().await.unwrap();
    let emitted = node.on.store.write(move |tx| {
        for n in 1..=count {
            let payload = serde_json::json!({});
            let subject = Uuid::from_u128(subject(n));
            tx.emit(&ctx, NewEvent { kind: "thing.done", subject, recipients: vec![], payload });
        }
        Ok::<_, Error>(())
    });
    emitted.await.unwrap();
    node.placed(before + count).await;
}

async fn cursor_stops_at_maximum_of_pending_failures(node: Node) {
    let poison = Poison::at(1..=MAX_PENDING + 50);
    let consumer = recorder("first", StartAt::Beginning, poison.clone());
    let mut delivery = node.delivery(&consumer).await;
    emit_many(&node, MAX_PENDING + 50, |n| n.unsigned_abs().into()).await;
    node.run(&mut delivery).await;
    let (status, cursor) = (node.status("first").await, node.cursor("first").await);
    assert_eq!((status.pending, status.dead_letters, cursor), (MAX_PENDING, 0, MAX_PENDING));
    poison.cure();
    node.advance(seconds(1));
    node.run(&mut delivery).await;
    assert_eq!(node.status("first").await.pending, 0);
    let mut handled = node.handled("first").await;
    handled.sort_unstable();
    assert_eq!(handled, (1..=MAX_PENDING + 50).collect::<Vec<_>>());
}

/// All 540 events of one subject fail. At most 100 events of a subject may be pending.
async fn failing_subject_does_not_delay_other_subjects(node: Node) {
    let poison = Poison::at((1..=600).filter(|position| position % 10 != 0));
    let consumer = recorder("first", StartAt::Beginning, poison);
    let mut delivery = node.delivery(&consumer).await;
    emit_many(&node, 600, |n| if n % 10 == 0 { 1 } else { 2 }).await;
    node.run(&mut delivery).await;
    let healthy: Vec<i64> = (1..=60).map(|n| n * 10).collect();
    assert_eq!(node.handled("first").await, healthy, "healthy events are handled without a delay");
    let status = node.status("first").await;
    assert_eq!((node.cursor("first").await, status.pending + status.dead_letters), (600, 540));
}

/// The handler returns a database error each time, although the database works.
async fn event_that_the_database_always_rejects_is_dead_lettered(node: Node) {
    let consumer = Consumer::new("first", &["thing.*"], StartAt::Beginning, |tx, _, events| {
        for event in events {
            if event.position == 1 {
                return Err(HandlerError::Store(Error::unavailable("on purpose")));
            }
            record(tx, "first", event)?;
        }
        Ok(())
    });
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2]).await;
    for _ in 0..200 {
        let _ = delivery.step().await;
        node.advance(seconds(20));
    }
    assert_eq!((node.status("first").await.dead_letters, node.handled("first").await), (1, vec![2]));
}
