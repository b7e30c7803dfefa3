//! `/dev/limits`: disables and enables the rate limits of a running node, to show how a deployment behaves
//! without them.

use std::sync::atomic::Ordering;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::{App, Json, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(get_limits, set_limits))
}

/// State of the rate limits of this node.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitsReport {
    /// True if rate limits (429) and request tiers are disabled.
    disabled: bool,
}

/// Get the state of the limits
///
/// Returns whether rate limits are disabled on the node that handles the request. Available in development
/// mode only.
#[utoipa::path(get, path = "/dev/limits", responses((status = 200, body = LimitsReport)))]
async fn get_limits(State(app): State<App>) -> Json<LimitsReport> {
    Json(LimitsReport { disabled: app.are_limits_disabled() })
}

/// Disable or enable the limits
///
/// Disables or enables the rate limits and request tiers of the node that handles the request, until it
/// stops. Available in development mode only.
#[utoipa::path(
    put, path = "/dev/limits",
    request_body = LimitsReport,
    responses((status = 200, body = LimitsReport))
)]
async fn set_limits(State(app): State<App>, Json(body): Json<LimitsReport>) -> Json<LimitsReport> {
    tracing::warn!(disabled = body.disabled, "limits were changed by /dev/limits");
    app.limits_disabled.store(body.disabled, Ordering::Relaxed);
    Json(body)
}
