//! Requests and answers about partners. What may happen is decided in `rules.rs`, never here.

mod bonds;
mod invites;
mod old_paths;
mod requests;
mod settings;

use std::time::Duration;

use http::Method;
use kith_kernel::{FieldError, Problem, ProblemCode, problems};
use kith_platform::http::{RateClass, rate_limited};
use kith_platform::{Routes, store_problem};

use super::model::BondError;

static SLOT_OCCUPIED: ProblemCode =
    ProblemCode { code: "slot_occupied", status: 409, title: "One of you has a partner" };
static NOT_BONDED: ProblemCode =
    ProblemCode { code: "not_bonded", status: 409, title: "You have no partner" };
static ALREADY_PENDING: ProblemCode =
    ProblemCode { code: "request_pending", status: 409, title: "A request to this person is waiting" };
static NOT_PENDING: ProblemCode =
    ProblemCode { code: "request_not_pending", status: 409, title: "The request is decided" };
static NOT_OPEN: ProblemCode =
    ProblemCode { code: "not_open_to_requests", status: 403, title: "This person does not want to be asked" };
static TOO_SOON: ProblemCode =
    ProblemCode { code: "too_soon_to_ask_again", status: 409, title: "It is too soon to ask again" };
static ONLY_THEY_MAY_ASK: ProblemCode =
    ProblemCode { code: "only_they_may_ask", status: 409, title: "Only the other one may ask now" };
static TOO_MANY_INVITES: ProblemCode =
    ProblemCode { code: "too_many_invites", status: 409, title: "You have five invites out already" };
static RESTORATION_EXPIRED: ProblemCode =
    ProblemCode { code: "restoration_expired", status: 409, title: "Your former bond cannot come back" };
static NOTHING_TO_REPORT: ProblemCode =
    ProblemCode { code: "nothing_to_report", status: 409, title: "The request has no message" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[
    &SLOT_OCCUPIED,
    &NOT_BONDED,
    &ALREADY_PENDING,
    &NOT_PENDING,
    &NOT_OPEN,
    &TOO_SOON,
    &ONLY_THEY_MAY_ASK,
    &TOO_MANY_INVITES,
    &RESTORATION_EXPIRED,
    &NOTHING_TO_REPORT,
];

/// The handlers.
pub fn routes() -> Routes {
    let all = Routes::new()
        .merge(requests::routes())
        .merge(bonds::routes())
        .merge(invites::routes())
        .merge(settings::routes())
        .merge(old_paths::routes());
    rate_limited(RateClass::PartnerLists, &[Method::GET], all)
}

/// Whole seconds, at least one.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

impl From<BondError> for Problem {
    fn from(error: BondError) -> Self {
        match error {
            BondError::ToSelf => {
                Self::invalid(vec![FieldError::new("/to", "self", "You cannot be your own partner.")])
            }
            BondError::ReceiverNotFound => Self::new(&problems::NOT_FOUND, "There is nobody with this id."),
            BondError::RequestNotFound => Self::new(&problems::NOT_FOUND, "There is no such request."),
            BondError::BondNotFound => Self::new(&problems::NOT_FOUND, "There is no such bond of yours."),
            BondError::InviteNotFound => {
                Self::new(&problems::NOT_FOUND, "There is no such invite, or it cannot be used any more.")
            }
            BondError::OnlyReceiver => {
                Self::new(&problems::FORBIDDEN, "You sent this request; the other one decides it.")
            }
            BondError::OnlySender => {
                Self::new(&problems::FORBIDDEN, "You received this request: accept or reject it.")
            }
            BondError::AlreadyPending => {
                Self::new(&ALREADY_PENDING, "You asked in other words; that request still waits.")
            }
            BondError::NotPending(status) => {
                Self::new(&NOT_PENDING, format!("The request is {}.", status.as_str()))
            }
            BondError::SlotOccupied => {
                Self::new(&SLOT_OCCUPIED, "Each person can have one partner at a time.")
            }
            BondError::NotBonded => Self::new(&NOT_BONDED, "There is nobody to break up with."),
            BondError::NotOpen => Self::new(&NOT_OPEN, "They take requests by their own invites, or none."),
            BondError::TooSoon { wait } => {
                let detail = "They said no; after that one waits a day, a week, thirty days.";
                Self::new(&TOO_SOON, detail).retry_after(whole_seconds(wait))
            }
            BondError::OnlyTheyMayAsk => Self::new(&ONLY_THEY_MAY_ASK, "They have said no often enough."),
            BondError::TooMany { wait } => {
                let detail = "Five requests a minute, 20 an hour, 100 a day.";
                Self::new(&problems::RATE_LIMITED, detail).retry_after(whole_seconds(wait))
            }
            BondError::TooManyMisses { wait } => {
                let detail = "Ten codes a minute that lead nowhere.";
                Self::new(&problems::RATE_LIMITED, detail).retry_after(whole_seconds(wait))
            }
            BondError::TooManyInvites => Self::new(&TOO_MANY_INVITES, "Take one back, or let one be used."),
            BondError::RestorationExpired => Self::new(
                &RESTORATION_EXPIRED,
                "It ended more than 30 days ago, or there is none. Accept without `expect` to begin a new one.",
            ),
            BondError::NothingToReport => Self::new(&NOTHING_TO_REPORT, "There are no words to look at."),
            BondError::Store(error) => store_problem(error),
        }
    }
}
