//! HTTP endpoints of partner requests, bonds, invites and settings. The rules are in `rules.rs`.

mod bonds;
mod deprecated_paths;
mod invites;
mod requests;
mod settings;

use std::time::Duration;

use http::Method;
use kith_kernel::{FieldError, Problem, ProblemCode, problems};
use kith_platform::http::{RateClass, rate_limited};
use kith_platform::{Routes, store_problem};

use super::model::BondError;
use super::settings::BondSettings;

static SLOT_OCCUPIED: ProblemCode =
    ProblemCode { code: "slot_occupied", status: 409, title: "Partner slot occupied" };
static NOT_BONDED: ProblemCode = ProblemCode { code: "not_bonded", status: 409, title: "No active bond" };
static ALREADY_PENDING: ProblemCode =
    ProblemCode { code: "request_pending", status: 409, title: "Request already pending" };
static NOT_PENDING: ProblemCode =
    ProblemCode { code: "request_not_pending", status: 409, title: "Request not pending" };
static REQUESTS_NOT_ACCEPTED: ProblemCode =
    ProblemCode { code: "requests_not_accepted", status: 403, title: "Requests not accepted" };
static REQUEST_COOLDOWN: ProblemCode =
    ProblemCode { code: "request_cooldown_active", status: 409, title: "Request cooldown active" };
static ONLY_RECIPIENT_CAN_REQUEST: ProblemCode =
    ProblemCode { code: "only_recipient_can_request", status: 409, title: "Only recipient can request" };
static TOO_MANY_INVITES: ProblemCode =
    ProblemCode { code: "too_many_invites", status: 409, title: "Too many invites" };
static RESTORATION_EXPIRED: ProblemCode =
    ProblemCode { code: "restoration_expired", status: 409, title: "Restoration expired" };
static NOTHING_TO_REPORT: ProblemCode =
    ProblemCode { code: "nothing_to_report", status: 409, title: "No message to report" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] = &[
    &SLOT_OCCUPIED,
    &NOT_BONDED,
    &ALREADY_PENDING,
    &NOT_PENDING,
    &REQUESTS_NOT_ACCEPTED,
    &REQUEST_COOLDOWN,
    &ONLY_RECIPIENT_CAN_REQUEST,
    &TOO_MANY_INVITES,
    &RESTORATION_EXPIRED,
    &NOTHING_TO_REPORT,
];

/// Limit of the routes that list partners: `partners.lists_per_minute`.
pub const LISTS: RateClass = RateClass {
    name: "partner-lists",
    per_minute: |config| config.section::<BondSettings>().lists_per_minute,
};

/// Returns the routes of this module, with their current and their deprecated paths.
pub fn routes() -> Routes {
    let all = Routes::new()
        .merge(requests::routes())
        .merge(bonds::routes())
        .merge(invites::routes())
        .merge(settings::routes())
        .merge(deprecated_paths::routes());
    rate_limited(LISTS, &[Method::GET], all)
}

/// Rounds a duration up to whole seconds, at least 1.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

impl From<BondError> for Problem {
    fn from(error: BondError) -> Self {
        match error {
            BondError::SelfRequest => {
                Self::invalid(vec![FieldError::new("/to", "self", "You cannot send a request to yourself.")])
            }
            BondError::RecipientNotFound => Self::new(&problems::NOT_FOUND, "No user has this ID."),
            BondError::RequestNotFound => {
                Self::new(&problems::NOT_FOUND, "You have no partner request with this ID.")
            }
            BondError::BondNotFound => Self::new(&problems::NOT_FOUND, "You have no bond with this ID."),
            BondError::InviteNotFound => {
                Self::new(&problems::NOT_FOUND, "This invite does not exist or can no longer be used.")
            }
            BondError::OnlyRecipient => {
                Self::new(&problems::FORBIDDEN, "You sent this request. Only its recipient can do this.")
            }
            BondError::OnlySender => Self::new(
                &problems::FORBIDDEN,
                "You received this request. Only its sender can cancel it; accept or reject it instead.",
            ),
            BondError::AlreadyPending => Self::new(
                &ALREADY_PENDING,
                "You already have a pending request to this user with another message. Cancel it before sending a new one.",
            ),
            BondError::NotPending(status) => {
                Self::new(&NOT_PENDING, format!("The request is already {}.", status.as_str()))
            }
            BondError::SlotOccupied => Self::new(
                &SLOT_OCCUPIED,
                "A user can have one partner at a time. End the present bond before accepting another.",
            ),
            BondError::NotBonded => Self::new(&NOT_BONDED, "You have no active bond."),
            BondError::RequestsNotAccepted => Self::new(
                &REQUESTS_NOT_ACCEPTED,
                "This user accepts requests only by invite, or none at all.",
            ),
            BondError::CooldownActive { wait } => {
                let detail = "This user rejected your last request. Wait for the time in Retry-After before sending another one.";
                Self::new(&REQUEST_COOLDOWN, detail).retry_after(whole_seconds(wait))
            }
            BondError::OnlyRecipientCanRequest => Self::new(
                &ONLY_RECIPIENT_CAN_REQUEST,
                "You cannot send another request to this user; they can send one to you.",
            ),
            BondError::TooManyRequests { wait } => {
                let detail = "You can send 5 requests per minute, 20 per hour and 100 per day. Try again after the time in Retry-After.";
                Self::new(&problems::RATE_LIMITED, detail).retry_after(whole_seconds(wait))
            }
            BondError::TooManyFailedAttempts { wait } => {
                let detail = "Too many invalid invite codes. You can try 10 per minute.";
                Self::new(&problems::RATE_LIMITED, detail).retry_after(whole_seconds(wait))
            }
            BondError::TooManyInvites => Self::new(
                &TOO_MANY_INVITES,
                "You have 5 unused invites. Revoke one, or wait until one is used or expires.",
            ),
            BondError::RestorationExpired => Self::new(
                &RESTORATION_EXPIRED,
                "You have no bond with this user that ended within the last 30 days. Accept without `expect` to form a new bond.",
            ),
            BondError::NothingToReport => {
                Self::new(&NOTHING_TO_REPORT, "The request has no message to report.")
            }
            BondError::Store(error) => store_problem(error),
        }
    }
}
