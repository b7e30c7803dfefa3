//! Execution context of a command: the actor, the current time, the request id, and the sources of time, ids
//! and randomness.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::{ApiKeyId, Clock, Ids, Random, Timestamp, UserId};

/// Principal on whose behalf a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Unauthenticated caller.
    Anonymous,
    /// Authenticated user.
    User(UserId),
    /// Program that authenticated with an API key.
    ApiKey(ApiKeyId),
    /// Component of Kith itself, by name.
    System(&'static str),
}

impl Actor {
    /// Returns the user id if the actor is a user.
    pub const fn user_id(&self) -> Option<UserId> {
        match self {
            Self::User(id) => Some(*id),
            Self::Anonymous | Self::ApiKey(_) | Self::System(_) => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::System(part) => write!(f, "system:{part}"),
        }
    }
}

/// Identifier of one request. It appears in the response, the log, the audit entry and the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Accepts an id supplied by the client if it has 8 to 64 characters, all of them ASCII letters, digits,
    /// `-`, `_` or `.`. Returns `None` otherwise.
    pub fn accept(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        ((8..=64).contains(&text.len()) && text.bytes().all(legal)).then(|| Self(text.into()))
    }

    /// Builds an id from a UUID: 32 lower-case hexadecimal digits without hyphens.
    pub fn from_uuid(id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Arc::from(&*id.simple().encode_lower(&mut buffer)))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sources of time, ids and randomness of this process.
#[derive(Clone)]
pub struct Sources {
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Id generator.
    pub ids: Arc<dyn Ids>,
    /// Random generator.
    pub random: Arc<dyn Random>,
}

/// Execution context, built once per request or job and passed to every command.
#[derive(Clone)]
pub struct Ctx {
    /// Time at which the command runs. Inside a transaction this is the transaction's start, and it stays the
    /// same when the transaction is retried. Elsewhere it is the arrival of the request.
    pub now: Timestamp,
    /// Principal that makes the request.
    pub actor: Actor,
    /// Request that the command belongs to.
    pub request_id: RequestId,
    sources: Sources,
}

impl Ctx {
    /// Creates the context of a request that arrives now.
    pub fn new(sources: Sources, actor: Actor, request_id: RequestId) -> Self {
        Self { now: sources.clock.now(), actor, request_id, sources }
    }

    /// Returns a copy with `now` set to the current time, for a request that has waited since its arrival.
    #[must_use]
    pub fn refreshed(&self) -> Self {
        Self { now: self.sources.clock.now(), ..self.clone() }
    }

    /// Returns the current real time, for values that other systems compare with their own clocks. See
    /// [`Clock::real_now`].
    pub fn real_now(&self) -> Timestamp {
        self.sources.clock.real_now()
    }

    /// Returns a copy of this context with another actor.
    #[must_use]
    pub fn with_actor(&self, actor: Actor) -> Self {
        Self { actor, ..self.clone() }
    }

    /// Creates a new id and wraps it in the given id type: `ctx.new_id(BondId)`.
    pub fn new_id<T>(&self, wrap: impl FnOnce(Uuid) -> T) -> T {
        wrap(self.sources.ids.next(self.now))
    }

    /// Returns the random generator.
    pub fn randomness(&self) -> &dyn Random {
        &*self.sources.random
    }

    /// Returns `N` random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.sources.random.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_request_ids_are_rejected() {
        for hostile in
            ["", "short", "has space in it", "line\nbreak1", "quote\"quote", &"x".repeat(65), "ümlaut-ümlaut"]
        {
            assert_eq!(RequestId::accept(hostile), None, "{hostile:?}");
        }
        assert_eq!(RequestId::accept("my-app_1.2").unwrap().as_str(), "my-app_1.2");
    }
}
