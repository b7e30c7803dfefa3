//! HTTP endpoints that read and change the log level of this node.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{FieldError, Problem};
use kith_store::Error;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::auth::{Allowed, WriteLogs};
use crate::idempotency::{IDEMPOTENCY_REPLAYED, WriteResponse};
use crate::telemetry::log::parse_level;
use crate::{ApiResult, App, Json, Routes, store_problem};

/// Maximum length of a log level in bytes.
const MAX_LEVEL_BYTES: usize = 200;

pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(get_log_level, set_log_level))
}

/// Minimum level of the events that a node logs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogLevelBody {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, optionally with levels per target, separated by
    /// commas: `warn,kith_store=debug`. At most 200 bytes.
    #[schema(example = "info")]
    level: String,
}

/// Get the log level
///
/// Returns the log level of the node that handles the request. Requires the permission `logs.write`.
#[utoipa::path(
    get, path = "/api/v1/admin/log-level", security(("bearer" = ["logs.write"])),
    responses((status = 200, body = LogLevelBody))
)]
async fn get_log_level(State(app): State<App>, _: Allowed<WriteLogs>) -> Json<LogLevelBody> {
    Json(LogLevelBody { level: app.log_level.get() })
}

/// Set the log level
///
/// Changes the log level of the node that handles the request, until the node stops. Other nodes keep their
/// level. The audit log records the change. If a request is repeated with the same `Idempotency-Key`, the
/// level does not change again. Requires the permission `logs.write`.
#[utoipa::path(
    put, path = "/api/v1/admin/log-level", security(("bearer" = ["logs.write"])),
    request_body = LogLevelBody,
    responses((status = 200, body = LogLevelBody))
)]
async fn set_log_level(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteLogs>,
    Json(body): Json<LogLevelBody>,
) -> ApiResult<Response> {
    if body.level.len() > MAX_LEVEL_BYTES || parse_level(&body.level).is_err() {
        let why = "Enter a level such as `info`, optionally per target: `warn,kith_store=debug`.";
        return Err(Problem::invalid(vec![FieldError::new("/level", "invalid", why)]).into());
    }
    let level = body.level.clone();
    let change = app.change(&caller, move |tx, ctx| {
        tx.audit(ctx, "log_level.changed", &body.level);
        Ok::<_, AuditFailure>(WriteResponse::ok(body.clone()))
    });
    let response = change.await?;
    // A replayed response belongs to an earlier change, which must not be applied again.
    if !response.headers().contains_key(IDEMPOTENCY_REPLAYED) {
        // This cannot fail, because the level was parsed above.
        let _ = app.log_level.set(&level);
    }
    Ok(response)
}

/// Error that the change could not be recorded in the audit log.
struct AuditFailure(Error);

impl From<Error> for AuditFailure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<AuditFailure> for Problem {
    fn from(AuditFailure(error): AuditFailure) -> Self {
        store_problem(error)
    }
}
