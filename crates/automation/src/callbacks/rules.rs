//! Rules of callbacks as pure functions: retry schedule, `Retry-After`, and the circuit breaker of an
//! endpoint. The current time is a parameter.

use std::time::{Duration, SystemTime};

use kith_kernel::{Timestamp, days, hours, minutes, seconds};

use super::model::BreakerState;

/// Retry schedule: the waiting times after the first to the ninth failed attempt, as Standard Webhooks 1.0
/// recommends. After the tenth failed attempt, the callback fails.
pub const RETRY_DELAYS: [Duration; 9] =
    [seconds(5), minutes(5), minutes(30), hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
/// Maximum waiting time that a `Retry-After` header can request.
const MAX_RETRY_AFTER: Duration = hours(24);
/// Number of consecutive failures that open a circuit breaker.
pub const FAILURES_TO_OPEN: i64 = 5;
/// Time for which a circuit breaker stays open at first. It doubles with each further opening, up to
/// [`MAX_OPEN_PERIOD`].
const INITIAL_OPEN_PERIOD: Duration = seconds(30);
const MAX_OPEN_PERIOD: Duration = minutes(10);
/// Time without a success after which an endpoint is disabled.
pub const DISABLE_AFTER: Duration = days(5);

/// Result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// A response with this status.
    Responded(u16),
    /// No response.
    NoResponse,
}

/// Decision on a callback after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Delivered.
    Delivered,
    /// Send again after this waiting time.
    RetryAfter(Duration),
    /// Failed: the last attempt of the retry schedule failed.
    AttemptsExhausted,
    /// Failed: the endpoint responded with 410.
    Gone,
}

/// Decides on a callback after attempt number `attempts` of its retry schedule. `retry_after` is the waiting
/// time that the `Retry-After` header requests. It can only lengthen the waiting time of the schedule, up to
/// 24 hours. A random time is added: the fraction `jitter`, 0 to 1, of a tenth of the waiting time.
pub fn decide_retry(
    ended: AttemptOutcome,
    attempts: i64,
    retry_after: Option<Duration>,
    jitter: f64,
) -> RetryDecision {
    match ended {
        AttemptOutcome::Responded(200..=299) => return RetryDecision::Delivered,
        AttemptOutcome::Responded(410) => return RetryDecision::Gone,
        AttemptOutcome::Responded(_) | AttemptOutcome::NoResponse => {}
    }
    let delay = usize::try_from(attempts - 1).ok().and_then(|at| RETRY_DELAYS.get(at));
    let Some(wait) = delay else { return RetryDecision::AttemptsExhausted };
    let wait = retry_after.map_or(*wait, |retry_after| retry_after.min(MAX_RETRY_AFTER).max(*wait));
    RetryDecision::RetryAfter(wait + wait.mul_f64(jitter.clamp(0.0, 1.0) / 10.0))
}

/// Parses a `Retry-After` header (RFC 9110, section 10.2.3): a number of seconds, or a date. A date is
/// compared with `date`, the `Date` header of the response, so that clock differences do not matter. Without
/// that header, it is compared with `now`.
pub fn retry_after(text: &str, date: Option<&str>, now: Timestamp) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return Some(text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs));
    }
    let at = http_date(text)?;
    Some(at.since(date.and_then(http_date).unwrap_or(now)))
}

/// Parses an HTTP date in any of its three formats (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(Timestamp::from_millis)
}

/// Circuit breaker of an endpoint. Closed: requests are sent. Open: no requests are sent for a while. Half
/// open: one request is sent as a probe. It is stored with the endpoint, so that the failures on all nodes
/// count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Number of consecutive failures.
    pub failures: i64,
    /// Time at which the breaker last opened; `None` if it is closed.
    pub opened_at: Option<Timestamp>,
    /// Number of times the breaker has opened since it was last closed.
    pub openings: i64,
    /// Time until which the result of a running probe is awaited; `None` if no probe is running.
    pub probe_until: Option<Timestamp>,
}

/// Decision of a circuit breaker on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send the request.
    Send,
    /// Send the request as a probe.
    Probe,
    /// Do not send the request before this time.
    Wait(Timestamp),
}

impl CircuitBreaker {
    /// Returns the state at `now`, and the earliest time of the next request; `None` if the breaker is
    /// closed.
    pub fn state(&self, now: Timestamp) -> (BreakerState, Option<Timestamp>) {
        match self.open_until() {
            None => (BreakerState::Closed, None),
            Some(until) if now < until => (BreakerState::Open, Some(until)),
            Some(_) => (BreakerState::HalfOpen, Some(self.probe_until.map_or(now, |until| until.max(now)))),
        }
    }

    fn open_until(&self) -> Option<Timestamp> {
        let doublings = (self.openings - 1).clamp(0, 10);
        Some(self.opened_at? + (INITIAL_OPEN_PERIOD * (1 << doublings)).min(MAX_OPEN_PERIOD))
    }

    /// Decides whether a request may be sent at `now`. Only one probe runs at a time. If the result of a
    /// probe is not recorded within `probe_for`, another probe may be sent.
    pub fn admit(&mut self, now: Timestamp, probe_for: Duration) -> Admission {
        match self.open_until() {
            None => Admission::Send,
            Some(until) if now < until => Admission::Wait(until),
            Some(_) => match self.probe_until.filter(|until| now < *until) {
                Some(until) => Admission::Wait(until),
                None => {
                    self.probe_until = Some(now + probe_for);
                    Admission::Probe
                }
            },
        }
    }

    /// Records a success and closes the circuit breaker, even if the request was sent before the breaker
    /// opened.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Records a failure. If the breaker is open, only the failure of a probe opens it again. Failures of
    /// requests that were sent before it opened have no such effect.
    pub fn failed(&mut self, now: Timestamp, was_probe: bool) {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.opened_at {
            None => self.failures >= FAILURES_TO_OPEN,
            Some(_) => was_probe,
        };
        if opens {
            (self.opened_at, self.probe_until) = (Some(now), None);
            self.openings = self.openings.saturating_add(1);
        }
    }
}

/// Returns `true` if an endpoint whose attempts have all failed since `since` must be disabled at `now`.
pub fn must_disable(since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| now.since(since) >= DISABLE_AFTER)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
