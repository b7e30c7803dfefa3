//! Endpoints: as they are kept, and as they are told. A secret is told where it is made and nowhere else.

use kith_kernel::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::rules::Breaker;
use super::EndpointId;

/// Why nothing is sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledBecause {
    /// An administrator said so.
    Administrator,
    /// It answered 410.
    Gone,
    /// It failed for five days without a success.
    Failing,
}

impl DisabledBecause {
    const ALL: [Self; 3] = [Self::Administrator, Self::Gone, Self::Failing];

    /// As the database and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    /// Reads what [`DisabledBecause::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|because| because.as_str() == text)
    }
}

/// How the breaker of an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// None is.
    Open,
    /// The next one finds out.
    HalfOpen,
}

/// An endpoint as it is kept.
#[derive(Clone, Debug)]
pub struct KeptEndpoint {
    /// Which.
    pub id: EndpointId,
    /// Its address, without a query.
    pub url: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Sealed.
    pub secret: Vec<u8>,
    /// Sealed; what it replaces, and until when that counts.
    pub previous: Option<(Vec<u8>, Timestamp)>,
    /// Since when nothing is sent to it, and why.
    pub disabled: Option<(Timestamp, DisabledBecause)>,
    /// Whether it is asked.
    pub breaker: Breaker,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// When an attempt last succeeded.
    pub last_success_at: Option<Timestamp>,
    /// When one last failed.
    pub last_failure_at: Option<Timestamp>,
    /// Attempts that succeeded.
    pub succeeded: i64,
    /// Attempts that failed.
    pub failed: i64,
}

impl KeptEndpoint {
    /// As it is told at `now`.
    pub fn shown(&self, now: Timestamp) -> Endpoint {
        let (breaker, next_request_at) = self.breaker.state(now);
        Endpoint {
            id: self.id,
            url: self.url.clone(),
            created_at: self.created_at,
            disabled_at: self.disabled.map(|(at, _)| at),
            disabled_because: self.disabled.map(|(_, because)| because),
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

/// Who receives callbacks, and how it fares.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Endpoint {
    pub id: EndpointId,
    /// Its address, without a query.
    pub url: String,
    pub created_at: Timestamp,
    /// Since when nothing is sent to it; null if something is.
    #[schema(required = true)]
    pub disabled_at: Option<Timestamp>,
    /// Why nothing is sent to it.
    #[schema(required = true)]
    pub disabled_because: Option<DisabledBecause>,
    /// `open`: it failed five times in a row and is left alone for a while.
    pub breaker: BreakerState,
    /// Unless the breaker is closed: when the next request may be sent, which finds out whether it is back.
    #[schema(required = true)]
    pub next_request_at: Option<Timestamp>,
    pub failures_in_a_row: i64,
    /// Since when every attempt has failed. After five days of that it is disabled.
    #[schema(required = true)]
    pub failing_since: Option<Timestamp>,
    #[schema(required = true)]
    pub last_success_at: Option<Timestamp>,
    #[schema(required = true)]
    pub last_failure_at: Option<Timestamp>,
    pub attempts_succeeded: i64,
    pub attempts_failed: i64,
    /// After a rotation: until when each callback is signed with the secret before, too.
    #[schema(required = true)]
    pub previous_secret_until: Option<Timestamp>,
}

/// An endpoint with the secret that its callbacks are signed with, which is told this once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointWithSecret {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// `whsec_…`, by which the receiver verifies signatures (Standard Webhooks 1.0). It is told this once; null if it was
    /// told before.
    #[schema(required = true, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<String>,
}
