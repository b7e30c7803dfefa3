//! Events of requests, bonds and invites. Their payloads never contain the text of a message.

use kith_kernel::UserId;
use kith_store::NewEvent;
use serde_json::json;

use super::model::{BondId, Pair, RequestParties};

const REQUEST_CREATED: &str = "partner_request.created";
const REQUEST_ACCEPTED: &str = "partner_request.accepted";
const REQUEST_REJECTED: &str = "partner_request.rejected";
const REQUEST_CANCELLED: &str = "partner_request.cancelled";
const REQUEST_EXPIRED: &str = "partner_request.expired";
const REQUEST_CLOSED: &str = "partner_request.closed";
const REQUEST_REPORTED: &str = "partner_request.reported";
const BOND_CREATED: &str = "bond.created";
const BOND_RESTORED: &str = "bond.restored";
const BOND_ENDED: &str = "bond.ended";
const BOND_ARCHIVED: &str = "bond.archived";
const INVITE_CREATED: &str = "invite.created";
const INVITE_SPENT: &str = "invite.spent";
const INVITE_REVOKED: &str = "invite.revoked";
const SETTINGS_CHANGED: &str = "partner_settings.changed";

/// Kinds of events that this module emits.
pub const KINDS: &[&str] = &[
    REQUEST_CREATED,
    REQUEST_ACCEPTED,
    REQUEST_REJECTED,
    REQUEST_CANCELLED,
    REQUEST_EXPIRED,
    REQUEST_CLOSED,
    REQUEST_REPORTED,
    BOND_CREATED,
    BOND_RESTORED,
    BOND_ENDED,
    BOND_ARCHIVED,
    INVITE_CREATED,
    INVITE_SPENT,
    INVITE_REVOKED,
    SETTINGS_CHANGED,
];

impl RequestParties {
    /// Returns the sender, and the recipient if they can see the request.
    fn participants(self) -> Vec<UserId> {
        std::iter::once(self.from).chain(self.to).collect()
    }

    /// Returns the users who are notified of a decision: the recipient, and the sender unless they sent the
    /// request by e-mail address.
    fn decision_recipients(self) -> Vec<UserId> {
        if self.is_by_email { self.to.into_iter().collect() } else { self.participants() }
    }
}

/// A request was sent. If it is silent, the event goes to the sender only.
pub fn request_created(parties: RequestParties, silent: bool) -> NewEvent {
    request_event(REQUEST_CREATED, parties, if silent { vec![parties.from] } else { parties.participants() })
}

/// A request was accepted.
pub fn request_accepted(parties: RequestParties) -> NewEvent {
    request_event(REQUEST_ACCEPTED, parties, parties.participants())
}

/// A request was rejected.
pub fn request_rejected(parties: RequestParties) -> NewEvent {
    request_event(REQUEST_REJECTED, parties, parties.decision_recipients())
}

/// A request was cancelled by its sender.
pub fn request_cancelled(parties: RequestParties) -> NewEvent {
    request_event(REQUEST_CANCELLED, parties, parties.participants())
}

/// A request was cancelled as a consequence of another action of its sender, such as a block.
pub fn request_withdrawn(parties: RequestParties) -> NewEvent {
    request_event(REQUEST_CANCELLED, parties, parties.decision_recipients())
}

/// A request expired.
pub fn request_expired(parties: RequestParties) -> NewEvent {
    request_event(REQUEST_EXPIRED, parties, parties.participants())
}

/// A request was superseded because its sender or its recipient formed another bond. The event does not
/// contain the reason. `own` is `true` if the sender formed the bond.
pub fn request_closed(parties: RequestParties, own: bool) -> NewEvent {
    request_event(
        REQUEST_CLOSED,
        parties,
        if own { parties.participants() } else { parties.decision_recipients() },
    )
}

/// The message of a request was reported. Only the reporter receives the event.
pub fn request_reported(parties: RequestParties, reporter: UserId) -> NewEvent {
    request_event(REQUEST_REPORTED, parties, vec![reporter])
}

/// A bond was formed.
pub fn bond_created(bond: BondId, pair: Pair) -> NewEvent {
    bond_event(BOND_CREATED, bond, pair.users())
}

/// A bond was restored.
pub fn bond_restored(bond: BondId, pair: Pair) -> NewEvent {
    bond_event(BOND_RESTORED, bond, pair.users())
}

/// A bond ended. The event contains neither who ended it nor the reason.
pub fn bond_ended(bond: BondId, users: [UserId; 2]) -> NewEvent {
    bond_event(BOND_ENDED, bond, users)
}

/// A bond was archived.
pub fn bond_archived(bond: BondId, users: [UserId; 2]) -> NewEvent {
    bond_event(BOND_ARCHIVED, bond, users)
}

/// An invite was created.
pub fn invite_created(inviter: UserId) -> NewEvent {
    user_event(INVITE_CREATED, inviter)
}

/// An invite was redeemed.
pub fn invite_spent(inviter: UserId) -> NewEvent {
    user_event(INVITE_SPENT, inviter)
}

/// An invite was revoked.
pub fn invite_revoked(inviter: UserId) -> NewEvent {
    user_event(INVITE_REVOKED, inviter)
}

/// The partner settings of a user were changed.
pub fn settings_changed(user: UserId) -> NewEvent {
    user_event(SETTINGS_CHANGED, user)
}

fn user_event(kind: &'static str, user: UserId) -> NewEvent {
    NewEvent { kind, subject: user.0, recipients: vec![user], payload: json!({ "user_id": user }) }
}

fn bond_event(kind: &'static str, bond: BondId, users: [UserId; 2]) -> NewEvent {
    NewEvent {
        kind,
        subject: bond.0,
        recipients: users.into(),
        payload: json!({ "bond_id": bond, "users": users }),
    }
}

/// Builds an event about a request. The payload names the recipient only if the sender may know their ID.
fn request_event(kind: &'static str, parties: RequestParties, recipients: Vec<UserId>) -> NewEvent {
    let RequestParties { request, from, to, is_by_email } = parties;
    let to = to.filter(|_| !is_by_email || kind == REQUEST_ACCEPTED);
    NewEvent {
        kind,
        subject: request.0,
        recipients,
        payload: json!({ "request_id": request, "from": from, "to": to }),
    }
}
