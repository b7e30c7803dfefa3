//! `/demo/checks`: judges a readiness row on this server, so that a visitor can see a check fail and then
//! pass again.

use std::sync::atomic::AtomicBool;

use axum::extract::{Path, State};
use kith_kernel::{Problem, SystemClock, problems};
use kith_platform::{ApiResult, App, Json, Routes};
use kith_readiness::{Artefacts, Catalogue, Declared, Deployment, Gate, Plan, Target, verify};
use serde_json::Value;
use utoipa_axum::routes;

/// Rows that can be judged here. Their checks are fast and need no administrator.
const ROWS: [&str; 3] = ["SEC-03", "PRT-01", "API-11"];

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(judge_row))
}

/// Judge a readiness row
#[utoipa::path(
    post, path = "/demo/checks/{row}",
    params(("row" = String, Path, description = "ID of the row: `SEC-03`, `PRT-01` or `API-11`.")),
    responses((status = 200, description = "Result of the row's check, with its evidence.", body = Value))
)]
async fn judge_row(State(app): State<App>, Path(row): Path<String>) -> ApiResult<Json<Value>> {
    let not_found = |detail: &'static str| Problem::new(&problems::NOT_FOUND, detail);
    let addr = app.addr.get().ok_or_else(|| not_found("This server does not listen on an address."))?;
    if !ROWS.contains(&&*row) {
        return Err(
            not_found("The demo checks SEC-03, PRT-01 and API-11; `kith verify` checks all rows.").into()
        );
    }
    let target = Target { url: format!("http://{addr}"), ..Target::default() };
    let deployment = Deployment::new(target).map_err(|error| {
        tracing::error!(%error, "cannot create a client for this server");
        Problem::new(&problems::INTERNAL, "The server could not create a client for itself.")
    })?;
    let report = verify(&plan(row), deployment, &SystemClock, &|_| {}, &AtomicBool::new(false)).await;
    Ok(Json(serde_json::to_value(report.rows.first()).unwrap_or_default()))
}

/// Returns a plan that judges one row, as `kith verify --only` does. The field `live` of the response
/// contains the result of the check.
fn plan(row: String) -> Plan {
    Plan {
        catalogue: Catalogue::built_in(),
        checks: kith_verify::checks(),
        artefacts: Artefacts::default(),
        declared: Declared::default(),
        only: vec![row],
        gate: Gate::Beta,
    }
}
