//! Requests and answers about accounts. Addresses and passwords come in here; no password and no hash goes out.

mod admin;
mod development;
mod first_admin;
mod me;
mod sessions;
mod sign_in;

use std::time::Duration;

use http::Method;
use kith_kernel::{Ctx, Problem, ProblemCode, problems};
use kith_platform::auth::Match;
use kith_platform::http::{RateClass, rate_limited, secret};
use kith_platform::telemetry::SecurityEvent;
use kith_platform::{App, Client, Routes, store_problem, tagged};

use super::model::{AccountError, Credentials, Origin, Password};
use super::queries;
use super::sign_in::Claim;

static EMAIL_TAKEN: ProblemCode =
    ProblemCode { code: "email_taken", status: 409, title: "This address is registered already" };
static INVALID_CREDENTIALS: ProblemCode =
    ProblemCode { code: "invalid_credentials", status: 401, title: "The address or the password is wrong" };
static WRONG_PASSWORD: ProblemCode =
    ProblemCode { code: "wrong_password", status: 403, title: "The password is wrong" };
static INVALID_REFRESH_TOKEN: ProblemCode =
    ProblemCode { code: "invalid_refresh_token", status: 401, title: "The refresh token is not valid" };
static ACCOUNT_SUSPENDED: ProblemCode =
    ProblemCode { code: "account_suspended", status: 403, title: "This account is suspended" };
static ACCOUNT_DELETED: ProblemCode =
    ProblemCode { code: "account_deleted", status: 403, title: "This account is deleted" };
static ACCOUNT_NOT_DELETED: ProblemCode =
    ProblemCode { code: "account_not_deleted", status: 409, title: "This account is not deleted" };
static EMAIL_VERIFIED: ProblemCode =
    ProblemCode { code: "email_verified", status: 409, title: "This address is proven" };
static LAST_ADMIN: ProblemCode =
    ProblemCode { code: "last_admin", status: 409, title: "This is the last administrator" };
static NOT_TO_ONESELF: ProblemCode =
    ProblemCode { code: "not_to_oneself", status: 409, title: "Nobody does this to themselves" };
static INVALID_LINK: ProblemCode =
    ProblemCode { code: "invalid_link", status: 403, title: "The link is not valid" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[
    &EMAIL_TAKEN,
    &INVALID_CREDENTIALS,
    &WRONG_PASSWORD,
    &INVALID_REFRESH_TOKEN,
    &ACCOUNT_SUSPENDED,
    &ACCOUNT_DELETED,
    &ACCOUNT_NOT_DELETED,
    &EMAIL_VERIFIED,
    &LAST_ADMIN,
    &NOT_TO_ONESELF,
    &INVALID_LINK,
];

/// The handlers.
pub fn routes() -> Routes {
    // These take a password or a token that renews a session.
    let signing_in = sign_in::routes().merge(first_admin::accepting_routes());
    let signing_in = rate_limited(RateClass::Auth, &[], signing_in);
    let me = rate_limited(RateClass::Auth, &[Method::POST, Method::DELETE], me::routes());
    let me = tagged("Profile", me);
    Routes::new()
        .merge(secret(signing_in.merge(sessions::routes())))
        .merge(me)
        .merge(admin::routes())
        .merge(tagged("Administration", first_admin::page_routes()))
}

/// The handlers that only development mode has.
pub fn development_routes() -> Routes {
    development::routes()
}

/// The claim of somebody who is signed in to know their password too.
async fn claim_to_be_oneself(app: &App, ctx: &Ctx, client: Client, password: &str) -> Result<Claim, Problem> {
    let user = ctx.actor.user_id().ok_or(AccountError::Gone)?;
    let subject = app.keyring.pseudonym("password", &user.to_string());
    let now = ctx.now;
    let known = app.db.read(move |q| {
        queries::may_try(q, &subject, now)?;
        queries::get_credentials(q, user)
    });
    let known = known.await.inspect_err(|error| count(app, error))?;
    prove(app, subject, Some(known), password, client).await
}

/// Looks at the password. Where there is no such account it takes the same time.
async fn prove(
    app: &App,
    subject: [u8; 32],
    known: Option<Credentials>,
    password: &str,
    client: Client,
) -> Result<Claim, Problem> {
    let password = Password::typed(password).into_string();
    let hash = known.as_ref().map(|known| known.password_hash.clone());
    let (proved, better_hash) =
        match app.passwords.verify(Some(client.address), password.clone(), hash).await? {
            Match::No => (false, None),
            Match::Yes => (true, None),
            Match::Outdated => (true, Some(app.passwords.hash(Some(client.address), password).await?)),
        };
    Ok(Claim { subject, known, proved, better_hash, origin: Origin::from(client) })
}

/// Counts what somebody who guards the server wants to know.
fn count(app: &App, error: &AccountError) {
    let kind = match error {
        AccountError::InvalidCredentials | AccountError::WrongPassword => SecurityEvent::login_failed,
        AccountError::Locked { .. } => SecurityEvent::login_locked,
        AccountError::InvalidRefreshToken => SecurityEvent::refresh_refused,
        AccountError::EmailTaken | AccountError::TooManyTaken { .. } => {
            SecurityEvent::registered_address_tried
        }
        _ => return,
    };
    app.metrics.count_security(kind);
}

/// Whole seconds, at least one.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::EmailTaken => Self::new(&EMAIL_TAKEN, "Log in, or use another address."),
            AccountError::TooManyTaken { wait } => {
                let detail = "This address was tried too often. Log in if it is yours, or use another.";
                Self::new(&problems::RATE_LIMITED, detail).retry_after(whole_seconds(wait))
            }
            AccountError::InvalidCredentials => {
                Self::new(&INVALID_CREDENTIALS, "Check the address and the password.")
            }
            AccountError::Locked { wait } => {
                let detail = "Too many failures in a row. Try again later.";
                Self::new(&problems::LOCKED, detail).retry_after(whole_seconds(wait))
            }
            AccountError::WrongPassword => Self::new(&WRONG_PASSWORD, "Check your present password."),
            AccountError::Suspended => Self::new(&ACCOUNT_SUSPENDED, "A moderator has suspended it."),
            AccountError::Deleted { purge_at } => Self::new(
                &ACCOUNT_DELETED,
                format!(
                    "It will be gone for good at {purge_at}; until then POST /api/v1/auth/restore undoes it."
                ),
            ),
            AccountError::NotDeleted => Self::new(&ACCOUNT_NOT_DELETED, "There is nothing to undo: log in."),
            AccountError::InvalidRefreshToken => {
                Self::new(&INVALID_REFRESH_TOKEN, "It was used, has expired or never was. Log in again.")
            }
            AccountError::Gone => {
                Self::new(&problems::UNAUTHENTICATED, "This account does not exist any more.")
            }
            AccountError::NotFound => Self::new(&problems::NOT_FOUND, "There is no such account."),
            AccountError::SessionNotFound => {
                Self::new(&problems::NOT_FOUND, "You have no open session with this id.")
            }
            AccountError::ToSelf => Self::new(&NOT_TO_ONESELF, "Another administrator can do this to you."),
            AccountError::OutOfReach => Self::new(
                &problems::FORBIDDEN,
                "Their role is not below yours; an administrator can do this.",
            ),
            AccountError::EmailVerified => Self::new(
                &EMAIL_VERIFIED,
                "A proven address belongs to the account that has it and cannot be released.",
            ),
            AccountError::EmailNotVerified => Self::new(
                &problems::FORBIDDEN,
                "An account has this address, which is not verified: somebody else may have registered it. If it is its \
                 owner's, verify it first (`kith admin verify-email`).",
            ),
            AccountError::LastAdmin => {
                Self::new(&LAST_ADMIN, "Without an administrator nobody could make one: make another first.")
            }
            AccountError::InvalidLink => {
                Self::new(&INVALID_LINK, "It was used, has expired, or there is an administrator already.")
            }
            AccountError::Changed(changed) => changed.into(),
            AccountError::Store(error) => store_problem(error),
        }
    }
}
