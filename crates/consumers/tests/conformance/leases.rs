//! Tests of leases: only one node delivers to a consumer, and another node takes over when the lease expires.

use std::time::Duration;

use kith_consumers::{LEASE_TTL_MS, Progress, StartAt};
use kith_store::{Error, contract, params};

use crate::support::{Node, Poison, recorder};

contract! {
    lease_from_clock_ahead_is_ignored
    one_node_delivers_at_a_time
    former_lease_owner_cannot_deliver_after_resume
    restarted_process_delivers_immediately
}

async fn one_node_delivers_at_a_time(node: Node) {
    if !node.is_postgres() {
        return; // Only one process can use a SQLite file.
    }
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    node.declare(std::slice::from_ref(&consumer)).await;
    let other = node.second().await;
    let (first, second) = (node.consumers(std::slice::from_ref(&consumer)), other.consumers(&[consumer]));
    node.emit("thing.done", &[1]).await;
    assert_eq!(first.clone().run_due().await.unwrap(), 1);
    node.emit("thing.done", &[1]).await;
    assert_eq!(second.clone().run_due().await.unwrap(), 0, "the first node holds the lease");
    node.advance(Duration::from_millis(LEASE_TTL_MS));
    assert_eq!(
        second.clone().run_due().await.unwrap(),
        1,
        "the second node takes the lease that was not renewed"
    );
    assert_eq!(first.clone().run_due().await.unwrap(), 0);
    assert_eq!(node.handled("first").await, [1, 2]);
}

async fn lease_from_clock_ahead_is_ignored(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    node.declare(std::slice::from_ref(&consumer)).await;
    node.emit("thing.done", &[1]).await;
    let now = node.on.sources.clock.now().as_millis();
    let sql = "UPDATE consumers SET owner = 'dead', leased_until = $1";
    let leased = node.on.store.write(move |tx| tx.exec(sql, params![now + 86_400_000]));
    assert_eq!(leased.await.unwrap(), 1);
    assert_eq!(node.consumers(&[consumer]).run_due().await.unwrap(), 1);
}

/// Two nodes assume that they hold the lease, because one of them was stopped for a while.
async fn former_lease_owner_cannot_deliver_after_resume(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::at([2]));
    let mut frozen = node.delivery(&consumer).await;
    node.emit("thing.done", &[1, 2]).await;
    assert_eq!(frozen.step().await.unwrap(), Progress::More { handled: 0, dead_lettered: false });
    // Another node acquires the lease between the read and the transaction of the frozen node.
    node.on.interpose(&["UPDATE consumers SET owner = 'other'"]);
    assert_eq!(frozen.step().await.unwrap(), Progress::Outdated);
    assert_eq!(frozen.step().await.unwrap(), Progress::NotOwner);
    assert_eq!((node.handled("first").await, node.status("first").await.pending), (vec![], 0));
}

async fn restarted_process_delivers_immediately(node: Node) {
    let consumer = recorder("first", StartAt::Beginning, Poison::default());
    node.declare(std::slice::from_ref(&consumer)).await;
    node.emit("thing.done", &[1]).await;
    assert_eq!(node.consumers(std::slice::from_ref(&consumer)).run_due().await.unwrap(), 1);
    if node.is_postgres() {
        // A killed process leaves a lease that expires later; a stopped process releases its leases.
        let released = node.on.store.write(|tx| {
            tx.exec("UPDATE consumers SET leased_until = 0", &[]).map(drop)?;
            Ok::<_, Error>(())
        });
        released.await.unwrap();
    }
    node.emit("thing.done", &[1]).await;
    assert_eq!(node.consumers(&[consumer]).run_due().await.unwrap(), 1);
}
