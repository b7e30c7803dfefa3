//! Who acts, when, and under which request: the context every command gets.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::{ApiKeyId, Clock, Ids, Random, Timestamp, UserId};

/// Who asks for something to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody we know.
    Anonymous,
    /// A signed-in person.
    User(UserId),
    /// Another program, by its key.
    ApiKey(ApiKeyId),
    /// Kith itself; the name says which part.
    System(&'static str),
}

impl Actor {
    /// The signed-in person, if it is one.
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

/// Names one request in the answer, the log, the audit entry and the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes an id from outside if it is sane: 8 to 64 letters, digits, `-`, `_` or `.`.
    pub fn accept(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        ((8..=64).contains(&text.len()) && text.bytes().all(legal)).then(|| Self(text.into()))
    }

    /// An id of our own.
    pub fn from_uuid(id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Arc::from(&*id.simple().encode_lower(&mut buffer)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where time, ids and randomness come from in this process.
#[derive(Clone)]
pub struct Sources {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn Ids>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

/// Built once per request or job and handed to every command.
#[derive(Clone)]
pub struct Ctx {
    /// The moment this happens at: a transaction's start, the same however often it is run again; elsewhere the
    /// request's arrival.
    pub now: Timestamp,
    /// Who asks.
    pub actor: Actor,
    /// Under which request.
    pub request_id: RequestId,
    sources: Sources,
}

impl Ctx {
    /// The context of a request that arrives now.
    pub fn new(sources: Sources, actor: Actor, request_id: RequestId) -> Self {
        Self { now: sources.clock.now(), actor, request_id, sources }
    }

    /// The same request at the present moment: between its arrival and what it does lies whatever it waited for.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { now: self.sources.clock.now(), ..self.clone() }
    }

    /// The present moment of the world outside, for what others compare with their own clocks: see [`Clock::real_now`].
    pub fn real_now(&self) -> Timestamp {
        self.sources.clock.real_now()
    }

    /// The same request, as far as somebody else does something in it.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self { actor, ..self.clone() }
    }

    /// A new id, as whichever id type is asked for: `ctx.new_id(BondId)`.
    pub fn new_id<T>(&self, wrap: impl FnOnce(Uuid) -> T) -> T {
        wrap(self.sources.ids.next(self.now))
    }

    /// Where random bytes come from.
    pub fn randomness(&self) -> &dyn Random {
        &*self.sources.random
    }

    /// Fresh random bytes.
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
    fn hostile_request_ids_are_refused() {
        for hostile in
            ["", "short", "has space in it", "line\nbreak1", "quote\"quote", &"x".repeat(65), "ümlaut-ümlaut"]
        {
            assert_eq!(RequestId::accept(hostile), None, "{hostile:?}");
        }
        assert_eq!(RequestId::accept("my-app_1.2").unwrap().as_str(), "my-app_1.2");
    }
}
