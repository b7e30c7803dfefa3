//! Tests of the audit chain against an attacker who can write to the database but has no key. The chain is
//! recomputed, truncated, emptied, or restored from an earlier state. Also tests the keys, and links that
//! were created before the first key.

use kith_store::testing::TestVault;
use kith_store::{
    AUDIT_ARCHIVED, ArchivedLink, AuditHead, AuditTail, Error, HeadComparison, contract, params,
};
use sha2::{Digest, Sha256};

use crate::support::Db;

contract! {
    link_recomputed_without_key_breaks_chain
    chain_resealed_without_key_differs_from_stored_head
    truncated_chain_is_shorter_than_stored_head
    emptied_log_is_shorter_than_stored_head
    restored_chain_with_new_entries_differs_from_stored_head
    erasing_details_keeps_stored_head_in_chain
    unkeyed_links_are_valid_and_counted
    unkeyed_link_after_first_key_breaks_chain
    retired_key_is_followed_by_a_new_one
    moved_key_cannot_be_decrypted
    key_with_other_secret_is_reported_and_not_used
    decrypted_keys_stay_usable_while_process_runs
    chain_is_valid_after_archiving
    removed_beginning_without_archive_is_reported
}

/// Fields of an entry that the hash of its link covers.
type Entry = (String, i64, [String; 4], Option<Vec<u8>>);

async fn exec(db: &Db, sql: &'static str) -> u64 {
    let done: Result<u64, Error> = db.store.write(move |tx| tx.exec(sql, &[])).await;
    done.unwrap()
}

/// Writes entries until the chain has `links` links, and returns its head.
async fn write_entries(db: &Db, links: i64) -> AuditHead {
    while db.store.audit_head().await.unwrap().links < links {
        let ctx = db.ctx();
        let before = db.store.audit_head().await.unwrap().links;
        let written: Result<(), Error> = db
            .store
            .write(move |tx| {
                tx.audit(&ctx, "thing.done", "a-thing");
                Ok(())
            })
            .await;
        written.unwrap();
        sealed(db, before + 1).await;
    }
    db.store.audit_head().await.unwrap()
}

async fn sealed(db: &Db, links: i64) {
    let reached = async {
        while db.store.audit_head().await.unwrap().links < links {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.expect("every entry is sealed");
}

async fn fault(db: &Db, remembered: AuditHead) -> Option<String> {
    db.store.compare_audit_head(remembered).await.unwrap().fault(&remembered)
}

async fn verify_error(db: &Db) -> String {
    db.store.verify_audit().await.unwrap_err().to_string()
}

/// Recomputes the links from `first` on, as an attacker would who knows everything except the keys.
async fn reseal_without_key(db: &Db, first: i64) {
    let entries: Result<Vec<(i64, Entry)>, Error> = db
        .store
        .read(|q| {
            q.all(
                "SELECT s.n, a.id, a.at, a.actor, a.action, a.object, a.request_id, a.details_hash
                 FROM audit_seals s JOIN audit_entries a ON a.id = s.entry_id ORDER BY s.n",
                &[],
                |row| {
                    let texts = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
                    Ok((row.get(0)?, (row.get(1)?, row.get(2)?, texts, row.get(7)?)))
                },
            )
        })
        .await;
    let mut prev: Vec<u8> = vec![0; 32];
    for (n, (id, at, texts, details)) in entries.unwrap() {
        if n < first {
            let kept: Result<Option<Vec<u8>>, Error> = db
                .store
                .read(move |q| {
                    q.one("SELECT hash FROM audit_seals WHERE n = $1", params![n], |row| row.get(0))
                })
                .await;
            prev = kept.unwrap().unwrap();
            continue;
        }
        let id: kith_kernel::uuid::Uuid = id.parse().unwrap();
        let mut hash =
            Sha256::new().chain_update(&prev).chain_update(id.as_bytes()).chain_update(at.to_be_bytes());
        for field in texts.iter().map(|text| text.as_bytes()).chain(details.as_deref()) {
            hash = hash.chain_update((field.len() as u64).to_be_bytes()).chain_update(field);
        }
        let hash = hash.finalize().to_vec();
        let (before, after) = (std::mem::replace(&mut prev, hash.clone()), hash);
        let written: Result<u64, Error> = db
            .store
            .write(move |tx| {
                let sql = "UPDATE audit_seals SET prev = $2, hash = $3 WHERE n = $1";
                tx.exec(sql, params![n, before, after])
            })
            .await;
        assert_eq!(written.unwrap(), 1);
    }
}

async fn link_recomputed_without_key_breaks_chain(db: Db) {
    write_entries(&db, 6).await;
    let change = "UPDATE audit_entries SET actor = 'user:else' WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 3)";
    assert_eq!(exec(&db, change).await, 1);
    reseal_without_key(&db, 3).await;
    assert!(verify_error(&db).await.ends_with("breaks at link 3"));
    let tail = db.store.audit_tail(4).await.unwrap();
    assert!(tail.fault.unwrap().ends_with("breaks at link 3"));
}

async fn chain_resealed_without_key_differs_from_stored_head(db: Db) {
    let remembered = write_entries(&db, 4).await;
    let change = "UPDATE audit_entries SET actor = 'user:else' WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 2)";
    exec(&db, change).await;
    assert_eq!(exec(&db, "DELETE FROM audit_keys").await, 1);
    reseal_without_key(&db, 1).await;
    // In the database alone, this looks like a chain from before the first key, so its links are reported as
    // unkeyed.
    let db = db.reopened(|_| {}).await;
    assert_eq!(db.store.verify_audit().await.unwrap().unkeyed, 4);
    let fault = fault(&db, remembered).await.unwrap();
    assert!(fault.starts_with("link 4 of the audit chain differs from the expected head"), "{fault}");
}

async fn truncated_chain_is_shorter_than_stored_head(db: Db) {
    let remembered = write_entries(&db, 5).await;
    exec(&db, "DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE n > 3)").await;
    assert_eq!(exec(&db, "DELETE FROM audit_seals WHERE n > 3").await, 2);
    assert_eq!(db.store.verify_audit().await.unwrap().links, 3);
    let fault = fault(&db, remembered).await.unwrap();
    assert!(fault.starts_with("the audit chain has 3 links, but the expected head has 5"), "{fault}");
    // The chain has grown beyond the stored head again, with a different link at that position.
    let db = db.reopened(|_| {}).await;
    write_entries(&db, 7).await;
    let found = db.store.compare_audit_head(remembered).await.unwrap();
    assert!(matches!(found, HeadComparison::Different { .. }), "{found:?}");
}

async fn emptied_log_is_shorter_than_stored_head(db: Db) {
    let remembered = write_entries(&db, 3).await;
    for table in ["DELETE FROM audit_entries", "DELETE FROM audit_seals", "DELETE FROM audit_keys"] {
        exec(&db, table).await;
    }
    let db = db.reopened(|_| {}).await;
    assert_eq!(db.store.verify_audit().await.unwrap().links, 0);
    let fault = fault(&db, remembered).await.unwrap();
    assert!(fault.starts_with("the audit chain has 0 links, but the expected head has 3"), "{fault}");
}

async fn restored_chain_with_new_entries_differs_from_stored_head(db: Db) {
    write_entries(&db, 2).await;
    for (table, copy) in [("audit_entries", "old_entries"), ("audit_seals", "old_seals")] {
        exec(&db, format!("CREATE TABLE {copy} AS SELECT * FROM {table}").leak()).await;
    }
    let remembered = write_entries(&db, 4).await;
    for (table, copy) in [("audit_entries", "old_entries"), ("audit_seals", "old_seals")] {
        exec(&db, format!("DELETE FROM {table}").leak()).await;
        exec(&db, format!("INSERT INTO {table} SELECT * FROM {copy}").leak()).await;
    }
    let db = db.reopened(|_| {}).await;
    assert_eq!(db.store.verify_audit().await.unwrap().links, 2, "the restored chain is consistent");
    assert!(fault(&db, remembered).await.unwrap().contains("an older state of the database was restored"));
    write_entries(&db, 6).await;
    db.store.verify_audit().await.unwrap();
    assert!(fault(&db, remembered).await.unwrap().starts_with("link 4 "));
}

async fn erasing_details_keeps_stored_head_in_chain(db: Db) {
    let ada = kith_kernel::UserId(kith_kernel::uuid::Uuid::from_u128(0xada));
    let ctx = db.ctx();
    let written: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit_with_details(
                &ctx,
                "thing.seen",
                "a-thing",
                Some(ada),
                serde_json::json!({ "address": "192.0.2.7" }),
            );
            Ok(())
        })
        .await;
    written.unwrap();
    sealed(&db, 1).await;
    let remembered = write_entries(&db, 3).await;
    assert_eq!(db.store.write(move |tx| tx.erase_audit_details(ada)).await.unwrap(), 1);
    let chain = db.store.verify_audit().await.unwrap();
    assert_eq!((chain.links, chain.head, chain.unkeyed), (3, remembered.hash, 0));
    assert_eq!(fault(&db, remembered).await, None);
    write_entries(&db, 4).await;
    assert_eq!(fault(&db, remembered).await, None, "the longer chain contains the remembered head");
    assert_eq!(fault(&db, AuditHead::default()).await, None);
}

async fn unkeyed_links_are_valid_and_counted(db: Db) {
    write_entries(&db, 3).await;
    // A version without keys would leave this state.
    exec(&db, "DELETE FROM audit_keys").await;
    reseal_without_key(&db, 1).await;
    let db = db.reopened(|_| {}).await;
    write_entries(&db, 5).await;
    let chain = db.store.verify_audit().await.unwrap();
    assert_eq!((chain.links, chain.unkeyed), (5, 3));
    // After a key was created, the earlier links cannot be changed without the key either.
    exec(&db, "UPDATE audit_entries SET actor = 'user:else' WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 1)")
        .await;
    reseal_without_key(&db, 1).await;
    assert!(verify_error(&db).await.ends_with("breaks at link 4"));
}

async fn unkeyed_link_after_first_key_breaks_chain(db: Db) {
    write_entries(&db, 3).await;
    reseal_without_key(&db, 3).await;
    assert!(verify_error(&db).await.ends_with("breaks at link 3"));
}

async fn retired_key_is_followed_by_a_new_one(db: Db) {
    write_entries(&db, 2).await;
    assert_eq!(exec(&db, "UPDATE audit_keys SET is_retired = TRUE").await, 1);
    let db = db.reopened(|_| {}).await;
    write_entries(&db, 4).await;
    let keys: Result<Vec<(i64, i64, bool)>, Error> = db
        .store
        .read(|q| {
            q.all("SELECT id, first_link, is_retired FROM audit_keys ORDER BY id", &[], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
        })
        .await;
    assert_eq!(keys.unwrap(), [(1, 1, true), (2, 3, false)]);
    assert_eq!(db.store.verify_audit().await.unwrap().links, 4);
    // An attacker who has only the first key cannot pretend that it was used for the later links.
    exec(&db, "DELETE FROM audit_keys WHERE id = 2").await;
    assert!(verify_error(&db).await.ends_with("breaks at link 3"));
}

async fn moved_key_cannot_be_decrypted(db: Db) {
    write_entries(&db, 2).await;
    exec(&db, "UPDATE audit_keys SET first_link = 2").await;
    assert!(verify_error(&db).await.contains("breaks at link 1"));
    exec(&db, "UPDATE audit_keys SET first_link = 0").await;
    let db = db.reopened(|_| {}).await;
    assert!(verify_error(&db).await.contains("key 1 of the audit chain was sealed under another secret"));
}

async fn key_with_other_secret_is_reported_and_not_used(db: Db) {
    write_entries(&db, 2).await;
    db.store.check_audit_keys().await.unwrap();
    let db = db.reopened(|options| options.audit_vault = TestVault::with_secret(2)).await;
    let refused = db.store.check_audit_keys().await.unwrap_err().to_string();
    assert!(refused.contains("key 1 of the audit chain was sealed under another secret"), "{refused}");
    assert!(verify_error(&db).await.contains("sealed under another secret"));
    let ctx = db.ctx();
    let written: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit(&ctx, "thing.done", "a-thing");
            Ok(())
        })
        .await;
    // On SQLite the link is written with the commit, on PostgreSQL after it.
    assert_eq!(written.is_err(), db.store.kind() == kith_store::EngineKind::Sqlite);
    let db = db.reopened(|options| options.audit_vault = TestVault::with_secret(1)).await;
    write_entries(&db, 3).await;
    db.store.verify_audit().await.unwrap();
}

async fn decrypted_keys_stay_usable_while_process_runs(db: Db) {
    write_entries(&db, 2).await;
    // The stored keys are replaced, as if they had been encrypted with another secret.
    exec(&db, "UPDATE audit_keys SET sealed = prev FROM audit_seals WHERE n = 1").await;
    write_entries(&db, 4).await;
    assert_eq!(db.store.verify_audit().await.unwrap().links, 4);
    let db = db.reopened(|_| {}).await;
    assert!(verify_error(&db).await.contains("sealed under another secret"));
}

/// Archives the oldest links up to `to`, as the platform does, and returns the last archived link.
async fn archive(db: &Db, to: i64) -> AuditHead {
    let from = db.store.archived_audit().await.unwrap();
    let later = db.sources.clock.now() + std::time::Duration::from_secs(1);
    let links = db.store.audit_links_after(from, later, to - from.links).await.unwrap();
    let head = db.store.check_archived_audit(from, links).await.unwrap();
    assert_eq!(head.links, to);
    let refused = db.store.remove_archived_audit(db.options.clone(), head).await.unwrap_err().to_string();
    assert!(refused.contains("no entry records"), "{refused}");
    let (ctx, before) = (db.ctx(), db.store.audit_head().await.unwrap().links);
    let recorded: Result<(), Error> = db
        .store
        .write(move |tx| {
            tx.audit(&ctx, AUDIT_ARCHIVED, head);
            Ok(())
        })
        .await;
    recorded.unwrap();
    sealed(db, before + 1).await;
    head
}

async fn chain_is_valid_after_archiving(db: Db) {
    write_entries(&db, 5).await;
    let now = db.sources.clock.now();
    let none = db.store.audit_links_after(AuditHead::default(), now, 100).await.unwrap();
    assert_eq!(none, [], "no entry is older than now");
    let later = now + std::time::Duration::from_secs(1);
    let links = db.store.audit_links_after(AuditHead::default(), later, 100).await.unwrap();
    assert_eq!(
        links.iter().map(|link| link.n).collect::<Vec<_>>(),
        [1, 2, 3, 4],
        "the newest link is not returned"
    );

    let head = archive(&db, 3).await;
    // The chain is also valid after an interrupted removal.
    exec(&db, "DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE n = 1)").await;
    exec(&db, "DELETE FROM audit_seals WHERE n = 1").await;
    let chain = db.store.verify_audit().await.unwrap();
    assert_eq!((chain.links, chain.archived.links), (6, 1));
    assert_eq!(db.store.remove_archived_audit(db.options.clone(), head).await.unwrap(), 2);
    let chain = db.store.verify_audit().await.unwrap();
    assert_eq!((chain.links, chain.archived), (6, head));
    assert_eq!(db.store.audit_tail(100).await.unwrap(), AuditTail { links: 6, recomputed: 3, fault: None });
    assert_eq!(fault(&db, head).await, None);
    assert_eq!(fault(&db, AuditHead { links: 2, hash: [1; 32] }).await, None, "the link is in the archive");

    // The second archive begins after the last link of the first one, and contains the entry that recorded
    // the first one.
    write_entries(&db, 7).await;
    let second = archive(&db, 6).await;
    assert_eq!(db.store.remove_archived_audit(db.options.clone(), second).await.unwrap(), 3);
    assert_eq!(db.store.verify_audit().await.unwrap().archived, second);
    let changed = ArchivedLink { actor: "user:else".into(), ..links[1].clone() };
    let broken = db
        .store
        .check_archived_audit(AuditHead::default(), vec![links[0].clone(), changed, links[2].clone()]);
    assert!(broken.await.unwrap_err().to_string().contains("link 2"));
}

async fn removed_beginning_without_archive_is_reported(db: Db) {
    write_entries(&db, 6).await;
    let head = archive(&db, 2).await;
    db.store.remove_archived_audit(db.options.clone(), head).await.unwrap();
    // One more link is removed than was archived.
    exec(&db, "DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE n = 3)").await;
    exec(&db, "DELETE FROM audit_seals WHERE n = 3").await;
    let message = verify_error(&db).await;
    assert!(message.contains("begins at link 4, but no entry records"), "{message}");
    assert!(fault(&db, head).await.is_some());
}
