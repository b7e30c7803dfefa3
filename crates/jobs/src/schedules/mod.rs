//! What recurs. [`Spec`] says when: cron patterns and intervals, in a time zone; it is pure. The rest keeps schedules, and
//! enqueues a job for each occurrence, once, however many nodes, restarts and jumps of the clock there are.
//!
//! # What a schedule may say
//!
//! * Five fields, `minute hour day-of-month month day-of-week`; six, with seconds first; seven, with a year (1970 to 2199)
//!   last. Each is a list, separated by commas, of values `5`, ranges `1-5`, and both in steps `*/15`, `1-31/2`. Months and
//!   weekdays have names of three letters; Sunday is 0 and 7. `?` is `*` in the two fields of days.
//! * Days of the month: `L` is the last, `LW` the last from Monday to Friday, `15W` the one from Monday to Friday that is
//!   nearest to the 15th within the month. Weekdays: `FRI#2` is the second Friday, `FRIL` the last.
//! * If both fields of days say something other than `*`, a day that matches either counts, as in every cron; with `+`
//!   before the weekdays it must match both: `0 0 13 * +FRI`.
//! * `@yearly` (`@annually`), `@monthly`, `@weekly`, `@daily` (`@midnight`), `@hourly`.
//! * `@every 90s`, `@every 1h30m`: hours, minutes and seconds of elapsed time.
//!
//! A pattern that has no day in 1970 to 2199, such as the 30th of February, is refused.
//!
//! # When the clocks change
//!
//! A pattern names local times, to the second. Which moments these are:
//!
//! 1. A pattern whose hours are **not** all 24 names times of day. Each of its local times is one moment: the moment that
//!    shows it; of a local time that comes twice, the first; of one that is skipped, the first moment after the gap. A run
//!    happens once at each moment that is named, by however many local times. So `30 2 * * *` runs once on every day of the
//!    year, on the day without a 02:30 at 03:00; and `*/15 2 * * *` runs once at 03:00 on that day for the four that it
//!    lacks.
//! 2. A pattern whose hours are all 24 is an interval, such as "every ten minutes" or "at half past every hour". It runs at
//!    every moment whose local time matches: through a gap and a doubled hour it goes on without a pause or a burst.
//! 3. `@every` counts elapsed time from its anchor: it runs at anchor + period, anchor + 2 periods, and so on. No clock
//!    change touches it.
//!
//! It makes no difference how the hours are written: `*`, `*/1` and `0-23` are all 24. Vixie cron tells both kinds apart
//! likewise, by an asterisk; there `*/2` is an interval too, which loses the run at 02:00 in a gap and doubles it in autumn.
//!
//! The patterns are read here and not by a library because a refusal is to name the field and what is wrong in it; the
//! tests compare with `croner`. Zones and their transitions are jiff's, whose database is linked in.

mod calendar;
mod commands;
mod declared;
mod model;
mod occurrences;
mod pattern;
mod queries;
mod run;
mod spec;

pub use commands::{Backfilled, backfill, change, create, delete, find_to_change, run_now, set_paused};
pub use declared::Declared;
pub use model::{
    DeclaredSchedule, MAX_JITTER, MOST_AT_ONCE, MOST_SCHEDULES, Missed, Occurrence, Origin, Overlap, Plan,
    Schedule, ScheduleError, check_schedule_name,
};
pub use pattern::{Fault, Field};
pub use queries::{ScheduleFilter, find_schedule, list_runs, list_schedules};
pub use run::Ticked;
pub use spec::{MAX_LENGTH, MAX_PERIOD, Spec, SpecError};
