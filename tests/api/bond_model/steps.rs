//! Random steps of a story, weighted so that most of them are valid.

use std::time::Duration;

use kith_kernel::{days, hours, minutes};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::model::RequestPolicy;
use super::rules::Step;

/// Number of users, and their steps.
#[derive(Clone, Debug)]
pub struct Story {
    pub people: usize,
    pub ops: Vec<StoryStep>,
}

/// User who decides a request.
#[derive(Clone, Copy, Debug)]
pub enum DecidingUser {
    /// The user who may decide.
    Right,
    /// The other user of the request.
    Wrong,
    Somebody(usize),
}

#[derive(Clone, Debug)]
pub enum StoryStep {
    Ask {
        from: usize,
        to: usize,
        message: Option<&'static str>,
    },
    AskByAddress {
        from: usize,
        to: usize,
        message: Option<&'static str>,
    },
    AskUnknownAddress {
        from: usize,
    },
    AskNobody {
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
        who: usize,
        reason: Option<&'static str>,
    },
    Block {
        who: usize,
        whom: usize,
    },
    Unblock {
        who: usize,
        whom: usize,
    },
    Set {
        who: usize,
        who_may_ask: RequestPolicy,
        found_by_email: bool,
    },
    /// Verifies the user's address.
    Prove {
        who: usize,
    },
    Invite {
        who: usize,
    },
    Revoke {
        who: usize,
        invite: Index,
    },
    Preview {
        who: usize,
        invite: Index,
    },
    Guess {
        who: usize,
    },
    Leave {
        who: usize,
    },
    Return {
        who: usize,
    },
    Rename {
        who: usize,
    },
    Nickname {
        who: usize,
        whom: usize,
    },
    Wait(Duration),
    Upkeep,
}

impl Story {
    /// Returns stories with two to five users and up to some dozens of steps.
    pub fn any() -> impl Strategy<Value = Self> {
        (2..=5_usize).prop_flat_map(|people| {
            let ops = prop::collection::vec(ops(people), 1..30);
            ops.prop_map(move |ops| Self { people, ops: ops.concat() })
        })
    }
}

/// Returns a single step, or several that lead to a bond.
fn ops(people: usize) -> impl Strategy<Value = Vec<StoryStep>> {
    let accept = |from, to| {
        let accept = StoryStep::Decide { role: DecidingUser::Right, back: 0, step: Step::Accept };
        vec![StoryStep::Ask { from, to, message: None }, accept]
    };
    let two = (0..people, 0..people);
    prop_oneof![
        8 => op(people).prop_map(|op| vec![op]),
        1 => two.prop_map(move |(from, to)| accept(from, to)),
        1 => (0..people, 0..people, wait()).prop_map(move |(one, other, time)| {
            // Forms a bond, ends it, waits, and forms it again, possibly as a restoration.
            let mut ops = accept(one, other);
            ops.extend([StoryStep::BreakUp { who: one, reason: None }, StoryStep::Wait(time)]);
            ops.extend(accept(other, one));
            ops
        }),
    ]
}

fn op(people: usize) -> impl Strategy<Value = StoryStep> {
    let who = move || 0..people;
    let two = move || (who(), who());
    // Mostly the same message, so that repetitions occur.
    let words = || prop_oneof![4 => Just(None), 1 => Just(Some("Shall we?"))];
    let invite = any::<Index>;
    prop_oneof![
        12 => (two(), words()).prop_map(|((from, to), message)| StoryStep::Ask { from, to, message }),
        5 => (two(), words()).prop_map(|((from, to), message)| StoryStep::AskByAddress { from, to, message }),
        1 => who().prop_map(|from| StoryStep::AskUnknownAddress { from }),
        1 => who().prop_map(|from| StoryStep::AskNobody { from }),
        4 => (who(), invite(), words())
            .prop_map(|(from, invite, message)| StoryStep::Redeem { from, invite, message }),
        16 => (role(people), 0..5_usize, step()).prop_map(|(role, back, step)| StoryStep::Decide { role, back, step }),
        5 => (who(), prop_oneof![Just(None), Just(Some("it was me"))])
            .prop_map(|(who, reason)| StoryStep::BreakUp { who, reason }),
        3 => two().prop_map(|(who, whom)| StoryStep::Block { who, whom }),
        3 => two().prop_map(|(who, whom)| StoryStep::Unblock { who, whom }),
        4 => (who(), select(vec![RequestPolicy::Anyone, RequestPolicy::Anyone, RequestPolicy::Invited, RequestPolicy::Nobody]), prop::bool::weighted(0.7))
            .prop_map(|(who, who_may_ask, found_by_email)| StoryStep::Set { who, who_may_ask, found_by_email }),
        2 => who().prop_map(|who| StoryStep::Prove { who }),
        3 => who().prop_map(|who| StoryStep::Invite { who }),
        1 => (who(), invite()).prop_map(|(who, invite)| StoryStep::Revoke { who, invite }),
        2 => (who(), invite()).prop_map(|(who, invite)| StoryStep::Preview { who, invite }),
        1 => who().prop_map(|who| StoryStep::Guess { who }),
        1 => who().prop_map(|who| StoryStep::Leave { who }),
        2 => who().prop_map(|who| StoryStep::Return { who }),
        1 => who().prop_map(|who| StoryStep::Rename { who }),
        1 => two().prop_map(|(who, whom)| StoryStep::Nickname { who, whom }),
        10 => wait().prop_map(StoryStep::Wait),
        2 => Just(StoryStep::Upkeep),
    ]
}

fn role(people: usize) -> impl Strategy<Value = DecidingUser> {
    prop_oneof![8 => Just(DecidingUser::Right), 1 => Just(DecidingUser::Wrong), 1 => (0..people).prop_map(DecidingUser::Somebody)]
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
