//! Tests with injected faults: no change is applied partially, no acknowledged change is lost, and the store
//! continues to work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kith_store::testing::Fault;
use kith_store::{EngineKind, Error, Tx, contract};

use crate::support::{Db, add, event};

contract! {
    full_disk_at_any_statement_changes_nothing
    conflict_is_retried_up_to_limit
    lost_connection_is_atomic
    failed_commit_has_unknown_outcome
    lost_commit_response_has_unknown_outcome
    group_survives_transaction_lost_by_one_closure
    unwritable_trace_rolls_back_change
}

/// Counter of the runs of a closure.
#[derive(Clone, Default)]
struct Runs(Arc<AtomicU32>);

impl Runs {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn total(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

async fn add_counted(db: &Db, name: &'static str) -> (Result<(), Error>, u32) {
    let runs = Runs::default();
    let counted = runs.clone();
    let run = move |tx: &Tx<'_>| {
        counted.count();
        add(tx, name)
    };
    (db.store.write(run).await, runs.total())
}

async fn full_disk_at_any_statement_changes_nothing(db: Db) {
    // On SQLite the fifth statement writes the audit entry. On PostgreSQL this statement is sent with COMMIT,
    // which another test covers.
    let statements = if db.store.kind() == EngineKind::Sqlite { 5 } else { 4 };
    for at_statement in 1..=statements {
        let before = db.names().await;
        db.store.inject(Fault::DiskFull { at_statement });
        let ctx = db.ctx();
        let failed: Result<(), Error> = db
            .store
            .write(move |tx| {
                for name in ["one", "two", "three", "four"] {
                    add(tx, &format!("{name} {at_statement}"))?;
                }
                tx.audit(&ctx, "thing.added", "four");
                Ok(())
            })
            .await;
        assert!(matches!(failed, Err(Error::Unavailable(_))), "at statement {at_statement}: {failed:?}");
        assert_eq!(db.names().await, before, "at statement {at_statement}");
        db.add(&format!("after {at_statement}")).await.unwrap();
    }
    assert_eq!(db.names().await.len(), statements as usize);
}

async fn conflict_is_retried_up_to_limit(db: Db) {
    db.store.inject(Fault::Conflict);
    let (done, runs) = add_counted(&db, "second run").await;
    done.unwrap();
    assert_eq!((runs, db.store.stats().retries), (2, 1));

    for _ in 0..6 {
        db.store.inject(Fault::Conflict);
    }
    let (abandoned, runs) = add_counted(&db, "never").await;
    assert!(matches!(abandoned, Err(Error::Unavailable(_))), "{abandoned:?}");
    assert_eq!(runs, 6, "one run and five retries");
    assert_eq!(db.names().await, ["second run"]);
    db.add("third").await.unwrap();
}

async fn lost_connection_is_atomic(db: Db) {
    db.add("before").await.unwrap();
    db.store.inject(Fault::ConnectionLost { at_statement: 1 });
    let (outcome, runs) = add_counted(&db, "during").await;
    match db.store.kind() {
        // COMMIT was not sent yet, so the closure can run again on a new connection.
        EngineKind::Postgres => {
            outcome.unwrap();
            assert_eq!((runs, db.store.stats().reconnects), (2, 1));
            assert_eq!(db.names().await, ["before", "during"]);
        }
        EngineKind::Sqlite => {
            assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
            assert_eq!(db.names().await, ["before"]);
        }
    }
    db.add("with").await.unwrap();
}

async fn failed_commit_has_unknown_outcome(db: Db) {
    db.add("before").await.unwrap();
    db.store.inject(Fault::CommitFails);
    let (outcome, runs) = add_counted(&db, "during").await;
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
    assert_eq!((runs, db.store.stats().outcomes_unknown), (1, 1));
    db.add("with").await.unwrap();
    assert_eq!(db.names().await, ["before", "with"], "the commit was not applied");
    if db.store.kind() == EngineKind::Sqlite {
        assert_eq!(db.store.stats().reconnects, 1, "the connection was reopened");
    }
}

async fn lost_commit_response_has_unknown_outcome(db: Db) {
    db.store.inject(Fault::CommitAnswerLost);
    let (outcome, runs) = add_counted(&db, "there").await;
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
    assert_eq!(runs, 1);
    assert_eq!(db.names().await, ["there"]);
}

async fn group_survives_transaction_lost_by_one_closure(db: Db) {
    let gate = crate::queues::Gate::close(&db).await;
    let runs = Runs::default();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (store, counted) = (db.store.clone(), runs.clone());
        callers.spawn(async move {
            let done: Result<(), Error> = store
                .write(move |tx| {
                    counted.count();
                    add(tx, &format!("n{n:02}"))
                })
                .await;
            done
        });
    }
    gate.wait_for_queue(&db, 20).await;
    // Each closure runs one statement. The third of the queued closures fails, after two have run.
    db.store.inject(Fault::ConnectionLost { at_statement: 3 });
    gate.open().await;
    let outcomes = callers.join_all().await;
    let lost = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let stats = db.store.stats();
    match db.store.kind() {
        EngineKind::Sqlite => {
            assert_eq!(lost, 1, "{outcomes:?}");
            assert!(stats.retries > 0, "the earlier transactions of the group ran again");
            assert!(runs.total() > 20);
        }
        EngineKind::Postgres => assert_eq!(lost, 0, "{outcomes:?}"),
    }
    assert_eq!(
        db.names().await.len(),
        20 - lost + 1,
        "all acknowledged rows and the row of the gate are stored"
    );
}

async fn unwritable_trace_rolls_back_change(db: Db) {
    let ctx = db.ctx();
    let twice = kith_kernel::uuid::Uuid::from_u128(5);
    let failed: Result<(), Error> = db
        .store
        .write(move |tx| {
            add(tx, "untraced")?;
            tx.emit(&ctx, event(twice, 1));
            tx.audit(&ctx, "thing.added", "a\0b");
            Ok(())
        })
        .await;
    assert!(matches!(failed, Err(Error::NulInText)), "{failed:?}");
    assert_eq!(db.names().await, [""; 0]);
    db.add("afterwards").await.unwrap();
}
