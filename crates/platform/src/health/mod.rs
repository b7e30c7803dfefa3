//! Endpoints for operators: liveness, readiness, health, metrics, the OpenAPI document and a ping.

mod checks;
mod report;
#[cfg(test)]
mod tests;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use kith_kernel::{Problem, problems};
use utoipa_axum::routes;

use self::checks::{
    audit_head, clock, database, disk, draining, memory, purges, uptime, writable_disk, writes,
};
use self::report::{HEALTH_JSON, HealthReport, NamedCheck, typed};
use crate::http::{RateClass, rate_limited};
use crate::module::Routes;
use crate::{ApiResult, App, ClientAddress};

pub(crate) use self::checks::nearest_existing_folder;

const METRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn routes() -> Routes {
    let for_monitoring = Routes::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(health))
        .routes(routes!(metrics));
    rate_limited(RateClass::EXEMPT, &[], for_monitoring).routes(routes!(openapi)).routes(routes!(ping))
}

/// Check liveness
///
/// Returns 200 while the process can respond to requests. Dependencies are not checked, because a restart
/// would not repair them. Use it as the liveness probe.
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
/// Returns an empty response with as little work as possible. Use it to measure the latency of the connection
/// and of request handling.
#[utoipa::path(get, path = "/api/v1/ping", responses((status = 204, description = "The server is running.")))]
async fn ping() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Check readiness
///
/// Returns 200 if the server should receive requests, and 503 otherwise. The server must not be shutting
/// down. The database must respond within two seconds and have the schema of this build. Writes must not be
/// stuck for ten seconds. The machine's clock must be within 500 ms of the database's clock. On SQLite, the
/// disk of the data folder must have at least 16 MiB free. Use it as the readiness probe.
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

/// Runs the checks of `/readyz`. `/api/health` includes them.
async fn readiness(app: &App) -> Vec<NamedCheck> {
    vec![draining(app), database(app).await, writes(app.db.write_stall()), clock(app), writable_disk(app)]
}

/// Get the health report
///
/// Returns the checks of `/readyz`, and further checks of the audit log, purges, memory, disk and uptime. The
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
/// Returns the OpenAPI 3.1 description of this API. It contains the operations of the modules that the server
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
