//! Tests of the database facts: the schema and its differences from the migrations, durability, and statement
//! times.

use kith_store::{EngineKind, Error, Tx, contract};
use serde_json::{Value, json};

use crate::support::{Db, modules};

contract! {
    fresh_database_matches_migrations
    manual_schema_changes_are_reported
    statements_are_timed_by_text
    effective_durability_settings_are_reported
}

async fn facts(db: &Db) -> Value {
    db.store.facts(modules()).await.unwrap()
}

/// Covers rows DAT-01 and DAT-03 of the readiness catalogue.
async fn fresh_database_matches_migrations(db: Db) {
    let facts = facts(&db).await;
    let schema = &facts["schema"];
    assert_eq!((&schema["differences"], &schema["index_differences"]), (&json!([]), &json!([])), "{schema}");
    assert_eq!(schema["digest"], schema["expected_digest"]);
    assert!(schema["tables"].as_u64().unwrap() > 5, "{schema}");
    let migrations = facts["migrations"].as_array().unwrap();
    assert!(!migrations.is_empty() && migrations.iter().all(|one| one["state"] == "applied"), "{facts}");
}

async fn manual_schema_changes_are_reported(db: Db) {
    let change = |tx: &Tx<'_>| {
        tx.exec("ALTER TABLE things ADD COLUMN note TEXT", &[])?;
        tx.exec("CREATE INDEX things_by_hand ON things (note)", &[])?;
        tx.exec("CREATE UNIQUE INDEX things_once ON things (note)", &[])?;
        tx.exec("UPDATE schema_migrations SET checksum = 'x' WHERE module = 'test'", &[])?;
        Ok::<_, Error>(())
    };
    db.store.write(change).await.unwrap();
    let facts = facts(&db).await;
    let schema = &facts["schema"];
    assert_eq!(
        schema["differences"],
        json!(["column things.note is unexpected", "things has unexpected UNIQUE INDEX things_once (note)"])
    );
    assert_eq!(schema["index_differences"], json!(["index things_by_hand is unexpected"]));
    assert_ne!(schema["digest"], schema["expected_digest"]);
    let states: Vec<_> =
        facts["migrations"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states.last().unwrap(), "changed", "{facts}");
}

/// Covers row DAT-04 of the readiness catalogue.
async fn statements_are_timed_by_text(db: Db) {
    let before = db.store.statement_times().count;
    for n in 0..3 {
        db.add(&format!("thing {n}")).await.unwrap();
    }
    db.names().await;
    assert!(db.store.statement_times().count >= before + 4);
    let facts = facts(&db).await;
    let statements = facts["statements"]["by_total_time"].as_array().unwrap();
    let insert = statements.iter().find(|one| one["statement"] == "INSERT INTO things (name) VALUES ($1)");
    let insert = insert.unwrap_or_else(|| panic!("{facts}"));
    assert!(insert["count"].as_u64().unwrap() >= 3, "{insert}");
    assert!(insert["max_us"].as_u64() <= insert["total_us"].as_u64(), "{insert}");
}

/// Covers row DRV-17 of the readiness catalogue: the settings that are effective on write connections.
async fn effective_durability_settings_are_reported(db: Db) {
    let durability = facts(&db).await["durability"].clone();
    match db.store.kind() {
        EngineKind::Sqlite => {
            assert_eq!(
                durability,
                json!({ "journal_mode": "wal", "synchronous": "full", "foreign_keys": true })
            );
            let off = |options: &mut kith_store::StoreOptions| {
                let kith_store::EngineOptions::Sqlite(own) = &mut options.engine else {
                    panic!("{options:?}")
                };
                own.synchronous = kith_store::Synchronous::Off;
            };
            assert_eq!(facts(&db.reopened(off).await).await["durability"]["synchronous"], "off");
        }
        EngineKind::Postgres => {
            // The test server runs without fsync. `synchronous_commit` is on although the default of the role
            // is off.
            assert_eq!(durability["fsync"], "off");
            assert_eq!(durability["data_checksums"], "on");
            assert_eq!(durability["synchronous_commit"], "on");
        }
    }
}
