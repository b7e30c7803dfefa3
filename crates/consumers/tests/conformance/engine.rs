//! Tests of consumers that run in the background.

use std::sync::Arc;
use std::time::Duration;

use kith_consumers::{Consumer, ConsumerSet, Consumers, ReplayFrom, StartAt, replay};
use kith_store::contract;

use crate::support::{Node, Poison, recorder};

contract! {
    running_consumer_is_woken_by_the_sequencer
    another_node_takes_over_after_stop
    another_node_takes_over_from_a_delivery_that_panics
    delivery_that_panics_is_started_again
    replay_wakes_a_running_consumer
    counts_and_samples_cover_every_consumer
}

/// Waits until the consumer `first` has handled exactly these positions.
async fn wait(node: &Node, expected: &[i64]) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        let mut interval = tokio::time::interval(Duration::from_millis(2));
        while node.handled("first").await != expected {
            interval.tick().await;
        }
    });
    if waited.await.is_err() {
        assert_eq!(node.handled("first").await, expected);
    }
}

async fn running_consumer_is_woken_by_the_sequencer(node: Node) {
    let consumers = node.consumers(&[recorder("first", StartAt::Beginning, Poison::default())]);
    consumers.declare().await.unwrap();
    let running = consumers.start();
    for position in 1..=20 {
        node.emit("thing.done", &[1]).await;
        wait(&node, &(1..=position).collect::<Vec<_>>()).await;
    }
    running.stop().await;
}

async fn another_node_takes_over_after_stop(node: Node) {
    let other = node.second().await;
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    let consumers = node.consumers(std::slice::from_ref(&consumer));
    consumers.declare().await.unwrap();
    let running = consumers.start();
    node.emit("thing.done", &[1]).await;
    wait(&node, &[1]).await;
    let taking_over = other.consumers(&[consumer]).start();
    running.stop().await;
    // The clock does not advance, so no lease can expire: the other node needs a released lease.
    node.emit("thing.done", &[1]).await;
    wait(&node, &[1, 2]).await;
    taking_over.stop().await;
}

/// Covers a past fault: a task that panicked outside the handler kept its lease and was never started again.
async fn delivery_that_panics_is_started_again(node: Node) {
    let set = Arc::new(ConsumerSet::new(recorders(), "node".to_owned()));
    let consumers = Consumers::new(node.on.clone(), Arc::clone(&set));
    consumers.declare().await.unwrap();
    let running = consumers.start();
    node.on.panic_next(3);
    node.emit("thing.done", &[1]).await;
    wait(&node, &[1]).await;
    // The counter is increased after the commit, so the test has to wait for it.
    let counted = tokio::time::timeout(Duration::from_secs(60), async {
        let mut interval = tokio::time::interval(Duration::from_millis(2));
        while set.counts()[0].handled == 0 {
            interval.tick().await;
        }
    });
    counted.await.expect("a count");
    assert_eq!((set.counts()[0].panics, set.counts()[0].handled), (3, 1));
    node.emit("thing.done", &[1]).await;
    wait(&node, &[1, 2]).await;
    running.stop().await;
    assert_eq!(node.status("first").await.owner, "");
}

async fn another_node_takes_over_from_a_delivery_that_panics(node: Node) {
    if !node.is_postgres() {
        return; // Only one process can use a SQLite file.
    }
    let other = node.second().await;
    let consumers = node.consumers(&recorders());
    consumers.declare().await.unwrap();
    let running = consumers.start();
    node.emit("thing.done", &[1]).await;
    wait(&node, &[1]).await;
    let taking_over = other.consumers(&recorders()).start();
    node.on.panic_next(usize::MAX);
    // The clock does not advance, so no lease can expire: the other node needs a released lease.
    node.emit("thing.done", &[1]).await;
    wait(&node, &[1, 2]).await;
    running.stop().await;
    taking_over.stop().await;
}

fn recorders() -> Vec<Consumer> {
    vec![recorder("first", StartAt::Beginning, Poison::default())]
}

async fn replay_wakes_a_running_consumer(node: Node) {
    let consumers = node.consumers(&[recorder("first", StartAt::Beginning, Poison::default())]);
    consumers.declare().await.unwrap();
    let running = consumers.start();
    node.emit("thing.done", &[1, 2]).await;
    wait(&node, &[1, 2]).await;
    let replayed = node.on.store.write(|tx| replay(tx, "first", ReplayFrom::Position(2))).await;
    assert_eq!(replayed.unwrap(), 1);
    wait(&node, &[1, 2, 2]).await;
    running.stop().await;
}

async fn counts_and_samples_cover_every_consumer(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::at([2]));
    let set = Arc::new(ConsumerSet::new(vec![consumer], "node".to_owned()));
    let consumers = Consumers::new(node.on.clone(), Arc::clone(&set));
    consumers.declare().await.unwrap();
    node.emit("thing.done", &[1, 2, 3]).await;
    let status = node.status("first").await;
    assert_eq!((status.lag_events, status.lag_ms, status.owner.as_str()), (3, 0, ""));
    node.advance(Duration::from_millis(1_500));
    assert_eq!(node.status("first").await.lag_ms, 1_500);
    assert_eq!(consumers.clone().run_due().await.unwrap(), 2);
    let counts = set.counts();
    assert_eq!((counts[0].name, counts[0].handled, counts[0].dead_lettered), ("first", 2, 0));
    let status = node.status("first").await;
    assert_eq!((status.lag_events, status.lag_ms, status.pending), (0, 0, 1));
    assert!(!status.owner.is_empty());
    assert!(set.sampled().is_empty());
    let running = consumers.start();
    let mut interval = tokio::time::interval(Duration::from_millis(2));
    while set.sampled().is_empty() {
        interval.tick().await;
    }
    running.stop().await;
    assert_eq!(set.sampled()[0].pending, 1);
}
