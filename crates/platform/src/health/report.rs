//! Health reports in the format of draft-inadarei-api-health-check.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

pub(super) const HEALTH_JSON: &str = "application/health+json";

/// Status of a health check or of a whole report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// The check passed.
    Pass,
    /// The server can serve requests, but an operator should investigate.
    Warn,
    /// The server cannot serve requests correctly.
    Fail,
}

/// Health report in the format of draft-inadarei-api-health-check.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// Worst status of all checks.
    pub(super) status: HealthStatus,
    /// Version of the build.
    release_id: &'static str,
    /// Results, keyed by `component:measurement`, such as `database:responseTime`.
    checks: BTreeMap<&'static str, [HealthCheck; 1]>,
}

/// Result of one health check.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Status of the check.
    pub(super) status: HealthStatus,
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

/// Health check with its name in the report.
pub(super) type NamedCheck = (&'static str, HealthCheck);

impl HealthReport {
    pub(super) fn of(release_id: &'static str, checks: Vec<NamedCheck>) -> Self {
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
    pub(super) fn pass() -> Self {
        Self { status: HealthStatus::Pass, observed_value: None, observed_unit: None, output: None }
    }

    pub(super) fn measured(value: impl TryInto<i64>, unit: &'static str) -> Self {
        Self {
            observed_value: Some(value.try_into().unwrap_or(i64::MAX)),
            observed_unit: Some(unit),
            ..Self::pass()
        }
    }

    pub(super) fn with_status(self, status: HealthStatus, output: &'static str) -> Self {
        Self { status, output: Some(output), ..self }
    }
}

/// Returns a response with the media type `kind` and the given body.
pub(super) fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
