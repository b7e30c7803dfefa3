//! Tests with several processes on one PostgreSQL database, some of which are killed or frozen.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Sources, SystemRandom, TimeOrderedIds};
use kith_store::{Error, Store, params};

use crate::postgres::options;
use crate::sequencer::{all_events, assert_sequence, change};
use crate::support::{Db, ctx, sources};

/// Runs two processes on one database under load, and then kills the sequencer. The other process must take
/// over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn second_process_takes_over_sequencer_after_kill() {
    let (Some(db), Some(observer)) = (Db::postgres().await, Db::postgres().await) else { return };
    db.store.close().await;
    let sessions = Sessions { observer: &observer.store, database: name(&db) };
    let mut first = Process::start(&db, "writes_until_killed");
    sessions.until(1, LEADERS).await;

    let watcher = Store::open(db.options.clone()).await.unwrap();
    let mut second = Process::start(&db, "writes_until_killed");
    until(2_000, || count(&watcher, COUNT_SEQUENCED)).await;
    assert_eq!(watcher.stats().sequencer, 0, "the first process is the leader");

    // The process is killed at an arbitrary moment, while it holds the sequencer's lock.
    first.kill();
    let after_kill = count(&watcher, COUNT_SEQUENCED).await;
    until(after_kill + 1_000, || count(&watcher, COUNT_SEQUENCED)).await;
    second.kill();
    watcher.close().await;
    // After all sessions have ended, each transaction of the second process is either committed or rolled
    // back.
    sessions.until(0, NO_SESSIONS).await;

    let watcher = Store::open(db.options.clone()).await.unwrap();
    let all = count(&watcher, WRITTEN).await;
    until(all, || count(&watcher, COUNT_SEQUENCED)).await;
    assert_sequence(&all_events(&watcher).await, usize::try_from(all).unwrap());
    assert_eq!(watcher.verify_audit().await.unwrap().links, all);
    watcher.close().await;
}

/// The kernel of the machine still responds for a frozen process, so its connection does not fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn frozen_sequencer_is_replaced_and_fenced() {
    let (Some(db), Some(observer)) = (Db::postgres().await, Db::postgres().await) else { return };
    db.store.close().await;
    let sessions = Sessions { observer: &observer.store, database: name(&db) };
    let leader = Process::start(&db, "sequences_until_killed");
    sessions.until(1, LEADERS).await;
    let store = Store::open(db.options.clone()).await.unwrap();
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(change_each(store.clone(), writer, 100))).collect();
    until(50, || count(&store, COUNT_SEQUENCED)).await;
    leader.signal("STOP");
    assert_eq!(store.stats().sequencer, 0, "the stopped process was the leader");
    for writer in writers {
        writer.await.unwrap();
    }
    until(400, || count(&store, COUNT_SEQUENCED)).await;
    assert_eq!(store.stats().sequencer, 1);

    leader.signal("CONT");
    sessions.until(1, FOLLOWERS).await;
    change_each(store.clone(), 9, 20).await;
    until(420, || count(&store, COUNT_SEQUENCED)).await;
    assert_sequence(&all_events(&store).await, 420);
    assert_eq!(store.verify_audit().await.unwrap().links, 420);
    assert_eq!(store.stats().sequencer, 1);
    store.close().await;
}

const COUNT_SEQUENCED: &str = "SELECT COUNT(*) FROM outbox_positions";
const WRITTEN: &str = "SELECT COUNT(*) FROM outbox";

/// SQL that counts the sessions that hold the sequencer's lock.
const LEADERS: &str = "SELECT COUNT(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = CAST($1 AS TEXT) AND l.locktype = 'advisory' AND l.classid = 1262703720 AND l.objid = 2 AND l.granted";
/// SQL that counts the sessions that try to acquire the sequencer's lock.
const FOLLOWERS: &str = "SELECT COUNT(*) FROM pg_stat_activity
    WHERE datname = CAST($1 AS TEXT) AND query LIKE 'SELECT pg_try_advisory_lock%'";
const NO_SESSIONS: &str = "SELECT -COUNT(*) FROM pg_stat_activity WHERE datname = CAST($1 AS TEXT)";

/// Sessions of a database, observed from a store on another database.
struct Sessions<'s> {
    observer: &'s Store,
    database: String,
}

impl Sessions<'_> {
    /// Waits until the count that `sql` returns is at least `least`.
    async fn until(&self, least: i64, sql: &'static str) {
        let counted = || async {
            let database = self.database.clone();
            let counted: Result<Option<i64>, Error> =
                self.observer.read(move |q| q.one(sql, params![database], |row| row.get(0))).await;
            counted.unwrap().unwrap()
        };
        until(least, counted).await;
    }
}

fn name(db: &Db) -> String {
    db.database.url().rsplit('/').next().unwrap().to_owned()
}

/// Makes `times` changes to one subject, each in a separate transaction.
async fn change_each(store: Store, subject: u128, times: usize) {
    let sources = sources_of_one_process();
    for _ in 0..times {
        let ctx = ctx(&sources);
        store.write(move |tx| change(tx, &ctx, Uuid::from_u128(subject))).await.unwrap();
    }
}

/// Returns sources whose ids differ from the ids of other processes and calls.
fn sources_of_one_process() -> Sources {
    Sources { ids: Arc::new(TimeOrderedIds::new(SystemRandom)), ..sources() }
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    let counted: Result<Option<i64>, Error> = store.read(move |q| q.one(sql, &[], |row| row.get(0))).await;
    counted.unwrap().unwrap()
}

/// Waits until `what` returns at least `least`. Panics after 60 seconds.
async fn until<F: Future<Output = i64>>(least: i64, what: impl Fn() -> F) {
    let reached = async {
        while what().await < least {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), reached).await;
    assert!(in_time.is_ok(), "the count did not reach {least}; it is {}", what().await);
}

/// Separate process that runs one of the functions below. Dropping this value kills the process.
struct Process(Child);

impl Process {
    fn start(db: &Db, function: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("processes::{function}"), "--nocapture"])
            .env("KITH_TEST_WORKER", db.database.url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Code that the processes above run: writes until it is killed. As a normal test it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_until_killed() {
    let Ok(url) = std::env::var("KITH_TEST_WORKER") else { return };
    let store = Store::open(options(url)).await.unwrap();
    let sources = sources_of_one_process();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..4_u128 {
        let (store, sources) = (store.clone(), sources.clone());
        callers.spawn(async move {
            for round in 0..50_000_u128 {
                let (ctx, subject) = (ctx(&sources), Uuid::from_u128((caller + round) % 7));
                if store.write(move |tx| change(tx, &ctx, subject)).await.is_err() {
                    break;
                }
            }
        });
    }
    callers.join_all().await;
}

/// Code that the processes above run: assigns positions to events of other processes. As a normal test it
/// does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sequences_until_killed() {
    let Ok(url) = std::env::var("KITH_TEST_WORKER") else { return };
    let _store = Store::open(options(url)).await.unwrap();
    std::future::pending::<()>().await;
}
