//! Tests of the outcomes of a transaction: the three kinds of outcome, failed statements, and panics in the
//! closure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kith_store::{Error, TxOutcome, contract, params};

use crate::support::{Db, add};

contract! {
    committed_value_is_returned_and_stored
    commit_refusal_commits_changes_and_returns_error
    rollback_discards_changes
    swallowed_statement_error_fails_transaction
    panic_rolls_back
    dry_run_changes_are_rolled_back
    constraint_error_differs_from_fault
    dropped_caller_does_not_cancel_commit
    long_trace_is_written_completely
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("against the rules")]
    Rule,
}

async fn committed_value_is_returned_and_stored(db: Db) {
    let answer: Result<i32, Error> = db.store.write(|tx| add(tx, "kept").map(|()| 7)).await;
    assert_eq!(answer.unwrap(), 7);
    assert_eq!(db.names().await, ["kept"]);
}

async fn commit_refusal_commits_changes_and_returns_error(db: Db) {
    let ctx = db.ctx();
    let refused: Result<(), Refused> = db
        .store
        .write(move |tx| match add(tx, "trace") {
            Ok(()) => {
                tx.audit(&ctx, "thing.refused", "trace");
                TxOutcome::CommitRefusal(Refused::Rule)
            }
            Err(error) => TxOutcome::Rollback(Refused::Store(error)),
        })
        .await;
    assert!(matches!(refused, Err(Refused::Rule)), "{refused:?}");
    assert_eq!(db.names().await, ["trace"]);
    let audited: Option<i64> = db
        .store
        .read(|q| q.one("SELECT COUNT(*) FROM audit_entries", &[], |row| row.get(0)))
        .await
        .unwrap_or_else(|error: Error| panic!("{error}"));
    assert_eq!(audited, Some(1));
}

async fn rollback_discards_changes(db: Db) {
    let ctx = db.ctx();
    let refused: Result<(), Refused> = db
        .store
        .write(move |tx| {
            add(tx, "undone")?;
            tx.audit(&ctx, "thing.refused", "undone");
            Err(Refused::Rule)
        })
        .await;
    assert!(matches!(refused, Err(Refused::Rule)), "{refused:?}");
    assert_eq!(db.names().await, [""; 0]);
    let audited: Result<Option<i64>, Error> =
        db.store.read(|q| q.one("SELECT COUNT(*) FROM audit_entries", &[], |row| row.get(0))).await;
    assert_eq!(audited.unwrap(), Some(0));
}

async fn swallowed_statement_error_fails_transaction(db: Db) {
    db.add("there").await.unwrap();
    let answer: Result<(), Error> = db
        .store
        .write(|tx| {
            add(tx, "before")?;
            assert!(add(tx, "there").is_err());
            let after = tx.one("SELECT 1", &[], |row| row.get::<i64>(0));
            assert!(after.is_err(), "no statement runs after a failed statement");
            Ok(())
        })
        .await;
    assert!(matches!(answer, Err(Error::Constraint(_))), "{answer:?}");
    assert_eq!(db.names().await, ["there"]);
}

async fn panic_rolls_back(db: Db) {
    let answer: Result<(), Error> = db
        .store
        .write(|tx| {
            add(tx, "half")?;
            if tx.one("SELECT 1", &[], |row| row.get::<i64>(0)).is_ok() {
                panic!("on purpose");
            }
            Ok(())
        })
        .await;
    assert!(matches!(answer, Err(Error::Fault(_))), "{answer:?}");
    db.add("afterwards").await.unwrap();
    assert_eq!(db.names().await, ["afterwards"]);
    let read: Result<(), Error> = db.store.read(|_| panic!("on purpose")).await;
    assert!(matches!(read, Err(Error::Fault(_))));
    assert_eq!(db.names().await, ["afterwards"]);
}

async fn dry_run_changes_are_rolled_back(db: Db) {
    let db = db.reopened(|options| options.runs_twice = true).await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let ctx = db.ctx();
    let answer: Result<u32, Error> = db
        .store
        .write(move |tx| {
            add(tx, "once")?;
            tx.audit(&ctx, "thing.added", "once");
            Ok(counted.fetch_add(1, Ordering::SeqCst) + 1)
        })
        .await;
    assert_eq!(answer.unwrap(), 2, "the result is that of the last run");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(db.names().await, ["once"]);
    let audited: Result<Option<i64>, Error> =
        db.store.read(|q| q.one("SELECT COUNT(*) FROM audit_entries", &[], |row| row.get(0))).await;
    assert_eq!(audited.unwrap(), Some(1));
}

async fn constraint_error_differs_from_fault(db: Db) {
    db.add("a").await.unwrap();
    let unique: Result<(), Error> = db.store.write(|tx| add(tx, "a")).await;
    let check: Result<u64, Error> =
        db.store.write(|tx| tx.exec("INSERT INTO counters (name, n) VALUES ('c', -1)", &[])).await;
    let foreign: Result<u64, Error> =
        db.store.write(|tx| tx.exec("INSERT INTO parts (thing, n) VALUES ('absent', 1)", &[])).await;
    for refused in [unique.map(|()| 0), check, foreign] {
        assert!(matches!(refused, Err(Error::Constraint(_))), "{refused:?}");
    }
    let fault: Result<u64, Error> =
        db.store.write(|tx| tx.exec("INSERT INTO nowhere VALUES ($1)", params![1_i64])).await;
    assert!(matches!(fault, Err(Error::Fault(_))), "{fault:?}");
}

/// The caller stops waiting. A transaction that has started is committed nevertheless.
async fn dropped_caller_does_not_cancel_commit(db: Db) {
    let (started, has_started) = tokio::sync::oneshot::channel();
    let started = std::sync::Mutex::new(Some(started));
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let store = db.store.clone();
    let caller = tokio::spawn(async move {
        let run = move |tx: &kith_store::Tx<'_>| {
            if let Some(started) = started.lock().unwrap().take() {
                started.send(()).unwrap();
                may_go.lock().unwrap().recv().unwrap();
            }
            add(tx, "kept")
        };
        store.write(run).await
    });
    has_started.await.unwrap();
    caller.abort();
    assert!(caller.await.is_err());
    go.send(()).unwrap();
    // SQLite has one writer and PostgreSQL several. On both, a read soon sees the commit.
    let seen = async {
        while db.names().await != ["kept"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), seen).await.unwrap();
}

/// The trace has more rows than are sent in one pipeline, and no statement runs before it.
async fn long_trace_is_written_completely(db: Db) {
    for length in [1, 16, 17, 100] {
        let ctx = db.ctx();
        let done: Result<(), Error> = db
            .store
            .write(move |tx| {
                for n in 0..length {
                    tx.audit(&ctx, "thing.added", n);
                    tx.emit(&ctx, crate::support::event(kith_kernel::uuid::Uuid::nil(), n));
                }
                Ok(())
            })
            .await;
        done.unwrap();
    }
    db.wait_for_positions(134).await;
    let written: Result<Option<(i64, i64)>, Error> = db
        .store
        .read(|q| {
            let sql = "SELECT (SELECT COUNT(*) FROM audit_entries), (SELECT COUNT(*) FROM outbox)";
            q.one(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await;
    assert_eq!(written.unwrap(), Some((134, 134)));
}
