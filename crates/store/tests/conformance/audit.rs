//! Tests of the audit log: personal details, their erasure, tampering with them, and queries.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Ctx, RequestId, Timestamp, UserId, days};
use kith_store::{AuditFilter, AuditRecord, Error, contract, params};
use serde_json::{Value, json};

use crate::support::{Db, event};

contract! {
    details_are_available_until_erased
    changed_details_break_the_chain
    added_details_break_the_chain
    entry_without_details_writes_one_row
    rolled_back_change_leaves_no_details
    entries_are_found_newest_first_by_each_filter
    activity_lists_own_entries_and_entries_about_user
}

const ADA: UserId = UserId(Uuid::from_u128(0xada));
const EVE: UserId = UserId(Uuid::from_u128(0xe7e));

fn by(db: &Db, actor: Actor) -> Ctx {
    Ctx::new(db.sources.clone(), actor, RequestId::accept("conformance").unwrap())
}

/// Writes an entry with details about `about`, and waits until the audit chain has `links` links.
async fn audit_with_details(
    db: &Db,
    ctx: Ctx,
    action: &'static str,
    about: Option<UserId>,
    details: Value,
    links: i64,
) {
    let written: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit_with_details(&ctx, action, "a-thing", about, details.clone());
            tx.emit(&ctx, event(Uuid::from_u128(1), 1));
            Ok(())
        })
        .await;
    written.unwrap();
    sealed(db, links).await;
}

async fn sealed(db: &Db, links: i64) {
    let reached = async {
        while db.store.verify_audit().await.map_or(0, |chain| chain.links) < links {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.expect("every entry is sealed");
}

async fn find(db: &Db, filter: AuditFilter) -> Vec<AuditRecord> {
    let found: Result<_, Error> = db.store.read(move |q| q.audit_records(&filter, 100)).await;
    found.unwrap()
}

async fn exec(db: &Db, sql: &'static str) {
    let done: Result<u64, Error> = db.store.write(move |tx| tx.exec(sql, &[])).await;
    assert_eq!(done.unwrap(), 1, "{sql}");
}

async fn details(db: &Db) -> Vec<Option<Value>> {
    find(db, AuditFilter::default()).await.into_iter().map(|record| record.details).collect()
}

async fn details_are_available_until_erased(db: Db) {
    let address = json!({ "address": "192.0.2.7" });
    audit_with_details(&db, db.ctx(), "thing.seen", Some(ADA), address.clone(), 1).await;
    audit_with_details(&db, db.ctx(), "thing.seen", Some(EVE), address.clone(), 2).await;
    audit_with_details(&db, db.ctx(), "thing.seen", None, address.clone(), 3).await;
    let before = db.store.verify_audit().await.unwrap();
    assert_eq!(details(&db).await, vec![Some(address.clone()); 3]);

    let erased = db.store.write(move |tx| tx.erase_audit_details(ADA)).await.unwrap();
    assert_eq!(erased, 1);
    assert_eq!(details(&db).await, [Some(address.clone()), Some(address), None]);
    assert_eq!(db.store.verify_audit().await.unwrap(), before);
    assert_eq!(db.store.write(move |tx| tx.erase_audit_details(ADA)).await.unwrap(), 0);
}

async fn changed_details_break_the_chain(db: Db) {
    for n in 1..=3 {
        audit_with_details(&db, db.ctx(), "thing.seen", Some(ADA), json!({ "n": n }), n).await;
    }
    exec(
        &db,
        "UPDATE audit_details SET body = '{\"n\": 7}'
         WHERE entry_id = (SELECT entry_id FROM audit_seals WHERE n = 2)",
    )
    .await;
    let broken = db.store.verify_audit().await.unwrap_err().to_string();
    assert!(broken.contains("link 2"), "{broken}");
    // Changing the entry to match the changed details also breaks the chain.
    exec(
        &db,
        "UPDATE audit_entries SET details_hash = NULL
         WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 2)",
    )
    .await;
    let broken = db.store.verify_audit().await.unwrap_err().to_string();
    assert!(broken.contains("link 2"), "{broken}");
}

async fn added_details_break_the_chain(db: Db) {
    let ctx = db.ctx();
    let written: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit(&ctx, "thing.seen", "a-thing");
            Ok(())
        })
        .await;
    written.unwrap();
    sealed(&db, 1).await;
    let added: Result<u64, Error> = db
        .store
        .write(|tx| {
            tx.exec(
                "INSERT INTO audit_details (entry_id, salt, body) SELECT entry_id, $1, '{}' FROM audit_seals",
                params![[0_u8; 32]],
            )
        })
        .await;
    added.unwrap();
    let broken = db.store.verify_audit().await.unwrap_err().to_string();
    assert!(broken.contains("link 1"), "{broken}");
}

async fn entry_without_details_writes_one_row(db: Db) {
    let ctx = db.ctx();
    let written: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit(&ctx, "thing.seen", "a-thing");
            Ok(())
        })
        .await;
    written.unwrap();
    let sql = "SELECT (SELECT COUNT(*) FROM audit_entries WHERE details_hash IS NULL),
                      (SELECT COUNT(*) FROM audit_details)";
    let counted: Result<Option<(i64, i64)>, Error> =
        db.store.read(move |q| q.one(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))).await;
    assert_eq!(counted.unwrap(), Some((1, 0)));
}

async fn rolled_back_change_leaves_no_details(db: Db) {
    let ctx = db.ctx();
    let refused: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit_with_details(&ctx, "thing.seen", "a-thing", Some(ADA), json!({}));
            Err(Error::NulInText)
        })
        .await;
    assert!(refused.is_err());
    assert_eq!(details(&db).await, []);
    assert_eq!(db.store.write(move |tx| tx.erase_audit_details(ADA)).await.unwrap(), 0);
}

async fn entries_are_found_newest_first_by_each_filter(db: Db) {
    let start = db.ctx().now;
    for (n, (actor, action, object, request)) in [
        (Actor::User(ADA), "thing.made", "one", "request-1"),
        (Actor::User(EVE), "thing.made", "two", "request-2"),
        (Actor::User(ADA), "thing.done", "two", "request-3"),
        (Actor::Anonymous, "thing.made", "one", "request-4"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut ctx = Ctx::new(db.sources.clone(), actor, RequestId::accept(request).unwrap());
        ctx.now = start + days(n as u64 * 10);
        let written: Result<(), Error> = db
            .store
            .write(move |tx| {
                tx.audit(&ctx, action, object);
                Ok(())
            })
            .await;
        written.unwrap();
    }
    let ids = async |filter: AuditFilter| -> Vec<String> {
        find(&db, filter)
            .await
            .into_iter()
            .map(|record| record.entry.request_id.replace("request-", ""))
            .collect()
    };
    let any = AuditFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let later = |n: u64| -> Option<Timestamp> { Some(start + days(n)) };
    for (filter, expected) in [
        (any(), "4321"),
        (AuditFilter { actor: text(&format!("user:{ADA}")), ..any() }, "31"),
        (AuditFilter { actor: text("anonymous"), ..any() }, "4"),
        (AuditFilter { action: text("thing.made"), ..any() }, "421"),
        (AuditFilter { object: text("two"), ..any() }, "32"),
        (AuditFilter { request_id: text("request-2"), ..any() }, "2"),
        (AuditFilter { since: later(10), ..any() }, "432"),
        (AuditFilter { until: later(10), ..any() }, "1"),
        (AuditFilter { since: later(10), until: later(30), ..any() }, "32"),
        (AuditFilter { actor: text(&format!("user:{ADA}")), action: text("thing.done"), ..any() }, "3"),
        (AuditFilter { actor: text(&format!("user:{ADA}")), since: later(11), ..any() }, "3"),
        (AuditFilter { actor: text("user:nobody"), ..any() }, ""),
        (AuditFilter { object: text(""), ..any() }, ""),
    ] {
        assert_eq!(ids(filter.clone()).await.concat(), expected, "{filter:?}");
    }
    let mut before = None;
    for expected in ["43", "21", ""] {
        let filter = AuditFilter { before, ..any() };
        let page: Result<Vec<AuditRecord>, Error> = db.store.read(move |q| q.audit_records(&filter, 2)).await;
        let page = page.unwrap();
        let seen: String =
            page.iter().map(|record| record.entry.request_id.replace("request-", "")).collect();
        assert_eq!(seen, expected);
        before = page.last().map(|record| record.entry.id).or(before);
    }
}

async fn activity_lists_own_entries_and_entries_about_user(db: Db) {
    let none = Value::Null;
    audit_with_details(&db, by(&db, Actor::Anonymous), "session.started", Some(ADA), none.clone(), 1).await;
    audit_with_details(&db, by(&db, Actor::User(ADA)), "thing.made", None, none.clone(), 2).await;
    audit_with_details(&db, by(&db, Actor::User(EVE)), "account.suspended", Some(ADA), none.clone(), 3).await;
    audit_with_details(&db, by(&db, Actor::User(EVE)), "thing.made", None, none.clone(), 4).await;
    audit_with_details(&db, by(&db, Actor::User(ADA)), "account.renamed", Some(ADA), none, 5).await;
    let activity = async |who: UserId, before: Option<Uuid>, limit: i64| {
        let found: Result<_, Error> = db.store.read(move |q| q.audit_activity(who, before, limit)).await;
        found.unwrap()
    };
    let actions = |found: &[kith_store::AuditEntry]| -> Vec<String> {
        found.iter().map(|entry| entry.action.clone()).collect()
    };
    let all = activity(ADA, None, 10).await;
    assert_eq!(actions(&all), ["account.renamed", "account.suspended", "thing.made", "session.started"]);
    assert_eq!(activity(ADA, Some(all[1].id), 1).await, all[2..3]);
    assert_eq!(actions(&activity(EVE, None, 10).await), ["thing.made", "account.suspended"]);
    let unknown = activity(UserId(Uuid::nil()), None, 10).await;
    assert_eq!(unknown, []);
}
