//! Rules of accounts as pure functions, without database or clock access.

use std::time::Duration;

use kith_kernel::{Timestamp, UserId, days, hours, minutes, seconds};
use kith_platform::auth::Role;

use super::model::{Account, AccountError, AccountStatus, Email};

/// Time after which a session that is not refreshed expires.
pub const SESSION_IDLE_TIMEOUT: Duration = days(30);
/// Time after the use of a refresh token within which the token still returns the same pair, in case the
/// response was lost.
pub const REFRESH_GRACE_PERIOD: Duration = seconds(15);
/// Maximum number of open sessions per user. A further log-in ends the session that was refreshed longest
/// ago.
pub const MAX_SESSIONS: i64 = 50;
/// Suffix of the addresses of synthetic accounts. No person can own such an address (RFC 2606).
pub const SYNTHETIC_EMAIL_SUFFIX: &str = "@kith-verify.invalid";
const HOLD_PERIOD: Duration = days(14);
/// Maximum number of `email_taken` responses per address within [`TAKEN_RESPONSES_WINDOW`].
pub const MAX_TAKEN_RESPONSES: i64 = 10;
/// Period over which [`MAX_TAKEN_RESPONSES`] is counted.
pub const TAKEN_RESPONSES_WINDOW: Duration = hours(1);
/// Time for which the audit log keeps the IP address and user agent of rejected log-ins.
pub const REFUSED_LOG_IN_RETENTION: Duration = days(90);
/// Maximum number of audit entries whose details are erased in one run.
pub const MAX_ERASED_PER_RUN: i64 = 1_000;
/// Minimum age at deletion of an established account. An attacker cannot quickly create many established
/// accounts.
pub const ESTABLISHED_AGE: Duration = days(30);
/// Number of established accounts that may be due at once, whatever their share is. If more are due, this is
/// also the number purged per day.
pub const MAX_ESTABLISHED_PURGES_PER_DAY: i64 = 20;
/// Lifetime of a first-administrator link.
pub const FIRST_ADMIN_LINK_LIFETIME: Duration = hours(1);

const FAILURES_TO_LOCK: i64 = 5;
const FIRST_LOCK: Duration = minutes(1);
const MAX_LOCK: Duration = minutes(15);
/// Time since the last failure after which all failures are forgotten.
const FAILURES_RETENTION: Duration = hours(24);

/// Consecutive failed password attempts of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogInFailures {
    /// Number of failures.
    pub count: i64,
    /// Time of the last failure.
    pub failed_at: Timestamp,
    /// End of the lock-out.
    pub locked_until: Timestamp,
}

impl LogInFailures {
    /// Value for a subject without failures.
    pub const NONE: Self = Self { count: 0, failed_at: Timestamp::EPOCH, locked_until: Timestamp::EPOCH };

    /// Checks that no lock-out is active at `now`.
    ///
    /// # Errors
    /// Returns [`AccountError::Locked`] with the remaining time.
    pub fn check_not_locked(self, now: Timestamp) -> Result<(), AccountError> {
        match self.locked_until.since(now) {
            Duration::ZERO => Ok(()),
            // The wait is longer than any lock-out, so the clock was ahead when the end was stored. Ignore
            // it.
            wait if wait > MAX_LOCK => Ok(()),
            wait => Err(AccountError::Locked { wait }),
        }
    }

    /// Adds a failure at `now`. The fifth failure in a row locks the subject for one minute. Each further
    /// one doubles the lock, up to 15 minutes.
    #[must_use]
    pub fn with_failure(self, now: Timestamp) -> Self {
        let is_expired = now.since(self.failed_at.max(self.locked_until)) >= FAILURES_RETENTION;
        let count = if is_expired { 1 } else { self.count + 1 };
        let locked_until = match u32::try_from(count - FAILURES_TO_LOCK) {
            Ok(doublings) => now + (FIRST_LOCK * 2_u32.pow(doublings.min(10))).min(MAX_LOCK),
            Err(_) => Timestamp::EPOCH,
        };
        Self { count, failed_at: now, locked_until }
    }

    /// Returns the time up to which a last failure is old enough to delete its row.
    pub fn expired_before(now: Timestamp) -> Timestamp {
        now - (FAILURES_RETENTION + MAX_LOCK)
    }
}

/// Checks that `actor` with `role` may suspend or reinstate `account`.
///
/// # Errors
/// Returns [`AccountError::SelfAction`] for the actor's own account, [`AccountError::RoleTooHigh`] if the
/// account's role is not below `role` and `role` is not administrator.
pub fn check_suspension(actor: UserId, role: Role, account: &Account) -> Result<(), AccountError> {
    if actor == account.id {
        return Err(AccountError::SelfAction);
    }
    if role == Role::Admin || account.role < role { Ok(()) } else { Err(AccountError::RoleTooHigh) }
}

/// Checks that `account` may lose its status as an active administrator. `admins` is the number of active
/// administrators, including this one.
///
/// # Errors
/// Returns [`AccountError::LastAdmin`] if `account` is the only active administrator.
pub fn check_not_last_admin(account: &Account, admins: i64) -> Result<(), AccountError> {
    let can_act = account.role == Role::Admin && account.status == AccountStatus::Active;
    let counts = can_act && !is_synthetic(&account.email);
    if counts && admins <= 1 { Err(AccountError::LastAdmin) } else { Ok(()) }
}

/// Returns `true` for the address of a synthetic account of `kith verify`, which no person can own (RFC 2606,
/// section 2). Synthetic accounts are purged as soon as they are deleted, and do not count as administrators.
pub fn is_synthetic(email: &str) -> bool {
    Email::comparison_key(email).ends_with(SYNTHETIC_EMAIL_SUFFIX)
}

/// Returns `true` if `due` of `established` accounts may be purged at once. A share above
/// `max_share_percent` is probably caused by an error or an attack, not by the users' decisions.
pub fn allows_established_purge(due: i64, established: i64, max_share_percent: u8) -> bool {
    due <= MAX_ESTABLISHED_PURGES_PER_DAY
        || max_share_percent >= 100
        || due.saturating_mul(100) <= established.saturating_mul(max_share_percent.into())
}

/// Returns `true` if this run may purge one established account although their purge is slowed. The rate is
/// [`MAX_ESTABLISHED_PURGES_PER_DAY`] per day of observed time. The observed time was `previous_ms` at the
/// previous run and is `elapsed_ms` now, both in milliseconds.
pub fn is_established_purge_due(previous_ms: i64, elapsed_ms: i64) -> bool {
    let pace_ms = 24 * 3_600 * 1_000 / MAX_ESTABLISHED_PURGES_PER_DAY;
    elapsed_ms / pace_ms > previous_ms / pace_ms
}

/// Returns the grace period between the deletion of an account and its purge: zero for synthetic accounts.
pub fn hold_period(email: &str) -> Duration {
    if is_synthetic(email) { Duration::ZERO } else { HOLD_PERIOD }
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    /// Requirement ACC-07: lock-out after failed log-ins.
    #[test]
    fn lock_starts_at_five_failures_and_doubles_up_to_15_minutes() {
        let (mut failures, mut now) = (LogInFailures::NONE, NOW);
        let mut locks = Vec::new();
        for _ in 0..11 {
            failures.check_not_locked(now).unwrap();
            failures = failures.with_failure(now);
            let locked = failures.locked_until.since(now).as_secs() / 60;
            locks.push(locked);
            if locked > 0 {
                failures.check_not_locked(failures.locked_until - Duration::from_millis(1)).unwrap_err();
                now = failures.locked_until;
            }
        }
        assert_eq!(locks, [0, 0, 0, 0, 1, 2, 4, 8, 15, 15, 15]);
    }

    #[test]
    fn failures_reset_after_a_day_without_failures() {
        let four = (0..4).fold(LogInFailures::NONE, |failures, _| failures.with_failure(NOW));
        assert_eq!(four.with_failure(NOW + hours(24) - seconds(1)).count, 5);
        assert_eq!(four.with_failure(NOW + hours(24)).count, 1);
        let locked = four.with_failure(NOW);
        assert_eq!(locked.with_failure(locked.locked_until + hours(24)).count, 1);
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
    fn moderators_suspend_lower_roles_and_admins_all_others() {
        let actor = UserId(Uuid::from_u128(1));
        let outcome = |role, target, id| {
            check_suspension(actor, role, &account(id, target, AccountStatus::Active))
                .map_err(|e| e.to_string())
        };
        for role in Role::ALL {
            assert!(outcome(role, Role::User, 1).unwrap_err().contains("own account"));
            assert_eq!(outcome(Role::Moderator, role, 2).is_ok(), role < Role::Moderator, "{role}");
            assert!(outcome(Role::Admin, role, 2).is_ok(), "{role}");
        }
    }

    #[test]
    fn last_active_admin_is_protected() {
        let may = |role, status, admins| check_not_last_admin(&account(2, role, status), admins).is_ok();
        assert!(!may(Role::Admin, AccountStatus::Active, 1));
        assert!(may(Role::Admin, AccountStatus::Active, 2));
        assert!(may(Role::Admin, AccountStatus::Suspended, 1));
        assert!(may(Role::Moderator, AccountStatus::Active, 1));
    }

    #[test]
    fn synthetic_account_is_purged_at_once_and_not_counted_as_admin() {
        for synthetic in ["ada@kith-verify.invalid", "ada@Kith-Verify.INVALID"] {
            assert!(is_synthetic(synthetic) && hold_period(synthetic) == Duration::ZERO, "{synthetic}");
            let admin =
                Account { email: synthetic.to_owned(), ..account(2, Role::Admin, AccountStatus::Active) };
            assert!(check_not_last_admin(&admin, 1).is_ok(), "{synthetic}");
        }
        for other in [
            "ada@other.invalid",
            "ada@example.org",
            "invalid",
            "é@kith-verify.invalie",
            "ada@not.kith-verify.invalid",
        ] {
            assert!(!is_synthetic(other) && hold_period(other) == days(14), "{other}");
        }
    }
}
