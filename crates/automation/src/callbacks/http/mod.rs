//! HTTP endpoints for callbacks, callback endpoints and recurring callbacks. The rules for sending are in
//! `rules.rs`.

mod callbacks;
mod endpoints;
mod recurring;

use kith_kernel::{FieldError, Problem, ProblemCode, problems};
use kith_platform::outbound::{Target, TargetError};
use kith_platform::{App, Routes, store_problem};

use super::model::CallbackError;

static ENDPOINT_DISABLED: ProblemCode =
    ProblemCode { code: "endpoint_disabled", status: 409, title: "Endpoint disabled" };
static CALLBACK_FINISHED: ProblemCode =
    ProblemCode { code: "callback_finished", status: 409, title: "Callback finished" };
static CALLBACK_NOT_RETRYABLE: ProblemCode =
    ProblemCode { code: "callback_not_retryable", status: 409, title: "Callback not retryable" };
static TOO_MANY_SCHEDULES: ProblemCode =
    ProblemCode { code: "too_many_schedules", status: 409, title: "Too many schedules" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] =
    &[&ENDPOINT_DISABLED, &CALLBACK_FINISHED, &CALLBACK_NOT_RETRYABLE, &TOO_MANY_SCHEDULES];

/// Returns the routes of callbacks.
pub fn routes() -> Routes {
    endpoints::routes().merge(recurring::routes()).merge(callbacks::routes())
}

/// Parses a target URL. `pointer` is the JSON Pointer of its field, for the error.
fn target(app: &App, pointer: String, url: &str) -> Result<Target, FieldError> {
    let fault = |error: TargetError| {
        FieldError::new(pointer, error.code(), format!("This URL is not allowed: {error}."))
    };
    app.outbound.target(url).map_err(fault)
}

impl From<CallbackError> for Problem {
    fn from(error: CallbackError) -> Self {
        match error {
            CallbackError::CallbackNotFound => {
                Self::new(&problems::NOT_FOUND, "No callback or recurring callback has this ID.")
            }
            CallbackError::EndpointNotFound => Self::new(&problems::NOT_FOUND, "No endpoint has this ID."),
            CallbackError::EndpointDisabled => Self::new(
                &ENDPOINT_DISABLED,
                "This endpoint is disabled. Enable it with POST /api/v1/callback-endpoints/{id}/enable.",
            ),
            CallbackError::Finished(state) => {
                Self::new(&CALLBACK_FINISHED, format!("The callback is already {}.", state.as_str()))
            }
            CallbackError::NotRetryable(state) => Self::new(
                &CALLBACK_NOT_RETRYABLE,
                format!("The callback is {}, so it cannot be retried.", state.as_str()),
            ),
            CallbackError::TooManySchedules => Self::new(
                &TOO_MANY_SCHEDULES,
                "The server has the maximum number of schedules. Delete one first; list them with GET /api/v1/schedules.",
            ),
            CallbackError::Invalid(faults) => Self::invalid(faults),
            CallbackError::Store(error) => store_problem(error),
        }
    }
}
