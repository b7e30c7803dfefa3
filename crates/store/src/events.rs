//! Events: what every change says has happened, for those who follow.

use std::ops::Deref;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, UserId};
use serde::de::DeserializeOwned;

use crate::Error;

/// What a command says has happened.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// In the past tense: `bond.created`.
    pub kind: &'static str,
    /// The thing whose events stay in order among themselves: an id that the command holds locked.
    pub subject: Uuid,
    /// Whose own logs it goes into.
    pub recipients: Vec<UserId>,
    /// What happened; a JSON object.
    pub payload: serde_json::Value,
}

/// An event as the outbox keeps it, before it has a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of this event; the same wherever it goes.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// In the past tense: `bond.created`.
    pub kind: String,
    /// The thing it is about.
    pub subject: String,
    /// Whose own logs it goes into.
    pub recipients: Vec<UserId>,
    /// JSON.
    pub payload: String,
    /// Under which request.
    pub request_id: String,
}

impl Event {
    /// The subject as the id that the emitting module gave.
    ///
    /// # Errors
    /// [`Error::Fault`] if it is none.
    pub fn subject_id(&self) -> Result<Uuid, Error> {
        Uuid::parse_str(&self.subject).map_err(Error::fault)
    }

    /// The payload as a value of `T`.
    ///
    /// # Errors
    /// [`Error::Fault`] if it does not have the fields of `T`.
    pub fn read_payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // Without the message, which quotes values: operators see it.
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

/// An event in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencedEvent {
    /// 1, 2, 3, … without gaps.
    pub position: i64,
    /// What happened.
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

    /// The recipients as the outbox column keeps them: ids separated by spaces.
    pub(crate) fn recipients_text(&self) -> String {
        self.recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
