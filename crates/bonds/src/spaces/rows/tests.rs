//! Tests the query plans of SQLite for statements that must not read more rows than they return.

use kith_store::testing::TestDatabase;
use kith_store::{Error, ModuleMigrations, Param, STORE_MIGRATIONS, Store};

use super::ALL_ITEMS;
use super::archives::{ARCHIVABLE, TO_PURGE, UNHELD_EXPIRED};
use super::declarations::STALE;
use super::lists::{ASCENDING, DESCENDING, NEWEST};
use super::reminders::DUE;

async fn open(database: &TestDatabase) -> Store {
    let modules = [&kith_accounts::accounts::MODULE, &crate::bonds::MODULE, &crate::spaces::MODULE];
    let own = modules.map(|one| ModuleMigrations { module: one.name, migrations: one.migrations });
    database.migrate([STORE_MIGRATIONS].into_iter().chain(own).collect()).await.unwrap();
    Store::open(database.options()).await.unwrap()
}

/// Returns the steps of the query plan, one per line.
async fn plan(db: &Store, statement: &str) -> Vec<String> {
    let explained: &'static str = format!("EXPLAIN QUERY PLAN {statement}").leak();
    let nothing = vec![Param::Null; (1..=20).filter(|n| statement.contains(&format!("${n}"))).count()];
    let steps = db.read(move |q| q.all(explained, &nothing, |row| row.get::<String>(3)));
    steps.await.unwrap_or_else(|error: Error| panic!("{explained}: {error}"))
}

/// Reading a page must take time in proportion to its size, in each sort order. A maintenance run must take
/// time in proportion to the number of due rows.
#[tokio::test]
async fn statements_use_an_index() {
    let database = TestDatabase::sqlite();
    let db = open(&database).await;
    const SORTED: &str =
        "SEARCH k USING COVERING INDEX space_item_fields_sorted (space=? AND collection=? AND field=? AND";
    for (statement, wanted) in [
        (NEWEST, "SEARCH i USING INDEX space_items_listed (space=? AND collection=? AND id<?)"),
        (ASCENDING, SORTED),
        (DESCENDING, SORTED),
        (ALL_ITEMS, "SEARCH i USING INDEX space_items_listed (space=? AND (collection,id)>(?,?))"),
        (STALE, "SEARCH i USING INDEX space_items_indexed (collection=? AND indexed_revision<?)"),
        (DUE, "SEARCH space_reminders USING INDEX space_reminders_due (due_at<?)"),
        (ARCHIVABLE, "SEARCH b USING INDEX bonds_archived (archived_at>?)"),
        (UNHELD_EXPIRED, "SEARCH archived_spaces USING INDEX archived_spaces_retained (archived_at<?)"),
        (TO_PURGE, "SEARCH a USING INDEX archived_spaces_held (purge_at>? AND purge_at<?)"),
    ] {
        let steps = plan(&db, statement).await;
        assert!(steps.iter().any(|step| step.starts_with(wanted)), "{wanted} is missing in {steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("B-TREE")), "{steps:#?}");
    }
    db.close().await;
}
