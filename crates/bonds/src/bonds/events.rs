//! What bonds tell those whom they concern. Never a message's text: whoever shows one asks for it.

use kith_kernel::UserId;
use kith_store::NewEvent;
use serde_json::json;

use super::model::{BondId, Pair, Parties};

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

/// All of them.
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

impl Parties {
    /// Both, as far as the receiver can see the request.
    fn both(self) -> Vec<UserId> {
        std::iter::once(self.from).chain(self.to).collect()
    }

    /// Those who learn how it was decided: not whoever asked by address.
    fn told(self) -> Vec<UserId> {
        if self.by_email { self.to.into_iter().collect() } else { self.both() }
    }
}

/// It waits for its receiver, who hears of it unless it is silent.
pub fn request_created(parties: Parties, silent: bool) -> NewEvent {
    about(REQUEST_CREATED, parties, if silent { vec![parties.from] } else { parties.both() })
}

/// It became a bond.
pub fn request_accepted(parties: Parties) -> NewEvent {
    about(REQUEST_ACCEPTED, parties, parties.both())
}

/// The receiver said no.
pub fn request_rejected(parties: Parties) -> NewEvent {
    about(REQUEST_REJECTED, parties, parties.told())
}

/// Its sender took it back.
pub fn request_cancelled(parties: Parties) -> NewEvent {
    about(REQUEST_CANCELLED, parties, parties.both())
}

/// It was cancelled because of what its sender did otherwise.
pub fn request_withdrawn(parties: Parties) -> NewEvent {
    about(REQUEST_CANCELLED, parties, parties.told())
}

/// Nobody answered it in time.
pub fn request_expired(parties: Parties) -> NewEvent {
    about(REQUEST_EXPIRED, parties, parties.both())
}

/// It is over, because one of the two has found a partner otherwise; that is not told. `own` is whether it was its sender.
pub fn request_closed(parties: Parties, own: bool) -> NewEvent {
    about(REQUEST_CLOSED, parties, if own { parties.both() } else { parties.told() })
}

/// Somebody finds its message worth a moderator's look. Its sender does not hear of it.
pub fn request_reported(parties: Parties, reporter: UserId) -> NewEvent {
    about(REQUEST_REPORTED, parties, vec![reporter])
}

/// Two people are partners.
pub fn bond_created(bond: BondId, pair: Pair) -> NewEvent {
    about_bond(BOND_CREATED, bond, pair.users())
}

/// Two people are partners again.
pub fn bond_restored(bond: BondId, pair: Pair) -> NewEvent {
    about_bond(BOND_RESTORED, bond, pair.users())
}

/// Two people are no longer partners. Why, and who wanted it, is nobody's business.
pub fn bond_ended(bond: BondId, users: [UserId; 2]) -> NewEvent {
    about_bond(BOND_ENDED, bond, users)
}

/// A bond that ended cannot come back any more.
pub fn bond_archived(bond: BondId, users: [UserId; 2]) -> NewEvent {
    about_bond(BOND_ARCHIVED, bond, users)
}

/// Somebody has an invite to hand out.
pub fn invite_created(inviter: UserId) -> NewEvent {
    about_own(INVITE_CREATED, inviter)
}

/// One of somebody's invites was used.
pub fn invite_spent(inviter: UserId) -> NewEvent {
    about_own(INVITE_SPENT, inviter)
}

/// Somebody took an invite back.
pub fn invite_revoked(inviter: UserId) -> NewEvent {
    about_own(INVITE_REVOKED, inviter)
}

/// Somebody wants to be approached in another way.
pub fn settings_changed(user: UserId) -> NewEvent {
    about_own(SETTINGS_CHANGED, user)
}

fn about_own(kind: &'static str, user: UserId) -> NewEvent {
    NewEvent { kind, subject: user.0, recipients: vec![user], payload: json!({ "user_id": user }) }
}

fn about_bond(kind: &'static str, bond: BondId, users: [UserId; 2]) -> NewEvent {
    NewEvent {
        kind,
        subject: bond.0,
        recipients: users.into(),
        payload: json!({ "bond_id": bond, "users": users }),
    }
}

/// The payload names nobody whom the sender does not know.
fn about(kind: &'static str, parties: Parties, recipients: Vec<UserId>) -> NewEvent {
    let Parties { request, from, to, by_email } = parties;
    let to = to.filter(|_| !by_email || kind == REQUEST_ACCEPTED);
    NewEvent {
        kind,
        subject: request.0,
        recipients,
        payload: json!({ "request_id": request, "from": from, "to": to }),
    }
}
