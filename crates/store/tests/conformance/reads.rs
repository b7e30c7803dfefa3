//! Tests of reads: short reads run immediately, long reads do not delay them, and exports see one snapshot.

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use kith_store::{EngineKind, Error, Query, contract, params};

use crate::support::{Db, names};

contract! {
    acknowledged_write_is_visible_to_next_read
    long_read_does_not_delay_short_ones
    endless_read_is_stopped_at_deadline
    export_sees_one_snapshot
}

/// Counts to `n` in the database, which takes long for a large `n`.
fn count_to(q: &Query<'_>, n: i64) -> Result<i64, Error> {
    let sql = "WITH RECURSIVE c (n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM c WHERE n < $1)
               SELECT MAX(n) FROM c";
    Ok(q.one(sql, params![n], |row| row.get(0))?.unwrap_or(0))
}

async fn acknowledged_write_is_visible_to_next_read(db: Db) {
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = db.store.clone();
        callers.spawn(async move {
            for round in 0..25 {
                let name = format!("{n} {round}");
                let written = name.clone();
                let done: Result<(), Error> = store.write(move |tx| crate::support::add(tx, &written)).await;
                done.unwrap();
                let seen: Result<Option<i64>, Error> = store
                    .read(move |q| {
                        q.one("SELECT COUNT(*) FROM things WHERE name = $1", params![name], |row| row.get(0))
                    })
                    .await;
                assert_eq!(seen.unwrap(), Some(1));
            }
        });
    }
    callers.join_all().await;
}

async fn long_read_does_not_delay_short_ones(db: Db) {
    db.add("short").await.unwrap();
    let store = db.store.clone();
    let long = tokio::spawn(async move { store.read(|q| count_to(q, 1_000_000)).await });
    let mut short_reads = 0;
    while !long.is_finished() {
        assert_eq!(db.names().await, ["short"]);
        short_reads += 1;
    }
    let counted: Result<i64, Error> = long.await.unwrap();
    assert_eq!(counted.unwrap(), 1_000_000);
    assert!(short_reads > 10, "only {short_reads} short reads finished");
    if db.store.kind() == EngineKind::Sqlite {
        assert!(db.store.stats().slow_reads >= 1, "the long read was interrupted and queued as slow");
    }
}

#[expect(clippy::disallowed_methods, reason = "measures how long it really took")]
async fn endless_read_is_stopped_at_deadline(db: Db) {
    let db = db.reopened(|options| options.deadline = Duration::from_millis(300)).await;
    let started = Instant::now();
    let endless: Result<i64, Error> = db.store.read(|q| count_to(q, i64::MAX)).await;
    assert!(matches!(endless, Err(Error::DeadlinePassed)), "{endless:?}");
    // Without the deadline, counting that far would take years.
    assert!(started.elapsed() < Duration::from_secs(60));
    db.add("afterwards").await.unwrap();
    assert_eq!(db.names().await, ["afterwards"]);
}

async fn export_sees_one_snapshot(db: Db) {
    db.add("before").await.unwrap();
    let (counted, has_counted) = tokio::sync::oneshot::channel();
    let counted = Mutex::new(Some(counted));
    let (changed, has_changed) = mpsc::channel::<()>();
    let has_changed = Mutex::new(has_changed);
    let store = db.store.clone();
    let export = tokio::spawn(async move {
        let run = move |q: &Query<'_>| {
            let first = names(q)?;
            if let Some(counted) = counted.lock().unwrap().take() {
                counted.send(()).unwrap();
                has_changed.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
            }
            Ok::<_, Error>((first, names(q)?))
        };
        store.export(run).await
    });
    has_counted.await.unwrap();
    db.add("meanwhile").await.unwrap();
    changed.send(()).unwrap();
    let (first, second) = export.await.unwrap().unwrap();
    assert_eq!(first, ["before"]);
    assert_eq!(second, first, "an export does not see what is committed while it runs");
    assert_eq!(db.names().await, ["before", "meanwhile"]);
}
