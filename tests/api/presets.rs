//! Tests of servers that serve a subset of the modules.

use kith_platform::config::Config;
use kith_store::MigrationState;

use crate::support::{TestApp, on_every_engine};

on_every_engine! {
    with super::as_chronizer;
    modules_outside_the_preset_are_not_served
}

fn as_chronizer(config: &mut Config) {
    config.server.preset = "chronizer".to_owned();
}

async fn modules_outside_the_preset_are_not_served(app: &TestApp) {
    let document = app.anonymous().get("/openapi.json").await.expect(200);
    let has_path =
        |start: &str| document["paths"].as_object().unwrap().keys().any(|path| path.starts_with(start));
    assert!(has_path("/api/v1/schedules") && has_path("/api/v1/auth") && has_path("/api/v1/me"));
    assert!(!has_path("/api/v1/partners") && !has_path("/api/v1/nicknames"));
    let (ada, admin) = (app.user("ada").await, app.admin("root").await);
    ada.get("/api/v1/partners/current").await.expect(404);
    admin.get("/api/v1/queues").await.expect(200);
    let parts = app.parts();
    let queues = parts.job_queues();
    assert!(
        queues.contains(&"callbacks")
            && parts.job_handlers().iter().all(|one| one.kind() != "bonds.archive-ended")
    );
    // The schema always contains the tables of all modules.
    let migrations = parts.migrations().await.unwrap();
    assert!(
        migrations.iter().all(|one| matches!(one.state, MigrationState::Applied { .. })),
        "{migrations:?}"
    );
    assert!(migrations.iter().any(|one| one.name.starts_with("bonds/")));
    assert!(parts.reserved_jobs().has_kind("bonds.archive-ended"));
    let export = ada.get("/api/v1/me/export").await.expect(200);
    assert!(export["modules"].as_object().unwrap().contains_key("bonds"), "{export}");
}
