//! Tests that all migrations can be reverted on filled tables, and that the database works after they are
//! applied again.

use kith::modules;
use kith_kernel::Timestamp;
use kith_store::{MigrationState, Store};
use serde_json::json;

use crate::support::{Engine, TestApp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_revert_and_reapply_on_sqlite() {
    migrations_revert_and_reapply(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_revert_and_reapply_on_postgres() {
    migrations_revert_and_reapply(Engine::Postgres).await;
}

async fn migrations_revert_and_reapply(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let app = TestApp::start(engine, engine.database().await).await;
    make_a_bond(&app).await;
    let database = app.stop().await;

    let options = database.options();
    let count: usize = modules::migrations().iter().map(|module| module.migrations.len()).sum();
    let undone = Store::migrate_down(&options, modules::migrations(), count)
        .await
        .expect("the migrations are reverted");
    assert_eq!(undone.len(), count);
    let status = Store::migration_status(&options, modules::migrations()).await.expect("a status");
    assert!(status.iter().all(|migration| migration.state == MigrationState::Pending), "{status:?}");

    let applied = Store::migrate_up(&options, modules::migrations(), Timestamp::EPOCH)
        .await
        .expect("the migrations are applied");
    assert_eq!(applied.len(), count);
    let app = TestApp::start(engine, database).await;
    // No data is left, so the same accounts can be registered again.
    make_a_bond(&app).await;
    app.stop().await;
}

async fn make_a_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    for (from, to) in [(&ada, &ben), (&ben, &ada)] {
        let body = json!({ "to": { "user_id": to.id } });
        from.post("/api/v1/partners/requests", body).await.expect(201);
    }
    assert_eq!(ada.get("/api/v1/partners/current").await.expect(200)["bond"]["partner"], ben.public_view());
}
