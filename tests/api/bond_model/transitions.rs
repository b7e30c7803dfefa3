//! Rules of the model for everything that can follow a request: decisions, breakups, blocks, deletion of
//! accounts, and the passage of time.

use kith_kernel::{Timestamp, days};

use super::model::{Breakup, Model, Status};
use super::rules::{Expected, Expected::Refusal, INVALID, NOT_FOUND, OCCUPIED, Step};

impl Model {
    pub fn decide(&mut self, user: usize, at: usize, step: Step) -> Expected {
        let request = &self.requests[at];
        let (from, to, status) = (request.from, request.to, request.status_for(user, self.now));
        if !request.is_seen_by(user) {
            return NOT_FOUND;
        }
        if (user == from) != (step == Step::Cancel) {
            return Refusal(403, "forbidden");
        }
        let done = match step {
            Step::Accept => Status::Accepted,
            Step::Reject => Status::Rejected,
            Step::Cancel => Status::Cancelled,
        };
        if status == done {
            return Expected::Request(200, at, user);
        }
        if status != Status::Pending {
            return Refusal(409, "request_not_pending");
        }
        match step {
            Step::Accept if self.bond_of(user).is_some() || self.bond_of(from).is_some() => return OCCUPIED,
            Step::Accept => self.form_bond(from, user, &[at]),
            Step::Reject => {
                let request = &mut self.requests[at];
                request.status = Status::Rejected;
                if request.address.is_none() {
                    request.sender_visible_status = Status::Rejected;
                }
                self.add_refusal(at, user, true, self.now);
            }
            Step::Cancel => {
                let waited = request.is_pending_for_receiver(self.now);
                self.requests[at].sender_visible_status = Status::Cancelled;
                if waited {
                    self.requests[at].status = Status::Cancelled;
                    self.add_refusal(at, to.expect("a pending request has a recipient"), false, self.now);
                }
            }
        }
        Expected::Request(200, at, user)
    }

    pub fn break_up(&mut self, user: usize, reason: Option<&'static str>) -> Expected {
        let Some(at) = self.bond_of(user) else { return Refusal(409, "not_bonded") };
        self.end(at, user, reason);
        Expected::Ended(at, user)
    }

    fn end(&mut self, at: usize, by: usize, reason: Option<&'static str>) {
        let bond = &mut self.bonds[at];
        bond.names = bond.pair.map(|user| self.users[user].name.clone());
        bond.ended_at = Some(self.now);
        bond.breakups.push(Breakup { ended_at: self.now, restored_at: None, by, reason });
    }

    pub fn block(&mut self, user: usize, other: usize) -> Expected {
        if user == other {
            return INVALID;
        }
        if !self.users[user].blocks.contains_key(&other) {
            let name = self.is_reachable(user, other).then(|| self.users[other].name.clone());
            let now = self.now;
            self.users[user].blocks.insert(other, (name, now));
            if let Some(bond) = self.bond_of(user).filter(|bond| self.bonds[*bond].pair.contains(&other)) {
                self.end(bond, user, None);
            }
            if let Some(own) = self.find_pending(user, other) {
                let own = &mut self.requests[own];
                own.status = Status::Cancelled;
                // The sender of a request by address must not learn whose address it is.
                if own.address.is_none() {
                    own.sender_visible_status = Status::Cancelled;
                }
            }
            if let Some(theirs) = self.find_pending(other, user) {
                self.requests[theirs].is_visible_to_receiver = false;
            }
        }
        Expected::Body(200, self.block_of(user, other))
    }

    pub fn unblock(&mut self, user: usize, other: usize) {
        let is_open =
            self.users[user].blocks.remove(&other).is_some() && !self.users[other].blocks.contains_key(&user);
        if !is_open {
            return;
        }
        // The sender now sees a request as expired if its receiver could not see it. A request by address
        // stays pending, because its sender must not learn whose address it is.
        let (now, pair) = (self.now, [(user, Some(other)), (other, Some(user))]);
        for request in &mut self.requests {
            let is_between = pair.contains(&(request.from, request.to));
            if is_between
                && !request.is_visible_to_receiver
                && request.address.is_none()
                && request.appears_pending(now)
            {
                request.sender_visible_status = Status::Expired;
            }
        }
    }

    pub fn delete_account(&mut self, user: usize) -> Expected {
        if let Some(bond) = self.bond_of(user) {
            self.end(bond, user, None);
        }
        self.close(&[user], Status::Cancelled);
        self.users[user].deleted_at = Some(self.now);
        Expected::Status(202)
    }

    pub fn undo_deletion(&mut self, user: usize) -> Expected {
        if self.users[user].purged {
            return Refusal(401, "invalid_credentials");
        }
        if self.is_due(self.users[user].deleted_at) {
            return Refusal(403, "account_deleted");
        }
        self.users[user].deleted_at = None;
        Expected::Status(200)
    }

    fn is_due(&self, deleted_at: Option<Timestamp>) -> bool {
        deleted_at.is_some_and(|at| self.now >= at + days(14))
    }

    /// Archives bonds that cannot be restored, and purges accounts that are due.
    pub fn run_maintenance(&mut self) {
        let now = self.now;
        for bond in &mut self.bonds {
            let over = !bond.is_active() && bond.archived_at.is_none();
            if over && !bond.can_return_at(now) {
                bond.archived_at = Some(now);
            }
        }
        // Addresses are kept for 30 days after their requests have expired.
        for request in self.requests.iter_mut().filter(|request| request.expires_at() + days(30) < now) {
            request.address.iter_mut().for_each(String::clear);
        }
        for user in 0..self.users.len() {
            if self.is_due(self.users[user].deleted_at) && !self.users[user].purged {
                self.purge(user);
            }
        }
    }
}
