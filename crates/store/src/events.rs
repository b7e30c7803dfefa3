//! Events: records of what a change did. Consumers handle them.

use std::ops::Deref;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, UserId};
use serde::de::DeserializeOwned;

use crate::Error;

/// Event to be emitted by a command.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Kind of the event, in the past tense, such as `bond.created`.
    pub kind: &'static str,
    /// Id of the subject, which the command must have locked. Events with the same subject keep their order.
    pub subject: Uuid,
    /// Users whose event logs receive the event.
    pub recipients: Vec<UserId>,
    /// Payload, a JSON object.
    pub payload: serde_json::Value,
}

/// Event as stored in the outbox, before it has a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Event id. It is the same in all deliveries of the event.
    pub id: Uuid,
    /// Time of the change.
    pub at: Timestamp,
    /// Kind of the event, in the past tense, such as `bond.created`.
    pub kind: String,
    /// Id of the subject.
    pub subject: String,
    /// Users whose event logs receive the event.
    pub recipients: Vec<UserId>,
    /// Payload, a JSON text.
    pub payload: String,
    /// Id of the request that made the change.
    pub request_id: String,
}

impl Event {
    /// Returns the subject as the UUID with which the event was emitted.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the subject is not a UUID.
    pub fn subject_id(&self) -> Result<Uuid, Error> {
        Uuid::parse_str(&self.subject).map_err(Error::fault)
    }

    /// Deserializes the payload into `T`.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the payload does not match `T`.
    pub fn read_payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // An error message of serde_json contains values of the payload, which operators must not see.
        serde_json::from_str(&self.payload).map_err(|error| {
            Error::fault(format_args!(
                "the payload of {} does not fit (column {})",
                self.kind,
                error.column()
            ))
        })
    }
}

impl Deref for SequencedEvent {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.event
    }
}

/// Event with its position in the global order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencedEvent {
    /// Position: 1, 2, 3, … without gaps.
    pub position: i64,
    /// The event.
    pub event: Event,
}

impl Event {
    pub(crate) fn new(ctx: &Ctx, new: NewEvent) -> Self {
        Self {
            id: ctx.new_id(|id| id),
            at: ctx.now,
            kind: new.kind.to_owned(),
            subject: new.subject.to_string(),
            recipients: new.recipients,
            payload: new.payload.to_string(),
            request_id: ctx.request_id.to_string(),
        }
    }

    /// Returns the recipients in the format of the outbox column: ids separated by spaces.
    pub(crate) fn recipients_text(&self) -> String {
        self.recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
