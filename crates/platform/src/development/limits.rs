//! `/dev/limits`: lifts the limits of a running node and puts them back, to see what a deployment without them looks like.

use std::sync::atomic::Ordering;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::{App, Json, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(get_limits, set_limits))
}

/// Whether this node goes without limits.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitsReport {
    /// Neither 429 limits nor tiers hold.
    lifted: bool,
}

/// Whether this node goes without limits. Development mode only.
#[utoipa::path(get, path = "/dev/limits", responses((status = 200, body = LimitsReport)))]
async fn get_limits(State(app): State<App>) -> Json<LimitsReport> {
    Json(LimitsReport { lifted: app.is_without_limits() })
}

/// Lift the limits of this node, or put them back, until it stops. Development mode only.
#[utoipa::path(
    put, path = "/dev/limits",
    request_body = LimitsReport,
    responses((status = 200, body = LimitsReport))
)]
async fn set_limits(State(app): State<App>, Json(body): Json<LimitsReport>) -> Json<LimitsReport> {
    tracing::warn!(lifted = body.lifted, "THE LIMITS WERE CHANGED by /dev/limits");
    app.without_limits.store(body.lifted, Ordering::Relaxed);
    Json(body)
}
