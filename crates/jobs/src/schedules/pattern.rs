//! Cron patterns: representation and parser, independent of time zones. `calendar.rs` searches for matching
//! local times.

use std::fmt;

use super::SpecError;

/// First year that a pattern can match.
pub(super) const FIRST_YEAR: u32 = 1970;
/// Last year that a pattern can match. The search for a run ends there.
pub(super) const LAST_YEAR: u32 = 2199;

const ALL_HOURS: u64 = (1 << 24) - 1;
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// Field of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Second, 0 to 59. It is the first of six or seven fields.
    Second,
    /// Minute, 0 to 59.
    Minute,
    /// Hour, 0 to 23.
    Hour,
    /// Day of the month, 1 to 31.
    DayOfMonth,
    /// Month, 1 to 12 or a name.
    Month,
    /// Day of the week, 0 to 7 or a name. Both 0 and 7 are Sunday.
    DayOfWeek,
    /// Year, 1970 to 2199. It is the last of seven fields.
    Year,
}

/// Error in one item of a field's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The item is empty: two commas in a row, or a comma at the beginning or end.
    #[error("is empty")]
    Empty,
    /// The item is neither a number nor a name that the field accepts.
    #[error("is not a value of this field")]
    NotAValue,
    /// The number is outside the bounds of the field.
    #[error("is not between {0} and {1}")]
    OutOfRange(u32, u32),
    /// The start of the range is greater than its end.
    #[error("begins after it ends")]
    Backwards,
    /// The step is zero, exceeds the number of values of the field, or is not a number.
    #[error("has a step that is not between 1 and {0}")]
    Step(u32),
    /// A step follows a single value.
    #[error("has a step, which needs a range such as 5-59/10 or */10")]
    StepOfOne,
    /// `#` is not followed by a number from 1 to 5.
    #[error("has no number from 1 to 5 behind #")]
    Nth,
}

/// Cron pattern: a set of local times with a resolution of one second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Bit mask of seconds.
    pub seconds: u64,
    /// Bit mask of minutes.
    pub minutes: u64,
    /// Bit mask of hours.
    pub hours: u64,
    /// Bit mask of months. Bit 1 is January.
    pub months: u64,
    /// Bit mask of years. Bit 0 of the first word is [`FIRST_YEAR`].
    pub years: [u64; 4],
    pub days: Days,
    pub weekdays: Weekdays,
    /// True if a day must match both `days` and `weekdays`.
    pub both: bool,
}

/// Days of the month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Days {
    /// True for `*` or `?`: the days of the month do not restrict the day.
    pub any: bool,
    /// Bit mask of days. Bit 1 is the first day of the month.
    pub every: u64,
    /// True if `L` is listed: the last day of the month.
    pub last: bool,
    /// True if `LW` is listed: the last weekday (Monday to Friday) of the month.
    pub last_workday: bool,
    /// Bit mask of days with `W`, such as `15W`. Bit 1 is the first day of the month.
    pub near: u64,
}

/// Days of the week as bit masks: bit 0 is Sunday, bit 6 is Saturday.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weekdays {
    /// True for `*` or `?`: the days of the week do not restrict the day.
    pub any: bool,
    /// Weekdays that match in every week of the month.
    pub every: u64,
    /// Weekdays that match only as the first to fifth of the month, for `#`.
    pub nth: [u64; 5],
    /// Weekdays that match only as the last of the month, for `L`.
    pub last: u64,
}

impl Pattern {
    /// Parses a pattern of five, six or seven fields.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, rest, year) = match fields.len() {
            5 => ("0", &fields[..], "*"),
            6 => (fields[0], &fields[1..], "*"),
            7 => (fields[0], &fields[1..6], fields[6]),
            n => return Err(SpecError::Fields(n)),
        };
        let (both, weekdays) = match rest[4].strip_prefix('+') {
            Some(weekdays) => (true, weekdays),
            None => (false, rest[4]),
        };
        Ok(Self {
            seconds: mask(Field::Second, second)?,
            minutes: mask(Field::Minute, rest[0])?,
            hours: mask(Field::Hour, rest[1])?,
            days: days(rest[2])?,
            months: mask(Field::Month, rest[3])?,
            weekdays: weekdays_of(weekdays)?,
            years: years(year)?,
            both,
        })
    }

    /// Returns true if the pattern matches every hour. Such a pattern is an interval and continues through
    /// clock changes.
    pub fn is_interval(&self) -> bool {
        self.hours == ALL_HOURS
    }
}

impl Field {
    fn bounds(self) -> (u32, u32) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
            Self::Year => (FIRST_YEAR, LAST_YEAR),
        }
    }

    /// Parses each item of a comma-separated list with `each`.
    fn items<T>(
        self,
        text: &str,
        mut each: impl FnMut(&str) -> Result<T, PatternError>,
    ) -> Result<Vec<T>, SpecError> {
        let item =
            |item| each(item).map_err(|fault| SpecError::Field { field: self, item: shorten(item), fault });
        text.split(',').map(item).collect()
    }

    /// Parses a value, a range or `*`, each with an optional step, into start, end and step.
    fn span(self, item: &str) -> Result<(u32, u32, u32), PatternError> {
        let (min, max) = self.bounds();
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (item, None),
        };
        if range == "*" {
            return Ok((min, max.min(self.width_end()), step.unwrap_or(1)));
        }
        match range.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (self.value(from)?, self.value(to)?);
                let to = if self == Self::DayOfWeek && to == 0 && from > 0 { 7 } else { to };
                if from > to { Err(PatternError::Backwards) } else { Ok((from, to, step.unwrap_or(1))) }
            }
            None if step.is_some() => Err(PatternError::StepOfOne),
            None => self.value(range).map(|value| (value, value, 1)),
        }
    }

    /// Returns the last value of `*`. For the day of the week it is 6, because 7 is Sunday again.
    fn width_end(self) -> u32 {
        if self == Self::DayOfWeek { 6 } else { u32::MAX }
    }

    fn step(self, text: &str) -> Result<u32, PatternError> {
        let (min, max) = self.bounds();
        let widest = max - min + u32::from(self != Self::DayOfWeek);
        number(text).filter(|step| (1..=widest).contains(step)).ok_or(PatternError::Step(widest))
    }

    fn value(self, text: &str) -> Result<u32, PatternError> {
        let (min, max) = self.bounds();
        let name = |names: &[&str], first: u32| {
            let place = names.iter().position(|name| name.eq_ignore_ascii_case(text));
            place.and_then(|place| u32::try_from(place).ok()).map(|place| place + first)
        };
        let named = match self {
            Self::Month => name(&MONTHS, 1),
            Self::DayOfWeek => name(&WEEKDAYS, 0),
            _ => None,
        };
        if let Some(value) = named {
            return Ok(value);
        }
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PatternError::NotAValue);
        }
        number(text).filter(|value| (min..=max).contains(value)).ok_or(PatternError::OutOfRange(min, max))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
            Self::Year => "year",
        })
    }
}

/// Parses a field that has at most 64 values into a bit mask.
fn mask(field: Field, text: &str) -> Result<u64, SpecError> {
    let spans = field.items(text, |item| field.span(item))?;
    Ok(spans.into_iter().fold(0, |mask, span| mask | bits(span)))
}

fn bits((from, to, step): (u32, u32, u32)) -> u64 {
    (from..=to).step_by(step as usize).fold(0, |mask, value| mask | 1 << value)
}

fn days(text: &str) -> Result<Days, SpecError> {
    let field = Field::DayOfMonth;
    let mut days = Days { any: matches!(text, "*" | "?"), ..Days::default() };
    if days.any {
        return Ok(days);
    }
    field.items(text, |item| {
        if item.eq_ignore_ascii_case("L") {
            days.last = true;
        } else if item.eq_ignore_ascii_case("LW") {
            days.last_workday = true;
        } else if let Some(day) = item.strip_suffix(['W', 'w']) {
            days.near |= 1 << field.value(day)?;
        } else {
            days.every |= bits(field.span(item)?);
        }
        Ok(())
    })?;
    Ok(days)
}

fn weekdays_of(text: &str) -> Result<Weekdays, SpecError> {
    let field = Field::DayOfWeek;
    let mut weekdays = Weekdays { any: matches!(text, "*" | "?"), ..Weekdays::default() };
    if weekdays.any {
        return Ok(weekdays);
    }
    field.items(text, |item| {
        if let Some((day, nth)) = item.split_once('#') {
            let nth = number(nth).filter(|nth| (1..=5).contains(nth)).ok_or(PatternError::Nth)?;
            weekdays.nth[nth as usize - 1] |= 1 << (field.value(day)? % 7);
        } else if let Some(day) = item.strip_suffix(['L', 'l']).filter(|day| !day.is_empty()) {
            weekdays.last |= 1 << (field.value(day)? % 7);
        } else {
            let mask = bits(field.span(item)?);
            weekdays.every |= mask & 0x7f | mask >> 7;
        }
        Ok(())
    })?;
    Ok(weekdays)
}

fn years(text: &str) -> Result<[u64; 4], SpecError> {
    let spans = Field::Year.items(text, |item| Field::Year.span(item))?;
    let mut years = [0; 4];
    for (from, to, step) in spans {
        for year in (from - FIRST_YEAR..=to - FIRST_YEAR).step_by(step as usize) {
            years[year as usize / 64] |= 1 << (year % 64);
        }
    }
    Ok(years)
}

/// Parses a number that consists of digits only. `u32::from_str` would also accept a sign.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Shortens an item to 40 characters for an error message.
fn shorten(item: &str) -> String {
    item.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error(text: &str) -> String {
        Pattern::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn equivalent_patterns_are_equal() {
        for (one, other) in [
            ("0 0 * * 0", "0 0 0 * * SUN *"),
            ("0 0 * * 7", "0 0 * * sun"),
            ("0 0 * * FRI-SUN", "0 0 * * 0,5,6"),
            ("0 0 * * 5-7", "0 0 ? * 5,6,0"),
            ("*/15 * * * *", "0,15,30,45 0-23 * * *"),
            ("5-59/10 0 1-31/2 JAN-MAR *", "05,15,25,35,45,55 0 1-31/2 1,2,3 ?"),
            ("0 0 * * TUE#2,friL", "0 0 * * 2#2,5l"),
            ("0 0 lw,15w * *", "0 0 15W,LW * *"),
            ("0 0 * * *", "0 0 0 * * * 1970-2199"),
        ] {
            assert_eq!(Pattern::parse(one), Pattern::parse(other), "{one} equals {other}");
        }
    }

    #[test]
    fn pattern_error_names_field_and_problem() {
        for (text, words) in [
            ("75 * * * *", "minute field: `75` is not between 0 and 59"),
            ("0 24 * * *", "hour field: `24` is not between 0 and 23"),
            ("0 0 0 * *", "day of month field: `0` is not between 1 and 31"),
            ("0 0 * 13 *", "month field: `13` is not between 1 and 12"),
            ("0 0 * JANFEB *", "month field: `JANFEB` is not a value of this field"),
            ("0 0 * * 8", "day of week field: `8` is not between 0 and 7"),
            ("0 0 * * L", "day of week field: `L` is not a value of this field"),
            ("61 0 0 * * *", "second field: `61` is not between 0 and 59"),
            ("0 0 0 * * * 1969", "year field: `1969` is not between 1970 and 2199"),
            ("MON * * * *", "minute field: `MON` is not a value of this field"),
            ("0 L * * *", "hour field: `L` is not a value of this field"),
            ("1,,2 * * * *", "minute field: `` is empty"),
            ("30-10 * * * *", "minute field: `30-10` begins after it ends"),
            ("0 0 * * SAT-TUE", "day of week field: `SAT-TUE` begins after it ends"),
            ("*/0 * * * *", "minute field: `*/0` has a step that is not between 1 and 60"),
            ("*/61 * * * *", "minute field: `*/61` has a step that is not between 1 and 60"),
            ("*/99999999999 * * * *", "minute field: `*/99999999999` has a step"),
            ("5/10 * * * *", "minute field: `5/10` has a step, which needs a range"),
            ("-5 * * * *", "minute field: `-5` is empty"),
            ("+5 * * * *", "minute field: `+5` is not a value of this field"),
            ("1-2-3 * * * *", "minute field: `1-2-3` is not a value of this field"),
            ("0 0 * * MON#6", "day of week field: `MON#6` has no number from 1 to 5 behind #"),
            ("0 0 W * *", "day of month field: `W` is empty"),
            ("0 0 * * MON#2#3", "day of week field: `MON#2#3` has no number"),
            ("* * * *", "it has 4 fields"),
            ("* * * * * * * *", "it has 8 fields"),
        ] {
            assert!(parse_error(text).contains(words), "{text}: {}", parse_error(text));
        }
    }

    #[test]
    fn all_hours_in_any_notation_are_interval() {
        for text in ["0 * * * *", "0 */1 * * *", "0 0-23 * * *", "* 0-11,12-23 * * *"] {
            assert!(Pattern::parse(text).unwrap().is_interval(), "{text}");
        }
        for text in ["* */2 * * *", "* 1-23 * * *", "0 0 * * *"] {
            assert!(!Pattern::parse(text).unwrap().is_interval(), "{text}");
        }
    }
}
