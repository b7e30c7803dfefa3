//! Tests of unique keys, the newest audit links and event positions, for intact and damaged data.

use kith_kernel::uuid::Uuid;
use kith_store::{AuditTail, Error, Positions, contract};

use crate::support::{Db, event};

contract! {
    unique_key_is_found_by_columns
    audit_tail_reports_broken_link
    missing_position_is_detected
}

/// Writes `count` entries and events, and waits until each entry has a link and each event has a position.
async fn write_entries(db: &Db, count: i64) {
    for n in 1..=count {
        let ctx = db.ctx();
        let written: Result<(), Error> = db
            .store
            .write(move |tx| {
                tx.audit(&ctx, "thing.done", n);
                tx.emit(&ctx, event(Uuid::from_u128(1), 1));
                Ok(())
            })
            .await;
        written.unwrap();
    }
    let placed = async {
        while tail(db, 1).await.links < count || positions(db).await.last < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), placed)
        .await
        .expect("all entries are sealed and all events have positions");
}

async fn exec(db: &Db, sql: &'static str) {
    let done: Result<u64, Error> = db.store.write(move |tx| tx.exec(sql, &[])).await;
    done.unwrap();
}

async fn tail(db: &Db, limit: i64) -> AuditTail {
    db.store.audit_tail(limit).await.unwrap()
}

async fn positions(db: &Db) -> Positions {
    let read: Result<_, Error> = db.store.export(|q| q.positions()).await;
    read.unwrap()
}

async fn unique_key_is_found_by_columns(db: Db) {
    let has = async |table: &'static str, columns: &'static str| {
        let read: Result<_, Error> = db.store.read(move |q| q.has_unique_key(table, columns)).await;
        read.unwrap()
    };
    assert!(has("things", "name").await && has("parts", "thing,n").await && has("kinds", "id").await);
    assert!(!has("parts", "thing").await && !has("parts", "n,thing").await);
    // A partial unique index does not prevent a second row.
    assert!(!has("kinds", "t").await && !has("no_such_table", "name").await);
    exec(&db, "CREATE UNIQUE INDEX kinds_by_n ON kinds (n)").await;
    assert!(has("kinds", "n").await);
    exec(&db, "DROP INDEX kinds_by_n").await;
    assert!(!has("kinds", "n").await);
}

async fn audit_tail_reports_broken_link(db: Db) {
    assert_eq!(tail(&db, 5).await, AuditTail { links: 0, recomputed: 0, fault: None });
    write_entries(&db, 6).await;
    assert_eq!(tail(&db, 2).await, AuditTail { links: 6, recomputed: 2, fault: None });
    assert_eq!(tail(&db, 100).await, AuditTail { links: 6, recomputed: 6, fault: None });
    exec(&db, "UPDATE audit_entries SET actor = 'system:else' WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 4)")
        .await;
    assert_eq!(tail(&db, 2).await.fault, None, "the broken link is not among the newest two links");
    let found = tail(&db, 3).await.fault.unwrap_or_default();
    assert!(found.contains("link 4"), "{found}");
}

async fn missing_position_is_detected(db: Db) {
    assert_eq!(positions(&db).await, Positions { count: 0, first: 0, last: 0 });
    write_entries(&db, 3).await;
    assert_eq!(positions(&db).await, Positions { count: 3, first: 1, last: 3 });
    exec(&db, "DELETE FROM outbox_positions WHERE position = 2").await;
    assert_eq!(positions(&db).await, Positions { count: 2, first: 1, last: 3 });
}
