//! Tests of the sequencer: positions without gaps or duplicates, order per subject, user logs, the audit
//! chain, and restarts.

use std::collections::HashMap;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use kith_kernel::UserId;
use kith_kernel::uuid::Uuid;
use kith_store::{EngineKind, Error, NewEvent, SequencedEvent, Store, Tx, contract, params};

use crate::support::{Db, ctx, event};

contract! {
    positions_have_no_gaps_and_keep_subject_order
    rolled_back_events_get_no_position
    user_log_offsets_have_no_gaps
    audit_chain_detects_tampering
    pending_events_of_consumer_are_not_removed
    long_transaction_does_not_delay_positions_of_other_events
    positions_and_links_continue_after_restart
    watermark_is_saved_after_many_positions
    long_backlog_is_sequenced_completely
    removed_events_do_not_reset_numbering
}

/// Changes `subject` as a command would. It locks the subject first, and numbers the event by a counter that
/// it reads under the lock.
pub fn change(tx: &Tx<'_>, ctx: &kith_kernel::Ctx, subject: Uuid) -> Result<(), Error> {
    tx.lock("subject", [subject])?;
    let key = subject.to_string();
    let bump = "INSERT INTO counters (name, n) VALUES ($1, 1)
                ON CONFLICT (name) DO UPDATE SET n = counters.n + 1 RETURNING n";
    let n = tx.one(bump, params![key], |row| row.get::<i64>(0))?.unwrap_or(0);
    tx.audit(ctx, "thing.changed", subject);
    tx.emit(ctx, event(subject, n));
    Ok(())
}

/// Returns all events, read page by page.
pub async fn all_events(store: &Store) -> Vec<SequencedEvent> {
    let mut all: Vec<SequencedEvent> = Vec::new();
    loop {
        let page = store.events_after(all.last().map_or(0, |last| last.position), 500).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Asserts that the positions have no gaps or duplicates, and that the events of each subject are in commit
/// order.
pub fn assert_sequence(events: &[SequencedEvent], expected: usize) {
    assert_eq!(events.len(), expected);
    let mut last_of: HashMap<&str, i64> = HashMap::new();
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event.position, position, "positions are dense");
        let payload: serde_json::Value = serde_json::from_str(&event.event.payload).unwrap();
        let n = payload["n"].as_i64().unwrap();
        let last = last_of.insert(&event.event.subject, n).unwrap_or(0);
        assert_eq!(n, last + 1, "the events of {} are in commit order", event.event.subject);
    }
}

async fn positions_have_no_gaps_and_keep_subject_order(db: Db) {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8_u128 {
        let (store, sources) = (db.store.clone(), db.sources.clone());
        callers.spawn(async move {
            for round in 0..50_u128 {
                let (ctx, subject) = (ctx(&sources), Uuid::from_u128((caller + round) % 5));
                store.write(move |tx| change(tx, &ctx, subject)).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    db.wait_for_positions(400).await;
    assert_sequence(&all_events(&db.store).await, 400);
    assert_eq!(db.store.stats().sequenced, 400);
}

/// Every node reads the rows above the saved watermark several times per second. Therefore, their number must not
/// grow with all events of the last second. Transactions of other tests on the same server can hold the watermark
/// back for a while, so each of four rounds in a row must move it.
async fn watermark_is_saved_after_many_positions(db: Db) {
    if db.store.kind() == EngineKind::Sqlite {
        return;
    }
    let read = async || {
        let sql = "SELECT low_tx FROM sequencer WHERE id = 1";
        let low_tx = db.store.read(move |q| q.one(sql, &[], |row| row.get::<i64>(0))).await;
        low_tx.unwrap_or_else(|error: Error| panic!("{error}")).unwrap_or(0)
    };
    let mut moved_in_a_row = 0;
    for round in 1..100 {
        let (ctx, before) = (db.ctx(), read().await);
        let emit = move |tx: &Tx<'_>| (0..500).try_for_each(|_| change(tx, &ctx, Uuid::from_u128(1)));
        db.store.write(emit).await.unwrap();
        db.wait_for_positions(round * 500).await;
        moved_in_a_row = if read().await > before { moved_in_a_row + 1 } else { 0 };
        if moved_in_a_row == 4 {
            return;
        }
    }
    panic!("the watermark does not follow the positions");
}

async fn rolled_back_events_get_no_position(db: Db) {
    for n in 0..10_u128 {
        let ctx = db.ctx();
        let outcome: Result<(), Error> = db
            .store
            .write(move |tx| {
                change(tx, &ctx, Uuid::from_u128(1))?;
                if n % 2 == 0 { Err(Error::NulInText) } else { Ok(()) }
            })
            .await;
        assert_eq!(outcome.is_err(), n % 2 == 0);
    }
    db.wait_for_positions(5).await;
    assert_sequence(&all_events(&db.store).await, 5);
}

/// Emits an event for `recipients` in one transaction.
async fn emit(db: &Db, recipients: &[UserId]) {
    let (ctx, recipients) = (db.ctx(), recipients.to_vec());
    let emitted: Result<(), Error> = db
        .store
        .write(move |tx| {
            let subject = Uuid::from_u128(9);
            tx.lock("subject", [subject])?;
            let (recipients, payload) = (recipients.clone(), serde_json::json!({}));
            tx.emit(&ctx, NewEvent { kind: "thing.changed", subject, recipients, payload });
            Ok(())
        })
        .await;
    emitted.unwrap();
}

async fn user_log_offsets_have_no_gaps(db: Db) {
    let users: Vec<UserId> = (1..=3).map(|n| UserId(Uuid::from_u128(n))).collect();
    for round in 0..12 {
        emit(&db, &users[..=round % 3]).await;
    }
    db.wait_for_positions(12).await;
    for (user, expected) in users.into_iter().zip([12, 8, 4]) {
        let log: Result<Vec<(i64, i64)>, Error> = db
            .store
            .read(move |q| {
                let sql = "SELECT log_offset, position FROM user_logs WHERE user_id = $1 ORDER BY log_offset";
                q.all(sql, params![user], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .await;
        let log = log.unwrap();
        assert_eq!(
            log.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(),
            (1..=expected).collect::<Vec<_>>()
        );
        assert!(log.is_sorted_by_key(|(_, position)| *position));
    }
}

async fn removed_events_do_not_reset_numbering(db: Db) {
    let users: Vec<UserId> = (1..=2).map(|n| UserId(Uuid::from_u128(n))).collect();
    let logs = async || {
        let rows: Result<Vec<(i64, i64)>, Error> = db
            .store
            .read(|q| {
                let sql = "SELECT log_offset, position FROM user_logs ORDER BY user_id, log_offset";
                q.all(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .await;
        rows.unwrap()
    };
    let positions =
        async || all_events(&db.store).await.iter().map(|event| event.position).collect::<Vec<_>>();
    for _ in 0..3 {
        emit(&db, &users).await;
    }
    // The second user does not receive this event.
    emit(&db, &users[..1]).await;
    db.wait_for_positions(4).await;
    let at = db.sources.clock.now();
    let now = at + Duration::from_secs(60);
    assert_eq!(db.store.remove_events(at, 10).await.unwrap(), 0, "no event is older than the cutoff");
    pass(&db, 1).await;
    assert_eq!(db.store.remove_events(now, 10).await.unwrap(), 1);
    assert_eq!(positions().await, [2, 3, 4]);
    pass(&db, 4).await;
    assert_eq!(db.store.remove_events(now, 1).await.unwrap(), 1, "no more events are removed than the limit");
    assert_eq!(db.store.remove_events(now, 10).await.unwrap(), 1);
    assert_eq!(positions().await, [4], "the newest event is kept");
    assert_eq!(logs().await, [(4, 4), (3, 3)]);
    emit(&db, &users).await;
    db.wait_for_positions(5).await;
    assert_eq!(positions().await, [4, 5]);
    assert_eq!(logs().await, [(4, 4), (5, 5), (3, 3), (4, 5)]);
    pass(&db, 5).await;
    assert_eq!(db.store.remove_events(now, 10).await.unwrap(), 1);
    // The last entry of a log is removed only after the user has received a later one.
    assert_eq!(logs().await, [(5, 5), (3, 3), (4, 5)]);
    let outbox: Result<Option<i64>, Error> =
        db.store.read(|q| q.one("SELECT COUNT(*) FROM outbox", &[], |row| row.get(0))).await;
    assert_eq!(outbox.unwrap(), Some(1));
}

async fn audit_chain_detects_tampering(db: Db) {
    for n in 0..20_u128 {
        let ctx = db.ctx();
        db.store.write(move |tx| change(tx, &ctx, Uuid::from_u128(n))).await.unwrap();
    }
    db.wait_for_positions(20).await;
    assert_eq!(db.store.verify_audit().await.unwrap().links, 20);
    let tampered: Result<u64, Error> = db
        .store
        .write(|tx| {
            tx.exec(
                "UPDATE audit_entries SET actor = 'user:someone-else'
                 WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 7)",
                &[],
            )
        })
        .await;
    assert_eq!(tampered.unwrap(), 1);
    let broken = db.store.verify_audit().await.unwrap_err().to_string();
    assert!(broken.contains("link 7"), "{broken}");
    let removed: Result<u64, Error> = db
        .store
        .write(|tx| {
            tx.exec(
                "DELETE FROM audit_entries WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 3)",
                &[],
            )
        })
        .await;
    removed.unwrap();
    let broken = db.store.verify_audit().await.unwrap_err().to_string();
    assert!(broken.contains("link 3"), "{broken}");
}

async fn pending_events_of_consumer_are_not_removed(db: Db) {
    for _ in 0..4 {
        emit(&db, &[]).await;
    }
    db.wait_for_positions(4).await;
    pass(&db, 4).await;
    let fail = |position: i64, dead_lettered_at: Option<i64>| {
        let sql = "INSERT INTO consumer_failures (consumer, position, subject, attempts, retry_at, error, dead_lettered_at)
                   VALUES ('slow', $1, 's', 1, 0, 'failed', $2)";
        db.store.write(move |tx| tx.exec(sql, params![position, dead_lettered_at]))
    };
    fail(1, Some(0)).await.unwrap();
    fail(2, None).await.unwrap();
    let now = db.sources.clock.now() + Duration::from_secs(60);
    assert_eq!(db.store.remove_events(now, 10).await.unwrap(), 1, "the second event is going to be retried");
    let failures: Result<Vec<i64>, Error> =
        db.store.read(|q| q.all("SELECT position FROM consumer_failures", &[], |row| row.get(0))).await;
    assert_eq!(failures.unwrap(), [2], "the failure of a removed event is removed as well");
}

/// Moves the cursor of the consumer `slow` to `position`.
async fn pass(db: &Db, position: i64) {
    let sql = "INSERT INTO consumers (name, position, owner, leased_until, declared_at) VALUES ('slow', $1, '', 0, 0)
               ON CONFLICT (name) DO UPDATE SET position = excluded.position";
    let passed: Result<u64, Error> = db.store.write(move |tx| tx.exec(sql, params![position])).await;
    assert_eq!(passed.unwrap(), 1);
}

/// A transaction starts early and commits late. Other events get their positions before its commit, and its
/// event gets a position afterwards.
async fn long_transaction_does_not_delay_positions_of_other_events(db: Db) {
    if db.store.kind() == EngineKind::Sqlite {
        return; // On SQLite transactions run one at a time and cannot overlap.
    }
    let db = db.reopened(|options| options.deadline = Duration::from_secs(60)).await;
    let (wrote, has_written) = tokio::sync::oneshot::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (wrote, may_go) = (Mutex::new(Some(wrote)), Mutex::new(may_go));
    let (store, early) = (db.store.clone(), db.ctx());
    let slow = tokio::spawn(async move {
        let run = move |tx: &Tx<'_>| {
            change(tx, &early, Uuid::from_u128(1))?;
            if let Some(wrote) = wrote.lock().unwrap().take() {
                wrote.send(()).unwrap();
                may_go.lock().unwrap().recv_timeout(Duration::from_secs(50)).unwrap();
            }
            Ok::<_, Error>(())
        };
        store.write(run).await
    });
    has_written.await.unwrap();
    for n in 2..30_u128 {
        let ctx = db.ctx();
        db.store.write(move |tx| change(tx, &ctx, Uuid::from_u128(n))).await.unwrap();
    }
    db.wait_for_positions(28).await;
    go.send(()).unwrap();
    slow.await.unwrap().unwrap();
    db.wait_for_positions(29).await;
    let events = all_events(&db.store).await;
    assert_sequence(&events, 29);
    assert_eq!(events[28].event.subject, Uuid::from_u128(1).to_string());
}

async fn positions_and_links_continue_after_restart(db: Db) {
    for round in 1..=3 {
        let ctx = db.ctx();
        db.store.write(move |tx| change(tx, &ctx, Uuid::from_u128(1))).await.unwrap();
        db.wait_for_positions(round).await;
    }
    let db = db.reopened(|_| {}).await;
    db.wait_for_positions(3).await;
    let ctx = db.ctx();
    db.store.write(move |tx| change(tx, &ctx, Uuid::from_u128(1))).await.unwrap();
    db.wait_for_positions(4).await;
    assert_sequence(&all_events(&db.store).await, 4);
    assert_eq!(db.store.verify_audit().await.unwrap().links, 4);
}

/// There are more rows than one pass processes.
async fn long_backlog_is_sequenced_completely(db: Db) {
    let ctx = db.ctx();
    let done: Result<(), Error> = db
        .store
        .write(move |tx| {
            for n in 1..=4_500 {
                tx.audit(&ctx, "thing.changed", n);
                tx.emit(&ctx, event(Uuid::from_u128(1), n));
            }
            Ok(())
        })
        .await;
    done.unwrap();
    db.wait_for_positions(4_500).await;
    assert_sequence(&all_events(&db.store).await, 4_500);
    // The audit links are written with the positions, or in a later pass.
    let sealed = async {
        while db.store.verify_audit().await.map_or(0, |chain| chain.links) < 4_500 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), sealed).await.expect("every entry is sealed");
}
