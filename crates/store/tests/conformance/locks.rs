//! Tests of `tx.lock`: no update is lost, and locks do not deadlock because they are sorted. Deadlocks of
//! transactions without locks are retried and counted.

use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use kith_store::{EngineKind, Error, Tx, contract, params};

use crate::support::{Db, add};

contract! {
    locked_updates_are_not_lost
    locks_in_any_order_do_not_deadlock
    lock_wait_ends_at_deadline
    deadlock_is_retried_and_counted
    read_after_lock_sees_previous_commit
}

/// Reads a value, increments it in the program, and writes it. Concurrent calls lose updates unless a lock
/// protects them.
fn increment(tx: &Tx<'_>, name: &str) -> Result<(), Error> {
    let n: i64 = tx.one("SELECT n FROM counters WHERE name = $1", params![name], |row| row.get(0))?.unwrap();
    tx.exec("UPDATE counters SET n = $2 WHERE name = $1", params![name, n + 1]).map(drop)
}

async fn counters(db: &Db, names: &'static [&'static str]) {
    let made: Result<(), Error> = db
        .store
        .write(move |tx| {
            names.iter().try_for_each(|name| {
                tx.exec("INSERT INTO counters (name, n) VALUES ($1, 0)", params![*name]).map(drop)
            })
        })
        .await;
    made.unwrap();
}

async fn value(db: &Db, name: &'static str) -> i64 {
    let read: Result<Option<i64>, Error> = db
        .store
        .read(move |q| q.one("SELECT n FROM counters WHERE name = $1", params![name], |row| row.get(0)))
        .await;
    read.unwrap().unwrap()
}

async fn locked_updates_are_not_lost(db: Db) {
    counters(&db, &["hot"]).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let store = db.store.clone();
        callers.spawn(async move {
            for _ in 0..10 {
                let done: Result<(), Error> = store
                    .write(|tx| {
                        tx.lock("counter", ["hot"])?;
                        increment(tx, "hot")
                    })
                    .await;
                done.unwrap();
            }
        });
    }
    callers.join_all().await;
    assert_eq!(value(&db, "hot").await, 320);
}

async fn locks_in_any_order_do_not_deadlock(db: Db) {
    counters(&db, &["a", "b"]).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = db.store.clone();
        callers.spawn(async move {
            for _ in 0..10 {
                let names = if n % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
                let done: Result<(), Error> = store
                    .write(move |tx| {
                        tx.lock("counter", names)?;
                        increment(tx, names[0])?;
                        increment(tx, names[1])
                    })
                    .await;
                done.unwrap();
            }
        });
    }
    callers.join_all().await;
    assert_eq!((value(&db, "a").await, value(&db, "b").await), (160, 160));
    assert_eq!(db.store.stats().retries, 0);
}

/// The transaction waits for the lock on PostgreSQL, and for the writer on SQLite. Both waits end at the
/// deadline.
async fn lock_wait_ends_at_deadline(db: Db) {
    let db = db.reopened(|options| options.deadline = Duration::from_millis(300)).await;
    let (holds, is_held) = tokio::sync::oneshot::channel();
    let (holds, (release, released)) = (Mutex::new(Some(holds)), mpsc::channel::<()>());
    let released = Mutex::new(released);
    let store = db.store.clone();
    let holder = tokio::spawn(async move {
        let held: Result<(), Error> = store
            .write(move |tx| {
                tx.lock("thing", ["x"])?;
                add(tx, "holder")?;
                if let Some(holds) = holds.lock().unwrap().take() {
                    holds.send(()).unwrap();
                    released.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
                }
                Ok(())
            })
            .await;
        held
    });
    is_held.await.unwrap();
    let store = db.store.clone();
    let waiter = tokio::spawn(async move {
        let waited: Result<(), Error> = store
            .write(|tx| {
                tx.lock("thing", ["x"])?;
                add(tx, "waiter")
            })
            .await;
        waited
    });
    if db.store.kind() == EngineKind::Postgres {
        let waited = waiter.await.unwrap();
        assert!(matches!(waited, Err(Error::DeadlinePassed)), "{waited:?}");
        release.send(()).unwrap();
        holder.await.unwrap().unwrap();
    } else {
        tokio::time::timeout(Duration::from_millis(400), std::future::pending::<()>()).await.unwrap_err();
        release.send(()).unwrap();
        holder.await.unwrap().unwrap();
        assert!(matches!(waiter.await.unwrap(), Err(Error::DeadlinePassed)));
        assert_eq!(db.store.stats().dropped_late, 1);
    }
    assert!(!db.names().await.contains(&"waiter".to_owned()));
}

/// Two closures change the same rows in opposite order without a lock. PostgreSQL aborts one of them because
/// of the deadlock, and it is run again.
async fn deadlock_is_retried_and_counted(db: Db) {
    counters(&db, &["a", "b"]).await;
    let both_hold_one = Arc::new(Barrier::new(2));
    let waits = db.store.kind() == EngineKind::Postgres;
    let mut callers = tokio::task::JoinSet::new();
    for names in [["a", "b"], ["b", "a"]] {
        let (store, barrier) = (db.store.clone(), Arc::clone(&both_hold_one));
        callers.spawn(async move {
            let first_run = std::sync::atomic::AtomicBool::new(true);
            let done: Result<(), Error> = store
                .write(move |tx| {
                    tx.exec("UPDATE counters SET n = n + 1 WHERE name = $1", params![names[0]])?;
                    if waits && first_run.swap(false, std::sync::atomic::Ordering::SeqCst) {
                        barrier.wait();
                    }
                    tx.exec("UPDATE counters SET n = n + 1 WHERE name = $1", params![names[1]]).map(drop)
                })
                .await;
            done.unwrap();
        });
    }
    callers.join_all().await;
    assert_eq!((value(&db, "a").await, value(&db, "b").await), (2, 2));
    assert_eq!(db.store.stats().retries > 0, waits);
}

/// A read after a lock sees the commit of the previous holder of the lock, although the lock request and the
/// read are sent together.
async fn read_after_lock_sees_previous_commit(db: Db) {
    counters(&db, &["seen"]).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = db.store.clone();
        callers.spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..25 {
                let before: Result<i64, Error> = store
                    .write(|tx| {
                        tx.lock("counter", ["seen"])?;
                        let n = tx.one("SELECT n FROM counters WHERE name = 'seen'", &[], |row| {
                            row.get::<i64>(0)
                        })?;
                        increment(tx, "seen")?;
                        Ok(n.unwrap())
                    })
                    .await;
                seen.push(before.unwrap());
            }
            seen
        });
    }
    let mut seen: Vec<i64> = callers.join_all().await.into_iter().flatten().collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>(), "exactly one transaction reads each value");
}
