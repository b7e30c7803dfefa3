//! Calculation of the times at which a schedule runs. It follows the rules for daylight saving time in
//! `mod.rs`.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use kith_kernel::Timestamp;

use super::pattern::Pattern;
use super::spec::{Recurrence, Spec};

const SECOND: SignedDuration = SignedDuration::from_secs(1);
/// Time by which [`Spec::latest_until`] searches back, in milliseconds. It is longer than the eight years
/// that can lie between two leap days, and covers rare patterns that also restrict the weekday.
const MAX_LOOKBACK_MS: i64 = 45 * 366 * 86_400_000;

impl Spec {
    /// Returns the first run after `after`, or `None` if there is none until 2199.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.recurs {
            Recurrence::Interval(period_ms) => {
                let elapsed = after.as_millis().checked_sub(self.anchor.as_millis())?;
                let count = elapsed.div_euclid(*period_ms).checked_add(1)?.max(1);
                self.anchor
                    .as_millis()
                    .checked_add(count.checked_mul(*period_ms)?)
                    .map(Timestamp::from_millis)
            }
            Recurrence::Pattern(pattern) => {
                let after = jiff::Timestamp::from_second(after.as_millis().div_euclid(1_000)).ok()?;
                let next = if pattern.is_interval() {
                    interval(pattern, &self.zone, after)
                } else {
                    times_of_day(pattern, &self.zone, after)
                };
                next.map(|next| Timestamp::from_millis(next.as_millisecond()))
            }
        }
    }

    /// Returns the runs after `after`, in order. The iterator ends only if the pattern has no further run.
    pub fn runs_after(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next_after(after), |at| self.next_after(*at))
    }

    /// Returns the last run at or before `until`, or `None` if there is no run in the 45 years before
    /// `until`.
    pub fn latest_until(&self, until: Timestamp) -> Option<Timestamp> {
        let happens_after =
            |ms: i64| self.next_after(Timestamp::from_millis(ms)).filter(|next| *next <= until);
        let mut back_ms = 1;
        // Invariant: there is a run after `low` and up to `until`, and no run after `high` and up to `until`.
        let (mut low, mut high) = loop {
            let low = until.as_millis().checked_sub(back_ms)?;
            if happens_after(low).is_some() {
                break (low, until.as_millis());
            }
            if back_ms > MAX_LOOKBACK_MS {
                return None;
            }
            back_ms *= 2;
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if happens_after(middle).is_some() { low = middle } else { high = middle }
        }
        happens_after(low)
    }

    /// Returns the first `limit` runs from `from` (inclusive) to `to` (exclusive), and true if more runs
    /// follow before `to`.
    pub fn between(&self, from: Timestamp, to: Timestamp, limit: usize) -> (Vec<Timestamp>, bool) {
        let just_before = Timestamp::from_millis(from.as_millis().saturating_sub(1));
        let mut runs = self.runs_after(just_before).take_while(|at| *at < to);
        let first: Vec<_> = runs.by_ref().take(limit).collect();
        let more = first.len() == limit && runs.next().is_some();
        (first, more)
    }

    /// Returns the last `limit` runs after `after` (exclusive) up to `until` (inclusive), earliest first. The
    /// cost does not depend on the number of runs between the two times.
    pub fn latest_between(&self, after: Timestamp, until: Timestamp, limit: usize) -> Vec<Timestamp> {
        let before = |at: Timestamp| self.latest_until(Timestamp::from_millis(at.as_millis() - 1));
        let last = std::iter::successors(self.latest_until(until), |at| before(*at));
        let mut runs: Vec<_> = last.take_while(|at| *at > after).take(limit).collect();
        runs.reverse();
        runs
    }
}

/// Returns the next run according to rule 1. Ascending local times map to ascending or equal points in time.
/// Therefore the first local time that maps to a point after `after` is the next run.
fn times_of_day(pattern: &Pattern, zone: &TimeZone, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
    let mut from = zone.to_datetime(after).checked_add(SECOND).ok()?;
    loop {
        let local = pattern.next_from(from)?;
        let named = ResolvedTime::by(zone, local)?;
        if named.at > after {
            return Some(named.at);
        }
        // The clocks show this local time for the second time. The next candidate is after the repeated
        // period.
        from = named.repeated_until.unwrap_or(local).max(local.checked_add(SECOND).ok()?);
    }
}

/// Returns the next run according to rule 2. Between two changes of the offset, local time advances like
/// elapsed time.
fn interval(pattern: &Pattern, zone: &TimeZone, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
    let mut from = after.checked_add(SECOND).ok()?;
    loop {
        let offset = zone.to_offset(from);
        let transition = zone.following(from).next().map(|transition| transition.timestamp());
        let next = offset.to_timestamp(pattern.next_from(offset.to_datetime(from))?).ok()?;
        match transition {
            Some(transition) if transition <= next => from = transition,
            _ => return Some(next),
        }
    }
}

/// Point in time to which a local time is mapped.
struct ResolvedTime {
    at: jiff::Timestamp,
    /// End of the repeated period in local time, if the local time occurs twice.
    repeated_until: Option<DateTime>,
}

impl ResolvedTime {
    fn by(zone: &TimeZone, local: DateTime) -> Option<Self> {
        match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => {
                Some(Self { at: offset.to_timestamp(local).ok()?, repeated_until: None })
            }
            AmbiguousOffset::Gap { after, .. } => {
                let at = transition(zone, after.to_timestamp(local).ok()?, after)?;
                Some(Self { at, repeated_until: None })
            }
            AmbiguousOffset::Fold { before, after } => {
                let at = before.to_timestamp(local).ok()?;
                let ends = before.to_datetime(transition(zone, at, after)?);
                Some(Self { at, repeated_until: Some(ends) })
            }
        }
    }
}

/// Returns the first transition after `from` whose new offset is `to`.
fn transition(zone: &TimeZone, from: jiff::Timestamp, to: Offset) -> Option<jiff::Timestamp> {
    zone.following(from).find(|transition| transition.offset() == to).map(|transition| transition.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(schedule: &str, zone: &str) -> Spec {
        Spec::parse(schedule, zone, Timestamp::EPOCH).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn runs(schedule: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let (runs, more) = spec(schedule, zone).between(at(from), at(to), 100);
        assert!(!more);
        runs.iter().map(|run| run.to_string().replace(":00.000Z", "Z")).collect()
    }

    /// Regression test for a fault that is known from bull#2207 and node-cron#563.
    #[test]
    fn daily_job_runs_once_on_day_of_clock_change() {
        let vienna = "Europe/Vienna";
        // 2027-03-28: 02:00 becomes 03:00 at 01:00Z. 2027-10-31: 03:00 becomes 02:00 at 01:00Z.
        assert_eq!(
            runs("30 2 * * *", vienna, "2027-03-27T00:00:00Z", "2027-03-30T00:00:00Z"),
            ["2027-03-27T01:30Z", "2027-03-28T01:00Z", "2027-03-29T00:30Z"]
        );
        assert_eq!(
            runs("30 2 * * *", vienna, "2027-10-30T00:00:00Z", "2027-11-02T00:00:00Z"),
            ["2027-10-30T00:30Z", "2027-10-31T00:30Z", "2027-11-01T01:30Z"]
        );
        assert_eq!(
            runs("*/15 2 * * *", vienna, "2027-03-28T00:00:00Z", "2027-03-29T00:00:00Z"),
            ["2027-03-28T01:00Z"]
        );
        assert_eq!(
            runs("0,30 2,3 * * *", vienna, "2027-03-28T00:00:00Z", "2027-03-28T12:00:00Z"),
            ["2027-03-28T01:00Z", "2027-03-28T01:30Z"]
        );
    }

    #[test]
    fn hourly_job_runs_every_hour_through_clock_change() {
        let vienna = "Europe/Vienna";
        let spring = runs("30 * * * *", vienna, "2027-03-28T00:00:00Z", "2027-03-28T04:00:00Z");
        assert_eq!(
            spring,
            ["2027-03-28T00:30Z", "2027-03-28T01:30Z", "2027-03-28T02:30Z", "2027-03-28T03:30Z"]
        );
        let autumn = runs("30 * * * *", vienna, "2027-10-31T00:00:00Z", "2027-10-31T04:00:00Z");
        assert_eq!(
            autumn,
            ["2027-10-31T00:30Z", "2027-10-31T01:30Z", "2027-10-31T02:30Z", "2027-10-31T03:30Z"]
        );
    }

    #[test]
    fn skipped_day_is_run_once() {
        // Samoa skipped the 30th of December 2011. The 31st began there at 10:00Z on the 30th.
        assert_eq!(
            runs("0 9,17 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z"),
            [
                "2011-12-29T19:00Z",
                "2011-12-30T03:00Z",
                "2011-12-30T10:00Z",
                "2011-12-30T19:00Z",
                "2011-12-31T03:00Z"
            ]
        );
    }

    #[test]
    fn every_counts_elapsed_time_from_its_anchor() {
        let anchor = at("2027-03-27T23:59:59.250Z");
        let every = Spec::parse("@every 1h30m", "Europe/Vienna", anchor).unwrap();
        let runs: Vec<_> =
            every.runs_after(at("2020-01-01T00:00:00Z")).take(3).map(|run| run.to_string()).collect();
        assert_eq!(
            runs,
            ["2027-03-28T01:29:59.250Z", "2027-03-28T02:59:59.250Z", "2027-03-28T04:29:59.250Z"]
        );
        assert_eq!(every.next_after(at("2027-03-28T01:29:59.250Z")), Some(at("2027-03-28T02:59:59.250Z")));
        assert_eq!(every.next_after(Timestamp::from_millis(i64::MAX)), None);
        assert_eq!(every.next_after(Timestamp::from_millis(i64::MIN)), None);
    }

    #[test]
    fn latest_run_is_found_by_search() {
        let until = at("2027-03-28T12:00:00Z");
        for (schedule, latest) in [
            ("* * * * * *", "2027-03-28T12:00:00Z"),
            ("30 2 * * *", "2027-03-28T01:00:00Z"),
            ("0 0 29 2 *", "2024-02-28T23:00:00Z"),
            ("0 0 29 2 +THU", "2024-02-28T23:00:00Z"),
            ("0 0 0 1 1 * 1999", "1998-12-31T23:00:00Z"),
        ] {
            assert_eq!(spec(schedule, "Europe/Vienna").latest_until(until), Some(at(latest)), "{schedule}");
        }
        assert_eq!(spec("0 0 0 1 1 * 2050", "UTC").latest_until(until), None);
        let three = spec("*/10 * * * *", "UTC").latest_between(at("2020-01-01T00:00:00Z"), until, 3);
        assert_eq!(three, [at("2027-03-28T11:40:00Z"), at("2027-03-28T11:50:00Z"), until]);
        let two = spec("@every 40s", "UTC").latest_between(at("2027-03-28T11:58:41Z"), until, 9);
        assert_eq!(two, [at("2027-03-28T11:59:20Z"), until]);
    }

    #[test]
    fn ended_pattern_has_no_next_run_and_search_is_bounded() {
        assert_eq!(spec("0 0 0 1 1 * 2026", "Asia/Tokyo").next_after(at("2027-01-01T00:00:00Z")), None);
        assert_eq!(spec("* * * * * * 2026", "Asia/Tokyo").next_after(at("2027-01-01T00:00:00Z")), None);
        for ms in [i64::MIN, i64::MAX, -377_705_116_800_001, 253_402_300_800_000] {
            assert!(spec("0 0 * * *", "UTC").next_after(Timestamp::from_millis(ms)).is_none(), "{ms}");
        }
        let far = spec("* * * * * * 2199", "Europe/Vienna").next_after(at("2027-01-01T00:00:00Z"));
        assert_eq!(far, Some(at("2198-12-31T23:00:00Z")));
    }
}
