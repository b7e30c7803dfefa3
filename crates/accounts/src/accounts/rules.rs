//! What may happen to accounts, decided from what is known. Pure: no database, no clock.

use std::time::Duration;

use kith_kernel::{Timestamp, UserId, days, hours, minutes, seconds};
use kith_platform::auth::Role;

use super::model::{Account, AccountError, AccountStatus, Email};

/// A session that nobody renews ends after this.
pub const SESSION_IDLE: Duration = days(30);
/// A refresh token that was just spent gives the same pair again for this long: its answer may have been lost.
pub const REFRESH_GRACE: Duration = seconds(15);
/// Open sessions a person may have; the one that was renewed longest ago makes way.
pub const SESSIONS_MOST: i64 = 50;
/// What addresses end in that can belong to nobody.
pub const MADE_UP: &str = "@kith-verify.invalid";
const HOLD: Duration = days(14);
/// How often it is said within [`REFUSALS_WITHIN`] of one address that it is registered.
pub const REFUSALS_MOST: i64 = 10;
/// See [`REFUSALS_MOST`].
pub const REFUSALS_WITHIN: Duration = hours(1);
/// Whoever failed to sign in, perhaps without an account, is known by address and client for so long.
pub const REFUSED_DETAILS_KEPT: Duration = days(90);
/// Rows that are tidied away in one go.
pub const TIDIED_AT_ONCE: i64 = 1_000;
/// An account that was this old when it was deleted is one that strangers do not make in numbers.
pub const ESTABLISHED_AFTER: Duration = days(30);
/// Established accounts that may always be due at once, whatever share they are; and so many are purged a day if more are.
pub const DUE_FREELY: i64 = 20;
/// How long a link lives that makes the first administrator.
pub const LINK_LIFETIME: Duration = hours(1);

const FAILURES_FREE: i64 = 5;
const LOCK_FIRST: Duration = minutes(1);
const LOCK_LONGEST: Duration = minutes(15);
/// Failures further back than this are forgotten.
const FAILURES_FORGOTTEN: Duration = hours(24);

/// Failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: i64,
    /// The last one.
    pub failed_at: Timestamp,
    /// Until when nobody gets in.
    pub locked_until: Timestamp,
}

impl Failures {
    /// None so far.
    pub const NONE: Self = Self { count: 0, failed_at: Timestamp::EPOCH, locked_until: Timestamp::EPOCH };

    /// Whether it may be tried at `now`.
    ///
    /// # Errors
    /// [`AccountError::Locked`].
    pub fn may_try(self, now: Timestamp) -> Result<(), AccountError> {
        match self.locked_until.since(now) {
            Duration::ZERO => Ok(()),
            // No lock is so long: the clock was ahead when it was made.
            wait if wait > LOCK_LONGEST => Ok(()),
            wait => Err(AccountError::Locked { wait }),
        }
    }

    /// One more at `now`: the fifth locks for a minute, and each that follows for twice as long, up to 15.
    #[must_use]
    pub fn and_one(self, now: Timestamp) -> Self {
        let forgotten = now.since(self.failed_at.max(self.locked_until)) >= FAILURES_FORGOTTEN;
        let count = if forgotten { 1 } else { self.count + 1 };
        let locked_until = match u32::try_from(count - FAILURES_FREE) {
            Ok(doublings) => now + (LOCK_FIRST * 2_u32.pow(doublings.min(10))).min(LOCK_LONGEST),
            Err(_) => Timestamp::EPOCH,
        };
        Self { count, failed_at: now, locked_until }
    }

    /// Before when the last failure has to lie for them to be forgotten.
    pub fn forgotten_before(now: Timestamp) -> Timestamp {
        now - (FAILURES_FORGOTTEN + LOCK_LONGEST)
    }
}

/// Whether `actor` in `role` may shut `account` out or let it in again.
///
/// # Errors
/// [`AccountError::ToSelf`], [`AccountError::OutOfReach`].
pub fn may_suspend(actor: UserId, role: Role, account: &Account) -> Result<(), AccountError> {
    if actor == account.id {
        return Err(AccountError::ToSelf);
    }
    if role == Role::Admin || account.role < role { Ok(()) } else { Err(AccountError::OutOfReach) }
}

/// Whether `account` may lose the role of administrator while there are `admins` of them who can act.
///
/// # Errors
/// [`AccountError::LastAdmin`].
pub fn may_lose_admin(account: &Account, admins: i64) -> Result<(), AccountError> {
    let can_act = account.role == Role::Admin && account.status == AccountStatus::Active;
    let counts = can_act && !is_made_up(&account.email);
    if counts && admins <= 1 { Err(AccountError::LastAdmin) } else { Ok(()) }
}

/// Whether an address is one that `kith verify` makes up: it can belong to nobody (RFC 2606, section 2). Such accounts
/// are purged as soon as they are deleted, and nobody counts on them to administer.
pub fn is_made_up(email: &str) -> bool {
    Email::key_of(email).ends_with(MADE_UP)
}

/// Whether so many established accounts may be purged at once. More is not what people do by themselves.
pub fn may_purge_established(due: i64, established: i64, max_share_percent: u8) -> bool {
    due <= DUE_FREELY
        || max_share_percent >= 100
        || due.saturating_mul(100) <= established.saturating_mul(max_share_percent.into())
}

/// Returns true if this run purges one established account while more of them are due than is likely. The rate is [`DUE_FREELY`] for
/// each day of observed time, which was `previous_ms` at the run before and is `elapsed_ms` now.
pub fn is_turn_of_established(previous_ms: i64, elapsed_ms: i64) -> bool {
    let pace_ms = 24 * 3_600 * 1_000 / DUE_FREELY;
    elapsed_ms / pace_ms > previous_ms / pace_ms
}

/// How long an account is held whose owner deleted it.
pub fn hold(email: &str) -> Duration {
    if is_made_up(email) { Duration::ZERO } else { HOLD }
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    /// ACC-07.
    #[test]
    fn five_failures_lock_for_a_minute_and_further_ones_for_twice_as_long_up_to_fifteen() {
        let (mut failures, mut now) = (Failures::NONE, NOW);
        let mut locks = Vec::new();
        for _ in 0..11 {
            failures.may_try(now).unwrap();
            failures = failures.and_one(now);
            let locked = failures.locked_until.since(now).as_secs() / 60;
            locks.push(locked);
            if locked > 0 {
                failures.may_try(failures.locked_until - Duration::from_millis(1)).unwrap_err();
                now = failures.locked_until;
            }
        }
        assert_eq!(locks, [0, 0, 0, 0, 1, 2, 4, 8, 15, 15, 15]);
    }

    #[test]
    fn failures_are_forgotten_after_a_day_without_any() {
        let four = (0..4).fold(Failures::NONE, |failures, _| failures.and_one(NOW));
        assert_eq!(four.and_one(NOW + hours(24) - seconds(1)).count, 5);
        assert_eq!(four.and_one(NOW + hours(24)).count, 1);
        let locked = four.and_one(NOW);
        assert_eq!(locked.and_one(locked.locked_until + hours(24)).count, 1);
    }

    fn account(id: u128, role: Role, status: AccountStatus) -> Account {
        Account {
            id: UserId(Uuid::from_u128(id)),
            email: String::new(),
            display_name: String::new(),
            role,
            status,
            created_at: NOW,
            suspended_at: None,
            purge_at: None,
            email_verified_at: None,
        }
    }

    #[test]
    fn only_those_below_are_within_reach_but_an_admin_reaches_everyone_else() {
        let actor = UserId(Uuid::from_u128(1));
        let outcome = |role, target, id| {
            may_suspend(actor, role, &account(id, target, AccountStatus::Active)).map_err(|e| e.to_string())
        };
        for role in Role::ALL {
            assert!(outcome(role, Role::User, 1).unwrap_err().contains("oneself"));
            assert_eq!(outcome(Role::Moderator, role, 2).is_ok(), role < Role::Moderator, "{role}");
            assert!(outcome(Role::Admin, role, 2).is_ok(), "{role}");
        }
    }

    #[test]
    fn the_last_admin_who_can_act_stays() {
        let may = |role, status, admins| may_lose_admin(&account(2, role, status), admins).is_ok();
        assert!(!may(Role::Admin, AccountStatus::Active, 1));
        assert!(may(Role::Admin, AccountStatus::Active, 2));
        assert!(may(Role::Admin, AccountStatus::Suspended, 1));
        assert!(may(Role::Moderator, AccountStatus::Active, 1));
    }

    #[test]
    fn an_account_that_can_be_nobodys_holds_nothing_up() {
        for made_up in ["ada@kith-verify.invalid", "ada@Kith-Verify.INVALID"] {
            assert!(is_made_up(made_up) && hold(made_up) == Duration::ZERO, "{made_up}");
            let admin =
                Account { email: made_up.to_owned(), ..account(2, Role::Admin, AccountStatus::Active) };
            assert!(may_lose_admin(&admin, 1).is_ok(), "{made_up}");
        }
        for somebodys in [
            "ada@other.invalid",
            "ada@example.org",
            "invalid",
            "é@kith-verify.invalie",
            "ada@not.kith-verify.invalid",
        ] {
            assert!(!is_made_up(somebodys) && hold(somebodys) == days(14), "{somebodys}");
        }
    }
}
