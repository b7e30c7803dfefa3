//! HTTP endpoints of accounts. Responses never contain a password or a password hash.

mod admin;
mod development;
mod first_admin;
mod log_in;
mod me;
mod sessions;

use std::time::Duration;

use http::Method;
use kith_kernel::{Ctx, Problem, ProblemCode, problems};
use kith_platform::auth::PasswordMatch;
use kith_platform::http::{RateClass, rate_limited, secret};
use kith_platform::telemetry::SecurityEvent;
use kith_platform::{App, Client, Routes, store_problem, tagged};

use super::log_in::PasswordCheck;
use super::model::{AccountError, ClientInfo, Credentials, Password};
use super::queries;

static EMAIL_TAKEN: ProblemCode =
    ProblemCode { code: "email_taken", status: 409, title: "E-mail address taken" };
static INVALID_CREDENTIALS: ProblemCode =
    ProblemCode { code: "invalid_credentials", status: 401, title: "Invalid credentials" };
static WRONG_PASSWORD: ProblemCode =
    ProblemCode { code: "wrong_password", status: 403, title: "Wrong password" };
static INVALID_REFRESH_TOKEN: ProblemCode =
    ProblemCode { code: "invalid_refresh_token", status: 401, title: "Invalid refresh token" };
static ACCOUNT_SUSPENDED: ProblemCode =
    ProblemCode { code: "account_suspended", status: 403, title: "Account suspended" };
static ACCOUNT_DELETED: ProblemCode =
    ProblemCode { code: "account_deleted", status: 403, title: "Account deleted" };
static ACCOUNT_NOT_DELETED: ProblemCode =
    ProblemCode { code: "account_not_deleted", status: 409, title: "Account not deleted" };
static EMAIL_VERIFIED: ProblemCode =
    ProblemCode { code: "email_verified", status: 409, title: "E-mail address verified" };
static LAST_ADMIN: ProblemCode = ProblemCode { code: "last_admin", status: 409, title: "Last administrator" };
static SELF_NOT_ALLOWED: ProblemCode =
    ProblemCode { code: "self_not_allowed", status: 409, title: "Not allowed on own account" };
static INVALID_LINK: ProblemCode =
    ProblemCode { code: "invalid_link", status: 403, title: "Invalid first-administrator link" };

/// Problem codes that these endpoints return, in addition to the general ones.
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
    &SELF_NOT_ALLOWED,
    &INVALID_LINK,
];

/// Returns all routes of the module `accounts` except those of development mode.
pub fn routes() -> Routes {
    // Rate-limited as authentication, because these endpoints accept a password or a refresh token.
    let log_in_routes = log_in::routes().merge(first_admin::redemption_routes());
    let log_in_routes = rate_limited(RateClass::AUTH, &[], log_in_routes);
    let me = rate_limited(RateClass::AUTH, &[Method::POST, Method::DELETE], me::routes());
    let me = tagged("Profile", me);
    Routes::new()
        .merge(secret(log_in_routes.merge(sessions::routes())))
        .merge(me)
        .merge(admin::routes())
        .merge(tagged("Administration", first_admin::page_routes()))
}

/// Returns the routes that exist in development mode only.
pub fn development_routes() -> Routes {
    development::routes()
}

/// Checks the password of the signed-in user and returns the result as a [`PasswordCheck`]. Rejects the
/// attempt during a lock-out of the user.
async fn verify_current_password(
    app: &App,
    ctx: &Ctx,
    client: Client,
    password: &str,
) -> Result<PasswordCheck, Problem> {
    let user = ctx.actor.user_id().ok_or(AccountError::CallerDeleted)?;
    let subject = app.keyring.pseudonym("password", &user.to_string());
    let now = ctx.now;
    let credentials = app.db.read(move |q| {
        queries::check_not_locked(q, &subject, now)?;
        queries::get_credentials(q, user)
    });
    let credentials = credentials.await.inspect_err(|error| record_security_event(app, error))?;
    check_password(app, subject, Some(credentials), password, client).await
}

/// Verifies `password` against the stored hash of `credentials`. Without `credentials`, the result is always
/// wrong but takes the same time, so that the response time does not reveal whether an account exists.
async fn check_password(
    app: &App,
    subject: [u8; 32],
    credentials: Option<Credentials>,
    password: &str,
    client: Client,
) -> Result<PasswordCheck, Problem> {
    let password = Password::normalize(password).into_string();
    let hash = credentials.as_ref().map(|credentials| credentials.password_hash.clone());
    let (is_correct, upgraded_hash) =
        match app.passwords.verify(Some(client.address), password.clone(), hash).await? {
            PasswordMatch::No => (false, None),
            PasswordMatch::Yes => (true, None),
            PasswordMatch::Outdated => {
                (true, Some(app.passwords.hash(Some(client.address), password).await?))
            }
        };
    Ok(PasswordCheck { subject, credentials, is_correct, upgraded_hash, client: ClientInfo::from(client) })
}

/// Counts `error` in the security metrics if it is a failed log-in, a lock-out, a rejected refresh token or
/// a registration with a taken address.
fn record_security_event(app: &App, error: &AccountError) {
    let kind = match error {
        AccountError::InvalidCredentials | AccountError::WrongPassword => SecurityEvent::login_failed,
        AccountError::Locked { .. } => SecurityEvent::login_locked,
        AccountError::InvalidRefreshToken => SecurityEvent::refresh_refused,
        AccountError::EmailTaken | AccountError::TooManyTakenResponses { .. } => {
            SecurityEvent::registered_address_tried
        }
        _ => return,
    };
    app.metrics.record_security_event(kind);
}

/// Rounds a duration up to whole seconds, at least 1.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::EmailTaken => Self::new(
                &EMAIL_TAKEN,
                "An account with this e-mail address exists. Log in, or register with another address.",
            ),
            AccountError::TooManyTakenResponses { wait } => {
                let detail = "Too many registrations were tried with this e-mail address. Log in if it is yours, or use another address.";
                Self::new(&problems::RATE_LIMITED, detail).retry_after(whole_seconds(wait))
            }
            AccountError::InvalidCredentials => Self::new(
                &INVALID_CREDENTIALS,
                "The e-mail address or the password is wrong. Check both and try again.",
            ),
            AccountError::Locked { wait } => {
                let detail = "Too many failed attempts in a row. Try again after the time in Retry-After.";
                Self::new(&problems::LOCKED, detail).retry_after(whole_seconds(wait))
            }
            AccountError::WrongPassword => {
                Self::new(&WRONG_PASSWORD, "The current password is wrong. Check it and try again.")
            }
            AccountError::Suspended => {
                Self::new(&ACCOUNT_SUSPENDED, "A moderator or an administrator has suspended this account.")
            }
            AccountError::Deleted { purge_at } => Self::new(
                &ACCOUNT_DELETED,
                format!(
                    "This account was deleted and will be purged at {purge_at}. Until then, restore it with POST /api/v1/auth/restore."
                ),
            ),
            AccountError::NotDeleted => Self::new(
                &ACCOUNT_NOT_DELETED,
                "This account is not deleted, so it cannot be restored. Log in instead.",
            ),
            AccountError::InvalidRefreshToken => Self::new(
                &INVALID_REFRESH_TOKEN,
                "The refresh token is invalid, expired or already used. Log in again.",
            ),
            AccountError::CallerDeleted => {
                Self::new(&problems::UNAUTHENTICATED, "The account of this token has been deleted.")
            }
            AccountError::NotFound => {
                Self::new(&problems::NOT_FOUND, "No account has this ID or e-mail address.")
            }
            AccountError::SessionNotFound => {
                Self::new(&problems::NOT_FOUND, "You have no open session with this ID.")
            }
            AccountError::SelfAction => Self::new(
                &SELF_NOT_ALLOWED,
                "You cannot do this to your own account. Ask another administrator.",
            ),
            AccountError::RoleTooHigh => Self::new(
                &problems::FORBIDDEN,
                "The role of this account is not below yours. Ask an administrator.",
            ),
            AccountError::EmailVerified => {
                Self::new(&EMAIL_VERIFIED, "A verified e-mail address cannot be released.")
            }
            AccountError::EmailNotVerified => Self::new(
                &problems::FORBIDDEN,
                "The e-mail address of this account is not verified, so another person may have registered it. If it belongs to its \
                 owner, verify it first (`kith admin verify-email`).",
            ),
            AccountError::LastAdmin => Self::new(
                &LAST_ADMIN,
                "This is the last active administrator. Make another account an administrator first.",
            ),
            AccountError::InvalidLink => Self::new(
                &INVALID_LINK,
                "The link is invalid or expired, or an administrator already exists.",
            ),
            AccountError::ProfileChanged(changed) => changed.into(),
            AccountError::Store(error) => store_problem(error),
        }
    }
}
