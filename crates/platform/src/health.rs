//! What the platform itself answers: whether it lives, is ready and is well, its metrics, its document, and a ping.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use kith_store::MigrationState;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::App;
use crate::module::Routes;
use crate::telemetry::{disk_free, resident_bytes};

const HEALTH_JSON: &str = "application/health+json";
const METRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The database has this long to answer before it counts as away.
const DATABASE_PATIENCE: Duration = Duration::from_secs(2);
/// Less free disk than this is a warning, and a tenth of it a failure.
const LITTLE_DISK_BYTES: u64 = 1024 * 1024 * 1024;
const LITTLE_DISK_TENTH: u64 = LITTLE_DISK_BYTES / 10;

pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
        .routes(routes!(ping))
}

/// Whether the process answers at all. Says nothing about what it depends on: restarting would not mend that.
#[utoipa::path(
    get,
    path = "/livez",
    responses((status = 200, description = "It lives", body = Report, content_type = HEALTH_JSON))
)]
async fn live(State(app): State<App>) -> Report {
    Report::of(vec![uptime(&app)])
}

/// The cheapest request through everything that surrounds the others.
#[utoipa::path(get, path = "/api/v1/ping", responses((status = 204, description = "Nothing, quickly")))]
async fn ping() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether requests should be sent here.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "Send them", body = Report, content_type = HEALTH_JSON),
        (status = 503, description = "Send them elsewhere", body = Report, content_type = HEALTH_JSON),
    )
)]
async fn ready(State(app): State<App>) -> Report {
    Report::of(vec![draining(&app), database(&app).await, clock(&app)])
}

/// How the server and what it depends on are.
#[utoipa::path(
    get,
    path = "/api/health",
    responses(
        (status = 200, description = "Well, or well enough", body = Report, content_type = HEALTH_JSON),
        (status = 503, description = "Not well", body = Report, content_type = HEALTH_JSON),
    )
)]
async fn health(State(app): State<App>) -> Report {
    Report::of(vec![draining(&app), database(&app).await, clock(&app), memory(), disk(&app), uptime(&app)])
}

/// Metrics in Prometheus' text form.
#[utoipa::path(
    get,
    path = "/api/metrics",
    responses((status = 200, description = "All metrics", body = String, content_type = METRICS_TEXT))
)]
async fn metrics(State(app): State<App>) -> Response {
    typed(METRICS_TEXT, app.metrics.to_text())
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = Value, content_type = "application/json"))
)]
async fn openapi(State(app): State<App>) -> Response {
    typed("application/json", app.openapi.clone())
}

fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Well.
    Pass,
    /// Well enough to serve, but someone should look.
    Warn,
    /// Not well enough to serve.
    Fail,
}

/// Health in the form of draft-inadarei-api-health-check.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The worst of the checks.
    status: Status,
    /// Of this build.
    release_id: &'static str,
    /// By component and measurement.
    checks: BTreeMap<&'static str, [Check; 1]>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// How well it is.
    status: Status,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    observed_value: Option<Value>,
    /// In which unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_unit: Option<&'static str>,
    /// For people, where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'static str>,
}

type Named = (&'static str, Check);

impl Report {
    fn of(checks: Vec<Named>) -> Self {
        let status = checks.iter().map(|(_, check)| check.status).max().unwrap_or(Status::Pass);
        let checks = checks.into_iter().map(|(name, check)| (name, [check])).collect();
        Self { status, release_id: env!("CARGO_PKG_VERSION"), checks }
    }
}

impl IntoResponse for Report {
    fn into_response(self) -> Response {
        let json = serde_json::to_vec(&self).expect("a report is plain data");
        let mut response = typed(HEALTH_JSON, json);
        if self.status == Status::Fail {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

impl Check {
    fn pass() -> Self {
        Self { status: Status::Pass, observed_value: None, observed_unit: None, output: None }
    }

    fn measured(value: impl Into<Value>, unit: &'static str) -> Self {
        Self { observed_value: Some(value.into()), observed_unit: Some(unit), ..Self::pass() }
    }

    fn but(self, status: Status, output: &'static str) -> Self {
        Self { status, output: Some(output), ..self }
    }
}

fn draining(app: &App) -> Named {
    let check = if app.stop.is_draining() {
        Check::pass().but(Status::Fail, "The server is stopping.")
    } else {
        Check::pass()
    };
    ("server:draining", check)
}

/// Whether the database answers, and whether it has every table this build needs.
#[expect(clippy::disallowed_methods, reason = "measures how long the database takes")]
async fn database(app: &App) -> Named {
    let asked = Instant::now();
    let migrations = tokio::time::timeout(DATABASE_PATIENCE, app.migrations()).await;
    let took = Check::measured(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX), "us");
    let check = match migrations {
        Ok(Ok(all)) if all.iter().all(|one| one.state != MigrationState::Pending) => took,
        Ok(Ok(_)) => took.but(Status::Fail, "The schema is older than this build."),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database does not answer the health check");
            took.but(Status::Fail, "The database does not answer.")
        }
        Err(_) => took.but(Status::Fail, "The database does not answer in time."),
    };
    ("database:responseTime", check)
}

fn clock(app: &App) -> Named {
    let check = app.clock.as_deref().map_or_else(Check::pass, |clock| {
        let skew = Check::measured(clock.skew_ms(), "ms");
        if clock.is_tolerable() { skew } else { skew.but(Status::Fail, "This machine's clock is off.") }
    });
    ("clock:skew", check)
}

fn memory() -> Named {
    ("memory:resident", resident_bytes().map_or_else(Check::pass, |bytes| Check::measured(bytes, "bytes")))
}

fn disk(app: &App) -> Named {
    let check = disk_free(&app.config.data.folder).map_or_else(Check::pass, |(free, _)| judge_disk(free));
    ("disk:free", check)
}

fn judge_disk(free_bytes: u64) -> Check {
    let free = Check::measured(free_bytes, "bytes");
    match free_bytes {
        0..LITTLE_DISK_TENTH => free.but(Status::Fail, "The disk is all but full."),
        LITTLE_DISK_TENTH..LITTLE_DISK_BYTES => free.but(Status::Warn, "There is little disk left."),
        _ => free,
    }
}

fn uptime(app: &App) -> Named {
    ("server:uptime", Check::measured(app.sources.clock.now().since(app.started).as_secs(), "s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_bad_as_its_worst_check() {
        let check = |status| ("x", Check::pass().but(status, "…"));
        for (statuses, worst, answer) in [
            (vec![Status::Pass, Status::Pass], Status::Pass, 200),
            (vec![Status::Warn, Status::Pass], Status::Warn, 200),
            (vec![Status::Pass, Status::Fail, Status::Warn], Status::Fail, 503),
        ] {
            let report = Report::of(statuses.into_iter().map(check).collect());
            assert_eq!(report.status, worst);
            assert_eq!(report.into_response().status(), answer);
        }
    }

    #[test]
    fn a_full_disk_warns_before_it_fails() {
        let judge = |bytes| judge_disk(bytes).status;
        assert_eq!(judge(LITTLE_DISK_BYTES), Status::Pass);
        assert_eq!(judge(LITTLE_DISK_BYTES - 1), Status::Warn);
        assert_eq!(judge(LITTLE_DISK_TENTH), Status::Warn);
        assert_eq!(judge(LITTLE_DISK_TENTH - 1), Status::Fail);
    }
}
