//! State of the model, and the responses that each user must get in this state.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_kernel::{Timestamp, days};
use serde_json::{Value, json};

/// Display name of deleted accounts in histories.
const DELETED_NAME: &str = "Deleted account";

/// Complete state of the model.
pub struct Model {
    pub now: Timestamp,
    pub users: Vec<ModelUser>,
    pub requests: Vec<Request>,
    pub bonds: Vec<Bond>,
    pub invites: Vec<Invite>,
    /// Refusal counters by sender, receiver, and whether the request was by address.
    pub refusal_counters: BTreeMap<(usize, usize, bool), RefusalCounter>,
    /// Unknown codes that were tried: user and time.
    pub failed_codes: Vec<(usize, Timestamp)>,
}

#[derive(Default)]
pub struct ModelUser {
    pub id: String,
    pub name: String,
    pub accepts_requests_from: RequestPolicy,
    pub discoverable_by_email: bool,
    /// True if the address is verified.
    pub is_verified: bool,
    pub deleted_at: Option<Timestamp>,
    pub purged: bool,
    /// Blocked users, with their name at the time (if known) and the time.
    pub blocks: BTreeMap<usize, (Option<String>, Timestamp)>,
    pub nicknames: BTreeMap<usize, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestPolicy {
    #[default]
    Anyone,
    Invited,
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Accepted,
    Rejected,
    Cancelled,
    Expired,
    Superseded,
}

#[derive(Clone, Debug)]
pub struct Request {
    /// Request id. Empty until the server has assigned one.
    pub id: String,
    pub from: usize,
    /// Receiver. `None` if no user has the address.
    pub to: Option<usize>,
    pub from_name: String,
    pub to_name: String,
    /// Address, if the request is by e-mail.
    pub address: Option<String>,
    pub message: Option<String>,
    pub created_at: Timestamp,
    /// True if the receiver can see it.
    pub is_visible_to_receiver: bool,
    /// True if the receiver has been able to see it at any time.
    pub was_visible_to_receiver: bool,
    /// True once its expiry has been counted as a refusal.
    pub expiry_counted: bool,
    pub status: Status,
    /// Status that the sender sees.
    pub sender_visible_status: Status,
    pub bond: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Bond {
    pub id: String,
    pub pair: [usize; 2],
    pub since: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub archived_at: Option<Timestamp>,
    pub restored_at: Option<Timestamp>,
    pub restorations: u32,
    /// Names of the two users at the end of the bond.
    pub names: [String; 2],
    pub breakups: Vec<Breakup>,
}

#[derive(Clone, Debug)]
pub struct Breakup {
    pub ended_at: Timestamp,
    pub restored_at: Option<Timestamp>,
    pub by: usize,
    pub reason: Option<&'static str>,
}

pub struct Invite {
    pub code: String,
    pub id: String,
    pub inviter: usize,
    pub created_at: Timestamp,
    pub spent: bool,
    /// Request that used the invite.
    pub used_by: Option<usize>,
}

/// Number of times that one receiver has refused requests of one sender, and the resulting cooldown.
#[derive(Clone, Copy, Default)]
pub struct RefusalCounter {
    pub steps: usize,
    /// Time of the last counted refusal.
    pub last_step_at: Option<Timestamp>,
    /// End of the cooldown after the last rejection.
    pub wait_until: Option<Timestamp>,
}

impl RefusalCounter {
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        self.last_step_at.is_some_and(|at| now >= at + days(365))
    }
}

impl Request {
    pub fn expires_at(&self) -> Timestamp {
        self.created_at + days(14)
    }

    /// Returns the status that `viewer` sees.
    pub fn status_for(&self, viewer: usize, now: Timestamp) -> Status {
        let kept = if viewer == self.from { self.sender_visible_status } else { self.status };
        if kept == Status::Pending && now >= self.expires_at() { Status::Expired } else { kept }
    }

    /// Returns true if the receiver can still accept or reject the request.
    pub fn is_pending_for_receiver(&self, now: Timestamp) -> bool {
        self.is_visible_to_receiver && self.status == Status::Pending && now < self.expires_at()
    }

    /// Returns true if the sender sees the request as pending.
    pub fn appears_pending(&self, now: Timestamp) -> bool {
        self.sender_visible_status == Status::Pending && now < self.expires_at()
    }

    pub fn is_seen_by(&self, viewer: usize) -> bool {
        viewer == self.from || (self.is_visible_to_receiver && self.to == Some(viewer))
    }
}

impl Bond {
    pub fn is_active(&self) -> bool {
        self.ended_at.is_none()
    }

    pub fn can_return_at(&self, now: Timestamp) -> bool {
        self.archived_at.is_none() && self.restorable_until().is_some_and(|until| now <= until)
    }

    fn restorable_until(&self) -> Option<Timestamp> {
        self.ended_at.map(|at| at + Duration::from_secs(30 * 24 * 3_600))
    }

    pub fn partner_of(&self, viewer: usize) -> usize {
        if self.pair[0] == viewer { self.pair[1] } else { self.pair[0] }
    }
}

impl Model {
    pub fn bond_of(&self, user: usize) -> Option<usize> {
        self.bonds.iter().position(|bond| bond.is_active() && bond.pair.contains(&user))
    }

    /// Returns the bond of a pair that ended last.
    pub fn last_ended_bond(&self, pair: [usize; 2]) -> Option<usize> {
        let of_pair = |bond: &&Bond| bond.pair == pair && !bond.is_active();
        let last = self.bonds.iter().filter(of_pair).max_by_key(|bond| bond.ended_at)?;
        self.bonds.iter().position(|bond| std::ptr::eq(bond, last))
    }

    pub fn is_blocked(&self, one: usize, other: usize) -> bool {
        self.users[one].blocks.contains_key(&other) || self.users[other].blocks.contains_key(&one)
    }

    /// Returns true if `other` is not deleted and neither user has blocked the other.
    pub fn is_reachable(&self, one: usize, other: usize) -> bool {
        self.users[other].deleted_at.is_none() && !self.is_blocked(one, other)
    }

    /// Returns the request as `viewer` sees it.
    pub fn request(&self, at: usize, viewer: usize) -> Value {
        let request = &self.requests[at];
        let status = request.status_for(viewer, self.now);
        let hidden = request.address.is_some() && viewer == request.from && status != Status::Accepted;
        let to = match (&request.address, request.to) {
            (Some(address), _) if hidden => json!({ "email": address }),
            (_, Some(to)) => json!({ "id": self.users[to].id, "display_name": request.to_name }),
            (_, None) => Value::Null,
        };
        let former = request.to.and_then(|to| self.last_ended_bond(pair(request.from, to)));
        let former = former.map(|former| &self.bonds[former]).filter(|bond| bond.can_return_at(self.now));
        let restorable =
            former.filter(|_| !hidden && status == Status::Pending).and_then(Bond::restorable_until);
        json!({
            "id": request.id,
            "from": { "id": self.users[request.from].id, "display_name": request.from_name },
            "to": to,
            "status": status,
            "message": request.message,
            "created_at": request.created_at,
            "expires_at": request.expires_at(),
            "restorable_until": restorable,
        })
    }

    /// Returns the response that contains the request, with its bond if the bond is active.
    pub fn request_with_bond(&self, at: usize, viewer: usize) -> Value {
        let mut response = self.request(at, viewer);
        let bond = self.requests[at].bond.filter(|bond| self.bonds[*bond].is_active());
        if let Some(bond) = bond.filter(|_| response["status"] == json!(Status::Accepted)) {
            response["bond"] = self.active_bond(bond, viewer);
        }
        response
    }

    fn active_bond(&self, at: usize, viewer: usize) -> Value {
        let bond = &self.bonds[at];
        let partner = &self.users[bond.partner_of(viewer)];
        json!({
            "id": bond.id,
            "partner": { "id": partner.id, "display_name": partner.name },
            "since": bond.since,
            "restored_at": bond.restored_at,
            "restorations": bond.restorations,
        })
    }

    /// Returns a bond as an entry in the history of `viewer`.
    pub fn history_item(&self, at: usize, viewer: usize) -> Value {
        let bond = &self.bonds[at];
        let mut item = self.active_bond(at, viewer);
        if !bond.is_active() {
            item["partner"]["display_name"] = json!(bond.names[usize::from(bond.pair[0] == viewer)]);
        }
        item["ended_at"] = json!(bond.ended_at);
        item["restorable_until"] = json!(bond.restorable_until().filter(|_| bond.can_return_at(self.now)));
        item["archived_at"] = json!(bond.archived_at);
        let breakups = bond.breakups.iter().map(|breakup| {
            json!({
                "ended_at": breakup.ended_at,
                "restored_at": breakup.restored_at,
                "reason": breakup.reason.filter(|_| breakup.by == viewer && !self.users[viewer].purged),
            })
        });
        item["breakups"] = breakups.collect();
        item
    }

    pub fn current(&self, viewer: usize) -> Value {
        json!({ "bond": self.bond_of(viewer).map(|bond| self.active_bond(bond, viewer)) })
    }

    pub fn history(&self, viewer: usize) -> Value {
        let own = (0..self.bonds.len()).filter(|at| self.bonds[*at].pair.contains(&viewer));
        page(own.map(|at| self.history_item(at, viewer)))
    }

    pub fn list_requests(&self, viewer: usize) -> Value {
        let seen = (0..self.requests.len()).filter(|at| self.requests[*at].is_seen_by(viewer));
        page(seen.map(|at| self.request(at, viewer)))
    }

    pub fn list_invites(&self, viewer: usize) -> Value {
        let own =
            (0..self.invites.len()).filter(|at| self.invites[*at].inviter == viewer && self.is_live(*at));
        let mut list = page(own.map(|at| {
            let invite = &self.invites[at];
            json!({ "id": invite.id, "created_at": invite.created_at, "expires_at": invite.created_at + days(7) })
        }));
        list.as_object_mut().expect("a page").remove("next_cursor");
        list
    }

    pub fn block_of(&self, viewer: usize, blocked: usize) -> Value {
        let (name, at) = &self.users[viewer].blocks[&blocked];
        json!({ "user_id": self.users[blocked].id, "display_name": name, "blocked_at": at })
    }

    /// Purges an account.
    pub fn purge(&mut self, user: usize) {
        let model_user = &mut self.users[user];
        model_user.purged = true;
        DELETED_NAME.clone_into(&mut model_user.name);
        model_user.blocks.clear();
        for other in &mut self.users {
            if let Some((name, _)) = other.blocks.get_mut(&user) {
                *name = None;
            }
            other.nicknames.remove(&user);
        }
        for request in &mut self.requests {
            if request.from == user {
                (request.message, request.from_name) = (None, DELETED_NAME.to_owned());
            }
            if request.to == Some(user) {
                DELETED_NAME.clone_into(&mut request.to_name);
                request
                    .address
                    .as_mut()
                    .filter(|_| request.was_visible_to_receiver)
                    .into_iter()
                    .for_each(String::clear);
            }
        }
        for bond in &mut self.bonds {
            for (place, name) in bond.pair.into_iter().zip(&mut bond.names) {
                if place == user {
                    DELETED_NAME.clone_into(name);
                }
            }
        }
        self.invites.retain(|invite| invite.inviter != user);
    }
}

impl serde::Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        })
    }
}

/// Returns a page sorted by id in descending order, because ids of one millisecond are unordered between two
/// nodes.
fn page(items: impl Iterator<Item = Value>) -> Value {
    let mut items: Vec<_> = items.collect();
    items.sort_by(|a, b| b["id"].as_str().cmp(&a["id"].as_str()));
    json!({ "items": items, "next_cursor": null })
}

/// Returns a pair in the order of registration, which is the order of ids.
pub fn pair(one: usize, other: usize) -> [usize; 2] {
    [one.min(other), one.max(other)]
}
