//! When a callback is sent, sent again and given up, and when its endpoint is left alone. Pure: all of it is told the
//! time.

use std::time::{Duration, SystemTime};

use kith_kernel::{Timestamp, days, hours, minutes, seconds};

use super::model::BreakerState;

/// The waits after the first, second, … failure: those of Standard Webhooks 1.0. After one more it is given up.
pub const LADDER: [Duration; 9] =
    [seconds(5), minutes(5), minutes(30), hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
/// The longest `Retry-After` that is heeded.
const LONGEST_ASKED: Duration = hours(24);
/// Failures in a row that open a breaker.
pub const FAILURES_TO_OPEN: i64 = 5;
/// How long a breaker stays open the first time; twice as long each further time, up to the longest.
const FIRST_PAUSE: Duration = seconds(30);
const LONGEST_PAUSE: Duration = minutes(10);
/// An endpoint that has failed for so long without a success is disabled.
pub const FAILING_FOR: Duration = days(5);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Answered(u16),
    /// Without an answer.
    Unanswered,
}

/// What becomes of a callback after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has arrived.
    Delivered,
    /// It is sent again after this time.
    Again(Duration),
    /// It was tried often enough.
    GivenUp,
    /// The receiver wants nothing more, ever: 410.
    Gone,
}

/// What follows from an attempt, the `attempts`-th of its ladder. `asked` is what stood in `Retry-After`, `part` (0 to 1) how
/// much of the jitter, a tenth of the wait, is added.
pub fn next(ended: Ended, attempts: i64, asked: Option<Duration>, part: f64) -> Next {
    match ended {
        Ended::Answered(200..=299) => return Next::Delivered,
        Ended::Answered(410) => return Next::Gone,
        Ended::Answered(_) | Ended::Unanswered => {}
    }
    let rung = usize::try_from(attempts - 1).ok().and_then(|at| LADDER.get(at));
    let Some(wait) = rung else { return Next::GivenUp };
    let wait = asked.map_or(*wait, |asked| asked.min(LONGEST_ASKED).max(*wait));
    Next::Again(wait + wait.mul_f64(part.clamp(0.0, 1.0) / 10.0))
}

/// The wait that `Retry-After` asks for (RFC 9110, 10.2.3): a number of seconds, or a date, which counts from the answer's
/// own `Date`, so that no difference between clocks matters. `now` stands in for a missing one.
pub fn retry_after(text: &str, date: Option<&str>, now: Timestamp) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return Some(text.parse().map_or(LONGEST_ASKED, Duration::from_secs));
    }
    let at = http_date(text)?;
    Some(at.since(date.and_then(http_date).unwrap_or(now)))
}

/// An HTTP date in any of its three formats (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(Timestamp::from_millis)
}

/// Whether an endpoint is asked at all: closed, it is; open, it is left alone for a while; then, half open, one request
/// finds out. Kept with the endpoint, so that all nodes count together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// In a row.
    pub failures: i64,
    /// Since when it is open, if it is not closed.
    pub opened_at: Option<Timestamp>,
    /// How often it was opened since it was closed last.
    pub openings: i64,
    /// Until when a probe that is under way may take.
    pub probe_until: Option<Timestamp>,
}

/// What a breaker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send.
    Send,
    /// Send, and find out whether the endpoint is back.
    Probe,
    /// Not before then.
    Wait(Timestamp),
}

impl Breaker {
    /// How it stands at `now`, and when the next request may be sent if it is not closed.
    pub fn state(&self, now: Timestamp) -> (BreakerState, Option<Timestamp>) {
        match self.opens_until() {
            None => (BreakerState::Closed, None),
            Some(until) if now < until => (BreakerState::Open, Some(until)),
            Some(_) => (BreakerState::HalfOpen, Some(self.probe_until.map_or(now, |until| until.max(now)))),
        }
    }

    fn opens_until(&self) -> Option<Timestamp> {
        let doublings = (self.openings - 1).clamp(0, 10);
        Some(self.opened_at? + (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE))
    }

    /// Whether a request may be sent at `now`. A probe is admitted alone, and has until `probe_for` has passed to tell how it
    /// ended: whoever dies over one does not keep the breaker.
    pub fn admit(&mut self, now: Timestamp, probe_for: Duration) -> Admission {
        match self.opens_until() {
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

    /// A request has succeeded, whenever it was admitted.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A request has failed. One that was admitted while the breaker was closed says nothing new of an open one.
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

/// Whether an endpoint that has failed since `since` without a success, and fails at `now`, is to be disabled.
pub fn is_hopeless(since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| now.since(since) >= FAILING_FOR)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
