//! Tests that each statement finds its rows by an index, according to the query plan of SQLite. SQLite's
//! plans do not depend on the content of tables.

use kith_store::testing::TestDatabase;
use kith_store::{ModuleMigrations, Param, STORE_MIGRATIONS, Store};

use super::requests::list_statement;
use super::*;
use crate::bonds::model::{RequestDirection, RequestStatus};

/// Returns the query plan of `statement`, one line per step.
async fn plan(db: &Store, statement: &str) -> Vec<String> {
    let explained: &'static str = format!("EXPLAIN QUERY PLAN {statement}").leak();
    let nothing = vec![Param::Null; (1..=5).filter(|n| statement.contains(&format!("${n}"))).count()];
    let steps = db.read(move |q| q.all(explained, &nothing, |row| row.get::<String>(3)));
    steps.await.unwrap_or_else(|error: Error| panic!("{explained}: {error}"))
}

/// Reading a page must take time in proportion to its size, not to the number of the user's requests.
#[tokio::test]
async fn request_lists_use_an_index() {
    let database = TestDatabase::sqlite();
    let modules = [&kith_accounts::accounts::MODULE, &crate::bonds::MODULE];
    let own = modules.map(|one| ModuleMigrations { module: one.name, migrations: one.migrations });
    database.migrate([STORE_MIGRATIONS].into_iter().chain(own).collect()).await.unwrap();
    let db = Store::open(database.options()).await.unwrap();
    for direction in [RequestDirection::Incoming, RequestDirection::Outgoing] {
        for (status, index) in [
            (None, ""),
            (Some(RequestStatus::Pending), "_pending"),
            (Some(RequestStatus::Expired), ""),
            (Some(RequestStatus::Rejected), ""),
        ] {
            let (side, column) = match direction {
                RequestDirection::Incoming => ("incoming", "to_user"),
                RequestDirection::Outgoing => ("outgoing", "from_user"),
            };
            let steps = plan(&db, list_statement(direction, status)).await;
            let wanted = format!("SEARCH r USING INDEX partner_requests_{side}{index} ({column}=? AND id<?)");
            assert!(steps.contains(&wanted), "{status:?}: {wanted} is missing in {steps:#?}");
            assert!(!steps.iter().any(|step| step.contains("B-TREE")), "{status:?}: {steps:#?}");
        }
    }
    db.close().await;
}
