//! Callback endpoints, as stored and as the API returns them. A secret is returned only when it is created.

use kith_kernel::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::rules::CircuitBreaker;
use super::EndpointId;

/// Reason why an endpoint is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Disabled by an administrator.
    Administrator,
    /// The endpoint responded with 410.
    Gone,
    /// All attempts for five days failed.
    Failing,
}

impl DisabledReason {
    const ALL: [Self; 3] = [Self::Administrator, Self::Gone, Self::Failing];

    /// Returns the name used in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    /// Parses a name that [`DisabledReason::as_str`] returns.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// State of an endpoint's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// No requests are sent for a while, because requests have failed.
    Open,
    /// The next request is a probe. If it succeeds, the breaker closes; if it fails, the breaker opens
    /// again.
    HalfOpen,
}

/// Endpoint as stored.
#[derive(Clone, Debug)]
pub struct StoredEndpoint {
    /// Endpoint ID.
    pub id: EndpointId,
    /// URL without query.
    pub url: String,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Encrypted signing secret.
    pub secret: Vec<u8>,
    /// Encrypted previous secret, and the time until which callbacks are also signed with it.
    pub previous: Option<(Vec<u8>, Timestamp)>,
    /// Time at which the endpoint was disabled, and the reason; `None` if it is enabled.
    pub disabled: Option<(Timestamp, DisabledReason)>,
    /// Circuit breaker.
    pub breaker: CircuitBreaker,
    /// Time of the first failure since the last success; `None` if there was no failure since.
    pub failing_since: Option<Timestamp>,
    /// Time of the last success.
    pub last_success_at: Option<Timestamp>,
    /// Time of the last failure.
    pub last_failure_at: Option<Timestamp>,
    /// Number of successful attempts.
    pub succeeded: i64,
    /// Number of failed attempts.
    pub failed: i64,
}

impl StoredEndpoint {
    /// Returns the endpoint as the API shows it at `now`.
    pub fn to_response(&self, now: Timestamp) -> CallbackEndpoint {
        let (breaker, next_request_at) = self.breaker.state(now);
        CallbackEndpoint {
            id: self.id,
            url: self.url.clone(),
            created_at: self.created_at,
            disabled_at: self.disabled.map(|(at, _)| at),
            disabled_reason: self.disabled.map(|(_, reason)| reason),
            breaker,
            next_request_at,
            failures_in_a_row: self.breaker.failures,
            failing_since: self.failing_since,
            last_success_at: self.last_success_at,
            last_failure_at: self.last_failure_at,
            attempts_succeeded: self.succeeded,
            attempts_failed: self.failed,
            previous_secret_until: self
                .previous
                .as_ref()
                .map(|(_, until)| *until)
                .filter(|until| now < *until),
        }
    }
}

/// Callback endpoint with its delivery state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallbackEndpoint {
    /// Endpoint ID.
    pub id: EndpointId,
    /// URL without query.
    pub url: String,
    /// Time at which the endpoint was created.
    pub created_at: Timestamp,
    /// Time at which the endpoint was disabled; `null` if it is enabled.
    #[schema(required = true)]
    pub disabled_at: Option<Timestamp>,
    /// Reason why the endpoint is disabled; `null` if it is enabled.
    #[schema(required = true)]
    pub disabled_reason: Option<DisabledReason>,
    /// State of the circuit breaker. It opens after five failures in a row.
    pub breaker: BreakerState,
    /// Earliest time of the next request, which is a probe; `null` if the breaker is closed.
    #[schema(required = true)]
    pub next_request_at: Option<Timestamp>,
    /// Number of failures since the last success.
    pub failures_in_a_row: i64,
    /// Time of the first failure since the last success; `null` if the last attempt succeeded or there was
    /// none. After five days of failures, the endpoint is disabled.
    #[schema(required = true)]
    pub failing_since: Option<Timestamp>,
    #[schema(required = true)]
    pub last_success_at: Option<Timestamp>,
    #[schema(required = true)]
    pub last_failure_at: Option<Timestamp>,
    /// Number of successful attempts.
    pub attempts_succeeded: i64,
    /// Number of failed attempts.
    pub attempts_failed: i64,
    /// Time until which callbacks are also signed with the previous secret; `null` if there is no previous
    /// secret.
    #[schema(required = true)]
    pub previous_secret_until: Option<Timestamp>,
}

/// Callback endpoint with its signing secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointWithSecret {
    /// Endpoint.
    #[serde(flatten)]
    pub endpoint: CallbackEndpoint,
    /// Signing secret, `whsec_…`, with which the receiver verifies signatures (Standard Webhooks 1.0). It is
    /// returned once. Later responses contain `null`.
    #[schema(required = true, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<String>,
}
