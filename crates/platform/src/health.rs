//! Operational endpoints: liveness, readiness, health, metrics, the OpenAPI document and a ping.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use kith_kernel::{Problem, problems};
use kith_store::{EngineKind, MigrationState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::audit::head::HeadOutcome;
use crate::http::{RateClass, rate_limited};
use crate::module::Routes;
use crate::purge::{self, PurgeOutcome};
use crate::telemetry::{disk_free, resident_bytes};
use crate::{ApiResult, App, ClientAddress};

const HEALTH_JSON: &str = "application/health+json";
const METRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Time after which the database counts as unreachable for a health check.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Write stall from which the server is not ready. Statements are cancelled before that, so a longer stall
/// does not end by itself.
const MAX_WRITE_STALL: Duration = Duration::from_secs(10);
/// Free disk space in bytes below which a server on SQLite is not ready, because its writes are about to
/// fail.
const MIN_WRITABLE_BYTES: u64 = 16 << 20;
/// Free disk space in bytes below which the health check warns. Below a tenth of this value it fails.
const LOW_DISK_BYTES: u64 = 1024 * 1024 * 1024;
const CRITICAL_DISK_BYTES: u64 = LOW_DISK_BYTES / 10;

pub(crate) fn routes() -> Routes {
    let for_monitoring = Routes::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(health))
        .routes(routes!(metrics));
    rate_limited(RateClass::Exempt, &[], for_monitoring).routes(routes!(openapi)).routes(routes!(ping))
}

/// Check liveness
///
/// Returns 200 while the process answers requests. Dependencies are not checked, because a restart would not
/// repair them. Use it as the liveness probe.
#[utoipa::path(
    get,
    path = "/livez",
    responses((
        status = 200, body = HealthReport, content_type = HEALTH_JSON,
        description = "The process is running."
    ))
)]
async fn live(State(app): State<App>) -> HealthReport {
    HealthReport::of(app.build, vec![uptime(&app)])
}

/// Ping the server
///
/// Returns an empty response at the lowest cost that a request can have. Use it to measure the latency of the
/// connection and of request handling.
#[utoipa::path(get, path = "/api/v1/ping", responses((status = 204, description = "The server is running.")))]
async fn ping() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Check readiness
///
/// Returns 200 if the server should receive requests, and 503 otherwise. It checks that the server is not
/// shutting down; that the database answers within two seconds and has the schema of this build; that writes
/// are not stuck for ten seconds; that the machine's clock is within 500 ms of the database's; and, on
/// SQLite, that the disk of the data folder has at least 16 MiB free. Use it as the readiness probe.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "The server is ready.", body = HealthReport, content_type = HEALTH_JSON),
        (status = 503, body = HealthReport, content_type = HEALTH_JSON,
            description = "The server is not ready."),
    )
)]
async fn ready(State(app): State<App>) -> HealthReport {
    HealthReport::of(app.build, readiness(&app).await)
}

/// Runs the checks that decide whether the server receives requests. `/api/health` includes them.
async fn readiness(app: &App) -> Vec<NamedCheck> {
    vec![draining(app), database(app).await, writes(app.db.write_stall()), clock(app), writable_disk(app)]
}

/// Get the health report
///
/// Returns the checks of `/readyz`, and those of the audit log, of purges, memory, disk and uptime. The
/// status code is 503 if a check failed, and 200 otherwise.
#[utoipa::path(
    get,
    path = "/api/health",
    responses(
        (status = 200, description = "No check failed.", body = HealthReport, content_type = HEALTH_JSON),
        (status = 503, body = HealthReport, content_type = HEALTH_JSON,
            description = "At least one check failed."),
    )
)]
async fn health(State(app): State<App>) -> HealthReport {
    let mut checks = readiness(&app).await;
    checks.extend([audit_head(&app), purges(&app).await, memory(), disk(&app), uptime(&app)]);
    HealthReport::of(app.build, checks)
}

/// Get metrics
///
/// Returns all metrics in the OpenMetrics text format, which Prometheus reads. Only clients whose address is
/// in `server.metrics_addresses` may call it.
#[utoipa::path(
    get,
    path = "/api/metrics",
    responses(
        (status = 200, body = String, content_type = METRICS_TEXT,
            description = "Metrics in the OpenMetrics text format."),
        (status = 403, description = "The client address is not permitted."),
    )
)]
async fn metrics(State(app): State<App>, client: ClientAddress) -> ApiResult<Response> {
    let listed = &app.config.server.metrics_addresses;
    if !listed.iter().any(|network| network.contains(client.ip())) {
        let detail = "Metrics are restricted to the addresses in `server.metrics_addresses`.";
        return Err(Problem::new(&problems::ADDRESS_NOT_LISTED, detail).into());
    }
    Ok(typed(METRICS_TEXT, app.metrics.to_text()))
}

/// Get the OpenAPI document
///
/// Returns the description of this API in OpenAPI 3.1. It lists the operations of the modules that the server
/// serves.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses((
        status = 200, body = serde_json::Value, content_type = "application/json",
        description = "OpenAPI 3.1 document."
    ))
)]
async fn openapi(State(app): State<App>) -> Response {
    app.openapi.answer()
}

fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Status of a health check or of a whole report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// The check passed.
    Pass,
    /// The server can serve requests, but an operator should look at the check.
    Warn,
    /// The server cannot serve requests correctly.
    Fail,
}

/// Health report in the format of draft-inadarei-api-health-check.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// Worst status of all checks.
    status: HealthStatus,
    /// Version of the build.
    release_id: &'static str,
    /// Results by `component:measurement`, such as `database:responseTime`.
    checks: BTreeMap<&'static str, [HealthCheck; 1]>,
}

/// Result of one health check.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Status of the check.
    status: HealthStatus,
    /// Measured value, in `observedUnit`. Absent if the check measures nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, required = false)]
    observed_value: Option<i64>,
    /// Unit of `observedValue`: `us`, `ms`, `s`, `bytes` or `items`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    observed_unit: Option<&'static str>,
    /// Explanation for operators. Absent if the check passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    output: Option<&'static str>,
}

type NamedCheck = (&'static str, HealthCheck);

impl HealthReport {
    fn of(release_id: &'static str, checks: Vec<NamedCheck>) -> Self {
        let status = checks.iter().map(|(_, check)| check.status).max().unwrap_or(HealthStatus::Pass);
        let checks = checks.into_iter().map(|(name, check)| (name, [check])).collect();
        Self { status, release_id, checks }
    }
}

impl IntoResponse for HealthReport {
    fn into_response(self) -> Response {
        let json = serde_json::to_vec(&self).expect("a report is plain data");
        let mut response = typed(HEALTH_JSON, json);
        if self.status == HealthStatus::Fail {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

impl HealthCheck {
    fn pass() -> Self {
        Self { status: HealthStatus::Pass, observed_value: None, observed_unit: None, output: None }
    }

    fn measured(value: impl TryInto<i64>, unit: &'static str) -> Self {
        Self {
            observed_value: Some(value.try_into().unwrap_or(i64::MAX)),
            observed_unit: Some(unit),
            ..Self::pass()
        }
    }

    fn with_status(self, status: HealthStatus, output: &'static str) -> Self {
        Self { status, output: Some(output), ..self }
    }
}

fn draining(app: &App) -> NamedCheck {
    let check = if app.stop.is_draining() {
        HealthCheck::pass().with_status(HealthStatus::Fail, "The server is shutting down.")
    } else {
        HealthCheck::pass()
    };
    ("server:draining", check)
}

/// Checks that the database answers within [`DATABASE_TIMEOUT`] and has every migration of this build.
#[expect(clippy::disallowed_methods, reason = "measures the response time of the database")]
async fn database(app: &App) -> NamedCheck {
    let started = Instant::now();
    let migrations = tokio::time::timeout(DATABASE_TIMEOUT, app.migrations()).await;
    let took = HealthCheck::measured(started.elapsed().as_micros(), "us");
    let check = match migrations {
        Ok(Ok(all)) if all.iter().all(|one| one.state != MigrationState::Pending) => took,
        Ok(Ok(_)) => took.with_status(
            HealthStatus::Fail,
            "The database schema is older than this build. Run `kith migrate up`.",
        ),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database failed the health check");
            took.with_status(HealthStatus::Fail, "The database does not respond.")
        }
        Err(_) => took.with_status(HealthStatus::Fail, "The database did not respond within 2 seconds."),
    };
    ("database:responseTime", check)
}

/// Checks that transactions begin and end.
fn writes(stall: Duration) -> NamedCheck {
    let check = HealthCheck::measured(stall.as_millis(), "ms");
    let stuck = "No transaction has started or ended for 10 seconds.";
    (
        "database:writeStall",
        if stall < MAX_WRITE_STALL { check } else { check.with_status(HealthStatus::Fail, stuck) },
    )
}

fn clock(app: &App) -> NamedCheck {
    let check = app.clock.as_deref().map_or_else(HealthCheck::pass, |clock| {
        let skew = HealthCheck::measured(clock.skew_ms(), "ms");
        if clock.is_tolerable() {
            skew
        } else {
            skew.with_status(
                HealthStatus::Fail,
                "The system clock deviates from the database's clock by more than 500 ms.",
            )
        }
    });
    ("clock:skew", check)
}

/// Compares the audit chain with the remembered head. Warns at most: taking the server out of service does
/// not repair the log.
fn audit_head(app: &App) -> NamedCheck {
    let warn = |output| HealthCheck::pass().with_status(HealthStatus::Warn, output);
    let check = match app.audit_head.outcome() {
        HeadOutcome::Unknown | HeadOutcome::Contained => HealthCheck::pass(),
        HeadOutcome::Missing(_) => {
            warn("The audit log was changed, truncated or restored. Run `kith audit verify`.")
        }
        HeadOutcome::Unreadable(_) => {
            warn("The head of the audit chain cannot be written to the data folder.")
        }
    };
    ("audit:head", check)
}

/// Checks for delayed purges. Warns at most, because a backlog of purges does not affect requests.
async fn purges(app: &App) -> NamedCheck {
    let delayed = tokio::time::timeout(DATABASE_TIMEOUT, app.db.read(purge::find_delayed)).await;
    let check = match delayed {
        Ok(Ok(Some(PurgeOutcome { backlog, fault }))) => {
            let output = match fault {
                Some(_) => "Some due items were not purged. `GET /api/v1/admin/facts` has the reason.",
                None => "More items are due than one run purges.",
            };
            HealthCheck::measured(backlog, "items").with_status(HealthStatus::Warn, output)
        }
        // An unreachable database is reported by `database:responseTime`.
        Ok(Ok(None) | Err(_)) | Err(_) => HealthCheck::pass(),
    };
    ("purges:backlog", check)
}

fn memory() -> NamedCheck {
    (
        "memory:resident",
        resident_bytes().map_or_else(HealthCheck::pass, |bytes| HealthCheck::measured(bytes, "bytes")),
    )
}

fn disk(app: &App) -> NamedCheck {
    let check = disk_free(nearest_existing_folder(&app.config.data.folder))
        .map_or_else(HealthCheck::pass, |(free, _)| check_free_disk(free));
    ("disk:free", check)
}

/// Returns `folder`, or its nearest ancestor that exists. On PostgreSQL, the data folder need not exist.
pub(crate) fn nearest_existing_folder(folder: &Path) -> &Path {
    folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

/// Checks that the disk of the data folder has room for writes. Applies to SQLite only.
fn writable_disk(app: &App) -> NamedCheck {
    let free = if app.db.kind() == EngineKind::Sqlite {
        disk_free(nearest_existing_folder(&app.config.data.folder))
    } else {
        None
    };
    ("disk:writable", free.map_or_else(HealthCheck::pass, |(free, _)| check_writable_disk(free)))
}

fn check_writable_disk(free_bytes: u64) -> HealthCheck {
    if free_bytes < MIN_WRITABLE_BYTES {
        return HealthCheck::pass().with_status(HealthStatus::Fail, "The disk of the data folder is full.");
    }
    HealthCheck::pass()
}

fn check_free_disk(free_bytes: u64) -> HealthCheck {
    let free = HealthCheck::measured(free_bytes, "bytes");
    match free_bytes {
        0..CRITICAL_DISK_BYTES => {
            free.with_status(HealthStatus::Fail, "Less than 0.1 GiB of disk space is free.")
        }
        CRITICAL_DISK_BYTES..LOW_DISK_BYTES => {
            free.with_status(HealthStatus::Warn, "Less than 1 GiB of disk space is free.")
        }
        _ => free,
    }
}

fn uptime(app: &App) -> NamedCheck {
    ("server:uptime", HealthCheck::measured(app.sources.clock.real_now().since(app.started).as_secs(), "s"))
}

#[cfg(test)]
mod tests {
    use kith_store::Tx;
    use serde_json::{Value, json};

    use super::*;
    use crate::MODULE;
    use crate::http::openapi;
    use crate::testing::TestServer;

    /// Returns the status and the body of a GET request to `path`.
    async fn ask(test: &TestServer, path: &str) -> (u16, Value) {
        let answer = test.ask(&format!("GET {path}"), "").await;
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
        assert_eq!(ask(&test, "/readyz").await.0, 200, "the check may still end");
        drop(go);
        stuck.await.unwrap().unwrap();
        assert!(test.app.db.write_stall() < Duration::from_secs(5));
        let statuses = [9_999, 10_000].map(|ms| writes(Duration::from_millis(ms)).1.status);
        assert_eq!(statuses, [HealthStatus::Pass, HealthStatus::Fail]);
    }

    #[tokio::test]
    async fn pending_migration_fails_readiness() {
        let test = TestServer::start(|_| {}).await;
        let forget = |tx: &Tx<'_>| {
            tx.exec("DELETE FROM schema_migrations WHERE module = 'platform' AND version = 1", &[])
        };
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
}
