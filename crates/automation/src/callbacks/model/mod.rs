//! What endpoints, callbacks and attempts are made of. Nothing here reaches a database or a network.

mod endpoint;
mod message;

use kith_kernel::{FieldError, Timestamp, id_type};
use kith_platform::outbound::Target;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

pub use endpoint::{BreakerState, DisabledBecause, Endpoint, EndpointWithSecret, KeptEndpoint};
pub use message::Message;

id_type! {
    /// A request that is sent to somebody else's server until it arrives or is given up.
    CallbackId
    /// Who receives: an address without its query.
    EndpointId
    /// What is sent again and again.
    RecurringId
}

/// How a callback stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallbackState {
    /// It waits for its time.
    Scheduled,
    /// It was sent and has not arrived; it is sent again.
    Retrying,
    /// It was answered with 2xx.
    Delivered,
    /// It was given up; `reason` says why.
    Failed,
    /// It was taken back.
    Cancelled,
}

impl CallbackState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Scheduled, Self::Retrying, Self::Delivered, Self::Failed, Self::Cancelled];

    /// As the database and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`CallbackState::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether it is still to be sent.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Scheduled | Self::Retrying)
    }
}

/// Why a callback was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was tried as often as it may be.
    GivenUp,
    /// The receiver answered 410.
    Gone,
    /// Its endpoint is disabled.
    EndpointDisabled,
    /// Its address is refused now, by a changed configuration.
    TargetRefused,
    /// What was sealed cannot be opened with the secrets of this configuration.
    SealedOtherwise,
}

impl Reason {
    const ALL: [Self; 5] =
        [Self::GivenUp, Self::Gone, Self::EndpointDisabled, Self::TargetRefused, Self::SealedOtherwise];

    /// As the database and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GivenUp => "given_up",
            Self::Gone => "gone",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::TargetRefused => "target_refused",
            Self::SealedOtherwise => "sealed_otherwise",
        }
    }

    /// Reads what [`Reason::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Where a callback is to go.
#[derive(Clone, Debug)]
pub enum To {
    /// To this address. Its endpoint is made if there is none.
    Target(Target),
    /// To an endpoint.
    Endpoint(EndpointId),
}

/// A callback that somebody asks for, checked.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where to.
    pub to: To,
    /// What is sent.
    pub message: Message,
    /// When; at once if absent.
    pub at: Option<Timestamp>,
}

/// A callback.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Callback {
    /// Also its `webhook-id`, with `msg_` before it.
    pub id: CallbackId,
    pub endpoint_id: EndpointId,
    pub url: String,
    /// `POST`.
    pub method: String,
    pub state: CallbackState,
    /// Why it was given up.
    #[schema(required = true)]
    pub reason: Option<Reason>,
    /// When it was to be sent first.
    pub due_at: Timestamp,
    /// When it is sent next.
    #[schema(required = true)]
    pub next_attempt_at: Option<Timestamp>,
    /// How often it was sent.
    pub attempts_made: i64,
    /// The status of the last answer.
    #[schema(required = true)]
    pub last_status: Option<i64>,
    pub created_at: Timestamp,
    /// When it was delivered, given up or taken back.
    #[schema(required = true)]
    pub finished_at: Option<Timestamp>,
    /// Which recurring callback it is one of.
    #[schema(required = true)]
    pub recurring_id: Option<RecurringId>,
    /// The job that delivers it.
    pub job_id: i64,
}

/// A callback as it is kept.
#[derive(Clone, Debug)]
pub struct KeptCallback {
    /// As it is told.
    pub shown: Callback,
    /// Sealed.
    pub headers: Option<Vec<u8>>,
    /// What is sent.
    pub body: Option<String>,
    /// How long the receiver may take.
    pub timeout_ms: Option<i64>,
    /// Attempts since the ladder began.
    pub ladder: i64,
}

/// A callback with what it sends and how that went.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallbackDetails {
    #[serde(flatten)]
    pub callback: Callback,
    /// The names of its own headers; what they say is sealed.
    pub header_names: Vec<String>,
    /// The body as it is sent.
    #[schema(required = true)]
    pub body: Option<String>,
    #[schema(required = true)]
    pub timeout_ms: Option<i64>,
    /// The last attempts, the newest first; at most 50.
    pub attempts: Vec<Attempt>,
}

/// A callback that was just made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewCallback {
    #[serde(flatten)]
    pub callback: Callback,
    /// If its endpoint was made with it: the secret of that endpoint, told this once.
    #[schema(required = true, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<String>,
}

/// One sending, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Attempt {
    /// From 1.
    pub number: i64,
    pub at: Timestamp,
    pub took_ms: i64,
    /// Of the answer; null if there was none.
    #[schema(required = true)]
    pub status: Option<i64>,
    /// Why there was none: `target_refused`, `name_not_found`, `connect_timeout`, `timeout`, `connection_failed`,
    /// `certificate_not_trusted`, `tls_failed`, `no_authorities`, `not_http`.
    #[schema(required = true)]
    pub error: Option<String>,
    /// Of the answer.
    #[schema(required = true)]
    pub response: Option<Captured>,
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Captured {
    /// `name: value`, in the answer's order.
    pub headers: Vec<String>,
    /// As text; what is no UTF-8 is replaced.
    pub body: String,
    /// Whether that is all of the body (`outbound.response_bytes`).
    pub is_whole: bool,
}

/// Why a command about callbacks was refused. Nothing was changed.
#[derive(Debug, Error)]
pub enum CallbackError {
    /// Nothing has this id.
    #[error("there is no such callback")]
    CallbackNotFound,
    /// Nothing has this id.
    #[error("there is no such endpoint")]
    EndpointNotFound,
    /// Nothing is sent to it.
    #[error("the endpoint is disabled")]
    EndpointDisabled,
    /// It is delivered, given up or taken back.
    #[error("the callback is {}", .0.as_str())]
    Finished(CallbackState),
    /// It is delivered, or still to be sent.
    #[error("the callback is {}", .0.as_str())]
    NotFailed(CallbackState),
    /// The job engine has as many schedules as it may have.
    #[error("there are too many schedules")]
    TooManySchedules,
    /// The input has faults.
    #[error("the input is not valid")]
    Invalid(Vec<FieldError>),
    /// The database's own.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}
