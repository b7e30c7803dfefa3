//! Schedules. [`Spec`] defines the times of a schedule: cron patterns and intervals in a time zone. It
//! accesses neither the clock nor the database. The other files store schedules and enqueue exactly one job
//! for each occurrence, even with several nodes, restarts and clock changes.
//!
//! # Syntax
//!
//! * Five fields: `minute hour day-of-month month day-of-week`. Six fields: seconds are first. Seven fields:
//!   seconds are first and a year (1970 to 2199) is last. Each field is a comma-separated list of values `5`,
//!   ranges `1-5`, and steps of ranges `*/15`, `1-31/2`. Months and weekdays have three-letter names; Sunday
//!   is 0 and 7. `?` means `*` in the two day fields.
//! * Days of the month: `L` is the last day, `LW` the last weekday (Monday to Friday), and `15W` the weekday
//!   nearest to the 15th in the month. Days of the week: `FRI#2` is the second Friday, and `FRIL` the last
//!   Friday.
//! * If both day fields are restricted, a day matches if one of the fields matches, as in other crons. With
//!   `+` before the day of the week, both fields must match: `0 0 13 * +FRI`.
//! * Nicknames: `@yearly` (`@annually`), `@monthly`, `@weekly`, `@daily` (`@midnight`), `@hourly`.
//! * Intervals: `@every 90s`, `@every 1h30m`, with hours, minutes and seconds of elapsed time.
//!
//! A pattern that matches no day from 1970 to 2199, such as the 30th of February, is rejected.
//!
//! # Daylight saving time
//!
//! A pattern matches local times, to the second. They are mapped to points in time as follows:
//!
//! 1. A pattern whose hours are **not** all 24 matches times of day. Each local time is one point in time:
//!    the one at which clocks show it; the first, if they show it twice; the first one after the gap, if they
//!    skip it. Several local times that map to the same point in time give one run. So `30 2 * * *` runs once
//!    on every day of the year, at 03:00 on the day without 02:30; and `*/15 2 * * *` runs once at 03:00 on
//!    that day, for the four times that are skipped.
//! 2. A pattern whose hours are all 24 is an interval, such as "every ten minutes" or "at half past every
//!    hour". It runs at every point in time whose local time matches, so it continues through a gap and a
//!    repeated hour without a pause or a burst.
//! 3. `@every` counts elapsed time from its anchor: it runs at anchor + period, anchor + 2 periods, and so
//!    on. Clock changes do not affect it.
//!
//! The notation of the hours makes no difference: `*`, `*/1` and `0-23` are all 24. Vixie cron distinguishes
//! the two kinds in a similar way, by an asterisk; there `*/2` is an interval too, which loses the run at
//! 02:00 in a gap and doubles it in autumn.
//!
//! Patterns are parsed here and not by a library, because an error must name the field and the problem. The
//! tests compare the results with `croner`. Time zones and their transitions come from jiff, with its bundled
//! database.

mod calendar;
mod commands;
mod declared;
mod model;
mod occurrences;
mod pattern;
mod queries;
mod run;
mod spec;

pub use commands::{BackfillResult, backfill, change, create, delete, find_to_change, run_now, set_paused};
pub use declared::DeclaredChanges;
pub use model::{
    DeclaredSchedule, MAX_BACKFILL_RUNS, MAX_JITTER, MAX_SCHEDULES, Missed, Occurrence, Origin, Overlap,
    Plan, Schedule, ScheduleError, check_schedule_name,
};
pub use pattern::{Field, PatternError};
pub use queries::{ScheduleFilter, find_schedule, list_runs, list_schedules};
pub use run::TickResult;
pub use spec::{MAX_LENGTH, MAX_PERIOD, Spec, SpecError};
