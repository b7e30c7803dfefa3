//! Search for the local times that match a cron pattern, in the Gregorian calendar and independent of time
//! zones.

use jiff::civil::{Date, DateTime, Time};

use super::pattern::{Days, FIRST_YEAR, Pattern, Weekdays};

impl Pattern {
    /// Returns the first matching local time at or after `from`, with a resolution of one second. Examines at
    /// most about 3,000 months.
    pub fn next_from(&self, from: DateTime) -> Option<DateTime> {
        let today = from.date();
        let mut day = self.day_from(today)?;
        if day == today {
            if let Some(time) = self.time_from(from.time()) {
                return Some(today.to_datetime(time));
            }
            day = self.day_from(today.tomorrow().ok()?)?;
        }
        self.time_from(Time::midnight()).map(|time| day.to_datetime(time))
    }

    /// Returns true if the pattern matches any day.
    pub fn ever_happens(&self) -> bool {
        self.day_from(jiff::civil::date(FIRST_YEAR as i16, 1, 1)).is_some()
    }

    /// Returns the first matching day at or after `from`.
    fn day_from(&self, from: Date) -> Option<Date> {
        let mut first = from.day();
        let mut month = from.month();
        let mut year = i16::max(from.year(), FIRST_YEAR as i16);
        if from.year() < year {
            (month, first) = (1, 1);
        }
        loop {
            year = if self.names_year(year) {
                year
            } else {
                (month, first) = (1, 1);
                self.year_from(year)?
            };
            while let Some(next) = bit_from(self.months, month as u32) {
                if next != month as u32 {
                    (month, first) = (next as i8, 1);
                }
                if let Some(day) = bit_from(self.days_of(year, month), first as u32) {
                    return Date::new(year, month, day as i8).ok();
                }
                (month, first) = (month + 1, 1);
            }
            (year, month, first) = (year + 1, 1, 1);
        }
    }

    /// Returns the first matching time of day at or after `from`; `None` if no later time of the day matches.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour() as u32, from.minute() as u32, from.second() as u32);
        let at =
            |hour: u32, minute: u32, second: u32| Time::new(hour as i8, minute as i8, second as i8, 0).ok();
        let (first_minute, first_second) = (self.minutes.trailing_zeros(), self.seconds.trailing_zeros());
        if self.hours & 1 << hour != 0 {
            if self.minutes & 1 << minute != 0
                && let Some(second) = bit_from(self.seconds, second)
            {
                return at(hour, minute, second);
            }
            if let Some(minute) = bit_from(self.minutes, minute + 1) {
                return at(hour, minute, first_second);
            }
        }
        at(bit_from(self.hours, hour + 1)?, first_minute, first_second)
    }

    fn names_year(&self, year: i16) -> bool {
        self.year_from(year) == Some(year)
    }

    fn year_from(&self, year: i16) -> Option<i16> {
        let from = u32::try_from(i32::from(year)).ok()?.checked_sub(FIRST_YEAR)?;
        let word = |word: u32| {
            let first = from.saturating_sub(word * 64);
            Some(bit_from(*self.years.get(word as usize)?, first)? + word * 64)
        };
        let found = (from / 64..4).find_map(word)?;
        i16::try_from(FIRST_YEAR + found).ok()
    }

    /// Returns the matching days of a month as a bit mask. Bit 1 is the first day of the month.
    fn days_of(&self, year: i16, month: i8) -> u64 {
        let Ok(first) = Date::new(year, month, 1) else { return 0 };
        let month = Month {
            length: first.days_in_month() as u32,
            first_weekday: first.weekday().to_sunday_zero_offset() as u32,
        };
        match (self.days.any, self.weekdays.any) {
            (true, true) => month.all(),
            (true, false) => self.weekdays.of(month),
            (false, true) => self.days.of(month),
            (false, false) if self.both => self.days.of(month) & self.weekdays.of(month),
            (false, false) => self.days.of(month) | self.weekdays.of(month),
        }
    }
}

/// Length and first weekday of a month.
#[derive(Clone, Copy)]
struct Month {
    length: u32,
    /// Weekday of the first day of the month; 0 is Sunday.
    first_weekday: u32,
}

impl Month {
    fn all(self) -> u64 {
        (1 << (self.length + 1)) - 2
    }

    /// Returns the weekday of a day of the month; 0 is Sunday.
    fn weekday(self, day: u32) -> u32 {
        (self.first_weekday + day - 1) % 7
    }

    /// Returns the weekday (Monday to Friday) in the month that is nearest to `day`.
    fn workday_near(self, day: u32) -> u32 {
        match self.weekday(day) {
            6 if day > 1 => day - 1,
            6 => day + 2,
            0 if day < self.length => day + 1,
            0 => day - 2,
            _ => day,
        }
    }
}

impl Days {
    fn of(&self, month: Month) -> u64 {
        let mut days = self.every;
        if self.last {
            days |= 1 << month.length;
        }
        if self.last_workday {
            days |= 1 << month.workday_near(month.length);
        }
        for day in (1..=month.length).filter(|day| self.near & 1 << day != 0) {
            days |= 1 << month.workday_near(day);
        }
        days & month.all()
    }
}

impl Weekdays {
    fn of(&self, month: Month) -> u64 {
        let matches = |day: &u32| {
            let last = if day + 7 > month.length { self.last } else { 0 };
            let weekdays = self.every | self.nth[(*day as usize - 1) / 7] | last;
            weekdays & 1 << month.weekday(*day) != 0
        };
        (1..=month.length).filter(matches).fold(0, |days, day| days | 1 << day)
    }
}

/// Returns the number of the lowest set bit at or above `from`; `None` if there is none.
fn bit_from(mask: u64, from: u32) -> Option<u32> {
    let rest = mask.checked_shr(from).unwrap_or(0);
    (rest != 0).then(|| from + rest.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(pattern: &str, from: &str, count: usize) -> Vec<String> {
        let pattern = Pattern::parse(pattern).unwrap();
        let mut at: DateTime = from.parse().unwrap();
        let next = || {
            let found = pattern.next_from(at)?;
            at = found.checked_add(jiff::Span::new().seconds(1)).ok()?;
            Some(found.to_string())
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn day_letters_match_documented_days() {
        for (pattern, expected) in [
            ("0 0 L * *", ["2027-01-31", "2027-02-28", "2027-03-31"]),
            ("0 0 LW * *", ["2027-01-29", "2027-02-26", "2027-03-31"]),
            // The 1st of May 2027 is a Saturday, and the preceding Friday is in April.
            ("0 0 1W 5-7 *", ["2027-05-03", "2027-06-01", "2027-07-01"]),
            // The 31st of January 2027 is a Sunday, and the following Monday is in February.
            ("0 0 31W * *", ["2027-01-29", "2027-03-31", "2027-05-31"]),
            ("0 0 * * FRI#2", ["2027-01-08", "2027-02-12", "2027-03-12"]),
            ("0 0 * * MONL", ["2027-01-25", "2027-02-22", "2027-03-29"]),
            ("0 0 13 * +FRI", ["2027-08-13", "2028-10-13", "2029-04-13"]),
            ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
            ("0 0 1 1 MON", ["2027-01-01", "2027-01-04", "2027-01-11"]),
        ] {
            let expected = expected.map(|day| format!("{day}T00:00:00"));
            assert_eq!(days(pattern, "2027-01-01T00:00:00", 3), expected, "{pattern}");
        }
    }

    #[test]
    fn next_time_carries_from_seconds_to_years() {
        assert_eq!(
            days("59 59 23 31 12 * 2027,2199", "2027-01-01T00:00:00", 9),
            ["2027-12-31T23:59:59", "2199-12-31T23:59:59"]
        );
        assert_eq!(
            days("*/20 59 23 * * *", "2027-02-28T23:59:20", 3),
            ["2027-02-28T23:59:20", "2027-02-28T23:59:40", "2027-03-01T23:59:00"]
        );
        assert_eq!(days("0 0 * * *", "1492-01-01T05:00:00", 1), ["1970-01-01T00:00:00"]);
        assert!(days("0 0 * * *", "2200-01-01T00:00:00", 1).is_empty());
    }

    #[test]
    fn impossible_patterns_are_detected() {
        for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 29 2 ? 2027", "0 0 6 * +MON#2", "0 0 30W 2 *"]
        {
            assert!(!Pattern::parse(never).unwrap().ever_happens(), "{never}");
        }
        for sometime in ["0 0 29 2 +MON", "0 0 31 4 MON", "0 0 0 29 2 ? 2096"] {
            assert!(Pattern::parse(sometime).unwrap().ever_happens(), "{sometime}");
        }
    }
}
