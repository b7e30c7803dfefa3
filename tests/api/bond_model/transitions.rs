//! Rules of the model after a request: deciding, breaking up, blocking, deleting accounts, and the passing of
//! time.

use kith_kernel::{Timestamp, days};

use super::model::{Breakup, Model, Status};
use super::rules::{Expected, Expected::Refusal, INVALID, NOT_FOUND, OCCUPIED, Step};

impl Model {
    pub fn decide(&mut self, who: usize, at: usize, step: Step) -> Expected {
        let request = &self.requests[at];
        let (from, to, status) = (request.from, request.to, request.status_for(who, self.now));
        if !request.is_seen_by(who) {
            return NOT_FOUND;
        }
        if (who == from) != (step == Step::Cancel) {
            return Refusal(403, "forbidden");
        }
        let done = match step {
            Step::Accept => Status::Accepted,
            Step::Reject => Status::Rejected,
            Step::Cancel => Status::Cancelled,
        };
        if status == done {
            return Expected::Request(200, at, who);
        }
        if status != Status::Pending {
            return Refusal(409, "request_not_pending");
        }
        match step {
            Step::Accept if self.bond_of(who).is_some() || self.bond_of(from).is_some() => return OCCUPIED,
            Step::Accept => self.form_bond(from, who, &[at]),
            Step::Reject => {
                let request = &mut self.requests[at];
                request.status = Status::Rejected;
                if request.address.is_none() {
                    request.sender_visible_status = Status::Rejected;
                }
                self.add_refusal(at, who, true, self.now);
            }
            Step::Cancel => {
                let waited = request.is_pending_for_receiver(self.now);
                self.requests[at].sender_visible_status = Status::Cancelled;
                if waited {
                    self.requests[at].status = Status::Cancelled;
                    self.add_refusal(at, to.expect("it waits for somebody"), false, self.now);
                }
            }
        }
        Expected::Request(200, at, who)
    }

    pub fn break_up(&mut self, who: usize, reason: Option<&'static str>) -> Expected {
        let Some(at) = self.bond_of(who) else { return Refusal(409, "not_bonded") };
        self.end(at, who, reason);
        Expected::Ended(at, who)
    }

    fn end(&mut self, at: usize, by: usize, reason: Option<&'static str>) {
        let bond = &mut self.bonds[at];
        bond.names = bond.pair.map(|who| self.people[who].name.clone());
        bond.ended_at = Some(self.now);
        bond.breakups.push(Breakup { ended_at: self.now, restored_at: None, by, reason });
    }

    pub fn block(&mut self, who: usize, whom: usize) -> Expected {
        if who == whom {
            return INVALID;
        }
        if !self.people[who].blocks.contains_key(&whom) {
            let name = self.is_reachable(who, whom).then(|| self.people[whom].name.clone());
            let now = self.now;
            self.people[who].blocks.insert(whom, (name, now));
            if let Some(bond) = self.bond_of(who).filter(|bond| self.bonds[*bond].pair.contains(&whom)) {
                self.end(bond, who, None);
            }
            if let Some(own) = self.find_waiting(who, whom) {
                let own = &mut self.requests[own];
                own.status = Status::Cancelled;
                // The sender of a request by address must not learn whose address it is.
                if own.address.is_none() {
                    own.sender_visible_status = Status::Cancelled;
                }
            }
            if let Some(theirs) = self.find_waiting(whom, who) {
                self.requests[theirs].is_visible_to_receiver = false;
            }
        }
        Expected::Body(200, self.block_of(who, whom))
    }

    pub fn unblock(&mut self, who: usize, whom: usize) {
        let is_open =
            self.people[who].blocks.remove(&whom).is_some() && !self.people[whom].blocks.contains_key(&who);
        if !is_open {
            return;
        }
        // Withheld requests expire, except those by address, whose sender must not learn whose address it is.
        let (now, pair) = (self.now, [(who, Some(whom)), (whom, Some(who))]);
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

    pub fn leave(&mut self, who: usize) -> Expected {
        if let Some(bond) = self.bond_of(who) {
            self.end(bond, who, None);
        }
        self.close(&[who], Status::Cancelled);
        self.people[who].deleted_at = Some(self.now);
        Expected::Status(202)
    }

    pub fn undo_deletion(&mut self, who: usize) -> Expected {
        if self.people[who].purged {
            return Refusal(401, "invalid_credentials");
        }
        if self.is_due(self.people[who].deleted_at) {
            return Refusal(403, "account_deleted");
        }
        self.people[who].deleted_at = None;
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
        for who in 0..self.people.len() {
            if self.is_due(self.people[who].deleted_at) && !self.people[who].purged {
                self.purge(who);
            }
        }
    }
}
