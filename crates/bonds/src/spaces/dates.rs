//! The built-in collection `dates`: days that matter, and when to be reminded of them.
//!
//! A day without a time begins at 00:00. What repeats is counted from its own date: the 29th of February falls on the 28th
//! in other years, a 31st on the last day of a shorter month, and both are themselves again when they can. A local time
//! that the clocks skip is as much later as they skip; of one that comes twice it is the first. A reminder comes so many
//! minutes of 60 seconds before.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan, Unit};
use kith_kernel::{FieldError, Text, TextRules, Timestamp};
use kith_platform::http::read_value;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::CollectionName;

/// The field by which lists of dates go.
pub const DATE: &str = "date";
/// Whose profile names no time zone.
pub const UTC: &str = "UTC";

const NAME: &str = "dates";
const TITLE: TextRules = TextRules { min: 1, max: 200, newlines: false };
const MOST_REMINDERS: usize = 5;
/// A leap year.
const LONGEST_BEFORE: i64 = 366 * 24 * 60;

/// Whether `collection` is the built-in one.
pub fn is_dates(collection: &CollectionName) -> bool {
    collection.as_str() == NAME
}

/// What an item of the collection holds.
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
    repeat: Repeat,
    #[serde(default)]
    remind_minutes_before: Vec<i64>,
}

/// How often a date comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Repeat {
    #[default]
    None,
    Weekly,
    Monthly,
    Yearly,
}

/// When a date is, and when to be reminded of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    date: Date,
    time: Option<Time>,
    zone: TimeZone,
    repeat: Repeat,
    /// In order, none twice.
    pub remind_minutes_before: Vec<i64>,
}

/// What is kept of `data`, with every field, and the schedule that it means. `usual_zone` is where it is if it does not say.
///
/// # Errors
/// Every fault there is, below `/data`.
pub fn read(data: &Value, usual_zone: &str) -> Result<(Value, Schedule), Vec<FieldError>> {
    let mut own: DateData = read_value(data, "/data").map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    match Text::parse(&own.title, TITLE, "/data/title") {
        Ok(title) => own.title = title.into_string(),
        Err(fault) => faults.push(fault),
    }
    let zone = own.time_zone.unwrap_or_else(|| usual_zone.to_owned());
    let zone = TimeZone::get(&zone).ok().filter(|zone| zone.iana_name().is_some());
    let date = parse_date(&own.date);
    let time = own.time.as_deref().map(parse_time);
    own.remind_minutes_before.sort_unstable();
    own.remind_minutes_before.dedup();
    let before = &own.remind_minutes_before;
    let reminders = before.len() <= MOST_REMINDERS && before.iter().all(|n| (0..=LONGEST_BEFORE).contains(n));
    for (wrong, pointer, code, detail) in [
        (date.is_none(), "/data/date", "not_a_date", "A day such as 2026-02-14."),
        (time == Some(None), "/data/time", "not_a_time", "A time of day such as 18:30."),
        (
            zone.is_none(),
            "/data/time_zone",
            "not_a_time_zone",
            "A name of the IANA time zone database, such as Europe/Vienna.",
        ),
        (
            !reminders,
            "/data/remind_minutes_before",
            "invalid",
            "At most 5 numbers of minutes, each from 0 to 527040, which is 366 days.",
        ),
    ] {
        if wrong {
            faults.push(FieldError::new(pointer, code, detail));
        }
    }
    match (date, zone) {
        (Some(date), Some(zone)) if faults.is_empty() => {
            own.time_zone = zone.iana_name().map(str::to_owned);
            let data = serde_json::to_value(&own).expect("plain data");
            let (repeat, remind_minutes_before) = (own.repeat, own.remind_minutes_before);
            Ok((data, Schedule { date, time: time.flatten(), zone, repeat, remind_minutes_before }))
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

impl Schedule {
    /// The first reminder behind `now` that comes `minutes` before, if there is one more.
    pub fn next_reminder(&self, minutes: i64, now: Timestamp) -> Option<Timestamp> {
        let before = Span::new().try_minutes(minutes).ok()?;
        let now = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?;
        let near = self.zone.to_datetime(now.checked_add(before).ok()?).date();
        // The last that can begin by then, and one earlier: a day there may have begun on another here.
        let first = (self.periods_until(near)? - 1).max(0);
        let last = if self.repeat == Repeat::None { 0 } else { first + 3 };
        (first..=last).find_map(|n| {
            let due = self.begins(n)?.checked_sub(before).ok()?;
            (due > now).then(|| Timestamp::from_millis(due.as_millisecond()))
        })
    }

    /// How many whole periods lie between its own date and `day`.
    fn periods_until(&self, day: Date) -> Option<i32> {
        let months = |date: Date| i32::from(date.year()) * 12 + i32::from(date.month());
        Some(match self.repeat {
            Repeat::None => 0,
            Repeat::Weekly => self.date.until((Unit::Day, day)).ok()?.get_days().div_euclid(7),
            Repeat::Monthly => months(day) - months(self.date),
            Repeat::Yearly => i32::from(day.year()) - i32::from(self.date.year()),
        })
    }

    /// When it begins for the `n`th time, counted from 0.
    fn begins(&self, n: i32) -> Option<jiff::Timestamp> {
        let span = match self.repeat {
            Repeat::None => Span::new(),
            Repeat::Weekly => n.weeks(),
            Repeat::Monthly => n.months(),
            Repeat::Yearly => n.years(),
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

    fn schedule(data: Value) -> Schedule {
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
    fn a_date_is_kept_with_all_it_says() {
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
    fn every_fault_is_named() {
        let faults = |data: Value| {
            let faults = read(&data, UTC).unwrap_err();
            faults.iter().map(|fault| (fault.pointer.to_string(), fault.code)).collect::<Vec<_>>()
        };
        let wrong = json!({ "title": "", "date": "2026-02-30", "time": "7:5", "time_zone": "Mars",
                            "remind_minutes_before": [1, 2, 3, 4, 5, 6] });
        let expected = [
            ("/data/title", "too_short"),
            ("/data/date", "not_a_date"),
            ("/data/time", "not_a_time"),
            ("/data/time_zone", "not_a_time_zone"),
            ("/data/remind_minutes_before", "invalid"),
        ];
        assert_eq!(faults(wrong), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
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
    fn what_does_not_repeat_comes_once() {
        let once =
            json!({ "title": "x", "date": "2026-01-10", "time": "18:00", "time_zone": "Europe/Vienna" });
        expect_next(once.clone(), 60, "2026-01-01T00:00:00Z", "2026-01-10T16:00:00.000Z");
        expect_next(once.clone(), 60, "2026-01-10T15:59:59.999Z", "2026-01-10T16:00:00.000Z");
        expect_next(once, 60, "2026-01-10T16:00:00.000Z", "never");
    }

    #[test]
    fn the_29th_of_february_and_the_31st_find_their_day() {
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
    fn local_times_that_are_skipped_or_doubled_come_once() {
        let at_half_past_two = |date| json!({ "title": "x", "date": date, "time": "02:30", "time_zone": "Europe/Vienna", "repeat": "weekly" });
        // Clocks go from 02:00 to 03:00: it is 03:30.
        expect_next(at_half_past_two("2026-03-22"), 0, "2026-03-25T00:00:00Z", "2026-03-29T01:30:00.000Z");
        // Clocks go from 03:00 back to 02:00: the first 02:30 counts, and not the second.
        expect_next(at_half_past_two("2026-10-18"), 0, "2026-10-20T00:00:00Z", "2026-10-25T00:30:00.000Z");
        expect_next(at_half_past_two("2026-10-18"), 0, "2026-10-25T00:30:00Z", "2026-11-01T01:30:00.000Z");
        // A day that a whole country skipped.
        let skipped =
            json!({ "title": "x", "date": "2011-12-23", "time_zone": "Pacific/Apia", "repeat": "weekly" });
        expect_next(skipped, 0, "2011-12-24T00:00:00Z", "2011-12-30T10:00:00.000Z");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The estimate finds what counting from the beginning would.
        #[test]
        fn the_next_reminder_is_the_first_behind_now(
            day in 0_i32..9_000,
            minute in 0_i32..1_440,
            repeat in prop::sample::select(vec!["weekly", "monthly", "yearly"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Vienna", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"]),
            before in 0_i64..=LONGEST_BEFORE,
            passed in 0_i64..(40 * 365 * 86_400_000),
        ) {
            let date = Date::constant(2000, 1, 1).checked_add(day.days()).unwrap();
            let time = format!("{:02}:{:02}", minute / 60, minute % 60);
            let schedule = schedule(json!({
                "title": "x", "date": date.to_string(), "time": time, "time_zone": zone, "repeat": repeat,
            }));
            let now = Timestamp::from_millis(900_000_000_000 + passed);
            let due = |n| schedule.begins(n).map(|begin| begin.as_millisecond() - before * 60_000);
            let expected = (0..).map_while(due).find(|due| *due > now.as_millis());
            prop_assert_eq!(schedule.next_reminder(before, now).map(Timestamp::as_millis), expected);
        }
    }
}
