//! The built-in collection `dates`, for dates with optional repetition and reminders.
//!
//! A date without a time begins at 00:00. Repetitions are computed from the first date. In other years, 29
//! February falls on the 28th. In shorter months, a 31st falls on the last day. Later repetitions are not
//! shifted by this. A local time that daylight saving skips moves forward by the skipped amount. If a local
//! time occurs twice, the first one counts. Reminders are due a number of minutes of 60 seconds before the
//! date.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan, Unit};
use kith_kernel::{FieldError, Text, TextRules, Timestamp};
use kith_platform::http::read_value;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::CollectionName;

/// Field by which lists of dates are sorted and filtered.
pub const DATE_FIELD: &str = "date";
/// Time zone of users without a time zone in their profile.
pub const UTC: &str = "UTC";

const COLLECTION_NAME: &str = "dates";
const TITLE: TextRules = TextRules { min: 1, max: 200, newlines: false };
const MAX_REMINDERS: usize = 5;
/// Maximum lead time of a reminder: the minutes of a leap year.
const MAX_LEAD_MINUTES: i64 = 366 * 24 * 60;

/// Returns `true` if `collection` is the built-in collection `dates`.
pub fn is_dates(collection: &CollectionName) -> bool {
    collection.as_str() == COLLECTION_NAME
}

/// Content of an item of this collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DateData {
    title: String,
    date: String,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    time_zone: Option<String>,
    #[serde(default)]
    repeat: Repetition,
    #[serde(default)]
    remind_minutes_before: Vec<i64>,
}

/// Repetition of a date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Repetition {
    #[default]
    None,
    Weekly,
    Monthly,
    Yearly,
}

/// Time of a date with its repetition and reminders.
#[derive(Clone, Debug, PartialEq)]
pub struct DateSchedule {
    date: Date,
    time: Option<Time>,
    zone: TimeZone,
    repeat: Repetition,
    /// Lead times of the reminders in minutes, ascending, without duplicates.
    pub remind_minutes_before: Vec<i64>,
}

/// Parses and normalizes the content of a date. Returns its schedule and the data to store, with all fields.
/// Dates without a time zone get `default_zone`.
///
/// # Errors
/// Returns one [`FieldError`] per invalid field. The pointers begin with `/data`.
pub fn read(data: &Value, default_zone: &str) -> Result<(Value, DateSchedule), Vec<FieldError>> {
    let mut own: DateData = read_value(data, "/data").map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    match Text::parse(&own.title, TITLE, "/data/title") {
        Ok(title) => own.title = title.into_string(),
        Err(fault) => faults.push(fault),
    }
    let zone = own.time_zone.unwrap_or_else(|| default_zone.to_owned());
    let zone = TimeZone::get(&zone).ok().filter(|zone| zone.iana_name().is_some());
    let date = parse_date(&own.date);
    let time = own.time.as_deref().map(parse_time);
    own.remind_minutes_before.sort_unstable();
    own.remind_minutes_before.dedup();
    let before = &own.remind_minutes_before;
    let reminders =
        before.len() <= MAX_REMINDERS && before.iter().all(|n| (0..=MAX_LEAD_MINUTES).contains(n));
    for (is_invalid, pointer, code, detail) in [
        (date.is_none(), "/data/date", "not_a_date", "Expected a date such as 2026-02-14."),
        (time == Some(None), "/data/time", "not_a_time", "Expected a time such as 18:30."),
        (
            zone.is_none(),
            "/data/time_zone",
            "not_a_time_zone",
            "Expected an IANA time zone such as Europe/Vienna.",
        ),
        (
            !reminders,
            "/data/remind_minutes_before",
            "invalid",
            "Expected at most 5 numbers of minutes, each from 0 to 527040 (366 days).",
        ),
    ] {
        if is_invalid {
            faults.push(FieldError::new(pointer, code, detail));
        }
    }
    match (date, zone) {
        (Some(date), Some(zone)) if faults.is_empty() => {
            own.time_zone = zone.iana_name().map(str::to_owned);
            let data = serde_json::to_value(&own).expect("plain data");
            let (repeat, remind_minutes_before) = (own.repeat, own.remind_minutes_before);
            Ok((data, DateSchedule { date, time: time.flatten(), zone, repeat, remind_minutes_before }))
        }
        _ => Err(faults),
    }
}

fn parse_date(text: &str) -> Option<Date> {
    let date: Date = text.parse().ok()?;
    (text.len() == 10 && date.to_string() == text).then_some(date)
}

fn parse_time(text: &str) -> Option<Time> {
    let time: Time = text.parse().ok()?;
    (time.strftime("%H:%M").to_string() == text).then_some(time)
}

impl DateSchedule {
    /// Returns the first reminder after `now` with a lead time of `minutes`; `None` if there is none.
    pub fn next_reminder(&self, minutes: i64, now: Timestamp) -> Option<Timestamp> {
        let before = Span::new().try_minutes(minutes).ok()?;
        let now = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?;
        let near = self.zone.to_datetime(now.checked_add(before).ok()?).date();
        // Starts one repetition before the last one that can begin on the day `near`, because the date
        // differs between time zones.
        let first = (self.periods_until(near)? - 1).max(0);
        let last = if self.repeat == Repetition::None { 0 } else { first + 3 };
        (first..=last).find_map(|n| {
            let due = self.start_of(n)?.checked_sub(before).ok()?;
            (due > now).then(|| Timestamp::from_millis(due.as_millisecond()))
        })
    }

    /// Returns the number of whole repetition periods between the first date and `day`.
    fn periods_until(&self, day: Date) -> Option<i32> {
        let months = |date: Date| i32::from(date.year()) * 12 + i32::from(date.month());
        Some(match self.repeat {
            Repetition::None => 0,
            Repetition::Weekly => self.date.until((Unit::Day, day)).ok()?.get_days().div_euclid(7),
            Repetition::Monthly => months(day) - months(self.date),
            Repetition::Yearly => i32::from(day.year()) - i32::from(self.date.year()),
        })
    }

    /// Returns the beginning of the `n`th repetition; 0 is the first date.
    fn start_of(&self, n: i32) -> Option<jiff::Timestamp> {
        let span = match self.repeat {
            Repetition::None => Span::new(),
            Repetition::Weekly => n.weeks(),
            Repetition::Monthly => n.months(),
            Repetition::Yearly => n.years(),
        };
        let day = self.date.checked_add(span).ok()?;
        let local = day.to_datetime(self.time.unwrap_or(Time::midnight()));
        self.zone.to_ambiguous_timestamp(local).compatible().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schedule(data: Value) -> DateSchedule {
        read(&data, UTC).unwrap().1
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[track_caller]
    fn expect_next(data: Value, minutes: i64, after: &str, expected: &str) {
        let next =
            schedule(data).next_reminder(minutes, at(after)).map_or("never".into(), |at| at.to_string());
        assert_eq!(next, expected);
    }

    #[test]
    fn date_is_stored_with_all_fields() {
        let (data, _) = read(&json!({ "title": " Us ", "date": "2024-02-29" }), "Europe/Vienna").unwrap();
        assert_eq!(
            data,
            json!({ "title": "Us", "date": "2024-02-29", "time": null, "time_zone": "Europe/Vienna", "repeat": "none",
                    "remind_minutes_before": [] })
        );
        let all = json!({ "title": "Us", "date": "2024-02-29", "time": "07:05", "time_zone": "europe/vienna",
                          "repeat": "yearly", "remind_minutes_before": [60, 0, 60] });
        let (data, _) = read(&all, UTC).unwrap();
        assert_eq!(
            (&data["time_zone"], &data["remind_minutes_before"]),
            (&json!("Europe/Vienna"), &json!([0, 60]))
        );
        assert_eq!(read(&data, UTC).unwrap().0, data);
    }

    #[test]
    fn every_invalid_date_field_is_reported() {
        let faults = |data: Value| {
            let faults = read(&data, UTC).unwrap_err();
            faults.iter().map(|fault| (fault.pointer.to_string(), fault.code)).collect::<Vec<_>>()
        };
        let is_invalid = json!({ "title": "", "date": "2026-02-30", "time": "7:5", "time_zone": "Mars",
                            "remind_minutes_before": [1, 2, 3, 4, 5, 6] });
        let expected = [
            ("/data/title", "too_short"),
            ("/data/date", "not_a_date"),
            ("/data/time", "not_a_time"),
            ("/data/time_zone", "not_a_time_zone"),
            ("/data/remind_minutes_before", "invalid"),
        ];
        assert_eq!(faults(is_invalid), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        let with = |field: &str, value: Value| {
            let mut data = json!({ "title": "x", "date": "2026-01-01" });
            data[field] = value;
            faults(data)
        };
        for date in ["2026-1-1", "20260101", "2026-01-01T10:00", "tomorrow", ""] {
            assert_eq!(with("date", json!(date)), [("/data/date".to_owned(), "not_a_date")], "{date}");
        }
        for time in ["24:00", "12:60", "12:00:00", "noon"] {
            assert_eq!(with("time", json!(time)), [("/data/time".to_owned(), "not_a_time")], "{time}");
        }
        assert_eq!(with("repeat", json!("daily")), [("/data/repeat".to_owned(), "invalid")]);
        assert_eq!(with("place", json!("Rome")), [("/data/place".to_owned(), "unknown_field")]);
        assert_eq!(with("remind_minutes_before", json!([-1])).len(), 1);
        assert_eq!(faults(json!({ "title": "x" })), [("/data/date".to_owned(), "missing")]);
    }

    #[test]
    fn single_date_has_one_reminder() {
        let once =
            json!({ "title": "x", "date": "2026-01-10", "time": "18:00", "time_zone": "Europe/Vienna" });
        expect_next(once.clone(), 60, "2026-01-01T00:00:00Z", "2026-01-10T16:00:00.000Z");
        expect_next(once.clone(), 60, "2026-01-10T15:59:59.999Z", "2026-01-10T16:00:00.000Z");
        expect_next(once, 60, "2026-01-10T16:00:00.000Z", "never");
    }

    #[test]
    fn leap_day_and_31st_fall_on_last_day_of_month() {
        let leap = json!({ "title": "x", "date": "2024-02-29", "repeat": "yearly" });
        expect_next(leap.clone(), 0, "2025-01-01T00:00:00Z", "2025-02-28T00:00:00.000Z");
        expect_next(leap.clone(), 0, "2027-03-01T00:00:00Z", "2028-02-29T00:00:00.000Z");
        expect_next(leap, 0, "9999-12-30T00:00:00Z", "never");
        let last = json!({ "title": "x", "date": "2026-01-31", "repeat": "monthly" });
        expect_next(last.clone(), 0, "2026-01-31T00:00:00Z", "2026-02-28T00:00:00.000Z");
        expect_next(last.clone(), 0, "2026-02-28T00:00:00Z", "2026-03-31T00:00:00.000Z");
        expect_next(last, 1_440, "2026-03-30T00:00:00Z", "2026-04-29T00:00:00.000Z");
    }

    #[test]
    fn skipped_and_repeated_local_times_occur_once() {
        let at_half_past_two = |date| json!({ "title": "x", "date": date, "time": "02:30", "time_zone": "Europe/Vienna", "repeat": "weekly" });
        // Clocks go forward from 02:00 to 03:00: 02:30 becomes 03:30.
        expect_next(at_half_past_two("2026-03-22"), 0, "2026-03-25T00:00:00Z", "2026-03-29T01:30:00.000Z");
        // Clocks go back from 03:00 to 02:00: the first 02:30 counts, not the second.
        expect_next(at_half_past_two("2026-10-18"), 0, "2026-10-20T00:00:00Z", "2026-10-25T00:30:00.000Z");
        expect_next(at_half_past_two("2026-10-18"), 0, "2026-10-25T00:30:00Z", "2026-11-01T01:30:00.000Z");
        // Samoa skipped 30 December 2011.
        let skipped =
            json!({ "title": "x", "date": "2011-12-23", "time_zone": "Pacific/Apia", "repeat": "weekly" });
        expect_next(skipped, 0, "2011-12-24T00:00:00Z", "2011-12-30T10:00:00.000Z");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The estimated start must give the same reminder as counting from the first date.
        #[test]
        fn next_reminder_is_first_after_now(
            day in 0_i32..9_000,
            minute in 0_i32..1_440,
            repeat in prop::sample::select(vec!["weekly", "monthly", "yearly"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Vienna", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"]),
            before in 0_i64..=MAX_LEAD_MINUTES,
            passed in 0_i64..(40 * 365 * 86_400_000),
        ) {
            let date = Date::constant(2000, 1, 1).checked_add(day.days()).unwrap();
            let time = format!("{:02}:{:02}", minute / 60, minute % 60);
            let schedule = schedule(json!({
                "title": "x", "date": date.to_string(), "time": time, "time_zone": zone, "repeat": repeat,
            }));
            let now = Timestamp::from_millis(900_000_000_000 + passed);
            let due = |n| schedule.start_of(n).map(|begin| begin.as_millisecond() - before * 60_000);
            let expected = (0..).map_while(due).find(|due| *due > now.as_millis());
            prop_assert_eq!(schedule.next_reminder(before, now).map(Timestamp::as_millis), expected);
        }
    }
}
