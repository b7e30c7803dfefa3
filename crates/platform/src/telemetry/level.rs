//! What this node logs, looked at and changed over HTTP.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{FieldError, Problem};
use kith_store::Error;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::auth::{Allowed, WriteLogs};
use crate::idempotency::{Answer, IDEMPOTENCY_REPLAYED};
use crate::telemetry::log::parse_level;
use crate::{ApiResult, App, Json, Routes, store_problem};

/// Longer than any level that makes sense.
const LONGEST: usize = 200;

/// The handlers.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(get_log_level, set_log_level))
}

/// The least level of what a node logs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogLevelBody {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or by target: `warn,kith_store=debug`.
    #[schema(example = "info")]
    level: String,
}

/// What the node that answers logs.
#[utoipa::path(
    get, path = "/api/v1/admin/log-level", security(("bearer" = ["logs.write"])),
    responses((status = 200, body = LogLevelBody))
)]
async fn get_log_level(State(app): State<App>, _: Allowed<WriteLogs>) -> Json<LogLevelBody> {
    Json(LogLevelBody { level: app.log_level.get() })
}

/// Change what the node that answers logs, until it stops. Other nodes go on as they are.
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
    if body.level.len() > LONGEST || parse_level(&body.level).is_err() {
        let why = "A level such as `info`, or by target `warn,kith_store=debug`.";
        return Err(Problem::invalid(vec![FieldError::new("/level", "invalid", why)]).into());
    }
    let level = body.level.clone();
    let change = app.change(&caller, move |tx, ctx| {
        tx.audit(ctx, "log_level.changed", &body.level);
        Ok::<_, NotAudited>(Answer::ok(body.clone()))
    });
    let response = change.await?;
    // The same request sent again says what was, and changes nothing.
    if !response.headers().contains_key(IDEMPOTENCY_REPLAYED) {
        // It was read above.
        let _ = app.log_level.set(&level);
    }
    Ok(response)
}

/// Why the change could not be written down.
struct NotAudited(Error);

impl From<Error> for NotAudited {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<NotAudited> for Problem {
    fn from(NotAudited(error): NotAudited) -> Self {
        store_problem(error)
    }
}
