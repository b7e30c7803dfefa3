//! Linearizability checker for histories of several clients (Wing and Gong's search with memoization).

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Operation of a client. Users are numbers.
#[derive(Clone, Debug)]
pub enum ClientOperation {
    Send { from: usize, to: usize },
    Accept { user: usize, request: String },
    BreakUp { user: usize },
    Block { user: usize, other: usize },
    Unblock { user: usize, other: usize },
    GetPartner { user: usize },
}

/// Response to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// A new request.
    Sent(String),
    /// A new request that crossed another one and formed a bond.
    Crossed(String),
    /// An existing request of the same sender.
    Repeated(String),
    Accepted,
    Occupied,
    NotPending,
    NotFound,
    /// The former partner.
    BondEnded(usize),
    NotBonded,
    Done,
    /// The current partner.
    Partner(Option<usize>),
}

/// Operation with the logical times of its call and its return.
#[derive(Clone, Debug)]
pub struct Call {
    pub operation: ClientOperation,
    pub result: OperationResult,
    pub began: usize,
    pub ended: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Pending,
    /// Not visible to its receiver.
    Withheld,
    Accepted,
    Closed,
    /// Closed without having been visible to its receiver.
    ClosedUnseen,
}

/// Sequential state of the specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct SequentialState {
    partners: BTreeMap<usize, usize>,
    blocks: BTreeSet<(usize, usize)>,
    requests: BTreeMap<String, (usize, usize, Stage)>,
}

/// Returns true if a sequential order that respects real-time order explains all responses.
pub fn is_linearizable(history: &[Call]) -> bool {
    assert!(history.len() < 64, "a history has fewer than 64 calls");
    search(history, 0, &SequentialState::default(), &mut HashSet::new())
}

fn search(
    history: &[Call],
    done: u64,
    slots: &SequentialState,
    visited: &mut HashSet<(u64, SequentialState)>,
) -> bool {
    let open = || history.iter().enumerate().filter(|(at, _)| done & (1 << at) == 0);
    let Some(first_end) = open().map(|(_, call)| call.ended).min() else { return true };
    if !visited.insert((done, slots.clone())) {
        return false;
    }
    open().filter(|(_, call)| call.began < first_end).any(|(at, call)| {
        let mut next = slots.clone();
        next.explains(&call.operation, &call.result) && search(history, done | (1 << at), &next, visited)
    })
}

impl SequentialState {
    /// Applies the operation. Returns true if the response is correct.
    fn explains(&mut self, operation: &ClientOperation, result: &OperationResult) -> bool {
        match operation {
            ClientOperation::Send { from, to } => self.explains_send(*from, *to, result),
            ClientOperation::Accept { user, request } => self.accept(*user, request) == *result,
            ClientOperation::BreakUp { user } => match self.partners.get(user).copied() {
                None => *result == OperationResult::NotBonded,
                Some(partner) => {
                    self.end_bond(*user, partner);
                    *result == OperationResult::BondEnded(partner)
                }
            },
            ClientOperation::Block { user, other } => {
                self.block(*user, *other);
                *result == OperationResult::Done
            }
            ClientOperation::Unblock { user, other } => {
                self.blocks.remove(&(*user, *other));
                *result == OperationResult::Done
            }
            ClientOperation::GetPartner { user } => {
                *result == OperationResult::Partner(self.partners.get(user).copied())
            }
        }
    }

    fn explains_send(&mut self, from: usize, to: usize, result: &OperationResult) -> bool {
        let is = |id: &String, stage| self.requests.get(id) == Some(&(from, to, stage));
        if let Some(partner) = self.partners.get(&from) {
            let known = *partner == to && self.find(from, to, Stage::Accepted).is_some();
            return match result {
                OperationResult::Repeated(id) => known && is(id, Stage::Accepted),
                other => !known && *other == OperationResult::Occupied,
            };
        }
        if let Some(crossing) = self.find(to, from, Stage::Pending) {
            let OperationResult::Crossed(id) = result else { return false };
            self.requests.insert(id.clone(), (from, to, Stage::Accepted));
            self.bond(from, to, &crossing);
            return true;
        }
        for stage in [Stage::Pending, Stage::Withheld] {
            if self.find(from, to, stage).is_some() {
                return matches!(result, OperationResult::Repeated(id) if is(id, stage));
            }
        }
        if self.blocks.contains(&(from, to)) || self.blocks.contains(&(to, from)) {
            return *result == OperationResult::NotFound;
        }
        let OperationResult::Sent(id) = result else { return false };
        self.requests.insert(id.clone(), (from, to, Stage::Pending)).is_none()
    }

    fn accept(&mut self, user: usize, request: &str) -> OperationResult {
        match self.requests.get(request).copied() {
            Some((from, to, Stage::Pending)) if to == user => {
                if self.partners.contains_key(&user) || self.partners.contains_key(&from) {
                    return OperationResult::Occupied;
                }
                self.bond(from, user, request);
                OperationResult::Accepted
            }
            Some((_, to, Stage::Accepted)) if to == user => OperationResult::Accepted,
            Some((_, to, Stage::Closed)) if to == user => OperationResult::NotPending,
            _ => OperationResult::NotFound,
        }
    }

    fn bond(&mut self, one: usize, other: usize, accepted: &str) {
        self.partners.extend([(one, other), (other, one)]);
        let pair = [one, other];
        for (id, (from, to, stage)) in &mut self.requests {
            *stage = match *stage {
                Stage::Pending if id == accepted => Stage::Accepted,
                Stage::Pending if pair.contains(from) || pair.contains(to) => Stage::Closed,
                Stage::Withheld if pair.contains(from) => Stage::ClosedUnseen,
                other => other,
            };
        }
    }

    fn end_bond(&mut self, one: usize, other: usize) {
        self.partners.remove(&one);
        self.partners.remove(&other);
    }

    fn block(&mut self, user: usize, other: usize) {
        if !self.blocks.insert((user, other)) {
            return;
        }
        if self.partners.get(&user) == Some(&other) {
            self.end_bond(user, other);
        }
        for (from, to, stage) in self.requests.values_mut().filter(|(_, _, stage)| *stage == Stage::Pending) {
            if (*from, *to) == (user, other) {
                *stage = Stage::Closed;
            } else if (*from, *to) == (other, user) {
                *stage = Stage::Withheld;
            }
        }
    }

    fn find(&self, from: usize, to: usize, stage: Stage) -> Option<String> {
        let found = self.requests.iter().find(|(_, request)| **request == (from, to, stage));
        found.map(|(id, _)| id.clone())
    }
}
