//! Requests and answers about callbacks. When something is sent is decided in `rules.rs`, never here.

mod callbacks;
mod endpoints;
mod recurring;

use kith_kernel::{FieldError, Problem, ProblemCode, problems};
use kith_platform::outbound::{Target, TargetError};
use kith_platform::{App, Routes, store_problem};

use super::model::CallbackError;

static ENDPOINT_DISABLED: ProblemCode =
    ProblemCode { code: "endpoint_disabled", status: 409, title: "Nothing is sent to this endpoint" };
static CALLBACK_FINISHED: ProblemCode =
    ProblemCode { code: "callback_finished", status: 409, title: "The callback has come to its end" };
static CALLBACK_NOT_FAILED: ProblemCode =
    ProblemCode { code: "callback_not_failed", status: 409, title: "The callback has not failed" };
static TOO_MANY_SCHEDULES: ProblemCode =
    ProblemCode { code: "too_many_schedules", status: 409, title: "There are too many schedules" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] =
    &[&ENDPOINT_DISABLED, &CALLBACK_FINISHED, &CALLBACK_NOT_FAILED, &TOO_MANY_SCHEDULES];

/// The handlers.
pub fn routes() -> Routes {
    endpoints::routes().merge(recurring::routes()).merge(callbacks::routes())
}

/// Reads the address that stands at `pointer`.
fn target(app: &App, pointer: String, url: &str) -> Result<Target, FieldError> {
    let fault = |error: TargetError| {
        FieldError::new(pointer, error.code(), format!("This address cannot be asked: {error}."))
    };
    app.outbound.target(url).map_err(fault)
}

impl From<CallbackError> for Problem {
    fn from(error: CallbackError) -> Self {
        match error {
            CallbackError::CallbackNotFound => Self::new(&problems::NOT_FOUND, "There is no such callback."),
            CallbackError::EndpointNotFound => Self::new(&problems::NOT_FOUND, "There is no such endpoint."),
            CallbackError::EndpointDisabled => {
                Self::new(&ENDPOINT_DISABLED, "Enable it first: POST /api/v1/callback-endpoints/{id}/enable.")
            }
            CallbackError::Finished(state) => {
                Self::new(&CALLBACK_FINISHED, format!("The callback is {}.", state.as_str()))
            }
            CallbackError::NotFailed(state) => {
                Self::new(&CALLBACK_NOT_FAILED, format!("The callback is {}.", state.as_str()))
            }
            CallbackError::TooManySchedules => {
                Self::new(&TOO_MANY_SCHEDULES, "Delete one that nobody needs: GET /api/v1/schedules.")
            }
            CallbackError::Invalid(faults) => Self::invalid(faults),
            CallbackError::Store(error) => store_problem(error),
        }
    }
}
