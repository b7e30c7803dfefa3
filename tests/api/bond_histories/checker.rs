//! Linearizability checker for histories of several clients (Wing and Gong's search with memoization).

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Operation of a client. Users are numbers.
#[derive(Clone, Debug)]
pub enum ClientOperation {
    Send { from: usize, to: usize },
    Accept { who: usize, request: String },
    BreakUp { who: usize },
    Block { who: usize, whom: usize },
    Unblock { who: usize, whom: usize },
    Look { who: usize },
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
    Parted(usize),
    NotBonded,
    Done,
    /// The current partner.
    Saw(Option<usize>),
}

/// Operation with the logical times of its call and its return.
#[derive(Clone, Debug)]
pub struct Call {
    pub deed: ClientOperation,
    pub told: OperationResult,
    pub began: usize,
    pub ended: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Waits,
    /// Not visible to its receiver.
    Withheld,
    Accepted,
    Over,
    /// Over and not visible to its receiver.
    Gone,
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
    assert!(history.len() < 64, "a bit for each call");
    search(history, 0, &SequentialState::default(), &mut HashSet::new())
}

fn search(
    history: &[Call],
    done: u64,
    slots: &SequentialState,
    tried: &mut HashSet<(u64, SequentialState)>,
) -> bool {
    let open = || history.iter().enumerate().filter(|(at, _)| done & (1 << at) == 0);
    let Some(first_end) = open().map(|(_, call)| call.ended).min() else { return true };
    if !tried.insert((done, slots.clone())) {
        return false;
    }
    open().filter(|(_, call)| call.began < first_end).any(|(at, call)| {
        let mut next = slots.clone();
        next.explains(&call.deed, &call.told) && search(history, done | (1 << at), &next, tried)
    })
}

impl SequentialState {
    /// Applies the operation. Returns true if the response is correct.
    fn explains(&mut self, deed: &ClientOperation, told: &OperationResult) -> bool {
        match deed {
            ClientOperation::Send { from, to } => self.explains_send(*from, *to, told),
            ClientOperation::Accept { who, request } => self.accept(*who, request) == *told,
            ClientOperation::BreakUp { who } => match self.partners.get(who).copied() {
                None => *told == OperationResult::NotBonded,
                Some(partner) => {
                    self.part(*who, partner);
                    *told == OperationResult::Parted(partner)
                }
            },
            ClientOperation::Block { who, whom } => {
                self.block(*who, *whom);
                *told == OperationResult::Done
            }
            ClientOperation::Unblock { who, whom } => {
                self.blocks.remove(&(*who, *whom));
                *told == OperationResult::Done
            }
            ClientOperation::Look { who } => *told == OperationResult::Saw(self.partners.get(who).copied()),
        }
    }

    fn explains_send(&mut self, from: usize, to: usize, told: &OperationResult) -> bool {
        let is = |id: &String, stage| self.requests.get(id) == Some(&(from, to, stage));
        if let Some(partner) = self.partners.get(&from) {
            let known = *partner == to && self.find(from, to, Stage::Accepted).is_some();
            return match told {
                OperationResult::Repeated(id) => known && is(id, Stage::Accepted),
                other => !known && *other == OperationResult::Occupied,
            };
        }
        if let Some(theirs) = self.find(to, from, Stage::Waits) {
            let OperationResult::Crossed(id) = told else { return false };
            self.requests.insert(id.clone(), (from, to, Stage::Accepted));
            self.bond(from, to, &theirs);
            return true;
        }
        for stage in [Stage::Waits, Stage::Withheld] {
            if self.find(from, to, stage).is_some() {
                return matches!(told, OperationResult::Repeated(id) if is(id, stage));
            }
        }
        if self.blocks.contains(&(from, to)) || self.blocks.contains(&(to, from)) {
            return *told == OperationResult::NotFound;
        }
        let OperationResult::Sent(id) = told else { return false };
        self.requests.insert(id.clone(), (from, to, Stage::Waits)).is_none()
    }

    fn accept(&mut self, who: usize, request: &str) -> OperationResult {
        match self.requests.get(request).copied() {
            Some((from, to, Stage::Waits)) if to == who => {
                if self.partners.contains_key(&who) || self.partners.contains_key(&from) {
                    return OperationResult::Occupied;
                }
                self.bond(from, who, request);
                OperationResult::Accepted
            }
            Some((_, to, Stage::Accepted)) if to == who => OperationResult::Accepted,
            Some((_, to, Stage::Over)) if to == who => OperationResult::NotPending,
            _ => OperationResult::NotFound,
        }
    }

    fn bond(&mut self, one: usize, other: usize, accepted: &str) {
        self.partners.extend([(one, other), (other, one)]);
        let pair = [one, other];
        for (id, (from, to, stage)) in &mut self.requests {
            *stage = match *stage {
                Stage::Waits if id == accepted => Stage::Accepted,
                Stage::Waits if pair.contains(from) || pair.contains(to) => Stage::Over,
                Stage::Withheld if pair.contains(from) => Stage::Gone,
                other => other,
            };
        }
    }

    fn part(&mut self, one: usize, other: usize) {
        self.partners.remove(&one);
        self.partners.remove(&other);
    }

    fn block(&mut self, who: usize, whom: usize) {
        if !self.blocks.insert((who, whom)) {
            return;
        }
        if self.partners.get(&who) == Some(&whom) {
            self.part(who, whom);
        }
        for (from, to, stage) in self.requests.values_mut().filter(|(_, _, stage)| *stage == Stage::Waits) {
            if (*from, *to) == (who, whom) {
                *stage = Stage::Over;
            } else if (*from, *to) == (whom, who) {
                *stage = Stage::Withheld;
            }
        }
    }

    fn find(&self, from: usize, to: usize, stage: Stage) -> Option<String> {
        let found = self.requests.iter().find(|(_, request)| **request == (from, to, stage));
        found.map(|(id, _)| id.clone())
    }
}
