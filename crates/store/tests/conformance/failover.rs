//! Tests of failover between two PostgreSQL servers that are both in the database URL.

use std::sync::Arc;
use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{SystemRandom, TimeOrderedIds, Timestamp};
use kith_store::testing::postgres_url;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions, StopMode};
use kith_store::{Error, Store, Tx};

use crate::postgres::options;
use crate::sequencer::{all_events, assert_sequence, change};
use crate::support::{add, ctx, modules, names, sources};

/// Starts a primary and its replica. Returns `None` if only SQLite is tested.
fn pair() -> Option<(PostgresServer, PostgresServer)> {
    postgres_url()?;
    let primary = PostgresServer::start(PostgresServerOptions::default()).unwrap();
    let replica = primary.replica().unwrap();
    Some((primary, replica))
}

/// Opens a store on a new database at `url`. Its timeouts are short, so that an unresponsive server is
/// detected quickly.
async fn open(url: String) -> Store {
    let mut options = options(url);
    options.deadline = Duration::from_secs(2);
    Store::migrate_up(&options, modules(), Timestamp::EPOCH).await.unwrap();
    Store::open(options).await.unwrap()
}

async fn try_to_add(store: &Store, name: &str) -> Result<(), Error> {
    let name = name.to_owned();
    store.write(move |tx| add(tx, &name)).await
}

/// Repeats `ask` until a server responds. A rejected request has no effect.
async fn retry_until_ok<T>(ask: impl AsyncFn() -> Result<T, Error>) -> T {
    let answered = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(Error::Unavailable(_) | Error::DeadlinePassed) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("a server answers")
}

async fn add_with_retry(store: &Store, name: &str) {
    retry_until_ok(async || try_to_add(store, name).await).await;
}

/// Makes one change to each of `subjects` subjects.
async fn change_all(store: &Store, subjects: u128) {
    let mut sources = sources();
    // Ids must differ from the ids of other calls.
    sources.ids = Arc::new(TimeOrderedIds::new(SystemRandom));
    for n in 0..subjects {
        let ctx = ctx(&sources);
        retry_until_ok(async || {
            let ctx = ctx.clone();
            store.write(move |tx| change(tx, &ctx, Uuid::from_u128(n))).await
        })
        .await;
    }
}

/// Waits until the database has `events` event positions.
async fn wait_for_positions(store: &Store, events: i64) {
    let count = async || {
        let sql = "SELECT COUNT(*) FROM outbox_positions";
        store.read(move |q| q.one(sql, &[], |row| row.get::<i64>(0))).await
    };
    let all = async {
        while retry_until_ok(count).await != Some(events) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every event has a position");
}

async fn read(store: &Store) -> Vec<String> {
    retry_until_ok(async || store.read(names).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn standby_is_skipped_until_promoted() {
    let Some((mut primary, replica)) = pair() else { return };
    let store = open(replica.url_with(&primary, "postgres")).await;
    try_to_add(&store, "before").await.unwrap();
    change_all(&store, 3).await;
    wait_for_positions(&store, 3).await;
    replica.catch_up(&primary).unwrap();
    primary.stop(StopMode::Fast).unwrap();
    let refused = try_to_add(&store, "between").await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    replica.promote().unwrap();
    add_with_retry(&store, "after").await;
    assert_eq!(read(&store).await, ["after", "before"]);
    change_all(&store, 3).await;
    wait_for_positions(&store, 6).await;
    assert_sequence(&all_events(&store).await, 6);
    store.close().await;
}

/// The kernel of a frozen machine still accepts connections, but no server responds to requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn frozen_primary_is_skipped() {
    let Some((mut primary, replica)) = pair() else { return };
    let store = open(primary.url_with(&replica, "postgres")).await;
    try_to_add(&store, "before").await.unwrap();
    replica.catch_up(&primary).unwrap();
    primary.freeze().unwrap();
    replica.promote().unwrap();
    add_with_retry(&store, "after").await;
    change_all(&store, 3).await;
    wait_for_positions(&store, 3).await;
    assert_eq!(read(&store).await, ["after", "before"]);
    store.close().await;
}

/// A managed service can switch to another server without ending sessions on the old one. These sessions
/// become read-only.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn read_only_server_is_abandoned() {
    let Some((primary, replica)) = pair() else { return };
    let store = open(primary.url_with(&replica, "postgres")).await;
    try_to_add(&store, "before").await.unwrap();
    assert_eq!(read(&store).await, ["before"]);
    replica.catch_up(&primary).unwrap();
    primary.set_read_only(true).unwrap();
    replica.promote().unwrap();
    add_with_retry(&store, "after").await;
    assert_eq!(read(&store).await, ["after", "before"], "reads use the new primary");
    change_all(&store, 3).await;
    wait_for_positions(&store, 3).await;
    let mut head = store.watch_last_position();
    let advanced = tokio::time::timeout(Duration::from_secs(60), head.wait_for(|head| *head == 3));
    advanced.await.expect("the session-bound connection moves to the new primary").unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn read_only_server_is_used_again_once_it_accepts_writes() {
    if postgres_url().is_none() {
        return;
    }
    let server = PostgresServer::start(PostgresServerOptions::default()).unwrap();
    let store = open(server.url("postgres")).await;
    try_to_add(&store, "before").await.unwrap();
    server.set_read_only(true).unwrap();
    for _ in 0..8 {
        let refused = try_to_add(&store, "between").await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    }
    assert_eq!(read(&store).await, ["before"], "reads succeed while the server is read-only");
    server.set_read_only(false).unwrap();
    add_with_retry(&store, "after").await;
    assert_eq!(read(&store).await, ["after", "before"]);
    change_all(&store, 3).await;
    wait_for_positions(&store, 3).await;
    assert_eq!(store.server_changes(), 0);
    store.close().await;
}

/// Commits that the primary acknowledged and the replica never received are lost. Their positions are
/// assigned again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn positions_missing_on_replica_are_reassigned() {
    let Some((mut primary, replica)) = pair() else { return };
    let store = open(primary.url_with(&replica, "postgres")).await;
    change_all(&store, 2).await;
    wait_for_positions(&store, 2).await;
    replica.catch_up(&primary).unwrap();
    replica.stop_receiving().unwrap();
    change_all(&store, 7).await;
    wait_for_positions(&store, 9).await;
    let mut head = store.watch_last_position();
    head.wait_for(|head| *head == 9).await.unwrap();
    let servers = store.server_changes();
    primary.kill().unwrap();
    replica.promote().unwrap();
    add_with_retry(&store, "after").await;
    assert!(store.server_changes() > servers, "the change of server is counted");
    change_all(&store, 3).await;
    wait_for_positions(&store, 5).await;
    let reached = tokio::time::timeout(Duration::from_secs(60), head.wait_for(|head| *head == 5));
    reached.await.expect("the head reaches the position on the new primary").unwrap();
    assert_sequence(&all_events(&store).await, 5);
    store.close().await;
}

/// A closure that only reads must not read from the old server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn idle_connections_abandon_old_server() {
    let Some((primary, replica)) = pair() else { return };
    let store = open(primary.url_with(&replica, "postgres")).await;
    replica.catch_up(&primary).unwrap();
    primary.set_read_only(true).unwrap();
    replica.promote().unwrap();
    add_with_retry(&store, "after").await;
    for _ in 0..32 {
        let seen: Result<Vec<String>, Error> = store.write(|tx: &Tx<'_>| names(tx)).await;
        assert_eq!(seen.unwrap(), ["after"]);
        assert_eq!(read(&store).await, ["after"]);
    }
    store.close().await;
}
