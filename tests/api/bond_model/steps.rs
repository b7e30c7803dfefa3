//! Random steps of a sequence, weighted so that most of them are valid.

use std::time::Duration;

use kith_kernel::{days, hours, minutes};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::model::RequestPolicy;
use super::rules::Step;

/// Random sequence of steps by a number of users.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub users: usize,
    pub steps: Vec<SequenceStep>,
}

/// User who decides a request.
#[derive(Clone, Copy, Debug)]
pub enum DecidingUser {
    /// The user who may decide.
    Allowed,
    /// The other user of the request.
    OtherParticipant,
    Any(usize),
}

#[derive(Clone, Debug)]
pub enum SequenceStep {
    SendRequest {
        from: usize,
        to: usize,
        message: Option<&'static str>,
    },
    SendByAddress {
        from: usize,
        to: usize,
        message: Option<&'static str>,
    },
    SendToUnknownAddress {
        from: usize,
    },
    SendToUnknownUser {
        from: usize,
    },
    Redeem {
        from: usize,
        invite: Index,
        message: Option<&'static str>,
    },
    /// Decides the latest request, or the one `back` positions before it.
    Decide {
        role: DecidingUser,
        back: usize,
        step: Step,
    },
    BreakUp {
        user: usize,
        reason: Option<&'static str>,
    },
    Block {
        user: usize,
        other: usize,
    },
    Unblock {
        user: usize,
        other: usize,
    },
    ChangeSettings {
        user: usize,
        accepts_requests_from: RequestPolicy,
        discoverable_by_email: bool,
    },
    /// Verifies the user's address.
    VerifyAddress {
        user: usize,
    },
    Invite {
        user: usize,
    },
    Revoke {
        user: usize,
        invite: Index,
    },
    Preview {
        user: usize,
        invite: Index,
    },
    TryUnknownCode {
        user: usize,
    },
    DeleteAccount {
        user: usize,
    },
    UndoDeletion {
        user: usize,
    },
    Rename {
        user: usize,
    },
    Nickname {
        user: usize,
        other: usize,
    },
    Wait(Duration),
    Maintenance,
}

impl Sequence {
    /// Returns sequences with two to five users and up to some dozens of steps.
    pub fn any() -> impl Strategy<Value = Self> {
        (2..=5_usize).prop_flat_map(|users| {
            let steps = prop::collection::vec(steps(users), 1..30);
            steps.prop_map(move |steps| Self { users, steps: steps.concat() })
        })
    }
}

/// Returns a single step, or several that lead to a bond.
fn steps(users: usize) -> impl Strategy<Value = Vec<SequenceStep>> {
    let accept = |from, to| {
        let accept = SequenceStep::Decide { role: DecidingUser::Allowed, back: 0, step: Step::Accept };
        vec![SequenceStep::SendRequest { from, to, message: None }, accept]
    };
    let two = (0..users, 0..users);
    prop_oneof![
        8 => sequence_step(users).prop_map(|sequence_step| vec![sequence_step]),
        1 => two.prop_map(move |(from, to)| accept(from, to)),
        1 => (0..users, 0..users, wait()).prop_map(move |(one, other, time)| {
            // Forms a bond, ends it, waits, and forms it again, possibly as a restoration.
            let mut steps = accept(one, other);
            steps.extend([SequenceStep::BreakUp { user: one, reason: None }, SequenceStep::Wait(time)]);
            steps.extend(accept(other, one));
            steps
        }),
    ]
}

fn sequence_step(users: usize) -> impl Strategy<Value = SequenceStep> {
    let user = move || 0..users;
    let two = move || (user(), user());
    // Most requests have no message, so that identical requests are repeated.
    let words = || prop_oneof![4 => Just(None), 1 => Just(Some("Shall we?"))];
    let invite = any::<Index>;
    prop_oneof![
        12 => (two(), words()).prop_map(|((from, to), message)| SequenceStep::SendRequest { from, to, message }),
        5 => (two(), words()).prop_map(|((from, to), message)| SequenceStep::SendByAddress { from, to, message }),
        1 => user().prop_map(|from| SequenceStep::SendToUnknownAddress { from }),
        1 => user().prop_map(|from| SequenceStep::SendToUnknownUser { from }),
        4 => (user(), invite(), words())
            .prop_map(|(from, invite, message)| SequenceStep::Redeem { from, invite, message }),
        16 => (role(users), 0..5_usize, step()).prop_map(|(role, back, step)| SequenceStep::Decide { role, back, step }),
        5 => (user(), prop_oneof![Just(None), Just(Some("it was me"))])
            .prop_map(|(user, reason)| SequenceStep::BreakUp { user, reason }),
        3 => two().prop_map(|(user, other)| SequenceStep::Block { user, other }),
        3 => two().prop_map(|(user, other)| SequenceStep::Unblock { user, other }),
        4 => (user(), select(vec![RequestPolicy::Anyone, RequestPolicy::Anyone, RequestPolicy::Invited, RequestPolicy::Nobody]), prop::bool::weighted(0.7))
            .prop_map(|(user, accepts_requests_from, discoverable_by_email)| SequenceStep::ChangeSettings { user, accepts_requests_from, discoverable_by_email }),
        2 => user().prop_map(|user| SequenceStep::VerifyAddress { user }),
        3 => user().prop_map(|user| SequenceStep::Invite { user }),
        1 => (user(), invite()).prop_map(|(user, invite)| SequenceStep::Revoke { user, invite }),
        2 => (user(), invite()).prop_map(|(user, invite)| SequenceStep::Preview { user, invite }),
        1 => user().prop_map(|user| SequenceStep::TryUnknownCode { user }),
        1 => user().prop_map(|user| SequenceStep::DeleteAccount { user }),
        2 => user().prop_map(|user| SequenceStep::UndoDeletion { user }),
        1 => user().prop_map(|user| SequenceStep::Rename { user }),
        1 => two().prop_map(|(user, other)| SequenceStep::Nickname { user, other }),
        10 => wait().prop_map(SequenceStep::Wait),
        2 => Just(SequenceStep::Maintenance),
    ]
}

fn role(users: usize) -> impl Strategy<Value = DecidingUser> {
    prop_oneof![8 => Just(DecidingUser::Allowed), 1 => Just(DecidingUser::OtherParticipant), 1 => (0..users).prop_map(DecidingUser::Any)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Step::Accept), 2 => Just(Step::Reject), 1 => Just(Step::Cancel)]
}

/// Returns durations at and within a millisecond of every time limit of the rules.
fn wait() -> impl Strategy<Value = Duration> {
    const MILLISECOND: Duration = Duration::from_millis(1);
    let around = select(vec![minutes(1), hours(1), hours(24), days(7), days(14), days(30), days(365)]);
    (around, 0..4_u8).prop_map(|(around, side)| match side {
        0 => MILLISECOND,
        1 => around - MILLISECOND,
        2 => around,
        _ => around + MILLISECOND,
    })
}
