//! Tests of migrations: up, down and up again on tables with rows, checksums, and nodes that migrate at the
//! same time.

use kith_kernel::Timestamp;
use kith_store::testing::TestDatabase;
use kith_store::{
    EngineKind, Error, Migration, MigrationState, ModuleMigrations, OpenError, Query, STORE_MIGRATIONS,
    Store, contract,
};

use crate::support::{Db, SCHEMA, add, event, modules};

contract! {
    migrations_go_up_down_up_on_filled_tables
    changed_migration_is_rejected
    newer_database_is_rejected
    failed_migration_is_rolled_back
    nodes_migrate_one_at_a_time
}

/// Returns the complete schema of the database, as sorted texts.
fn schema(q: &Query<'_>, kind: EngineKind) -> Result<Vec<String>, Error> {
    let sql = match kind {
        EngineKind::Sqlite => "SELECT COALESCE(sql, name) FROM sqlite_schema ORDER BY 1",
        EngineKind::Postgres => {
            "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
                 || COALESCE(collation_name, '') || ' ' || COALESCE(column_default, '')
             FROM information_schema.columns WHERE table_schema = 'public'
             UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
             UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                 WHERE connamespace = 'public'::regnamespace
             ORDER BY 1"
        }
    };
    q.all(sql, &[], |row| row.get(0))
}

async fn schema_of(store: &Store) -> Vec<String> {
    let kind = store.kind();
    store.export(move |q| schema(q, kind)).await.unwrap()
}

async fn migrations_go_up_down_up_on_filled_tables(db: Db) {
    let fill = |ctx: kith_kernel::Ctx| {
        move |tx: &kith_store::Tx<'_>| {
            add(tx, "thing")?;
            tx.exec("INSERT INTO parts (thing, n) VALUES ('thing', 1)", &[])?;
            tx.audit(&ctx, "thing.added", "thing");
            tx.emit(&ctx, event(ctx.new_id(|id| id), 1));
            Ok::<_, Error>(())
        }
    };
    let ctx = db.ctx();
    db.store.write(fill(ctx)).await.unwrap();
    db.wait_for_positions(1).await;
    let before = schema_of(&db.store).await;
    db.store.close().await;

    let undone = Store::migrate_down(&db.options, modules(), 1).await.unwrap();
    assert_eq!(undone, ["test/0001_test"]);
    let status = Store::migration_status(&db.options, modules()).await.unwrap();
    assert_eq!(status[OWN].state, MigrationState::Pending);
    assert!(matches!(status[0].state, MigrationState::Applied { .. }));
    let undone = Store::migrate_down(&db.options, modules(), 50).await.unwrap();
    let all = names();
    assert!(undone.iter().eq(all[..OWN].iter().rev()), "{undone:?}");

    let done = Store::migrate_up(&db.options, modules(), Timestamp::EPOCH).await.unwrap();
    assert_eq!(done, all);
    assert_eq!(Store::migrate_up(&db.options, modules(), Timestamp::EPOCH).await.unwrap(), [""; 0]);
    let db = db.reopened(|_| {}).await;
    assert_eq!(schema_of(&db.store).await, before);
    assert_eq!(db.names().await, [""; 0]);
    let ctx = db.ctx();
    db.store.write(fill(ctx)).await.unwrap();
    db.wait_for_positions(1).await;
}

/// Index of the first migration that is not the store's own.
const OWN: usize = STORE_MIGRATIONS.migrations.len();

/// Returns the names of all migrations in order.
fn names() -> Vec<String> {
    let own = STORE_MIGRATIONS.migrations.iter().map(|own| format!("store/{:04}_{}", own.version, own.name));
    own.chain(["test/0001_test".to_owned()]).collect()
}

const CHANGED: ModuleMigrations = ModuleMigrations {
    module: "test",
    migrations: &[Migration {
        version: 1,
        name: "test",
        sql: "-- up\nCREATE TABLE other (a TEXT);\n-- down\nDROP TABLE other;\n",
    }],
};

async fn changed_migration_is_rejected(db: Db) {
    db.store.close().await;
    let changed = vec![STORE_MIGRATIONS, CHANGED];
    let refused = Store::migrate_up(&db.options, changed.clone(), Timestamp::EPOCH).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Schema(text) if text.contains("test/0001_test")), "{refused}");
    let status = Store::migration_status(&db.options, changed.clone()).await.unwrap();
    assert_eq!(status[OWN].state, MigrationState::Changed);
    assert!(Store::migrate_down(&db.options, changed, 1).await.is_err());
}

async fn newer_database_is_rejected(db: Db) {
    db.store.close().await;
    let older = vec![STORE_MIGRATIONS];
    let refused = Store::migrate_up(&db.options, older.clone(), Timestamp::EPOCH).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Schema(text) if text.contains("older than the database")),
        "{refused}"
    );
    let status = Store::migration_status(&db.options, older).await.unwrap();
    assert_eq!(status[OWN].state, MigrationState::Unknown);
}

const BROKEN: ModuleMigrations = ModuleMigrations {
    module: "broken",
    migrations: &[Migration {
        version: 1,
        name: "broken",
        sql: "-- up\nCREATE TABLE half (a TEXT);\nCREATE TABLE things (a TEXT);\n-- down\nDROP TABLE half;\n",
    }],
};

async fn failed_migration_is_rolled_back(db: Db) {
    let before = schema_of(&db.store).await;
    db.store.close().await;
    let broken = vec![STORE_MIGRATIONS, SCHEMA, BROKEN];
    Store::migrate_up(&db.options, broken.clone(), Timestamp::EPOCH).await.unwrap_err();
    let status = Store::migration_status(&db.options, broken).await.unwrap();
    assert_eq!(status[OWN + 1].state, MigrationState::Pending);
    let db = db.reopened(|_| {}).await;
    assert_eq!(schema_of(&db.store).await, before);
}

async fn nodes_migrate_one_at_a_time(db: Db) {
    let options = match db.store.kind() {
        EngineKind::Sqlite => {
            // On SQLite the lock of the folder prevents a second migration. The error names the process that
            // holds the lock.
            let refused = Store::migrate_up(&db.options, modules(), Timestamp::EPOCH).await.unwrap_err();
            assert!(matches!(refused, OpenError::FolderInUse { .. }), "{refused}");
            return;
        }
        EngineKind::Postgres => {
            TestDatabase::postgres(&kith_store::testing::postgres_url().unwrap()).await.unwrap()
        }
    };
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let options = options.options();
        nodes.spawn(async move { Store::migrate_up(&options, modules(), Timestamp::EPOCH).await.unwrap() });
    }
    let mut applied: Vec<String> = nodes.join_all().await.into_iter().flatten().collect();
    applied.sort();
    assert_eq!(applied, names(), "exactly one node applies each migration");
}
