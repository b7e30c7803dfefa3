//! What bonds tell those whom they concern. Never a message's text: whoever shows one asks for it.

use kith_kernel::UserId;
use kith_store::NewEvent;
use serde_json::json;

use super::model::{BondId, Pair, PartnerRequest, PartnerRequestId};

const REQUEST_CREATED: &str = "partner_request.created";
const REQUEST_ACCEPTED: &str = "partner_request.accepted";
const REQUEST_EXPIRED: &str = "partner_request.expired";
const REQUEST_CANCELLED: &str = "partner_request.cancelled";
const REQUEST_CLOSED: &str = "partner_request.closed";
const BOND_CREATED: &str = "bond.created";
const BOND_ENDED: &str = "bond.ended";

/// All of them.
pub const KINDS: &[&str] = &[
    REQUEST_CREATED,
    REQUEST_ACCEPTED,
    REQUEST_EXPIRED,
    REQUEST_CANCELLED,
    REQUEST_CLOSED,
    BOND_CREATED,
    BOND_ENDED,
];

/// A request and its two, all that an event about it says.
#[derive(Clone, Copy, Debug)]
pub struct Parties {
    /// The request.
    pub request: PartnerRequestId,
    /// Who asked.
    pub from: UserId,
    /// Who was asked.
    pub to: UserId,
}

impl Parties {
    /// Those of `request`.
    pub fn of(request: &PartnerRequest) -> Self {
        Self { request: request.id, from: request.from.id, to: request.to.id }
    }
}

/// It waits for its receiver.
pub fn request_created(parties: Parties) -> NewEvent {
    about(REQUEST_CREATED, parties)
}

/// It became a bond.
pub fn request_accepted(parties: Parties) -> NewEvent {
    about(REQUEST_ACCEPTED, parties)
}

/// Nobody answered it in time.
pub fn request_expired(parties: Parties) -> NewEvent {
    about(REQUEST_EXPIRED, parties)
}

/// Its sender took it back.
pub fn request_cancelled(parties: Parties) -> NewEvent {
    about(REQUEST_CANCELLED, parties)
}

/// It is over, because one of the two has found a partner otherwise; that is not told.
pub fn request_closed(parties: Parties) -> NewEvent {
    about(REQUEST_CLOSED, parties)
}

/// Two people are partners.
pub fn bond_created(bond: BondId, pair: Pair) -> NewEvent {
    about_bond(BOND_CREATED, bond, pair.users())
}

/// Two people are no longer partners. Why is nobody's business.
pub fn bond_ended(bond: BondId, users: [UserId; 2]) -> NewEvent {
    about_bond(BOND_ENDED, bond, users)
}

fn about_bond(kind: &'static str, bond: BondId, users: [UserId; 2]) -> NewEvent {
    NewEvent {
        kind,
        subject: bond.0,
        recipients: users.into(),
        payload: json!({ "bond_id": bond, "users": users }),
    }
}

fn about(kind: &'static str, Parties { request, from, to }: Parties) -> NewEvent {
    NewEvent {
        kind,
        subject: request.0,
        recipients: vec![from, to],
        payload: json!({ "request_id": request, "from": from, "to": to }),
    }
}
