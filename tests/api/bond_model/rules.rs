//! Rules of partner requests and bonds, written from the product description: the effect of each step and the
//! expected response.

use kith_kernel::{Timestamp, days, hours, minutes, seconds};
use serde_json::{Value, json};

use super::model::{Bond, Invite, Model, RefusalCounter, Request, RequestPolicy, Status, pair};

/// Expected response.
#[derive(Debug)]
pub enum Expected {
    /// A rejection that changes nothing. Fields: HTTP status, problem code.
    Refusal(u16, &'static str),
    /// A request as the viewer sees it, with its bond if the bond is active. Fields: HTTP status, request,
    /// viewer.
    Request(u16, usize, usize),
    /// An ended bond as the viewer sees it. Fields: bond, viewer.
    Ended(usize, usize),
    /// A new invite.
    Invite(usize),
    /// Exactly this status and body.
    Body(u16, Value),
    /// This status with any body.
    Status(u16),
}

/// Way of addressing the receiver.
#[derive(Clone, Debug)]
pub enum Addressing {
    Id,
    /// By this e-mail address.
    Address(String),
    /// By this invite.
    Invite(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Accept,
    Reject,
    Cancel,
}

use Expected::Refusal;

pub const NOT_FOUND: Expected = Refusal(404, "not_found");
pub const INVALID: Expected = Refusal(422, "validation_failed");
pub const OCCUPIED: Expected = Refusal(409, "slot_occupied");
const LIMITED: Expected = Refusal(429, "rate_limited");

impl Model {
    pub fn send(
        &mut self,
        from: usize,
        to: Option<usize>,
        addressing: &Addressing,
        message: Option<&str>,
    ) -> Expected {
        let Some(to) = to else { return self.send_to_unknown_user(from, addressing, message) };
        match addressing {
            Addressing::Invite(invite) => self.redeem(from, *invite, message),
            _ if from == to => INVALID,
            Addressing::Id => self.send_by_id(from, to, message),
            Addressing::Address(address) => self.send_by_address(from, to, address, message),
        }
    }

    fn send_by_id(&mut self, from: usize, to: usize, message: Option<&str>) -> Expected {
        if let Some(response) = self.answer_bonded(from, message, |request| request.to == Some(to)) {
            return response;
        }
        if let Some(response) = self.cross_pending(from, to, message) {
            return response;
        }
        if !self.is_reachable(from, to) {
            return NOT_FOUND;
        }
        if self.users[to].accepts_requests_from != RequestPolicy::Anyone {
            return Refusal(403, "requests_not_accepted");
        }
        if let Some(code) = self.refused_by_counter(from, to, false) {
            return Refusal(409, code);
        }
        self.create_request(from, to, &Addressing::Id, message)
    }

    /// Sends a request by address. The response reveals only whether the sender has a partner, and whether
    /// the other user has already sent a request to the sender.
    fn send_by_address(&mut self, from: usize, to: usize, address: &str, message: Option<&str>) -> Expected {
        let is_same = |request: &Request| request.address.as_deref() == Some(address);
        if let Some(response) = self.answer_bonded(from, message, is_same) {
            return response;
        }
        if let Some(at) = self.find_visible(from, is_same) {
            return self.repeat(at, message);
        }
        if self.is_over_limit(from) {
            return LIMITED;
        }
        let addressing = Addressing::Address(address.to_owned());
        let found = self.users[to].discoverable_by_email && self.is_reachable(from, to);
        if found && self.find_pending(to, from).is_some() {
            return self.create_request(from, to, &addressing, message);
        }
        let refused = [false, true].iter().any(|by| self.refused_by_counter(from, to, *by).is_some());
        let open = self.users[to].accepts_requests_from == RequestPolicy::Anyone && !refused;
        if found && open && self.find_pending(from, to).is_none() {
            return self.create_request(from, to, &addressing, message);
        }
        let at = self.push(from, Some(to), &addressing, message);
        Expected::Request(201, at, from)
    }

    fn send_to_unknown_user(
        &mut self,
        from: usize,
        addressing: &Addressing,
        message: Option<&str>,
    ) -> Expected {
        let Addressing::Address(address) = addressing else {
            return self.answer_bonded(from, message, |_| false).unwrap_or(NOT_FOUND);
        };
        let is_same = |request: &Request| request.address.as_ref() == Some(address);
        if let Some(response) = self.answer_bonded(from, message, is_same) {
            return response;
        }
        if let Some(at) = self.find_visible(from, is_same) {
            return self.repeat(at, message);
        }
        if self.is_over_limit(from) {
            return LIMITED;
        }
        let at = self.push(from, None, addressing, message);
        Expected::Request(201, at, from)
    }

    fn redeem(&mut self, from: usize, invite: usize, message: Option<&str>) -> Expected {
        if let Some(at) = self.invites[invite].used_by.filter(|at| self.requests[*at].from == from) {
            let request = &self.requests[at];
            if request.is_pending_for_receiver(self.now) && request.message.as_deref() == message {
                return Expected::Request(200, at, from);
            }
        }
        if self.guesses_too_often(from) {
            return LIMITED;
        }
        if !self.is_usable(from, invite) {
            return self.count_failed_code(from);
        }
        let to = self.invites[invite].inviter;
        if from == to {
            return INVALID;
        }
        if self.bond_of(from).is_some() {
            return OCCUPIED;
        }
        if self.find_pending(to, from).is_none() {
            if let Some(at) = self.find_repeatable(from, to) {
                return self.repeat(at, message);
            }
            if self.users[to].accepts_requests_from == RequestPolicy::Nobody {
                return self.count_failed_code(from);
            }
        }
        let response = self.create_request(from, to, &Addressing::Invite(invite), message);
        self.invites[invite].spent = !matches!(response, Refusal(..));
        if let Expected::Request(_, at, _) = response {
            self.invites[invite].used_by = Some(at);
        }
        response
    }

    pub fn preview(&mut self, user: usize, invite: usize) -> Expected {
        if self.guesses_too_often(user) {
            return LIMITED;
        }
        if !self.is_usable(user, invite)
            || self.users[self.invites[invite].inviter].accepts_requests_from == RequestPolicy::Nobody
        {
            return self.count_failed_code(user);
        }
        let invite = &self.invites[invite];
        let name = &self.users[invite.inviter].name;
        Expected::Body(200, json!({ "display_name": name, "expires_at": invite.created_at + days(7) }))
    }

    pub fn invite(&mut self, user: usize) -> Expected {
        let live =
            (0..self.invites.len()).filter(|at| self.invites[*at].inviter == user && self.is_live(*at));
        if live.count() >= 5 {
            return Refusal(409, "too_many_invites");
        }
        self.invites.push(Invite {
            code: String::new(),
            id: String::new(),
            inviter: user,
            created_at: self.now,
            spent: false,
            used_by: None,
        });
        Expected::Invite(self.invites.len() - 1)
    }

    pub fn revoke(&mut self, user: usize, invite: usize) -> Expected {
        if self.invites[invite].inviter != user || !self.is_live(invite) {
            return NOT_FOUND;
        }
        self.invites[invite].spent = true;
        Expected::Status(204)
    }

    /// Tries an invite code that does not exist.
    pub fn try_unknown_code(&mut self, user: usize) -> Expected {
        if self.guesses_too_often(user) { LIMITED } else { self.count_failed_code(user) }
    }

    fn count_failed_code(&mut self, user: usize) -> Expected {
        self.failed_codes.push((user, self.now));
        NOT_FOUND
    }

    /// Returns true if ten unknown codes were tried in the last minute. The attempts of all users count
    /// together, because all users have the same client address in these tests.
    fn guesses_too_often(&self, _: usize) -> bool {
        self.failed_codes.iter().filter(|(_, at)| *at + minutes(1) > self.now).count() >= 10
    }

    pub fn is_live(&self, invite: usize) -> bool {
        let invite = &self.invites[invite];
        !invite.spent && self.now < invite.created_at + days(7)
    }

    fn is_usable(&self, user: usize, invite: usize) -> bool {
        self.is_live(invite) && self.is_reachable(user, self.invites[invite].inviter)
    }

    /// Returns the response if the sender has a partner, otherwise `None`.
    fn answer_bonded(
        &self,
        from: usize,
        message: Option<&str>,
        is_same: impl Fn(&Request) -> bool,
    ) -> Option<Expected> {
        let bond = self.bond_of(from)?;
        let led_to_it = |request: &&Request| {
            request.from == from && request.status == Status::Accepted && request.bond == Some(bond)
        };
        let last = self.requests.iter().rposition(|request| led_to_it(&request));
        let last = last.filter(|at| {
            let request = &self.requests[*at];
            is_same(request) && request.message.as_deref() == message
        });
        Some(last.map_or(OCCUPIED, |at| Expected::Request(200, at, from)))
    }

    /// Handles an existing pending request between the two, in either direction.
    fn cross_pending(&mut self, from: usize, to: usize, message: Option<&str>) -> Option<Expected> {
        if self.find_pending(to, from).is_some() {
            return Some(self.create_request(from, to, &Addressing::Id, message));
        }
        self.find_repeatable(from, to).map(|at| self.repeat(at, message))
    }

    fn repeat(&self, at: usize, message: Option<&str>) -> Expected {
        let request = &self.requests[at];
        if request.message.as_deref() == message {
            return Expected::Request(200, at, request.from);
        }
        Refusal(409, "request_pending")
    }

    pub fn find_pending(&self, from: usize, to: usize) -> Option<usize> {
        let waits = |request: &Request| {
            request.from == from && request.to == Some(to) && request.is_pending_for_receiver(self.now)
        };
        self.requests.iter().rposition(waits)
    }

    /// Returns the request by user id from `from` to `to` that `from` sees as pending.
    fn find_repeatable(&self, from: usize, to: usize) -> Option<usize> {
        self.find_visible(from, |request| request.to == Some(to) && request.address.is_none())
    }

    fn find_visible(&self, from: usize, is_same: impl Fn(&Request) -> bool) -> Option<usize> {
        let seems =
            |request: &Request| request.from == from && is_same(request) && request.appears_pending(self.now);
        self.requests.iter().rposition(seems)
    }

    fn refused_by_counter(&self, from: usize, to: usize, by_address: bool) -> Option<&'static str> {
        let counter = self
            .refusal_counters
            .get(&(from, to, by_address))
            .filter(|counter| !counter.is_forgotten(self.now))?;
        if counter.steps > 3 {
            return Some("only_recipient_can_request");
        }
        counter.wait_until.filter(|until| self.now < *until).map(|_| "request_cooldown_active")
    }

    fn forget_refusals(&mut self, from: usize, to: usize) {
        self.refusal_counters.retain(|(asks, asked, _), _| (*asks, *asked) != (from, to));
    }

    /// Counts each expired request as a refusal at the time of its expiry, if its receiver was able to see
    /// it.
    pub fn count_expired(&mut self) {
        let expired = |request: &Request| {
            request.is_visible_to_receiver
                && request.status == Status::Pending
                && self.now >= request.expires_at()
        };
        let uncounted = (0..self.requests.len())
            .filter(|at| expired(&self.requests[*at]) && !self.requests[*at].expiry_counted);
        for at in uncounted.collect::<Vec<_>>() {
            self.requests[at].expiry_counted = true;
            let to = self.requests[at].to.expect("the request has a recipient");
            self.add_refusal(at, to, false, self.requests[at].expires_at());
        }
    }

    pub fn add_refusal(&mut self, at: usize, to: usize, rejected: bool, now: Timestamp) {
        let request = &self.requests[at];
        let key = (request.from, to, request.address.is_some());
        let counter = self.refusal_counters.entry(key).or_default();
        if counter.is_forgotten(now) {
            *counter = RefusalCounter::default();
        }
        counter.last_step_at = counter.last_step_at.max(Some(now));
        // Expired requests raise the counter to 3 at most. Only a rejection raises it further.
        if rejected || counter.steps < 3 {
            counter.steps += 1;
        }
        if rejected {
            let wait = [hours(24), days(7), days(30)].get(counter.steps - 1).copied();
            counter.wait_until = wait.map(|wait| now + wait);
        }
    }

    fn is_over_limit(&self, from: usize) -> bool {
        let made_within = |window| {
            let recent = |request: &&Request| request.from == from && request.created_at + window > self.now;
            self.requests.iter().filter(recent).count()
        };
        made_within(seconds(60)) >= 5 || made_within(hours(1)) >= 20 || made_within(hours(24)) >= 100
    }

    /// Creates a request, or the bond if the receiver has a pending request to the sender.
    fn create_request(
        &mut self,
        from: usize,
        to: usize,
        addressing: &Addressing,
        message: Option<&str>,
    ) -> Expected {
        if self.is_over_limit(from) {
            return LIMITED;
        }
        let theirs = self.find_pending(to, from);
        if theirs.is_none() {
            // A pending request by address is cancelled, but its sender continues to see it as pending.
            if let Some(own) = self.find_pending(from, to) {
                self.requests[own].status = Status::Cancelled;
            }
            self.forget_refusals(to, from);
        }
        let at = self.push(from, Some(to), addressing, message);
        (self.requests[at].is_visible_to_receiver, self.requests[at].was_visible_to_receiver) = (true, true);
        if let Some(theirs) = theirs {
            self.form_bond(from, to, &[theirs, at]);
        }
        Expected::Request(201, at, from)
    }

    fn push(
        &mut self,
        from: usize,
        to: Option<usize>,
        addressing: &Addressing,
        message: Option<&str>,
    ) -> usize {
        self.requests.push(Request {
            id: String::new(),
            from,
            to,
            from_name: self.users[from].name.clone(),
            to_name: to.map(|to| self.users[to].name.clone()).unwrap_or_default(),
            address: if let Addressing::Address(address) = addressing { Some(address.clone()) } else { None },
            message: message.map(str::to_owned),
            created_at: self.now,
            is_visible_to_receiver: false,
            was_visible_to_receiver: false,
            expiry_counted: false,
            status: Status::Pending,
            sender_visible_status: Status::Pending,
            bond: None,
        });
        self.requests.len() - 1
    }

    pub fn form_bond(&mut self, one: usize, other: usize, by: &[usize]) {
        let (pair, now) = (pair(one, other), self.now);
        let former = self.last_ended_bond(pair).filter(|at| self.bonds[*at].can_return_at(now));
        let at = former.unwrap_or(self.bonds.len());
        if former.is_some() {
            let bond = &mut self.bonds[at];
            bond.restorations += 1;
            (bond.ended_at, bond.restored_at) = (None, Some(now));
            bond.breakups.last_mut().expect("the bond has a breakup").restored_at = Some(now);
        } else {
            self.bonds.push(Bond {
                id: String::new(),
                pair,
                since: now,
                ended_at: None,
                archived_at: None,
                restored_at: None,
                restorations: 0,
                names: Default::default(),
                breakups: Vec::new(),
            });
        }
        self.forget_refusals(one, other);
        self.forget_refusals(other, one);
        for request in by {
            let request = &mut self.requests[*request];
            (request.status, request.sender_visible_status, request.bond) =
                (Status::Accepted, Status::Accepted, Some(at));
        }
        self.close(&pair, Status::Superseded);
    }

    /// Closes all requests to or from these users that are pending or appear pending to their sender.
    pub fn close(&mut self, users: &[usize], own: Status) {
        let now = self.now;
        for request in &mut self.requests {
            let (waits, seems) = (request.is_pending_for_receiver(now), request.appears_pending(now));
            if users.contains(&request.from) && seems {
                request.sender_visible_status = own;
                if waits {
                    request.status = own;
                }
            } else if waits && request.to.is_some_and(|to| users.contains(&to)) {
                request.status = Status::Superseded;
                if request.address.is_none() {
                    request.sender_visible_status = Status::Superseded;
                }
            }
        }
    }
}
