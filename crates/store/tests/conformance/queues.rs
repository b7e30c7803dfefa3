//! Tests of bounded queues, deadlines, and groups of queued transactions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use kith_store::{EngineKind, EngineOptions, Error, Store, contract};

use crate::support::{Db, add};

contract! {
    full_queue_rejects_immediately_and_drains
    expired_transaction_never_starts
    started_transaction_is_never_dropped
    queued_transactions_commit_as_group
    closing_finishes_queued_transactions
}

/// Blocks write threads of a store, so that later transactions are queued.
pub struct Gate {
    release: Vec<mpsc::Sender<()>>,
    holders: tokio::task::JoinSet<Result<(), Error>>,
}

impl Gate {
    pub async fn close(db: &Db) -> Self {
        Self::close_with(db, 1, Duration::from_secs(20)).await
    }

    async fn close_with(db: &Db, threads: usize, max_wait: Duration) -> Self {
        let mut gate = Self { release: Vec::new(), holders: tokio::task::JoinSet::new() };
        for n in 0..threads {
            let (held, is_held) = tokio::sync::oneshot::channel();
            let (release, released) = mpsc::channel();
            gate.release.push(release);
            gate.holders.spawn(hold(db.store.clone(), n, max_wait, held, released));
            is_held.await.unwrap();
        }
        gate
    }

    /// Waits until `count` transactions are queued.
    pub async fn wait_for_queue(&self, db: &Db, count: u64) {
        let filled = async {
            while db.store.stats().queued < count {
                tokio::task::yield_now().await;
            }
        };
        // On PostgreSQL other write threads can process the queue during this wait, so the count may not be
        // reached.
        let is_postgres = db.store.kind() == EngineKind::Postgres;
        let max_wait = Duration::from_secs(if is_postgres { 2 } else { 60 });
        let filled = tokio::time::timeout(max_wait, filled).await;
        assert!(filled.is_ok() || is_postgres);
    }

    /// Opens the gate after the store has stopped accepting transactions.
    async fn open_once_closing(self, db: &Db) {
        let closing = async {
            // If a probe is still accepted, its deadline prevents it from being started.
            let mut probes = tokio::task::JoinSet::new();
            loop {
                let store = db.store.clone();
                probes.spawn(async move {
                    store.write_with_timeout(Duration::ZERO, |tx| add(tx, "too late")).await
                });
                let probed = tokio::time::timeout(Duration::from_millis(20), probes.join_next()).await;
                if matches!(probed, Ok(Some(Ok(Err(Error::Unavailable(_)))))) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closing).await.expect("the store is closing");
        self.open().await;
    }

    pub async fn open(mut self) {
        for release in self.release.drain(..) {
            release.send(()).unwrap();
        }
        for held in self.holders.join_all().await {
            held.unwrap();
        }
    }
}

async fn hold(
    store: Store,
    n: usize,
    max_wait: Duration,
    held: tokio::sync::oneshot::Sender<()>,
    released: mpsc::Receiver<()>,
) -> Result<(), Error> {
    let (held, released) = (Mutex::new(Some(held)), Mutex::new(released));
    let run = move |tx: &kith_store::Tx<'_>| {
        add(tx, &format!("gate {n}"))?;
        if let Some(held) = held.lock().unwrap().take() {
            held.send(()).unwrap();
            released.lock().unwrap().recv_timeout(Duration::from_secs(60)).unwrap();
        }
        Ok(())
    };
    store.write_with_timeout(max_wait, run).await
}

/// Reopens the store with a queue of four transactions, and with one write thread.
async fn narrow(db: Db) -> Db {
    db.reopened(|options| {
        options.write_queue = 4;
        options.deadline = Duration::from_secs(20);
        if let EngineOptions::Postgres(own) = &mut options.engine {
            own.write_threads = 1;
        }
    })
    .await
}

async fn full_queue_rejects_immediately_and_drains(db: Db) {
    let db = narrow(db).await;
    let gate = Gate::close(&db).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = db.store.clone();
        callers.spawn(async move {
            let done: Result<(), Error> = store.write(move |tx| add(tx, &format!("n{n}"))).await;
            done
        });
    }
    let mut refused = 0;
    while refused < 6 {
        let outcome = callers.join_next().await.unwrap().unwrap();
        assert!(matches!(outcome, Err(Error::Busy)), "{outcome:?}");
        refused += 1;
    }
    assert_eq!(db.store.stats().refused_busy, 6);
    gate.open().await;
    for outcome in callers.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(db.names().await.len(), 5, "the four queued rows and the row of the gate are stored");
    assert_eq!(db.store.stats().queued, 0);
}

async fn expired_transaction_never_starts(db: Db) {
    let db = narrow(db).await;
    let gate = Gate::close(&db).await;
    let ran = Arc::new(AtomicBool::new(false));
    let (store, noticed) = (db.store.clone(), Arc::clone(&ran));
    let waiter = tokio::spawn(async move {
        let run = move |tx: &kith_store::Tx<'_>| {
            noticed.store(true, Ordering::SeqCst);
            add(tx, "late")
        };
        store.write_with_timeout(Duration::from_millis(50), run).await
    });
    gate.wait_for_queue(&db, 1).await;
    tokio::time::timeout(Duration::from_millis(60), std::future::pending::<()>()).await.unwrap_err();
    gate.open().await;
    assert!(matches!(waiter.await.unwrap(), Err::<(), _>(Error::DeadlinePassed)));
    assert!(!ran.load(Ordering::SeqCst));
    assert_eq!(db.store.stats().dropped_late, 1);
}

async fn started_transaction_is_never_dropped(db: Db) {
    let gate = Gate::close_with(&db, 1, Duration::from_millis(50)).await;
    tokio::time::timeout(Duration::from_millis(120), std::future::pending::<()>()).await.unwrap_err();
    gate.open().await;
    assert_eq!(db.names().await, ["gate 0"]);
}

async fn queued_transactions_commit_as_group(db: Db) {
    let gate = Gate::close(&db).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..300 {
        let store = db.store.clone();
        callers.spawn(async move {
            let done: Result<(), Error> = store.write(move |tx| add(tx, &format!("n{n:03}"))).await;
            done
        });
    }
    gate.wait_for_queue(&db, 300).await;
    let groups_before = db.store.stats().groups;
    gate.open().await;
    for outcome in callers.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(db.names().await.len(), 301);
    if db.store.kind() == EngineKind::Sqlite {
        let groups = db.store.stats().groups - groups_before;
        assert!(groups < 100, "300 transactions took {groups} syncs to disk");
    }
}

async fn closing_finishes_queued_transactions(db: Db) {
    let db = db
        .reopened(|options| {
            if let EngineOptions::Postgres(own) = &mut options.engine {
                own.write_threads = 1;
            }
        })
        .await;
    let gate = Gate::close(&db).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = db.store.clone();
        callers.spawn(async move {
            let done: Result<(), Error> = store.write(move |tx| add(tx, &format!("n{n:02}"))).await;
            done
        });
    }
    gate.wait_for_queue(&db, 20).await;
    let store = db.store.clone();
    let closing = tokio::spawn(async move { store.close().await });
    gate.open_once_closing(&db).await;
    closing.await.unwrap();
    for outcome in callers.join_all().await {
        outcome.unwrap();
    }
    let db = db.reopened(|_| {}).await;
    assert_eq!(db.names().await.len(), 21);
}
