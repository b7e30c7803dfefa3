//! Tests of the health checks and of the health report.

use std::path::Path;
use std::time::Duration;

use axum::response::IntoResponse;
use kith_store::Tx;
use serde_json::{Value, json};

use super::checks::{
    CRITICAL_DISK_BYTES, LOW_DISK_BYTES, MIN_WRITABLE_BYTES, check_free_disk, check_writable_disk,
};
use super::report::{HealthCheck, HealthReport, HealthStatus};
use super::{nearest_existing_folder, writes};
use crate::MODULE;
use crate::http::openapi;
use crate::testing::TestServer;

/// Returns the status and the body of a GET request to `path`.
async fn ask(test: &TestServer, path: &str) -> (u16, Value) {
    let answer = test.send_request(&format!("GET {path}"), "").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\ncontent-type: application/health+json\r\n"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn healthy_server_reports_all_checks_as_pass() {
    let test = TestServer::start(|_| {}).await;
    let (status, report) = ask(&test, "/api/health").await;
    assert_eq!((status, &report["status"]), (200, &json!("pass")), "{report}");
    assert_eq!(report["releaseId"], "0.0.0");
    for (check, unit) in [
        ("audit:head", Value::Null),
        ("clock:skew", Value::Null),
        ("database:responseTime", json!("us")),
        ("database:writeStall", json!("ms")),
        ("disk:free", json!("bytes")),
        ("disk:writable", Value::Null),
        ("memory:resident", json!("bytes")),
        ("purges:backlog", Value::Null),
        ("server:draining", Value::Null),
        ("server:uptime", json!("s")),
    ] {
        let check = &report["checks"][check][0];
        assert_eq!((&check["status"], &check["observedUnit"]), (&json!("pass"), &unit), "{report}");
        assert_eq!(check["observedValue"].is_i64(), !unit.is_null(), "{report}");
    }
    assert_eq!(report["checks"].as_object().unwrap().len(), 10, "{report}");
}

#[tokio::test]
async fn server_without_database_is_live_but_not_ready() {
    let test = TestServer::start(|_| {}).await;
    test.app.db.close().await;
    for path in ["/readyz", "/api/health"] {
        let (status, report) = ask(&test, path).await;
        assert_eq!((status, &report["status"]), (503, &json!("fail")), "{path}: {report}");
        let check = &report["checks"]["database:responseTime"][0];
        assert_eq!(check["output"], "The database does not respond.", "{path}: {report}");
    }
    assert_eq!(ask(&test, "/livez").await.0, 200);
}

#[tokio::test]
async fn stalled_writes_fail_readiness() {
    let test = TestServer::start(|_| {}).await;
    let (started, starts) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let db = test.app.db.clone();
    let stuck = tokio::spawn(async move {
        db.write(move |_: &Tx<'_>| {
            let _ = started.send(());
            let _ = wait.lock().unwrap().recv();
            Ok::<_, kith_store::Error>(())
        })
        .await
    });
    tokio::task::spawn_blocking(move || starts.recv()).await.unwrap().unwrap();
    while test.app.db.write_stall() < Duration::from_millis(20) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&test, "/readyz").await.0, 200, "a short write stall does not fail the check");
    drop(go);
    stuck.await.unwrap().unwrap();
    assert!(test.app.db.write_stall() < Duration::from_secs(5));
    let statuses = [9_999, 10_000].map(|ms| writes(Duration::from_millis(ms)).1.status);
    assert_eq!(statuses, [HealthStatus::Pass, HealthStatus::Fail]);
}

#[tokio::test]
async fn pending_migration_fails_readiness() {
    let test = TestServer::start(|_| {}).await;
    let forget =
        |tx: &Tx<'_>| tx.exec("DELETE FROM schema_migrations WHERE module = 'platform' AND version = 1", &[]);
    assert_eq!(test.app.db.write(forget).await.unwrap(), 1);
    for path in ["/readyz", "/api/health"] {
        let (status, report) = ask(&test, path).await;
        assert_eq!(status, 503, "{path}: {report}");
        let check = &report["checks"]["database:responseTime"][0];
        assert_eq!(
            check["output"], "The database schema is older than this build. Run `kith migrate up`.",
            "{path}: {report}"
        );
    }
}

#[test]
fn openapi_describes_health_check_fields() {
    let json: Value = serde_json::from_slice(&openapi::to_json(&openapi::document(&[&MODULE]))).unwrap();
    let fields = &json["components"]["schemas"]["HealthCheck"]["properties"];
    let types = ["observedValue", "observedUnit", "output"].map(|field| &fields[field]["type"]);
    assert_eq!(types, [&json!("integer"), &json!("string"), &json!("string")]);
    assert_eq!(json["components"]["schemas"]["HealthCheck"]["required"], json!(["status"]));
}

#[test]
fn report_has_status_of_worst_check() {
    let check = |status| ("x", HealthCheck::pass().with_status(status, "…"));
    for (statuses, worst, answer) in [
        (vec![HealthStatus::Pass, HealthStatus::Pass], HealthStatus::Pass, 200),
        (vec![HealthStatus::Warn, HealthStatus::Pass], HealthStatus::Warn, 200),
        (vec![HealthStatus::Pass, HealthStatus::Fail, HealthStatus::Warn], HealthStatus::Fail, 503),
    ] {
        let report = HealthReport::of("0.0.0", statuses.into_iter().map(check).collect());
        assert_eq!(report.status, worst);
        assert_eq!(report.into_response().status(), answer);
    }
}

#[tokio::test]
async fn free_disk_is_measured_without_data_folder() {
    let test = TestServer::start(|config| config.data.folder.push("not/yet")).await;
    let (_, report) = ask(&test, "/api/health").await;
    assert!(report["checks"]["disk:free"][0]["observedValue"].is_i64(), "{report}");
    assert_eq!(nearest_existing_folder(Path::new("not/yet")), Path::new("."));
}

#[test]
fn server_without_room_to_write_is_not_ready() {
    assert_eq!(check_writable_disk(MIN_WRITABLE_BYTES - 1).status, HealthStatus::Fail);
    assert_eq!(check_writable_disk(MIN_WRITABLE_BYTES).status, HealthStatus::Pass);
}

#[test]
fn low_disk_warns_and_critical_disk_fails() {
    let judge = |bytes| check_free_disk(bytes).status;
    assert_eq!(judge(LOW_DISK_BYTES), HealthStatus::Pass);
    assert_eq!(judge(LOW_DISK_BYTES - 1), HealthStatus::Warn);
    assert_eq!(judge(CRITICAL_DISK_BYTES), HealthStatus::Warn);
    assert_eq!(judge(CRITICAL_DISK_BYTES - 1), HealthStatus::Fail);
}
