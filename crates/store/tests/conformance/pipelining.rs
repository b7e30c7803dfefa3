//! Tests of statements that share a round trip: deferred statements and announced reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kith_store::{EngineKind, EngineOptions, Error, Query, StoreOptions, Tx, contract, params};

use crate::sequencer::change;
use crate::support::{Db, add};

contract! {
    deferred_statements_run_in_order
    failed_deferred_statement_fails_transaction
    failed_deferred_statement_fails_later_reads
    rolled_back_deferred_statements_change_nothing
    many_deferred_statements_are_all_run
    transaction_of_deferred_statements_only_commits
    deferred_statement_with_wrong_parameter_changes_nothing
    failed_statement_among_many_deferred_fails_transaction
    deferred_statements_on_closed_connection_are_retried
    pipeline_may_take_longer_than_one_response
    times_of_pipelined_statements_exclude_lock_waits
    announced_read_returns_same_rows
    announced_read_is_discarded_by_change
    announced_read_sees_rows_under_lock
}

const SET: &str = "INSERT INTO counters (name, n) VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET n = excluded.n";
static GET: &str = "SELECT n FROM counters WHERE name = $1";

fn set(tx: &Tx<'_>, name: &str, n: i64) -> Result<(), Error> {
    tx.exec_deferred(SET, params![name, n])
}

fn get(q: &Query<'_>, name: &str) -> Result<Option<i64>, Error> {
    q.one(GET, params![name], |row| row.get(0))
}

async fn counter(db: &Db, name: &'static str) -> Option<i64> {
    db.store.read(move |q| get(q, name)).await.unwrap_or_else(|error: Error| panic!("{error}"))
}

async fn deferred_statements_run_in_order(db: Db) {
    let read: Result<Option<i64>, Error> = db
        .store
        .write(|tx| {
            set(tx, "a", 1)?;
            set(tx, "a", 2)?;
            let read = get(tx, "a")?;
            set(tx, "a", 3)?;
            Ok(read)
        })
        .await;
    assert_eq!(read.unwrap(), Some(2), "a read sees the deferred statements before it");
    assert_eq!(counter(&db, "a").await, Some(3));
}

async fn failed_deferred_statement_fails_transaction(db: Db) {
    let ctx = db.ctx();
    let outcome: Result<(), Error> = db
        .store
        .write(move |tx| {
            add(tx, "undone")?;
            set(tx, "a", 1)?;
            set(tx, "a", -1)?;
            set(tx, "b", 1)?;
            tx.audit(&ctx, "thing.changed", "a");
            Ok(())
        })
        .await;
    assert!(matches!(outcome, Err(Error::Constraint(_))), "{outcome:?}");
    assert_eq!(db.names().await, [""; 0]);
    assert_eq!((counter(&db, "a").await, counter(&db, "b").await), (None, None));
    db.add("next").await.unwrap();
}

async fn failed_deferred_statement_fails_later_reads(db: Db) {
    let outcome: Result<(), Error> = db
        .store
        .write(|tx| {
            let _ = set(tx, "a", -1);
            let read = get(tx, "a");
            assert!(matches!(read, Err(Error::Constraint(_))), "{read:?}");
            Ok(())
        })
        .await;
    assert!(matches!(outcome, Err(Error::Constraint(_))), "{outcome:?}");
}

async fn rolled_back_deferred_statements_change_nothing(db: Db) {
    let outcome: Result<(), Error> = db
        .store
        .write(|tx| {
            set(tx, "a", 1)?;
            Err(Error::NulInText)
        })
        .await;
    assert!(matches!(outcome, Err(Error::NulInText)), "{outcome:?}");
    db.add("next").await.unwrap();
    assert_eq!(counter(&db, "a").await, None);
}

async fn many_deferred_statements_are_all_run(db: Db) {
    let outcome: Result<(), Error> = db
        .store
        .write(|tx| (0..100).try_for_each(|n| tx.exec_deferred(SET, params![format!("c{n}"), n])))
        .await;
    outcome.unwrap();
    let count: Result<Option<i64>, Error> =
        db.store.read(|q| q.one("SELECT COUNT(*) FROM counters", &[], |row| row.get(0))).await;
    assert_eq!(count.unwrap(), Some(100));
}

async fn transaction_of_deferred_statements_only_commits(db: Db) {
    let outcome: Result<(), Error> = db.store.write(|tx| set(tx, "a", 5)).await;
    outcome.unwrap();
    assert_eq!(counter(&db, "a").await, Some(5));
}

/// A message that cannot be built must not be left out of a transaction that is committed.
async fn deferred_statement_with_wrong_parameter_changes_nothing(db: Db) {
    for has_wrong_type in [true, false] {
        let outcome: Result<(), Error> = db
            .store
            .write(move |tx| {
                set(tx, "before", 1)?;
                if has_wrong_type {
                    tx.exec_deferred(SET, params!["a", "a text"])?;
                } else {
                    tx.exec_deferred(SET, params!["a"])?;
                }
                set(tx, "after", 1)
            })
            .await;
        assert!(matches!(outcome, Err(Error::Fault(_) | Error::Constraint(_))), "{outcome:?}");
        assert_eq!((counter(&db, "before").await, counter(&db, "after").await), (None, None));
    }
}

async fn failed_statement_among_many_deferred_fails_transaction(db: Db) {
    for failing in [0, 15, 16, 20] {
        let outcome: Result<(), Error> = db
            .store
            .write(move |tx| {
                for n in 0..21 {
                    let _ =
                        tx.exec_deferred(SET, params![format!("c{n}"), if n == failing { -1 } else { n }]);
                }
                Ok(())
            })
            .await;
        assert!(matches!(outcome, Err(Error::Constraint(_))), "{failing}: {outcome:?}");
        assert_eq!(counter(&db, "c1").await, None);
    }
}

/// Closes the other connections to the database, and waits until their processes have ended.
fn close_other_connections(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "WITH others AS MATERIALIZED (SELECT pid FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid())
                   SELECT pid FROM others WHERE pg_terminate_backend(pid)";
        for row in client.query(sql, &[]).await.unwrap() {
            let process = std::path::PathBuf::from(format!("/proc/{}", row.get::<_, i32>(0)));
            while process.exists() {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// The first message that such a transaction sends contains COMMIT, after which the outcome would be unknown.
async fn deferred_statements_on_closed_connection_are_retried(db: Db) {
    if db.store.kind() == EngineKind::Sqlite {
        return;
    }
    let one_connection = |options: &mut StoreOptions| {
        if let EngineOptions::Postgres(own) = &mut options.engine {
            own.write_threads = 1;
        }
    };
    let db = db.reopened(one_connection).await;
    // Prepares the statement, which would notice the closed connection.
    db.store.write(|tx| set(tx, "a", 0)).await.unwrap_or_else(|error: Error| panic!("{error}"));
    let (url, is_first) = (db.database.url().to_owned(), AtomicBool::new(true));
    let outcome: Result<(), Error> = db
        .store
        .write(move |tx| {
            if is_first.swap(false, Ordering::SeqCst) {
                close_other_connections(&url);
            }
            set(tx, "a", 1)
        })
        .await;
    outcome.unwrap();
    assert_eq!(counter(&db, "a").await, Some(1));
}

/// Five statements of 0.9 seconds each, sent together, exceed the response timeout of 4 seconds, but none of them
/// exceeds the statement timeout of 2 seconds.
async fn pipeline_may_take_longer_than_one_response(db: Db) {
    if db.store.kind() == EngineKind::Sqlite {
        return;
    }
    let db = db.reopened(|options| options.deadline = Duration::from_secs(2)).await;
    let outcome: Result<(), Error> = db
        .store
        .write(|tx| {
            set(tx, "a", 1)?;
            (0..5).try_for_each(|_| tx.exec_deferred("SELECT pg_sleep(0.9)", &[]))
        })
        .await;
    outcome.unwrap();
    assert_eq!(counter(&db, "a").await, Some(1));
}

/// A transaction waits two seconds for a lock that another one holds. Its statements, which are sent with the
/// request for the lock, must not be recorded with these seconds.
async fn times_of_pipelined_statements_exclude_lock_waits(db: Db) {
    if db.store.kind() == EngineKind::Sqlite {
        return;
    }
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (locked, is_locked) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let store = db.store.clone();
    let hold = move |tx: &Tx<'_>| {
        tx.lock("subject", ["one"])?;
        get(tx, "a")?;
        let _ = locked.send(());
        let _ = released.lock().unwrap().recv();
        Ok::<_, Error>(())
    };
    let holder = tokio::spawn(async move { store.write(hold).await });
    tokio::task::spawn_blocking(move || is_locked.recv().unwrap()).await.unwrap();
    let store = db.store.clone();
    let wait = |tx: &Tx<'_>| {
        tx.lock("subject", ["one"])?;
        set(tx, "b", 1)?;
        tx.prefetch(GET, params!["a"])?;
        get(tx, "b").map(drop)
    };
    let waiter = tokio::spawn(async move { store.write(wait).await });
    let waits = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND waitstart < clock_timestamp() - INTERVAL '2 seconds'";
    let is_waiting = async || db.store.read(move |q| q.one(waits, &[], |row| row.get::<i64>(0))).await;
    while is_waiting().await.unwrap_or_else(|error: Error| panic!("{error}")) == Some(0) {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
    waiter.await.unwrap().unwrap();
    assert!(db.store.statement_times().max_us < 1_500_000, "{:?}", db.store.statement_times());
}

async fn announced_read_returns_same_rows(db: Db) {
    db.store.write(|tx| set(tx, "a", 7)).await.unwrap_or_else(|error: Error| panic!("{error}"));
    let read: Result<_, Error> = db
        .store
        .write(|tx| {
            tx.prefetch(GET, params!["a"])?;
            tx.prefetch(GET, params!["absent"])?;
            // This read runs before any statement that would send the announced reads.
            tx.prefetch(GET, params!["b"])?;
            let early = get(tx, "b")?;
            Ok((early, get(tx, "a")?, get(tx, "absent")?, get(tx, "a")?))
        })
        .await;
    assert_eq!(read.unwrap(), (None, Some(7), None, Some(7)));
}

async fn announced_read_is_discarded_by_change(db: Db) {
    let read: Result<_, Error> = db
        .store
        .write(|tx| {
            set(tx, "a", 1)?;
            tx.prefetch(GET, params!["a"])?;
            get(tx, "b")?;
            set(tx, "a", 2)?;
            let deferred = get(tx, "a")?;
            tx.prefetch(GET, params!["a"])?;
            get(tx, "b")?;
            tx.exec(SET, params!["a", 3])?;
            let changed = get(tx, "a")?;
            tx.prefetch(GET, params!["a"])?;
            get(tx, "b")?;
            let returning = "UPDATE counters SET n = 4 WHERE name = $1 RETURNING n";
            tx.one(returning, params!["a"], |row| row.get::<i64>(0))?;
            let returned = get(tx, "a")?;
            tx.prefetch(GET, params!["a"])?;
            get(tx, "b")?;
            tx.lock("counter", ["a"])?;
            Ok((deferred, changed, returned, get(tx, "a")?))
        })
        .await;
    assert_eq!(read.unwrap(), (Some(2), Some(3), Some(4), Some(4)));
}

/// Each increment reads the value under the lock, so no increment is lost.
async fn announced_read_sees_rows_under_lock(db: Db) {
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, sources) = (db.store.clone(), db.sources.clone());
        callers.spawn(async move {
            for _ in 0..25 {
                let subject = kith_kernel::uuid::Uuid::from_u128(1);
                let ctx = crate::support::ctx(&sources);
                let outcome: Result<(), Error> = store
                    .write(move |tx| {
                        tx.lock("subject", [subject])?;
                        tx.prefetch(GET, params!["a"])?;
                        get(tx, "b")?;
                        let n = get(tx, "a")?.unwrap_or(0);
                        set(tx, "a", n + 1)?;
                        change(tx, &ctx, kith_kernel::uuid::Uuid::from_u128(2))
                    })
                    .await;
                outcome.unwrap();
            }
        });
    }
    callers.join_all().await;
    assert_eq!(counter(&db, "a").await, Some(200));
}
