//! Types of callbacks, endpoints and attempts, without database or network access.

mod endpoint;
mod message;
mod recurring;

use kith_kernel::{FieldError, Timestamp, id_type};
use kith_platform::outbound::Target;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

pub use endpoint::{BreakerState, CallbackEndpoint, DisabledReason, EndpointWithSecret, StoredEndpoint};
pub use message::CallbackMessage;
pub use recurring::StoredRecurringCallback;

id_type! {
    /// Callback ID.
    CallbackId
    /// Endpoint ID.
    EndpointId
    /// Recurring callback ID.
    RecurringId
}

/// State of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallbackState {
    /// Waiting for the time of its first attempt.
    Scheduled,
    /// The last attempt failed; the request will be sent again.
    Retrying,
    /// The endpoint responded with 2xx.
    Delivered,
    /// Failed permanently; `reason` contains the reason.
    Failed,
    /// Cancelled by a caller.
    Cancelled,
}

impl CallbackState {
    /// All states.
    pub const ALL: [Self; 5] =
        [Self::Scheduled, Self::Retrying, Self::Delivered, Self::Failed, Self::Cancelled];

    /// Returns the name used in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses a name that [`CallbackState::as_str`] returns.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Returns `true` if the callback is scheduled or retrying: it has not ended.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Scheduled | Self::Retrying)
    }
}

/// Reason why a callback failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallbackFailureReason {
    /// All attempts failed.
    AttemptsExhausted,
    /// The endpoint responded with 410.
    Gone,
    /// The endpoint is disabled.
    EndpointDisabled,
    /// The current configuration does not allow the target URL.
    TargetRefused,
    /// The stored headers or the signing secret cannot be decrypted with the configured secrets.
    SecretUnavailable,
}

impl CallbackFailureReason {
    const ALL: [Self; 5] = [
        Self::AttemptsExhausted,
        Self::Gone,
        Self::EndpointDisabled,
        Self::TargetRefused,
        Self::SecretUnavailable,
    ];

    /// Returns the name used in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Gone => "gone",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::TargetRefused => "target_refused",
            Self::SecretUnavailable => "secret_unavailable",
        }
    }

    /// Parses a name that [`CallbackFailureReason::as_str`] returns.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Target of a callback.
#[derive(Clone, Debug)]
pub enum CallbackTarget {
    /// URL. Its endpoint is created if it does not exist.
    Target(Target),
    /// Existing endpoint.
    Endpoint(EndpointId),
}

/// Callback to create, after its fields were checked.
#[derive(Clone, Debug)]
pub struct CallbackDraft {
    /// Target.
    pub to: CallbackTarget,
    /// Request to send.
    pub message: CallbackMessage,
    /// Time at which the callback is sent; `None` to send it at once.
    pub at: Option<Timestamp>,
}

/// Callback with its delivery state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Callback {
    /// Callback ID. `webhook-id` is `msg_` followed by this ID without hyphens.
    pub id: CallbackId,
    /// ID of the endpoint.
    pub endpoint_id: EndpointId,
    /// Target URL, including its query.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// State of the callback.
    pub state: CallbackState,
    /// Reason of the failure; `null` unless the state is `failed`.
    #[schema(required = true)]
    pub reason: Option<CallbackFailureReason>,
    /// Time at which the first attempt is or was due.
    pub due_at: Timestamp,
    /// Time of the next attempt; `null` if there will be none.
    #[schema(required = true)]
    pub next_attempt_at: Option<Timestamp>,
    /// Number of attempts so far.
    pub attempts_made: i64,
    /// HTTP status of the last response; `null` if there was none.
    #[schema(required = true)]
    pub last_status: Option<i64>,
    /// Time at which the callback was created.
    pub created_at: Timestamp,
    /// Time at which the callback was delivered, failed or was cancelled; `null` if it has not ended.
    #[schema(required = true)]
    pub finished_at: Option<Timestamp>,
    /// ID of the recurring callback that created this callback; `null` if a caller created it.
    #[schema(required = true)]
    pub recurring_id: Option<RecurringId>,
    /// ID of the job that delivers the callback.
    pub job_id: i64,
}

/// Callback as stored.
#[derive(Clone, Debug)]
pub struct StoredCallback {
    /// Callback as the API returns it.
    pub callback: Callback,
    /// Encrypted additional headers; `None` if there are none.
    pub headers: Option<Vec<u8>>,
    /// Body; `None` if the request has no body.
    pub body: Option<String>,
    /// Maximum time in milliseconds to wait for the response.
    pub timeout_ms: Option<i64>,
    /// Number of attempts in the current series. A manual retry starts a new series.
    pub retry_attempts: i64,
}

/// Callback with the request that it sends and its attempts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallbackDetails {
    /// Callback.
    #[serde(flatten)]
    pub callback: Callback,
    /// Names of the additional headers. Their values are not returned.
    pub header_names: Vec<String>,
    /// Body as sent; `null` if there is none.
    #[schema(required = true)]
    pub body: Option<String>,
    /// Maximum time in milliseconds to wait for the response; `null` for the server's default.
    #[schema(required = true)]
    pub timeout_ms: Option<i64>,
    /// Last attempts, newest first, at most 50.
    pub attempts: Vec<CallbackAttempt>,
}

/// New callback.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewCallback {
    /// Callback.
    #[serde(flatten)]
    pub callback: Callback,
    /// Signing secret of the endpoint, if the endpoint was created with this callback; otherwise `null`. It
    /// is returned once.
    #[schema(required = true, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<String>,
}

/// Attempt to send a callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CallbackAttempt {
    /// Number of the attempt, from 1.
    pub number: i64,
    /// Time of the attempt.
    pub at: Timestamp,
    /// Duration in milliseconds; 0 if there was no response.
    pub took_ms: i64,
    /// HTTP status of the response; `null` if there was none.
    #[schema(required = true)]
    pub status: Option<i64>,
    /// Reason why there was no response: `target_refused`, `name_not_found`, `connect_timeout`, `timeout`,
    /// `connection_failed`, `certificate_not_trusted`, `tls_failed`, `no_authorities` or `not_http`; `null`
    /// if there was a response.
    #[schema(required = true)]
    pub error: Option<String>,
    /// Response of the endpoint; `null` if there was none.
    #[schema(required = true)]
    pub response: Option<CapturedResponse>,
}

/// Stored part of a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CapturedResponse {
    /// Headers as `name: value`, in the order of the response.
    pub headers: Vec<String>,
    /// Body as text. Invalid UTF-8 is replaced by U+FFFD.
    pub body: String,
    /// `true` if `body` contains the whole body. The server setting `outbound.max_response_bytes` limits its
    /// stored length.
    pub is_complete: bool,
}

/// Error of an operation on callbacks. If it is returned, nothing was changed.
#[derive(Debug, Error)]
pub enum CallbackError {
    /// The callback does not exist.
    #[error("callback not found")]
    CallbackNotFound,
    /// The endpoint does not exist.
    #[error("endpoint not found")]
    EndpointNotFound,
    /// The endpoint is disabled.
    #[error("the endpoint is disabled")]
    EndpointDisabled,
    /// The callback is delivered or has failed, so it cannot be cancelled.
    #[error("the callback is {}", .0.as_str())]
    Finished(CallbackState),
    /// The callback is delivered or waits for its first attempt, so it cannot be retried.
    #[error("the callback is {}", .0.as_str())]
    NotRetryable(CallbackState),
    /// The job engine has the maximum number of schedules.
    #[error("the maximum number of schedules is reached")]
    TooManySchedules,
    /// The input is invalid.
    #[error("invalid input")]
    Invalid(Vec<FieldError>),
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}
