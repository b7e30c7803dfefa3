//! Tests of replays: events are delivered again on request.

use kith_consumers::{MAX_ATTEMPTS, ReplayError, ReplayFrom, StartAt, replay, retry_dead_letters};
use kith_kernel::{minutes, seconds};
use kith_store::contract;

use crate::support::{BEGINNING, Node, Poison, recorder};

contract! {
    replay_starts_at_position_time_or_beginning
    replay_never_skips_events
    dead_letters_are_retried_on_request
    unknown_consumers_and_positions_are_rejected
}

async fn play(node: &Node, from: ReplayFrom) -> Result<i64, ReplayError> {
    node.on.store.write(move |tx| replay(tx, "first", from)).await
}

async fn replay_starts_at_position_time_or_beginning(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    for _ in 0..4 {
        node.emit("thing.done", &[1]).await;
        node.advance(seconds(10));
    }
    node.run(&mut delivery).await;
    let mut expected = vec![1, 2, 3, 4];
    assert_eq!(node.handled("first").await, expected);
    for (from, again) in [
        (ReplayFrom::Position(3), vec![3, 4]),
        (ReplayFrom::Time(BEGINNING + seconds(9)), vec![2, 3, 4]),
        (ReplayFrom::Time(BEGINNING + seconds(30)), vec![4]),
        (ReplayFrom::Time(BEGINNING + seconds(31)), vec![]),
        (ReplayFrom::Beginning, vec![1, 2, 3, 4]),
    ] {
        let count = play(&node, from).await.unwrap();
        assert_eq!(count, i64::try_from(again.len()).unwrap(), "{from:?}");
        node.run(&mut delivery).await;
        expected.extend(again);
        assert_eq!(node.handled("first").await, expected, "{from:?}");
    }
}

async fn replay_never_skips_events(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2, 3]).await;
    assert_eq!(
        play(&node, ReplayFrom::Position(3)).await.unwrap(),
        3,
        "the replay starts at the third event"
    );
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [1, 2, 3]);
}

async fn dead_letters_are_retried_on_request(node: Node) {
    let poison = Poison::at([1]);
    let consumer = recorder("first", StartAt::Beginning, poison.clone());
    let mut delivery = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2]).await;
    node.run(&mut delivery).await;
    for _ in 2..=MAX_ATTEMPTS {
        node.advance(minutes(1));
        node.run(&mut delivery).await;
    }
    assert_eq!(node.status("first").await.dead_letters, 1);
    poison.cure();
    let retried = node.on.store.write(|tx| retry_dead_letters(tx, "first")).await;
    assert_eq!(retried.unwrap(), 1);
    node.run(&mut delivery).await;
    assert_eq!(node.handled("first").await, [2, 1]);
    let status = node.status("first").await;
    assert_eq!((status.pending, status.dead_letters), (0, 0));
}

async fn unknown_consumers_and_positions_are_rejected(node: Node) {
    let unknown = play(&node, ReplayFrom::Beginning).await.unwrap_err();
    assert!(matches!(unknown, ReplayError::UnknownConsumer(_)), "{unknown}");
    let unknown = node.on.store.write(|tx| retry_dead_letters(tx, "first")).await.unwrap_err();
    assert!(matches!(unknown, ReplayError::UnknownConsumer(_)), "{unknown}");
    node.declare(&[recorder("first", StartAt::Beginning, Poison::default())]).await;
    for position in [-1, 0, 1, i64::MAX] {
        let unknown = play(&node, ReplayFrom::Position(position)).await.unwrap_err();
        assert!(matches!(unknown, ReplayError::UnknownPosition { last: 0, .. }), "{unknown}");
    }
}
