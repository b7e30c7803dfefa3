//! Parsed schedule: a pattern or an interval, and a time zone. `mod.rs` describes the syntax.

use std::time::Duration;

use jiff::tz::TimeZone;
use kith_kernel::{Timestamp, days};

use super::pattern::{Field, Pattern, PatternError};

/// Maximum length of a schedule in characters. A pattern that lists all seconds and all minutes has 340.
pub const MAX_LENGTH: usize = 500;
/// Maximum period of `@every`.
pub const MAX_PERIOD: Duration = days(366);

const NICKNAMES: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Times at which a schedule runs.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(super) recurs: Recurrence,
    pub(super) zone: TimeZone,
    pub(super) anchor: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) enum Recurrence {
    Pattern(Box<Pattern>),
    /// Interval. The period is in milliseconds and a whole number of seconds.
    Interval(i64),
}

/// Reason why a schedule was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The schedule has more than [`MAX_LENGTH`] characters.
    #[error("it has more than {MAX_LENGTH} characters")]
    TooLong,
    /// The pattern does not have five, six or seven fields.
    #[error("it has {0} fields; a pattern has 5, or 6 with seconds first, or 7 with a year last")]
    Fields(usize),
    /// An item of a field is invalid.
    #[error("{field} field: `{item}` {fault}")]
    Field {
        /// Field that contains the invalid item.
        field: Field,
        /// Invalid item, shortened to 40 characters.
        item: String,
        /// Description of the error.
        fault: PatternError,
    },
    /// The word after `@` is unknown.
    #[error("there are @yearly, @monthly, @weekly, @daily, @hourly and @every, followed by a duration")]
    Nickname,
    /// `@every` is not followed by a valid duration.
    #[error("@every is followed by hours, minutes and seconds such as 90s or 1h30m, from 1 s to 8784h")]
    Interval,
    /// The pattern matches no day.
    #[error("it never happens: no day from 1970 to 2199 matches")]
    Never,
    /// The IANA database has no time zone with this name.
    #[error("no time zone of the IANA database has this name")]
    Zone,
}

impl SpecError {
    /// Returns true if the time zone is invalid, and false if the schedule is.
    pub fn is_zone(&self) -> bool {
        matches!(self, Self::Zone)
    }
}

impl Spec {
    /// Parses a schedule and the name of a time zone. `anchor` is the start of `@every` intervals, which
    /// ignore the time zone.
    ///
    /// # Errors
    /// Returns [`SpecError`] if the schedule or the time zone is invalid, or if no day matches.
    pub fn parse(schedule: &str, zone: &str, anchor: Timestamp) -> Result<Self, SpecError> {
        let zone =
            TimeZone::get(zone).ok().filter(|zone| zone.iana_name().is_some()).ok_or(SpecError::Zone)?;
        Ok(Self { recurs: Recurrence::parse(schedule)?, zone, anchor })
    }

    /// Returns the canonical name of the time zone.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }
}

impl Recurrence {
    fn parse(text: &str) -> Result<Self, SpecError> {
        if text.chars().nth(MAX_LENGTH).is_some() {
            return Err(SpecError::TooLong);
        }
        let text = text.trim_ascii();
        let pattern = match text.strip_prefix('@') {
            None => text,
            Some(_) => {
                let mut words = text.split_ascii_whitespace();
                let word = words.next().unwrap_or_default();
                if word.eq_ignore_ascii_case("@every") {
                    let period = words.next().and_then(period_ms).ok_or(SpecError::Interval)?;
                    return if words.next().is_none() {
                        Ok(Self::Interval(period))
                    } else {
                        Err(SpecError::Interval)
                    };
                }
                let nickname = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
                nickname.ok_or(SpecError::Nickname)?.1
            }
        };
        let pattern = Pattern::parse(pattern)?;
        if pattern.ever_happens() { Ok(Self::Pattern(Box::new(pattern))) } else { Err(SpecError::Never) }
    }
}

/// Parses a duration such as `1h30m` into milliseconds. Each unit may occur once, from the largest to the
/// smallest.
fn period_ms(mut text: &str) -> Option<i64> {
    let mut seconds = 0_i64;
    for (unit, length) in [('h', 3_600), ('m', 60), ('s', 1)] {
        let Some((number, rest)) = text.split_once(unit) else { continue };
        if number.is_empty() || number.len() > 9 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        seconds += number.parse::<i64>().ok()? * length;
        text = rest;
    }
    let limit = i64::try_from(MAX_PERIOD.as_secs()).ok()?;
    (text.is_empty() && (1..=limit).contains(&seconds)).then_some(seconds * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error(schedule: &str, zone: &str) -> SpecError {
        Spec::parse(schedule, zone, Timestamp::EPOCH).unwrap_err()
    }

    #[test]
    fn duration_units_descend_and_occur_once() {
        for (text, seconds) in
            [("90s", 90), ("1h30m", 5_400), ("1s", 1), ("0h0m5s", 5), ("8784h", 31_622_400), ("90m1s", 5_401)]
        {
            assert_eq!(period_ms(text), Some(seconds * 1_000), "{text}");
        }
        for text in
            ["", "0s", "90", "s", "1m1h", "1h1h", "-5s", "+5s", "1.5h", "8784h1s", "9999999999s", "1d"]
        {
            assert_eq!(period_ms(text), None, "{text}");
        }
    }

    #[test]
    fn parse_error_distinguishes_schedule_and_time_zone() {
        assert_eq!(parse_error("0 0 * * *", "Europe/Atlantis"), SpecError::Zone);
        assert_eq!(parse_error("0 0 * * *", ""), SpecError::Zone);
        assert_eq!(parse_error("0 0 * * *", "CET-1CEST,M3.5.0,M10.5.0"), SpecError::Zone);
        assert_eq!(parse_error("0 0 30 2 *", "UTC"), SpecError::Never);
        assert_eq!(parse_error("@every", "UTC"), SpecError::Interval);
        assert_eq!(parse_error("@every 5s 5s", "UTC"), SpecError::Interval);
        assert_eq!(parse_error("@reboot", "UTC"), SpecError::Nickname);
        assert_eq!(parse_error("@daily *", "UTC"), SpecError::Nickname);
        assert_eq!(parse_error("", "UTC"), SpecError::Fields(0));
        assert_eq!(parse_error(&"*".repeat(501), "UTC"), SpecError::TooLong);
        assert!(Spec::parse("0 0 * * *", "europe/vienna", Timestamp::EPOCH).is_ok());
    }

    #[test]
    fn longest_pattern_fits_limit() {
        let all = (0..60).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert!(Spec::parse(&format!("{all} {all} * * * *"), "UTC", Timestamp::EPOCH).is_ok());
    }
}
