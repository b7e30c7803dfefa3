//! Observed time: elapsed time for irreversible actions, such as the grace period before a purge. It grows
//! with the monotonic time of running processes, and is stored in the database. Jumps of the wall clock do
//! not affect it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, days, hours, minutes};
use kith_store::{Error, Query, Tx, params};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::{App, Fact};

/// Interval at which each process updates the observed time.
const INTERVAL: Duration = minutes(1);
/// Maximum difference between the wall clock and monotonic time between two updates. A larger difference is a
/// jump.
const MAX_DEVIATION: Duration = minutes(5);
/// Maximum time without a running process that is added to the observed time immediately.
const MAX_CREDITED_GAP: Duration = hours(1);
/// Time for which the wall clock must not jump before a longer time without a running process is added.
const STEADY_PERIOD: Duration = days(1);

/// Fact for administrators: the observed time, and the time that is not added to it yet.
pub(crate) const FACT: Fact = Fact {
    name: "clock.observed",
    read: |q, _| {
        let kept = read(q)?.unwrap_or_default();
        Ok::<Value, Error>(json!({
            "elapsed_ms": kept.elapsed_ms, "at": kept.at, "uncredited_ms": kept.uncredited_ms,
        }))
    },
};

/// Latest update of the observed time by this process.
#[derive(Debug, Default)]
pub struct ObservedTime(Mutex<Option<ClockUpdate>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClockUpdate {
    monotonic: Duration,
    wall: Timestamp,
    elapsed_ms: i64,
}

/// Observed time as stored in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Observed {
    elapsed_ms: i64,
    at: Timestamp,
    uncredited_ms: i64,
    uncredited_since_ms: i64,
}

impl Observed {
    /// Returns the row after an update at `wall`. Also returns the jump of the wall clock in milliseconds, if
    /// there was one. `monotonic` is the monotonic time of this process, and `last` is its previous update.
    fn next(
        kept: Option<Self>,
        last: Option<ClockUpdate>,
        monotonic: Duration,
        wall: Timestamp,
    ) -> (Self, Option<i64>) {
        let Some(mut next) = kept else { return (Self { at: wall, ..Self::default() }, None) };
        let (jump, short, steady) = (millis(MAX_DEVIATION), millis(MAX_CREDITED_GAP), millis(STEADY_PERIOD));
        let mut jumped = None;
        match last {
            Some(last) => {
                let passed = millis(monotonic.saturating_sub(last.monotonic));
                next.elapsed_ms = next.elapsed_ms.max(last.elapsed_ms + passed);
                let off = wall.as_millis() - last.wall.as_millis() - passed;
                jumped = Some(off).filter(|off| off.abs() > jump);
            }
            None => match wall.as_millis() - next.at.as_millis() {
                gap if gap < -jump => jumped = Some(gap),
                gap if gap <= short => next.elapsed_ms += gap.max(0),
                gap => {
                    // A gap of more than a day is added only after a day without jumps that begins after the
                    // gap.
                    if next.uncredited_ms == 0 || gap > steady {
                        next.uncredited_since_ms = next.elapsed_ms;
                    }
                    next.uncredited_ms += gap;
                }
            },
        }
        if jumped.is_some() {
            next.uncredited_ms = 0;
        }
        if next.uncredited_ms > 0 && next.elapsed_ms - next.uncredited_since_ms >= steady {
            next.elapsed_ms += std::mem::take(&mut next.uncredited_ms);
        }
        next.at = wall;
        (next, jumped)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Updates and returns the observed time, in milliseconds since a server first used the database.
///
/// # Errors
/// Returns the store's error if the database fails.
pub async fn observe(app: &App, ctx: &Ctx) -> Result<i64, Error> {
    let last = *last_update(app);
    let clock = &app.sources.clock;
    let (monotonic, wall) = (clock.monotonic(), clock.now());
    let observed = app.write(ctx, move |tx, _| {
        tx.lock("observed_time", ["all"])?;
        let (next, jumped) = Observed::next(read(tx)?, last, monotonic, wall);
        write(tx, &next)?;
        Ok::<_, Error>((next, jumped))
    });
    let (Observed { elapsed_ms, .. }, jumped) = observed.await?;
    if let Some(jumped_ms) = jumped {
        tracing::error!(jumped_ms, "the wall clock jumped; holds before purges continue by elapsed time");
    }
    *last_update(app) = Some(ClockUpdate { monotonic, wall, elapsed_ms });
    Ok(elapsed_ms)
}

fn last_update(app: &App) -> std::sync::MutexGuard<'_, Option<ClockUpdate>> {
    app.observed_time.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Updates the observed time now, and then every minute until the server stops.
///
/// # Errors
/// Returns the store's error if the database fails.
pub async fn start(app: &App) -> Result<(), Error> {
    observe(app, &app.system_ctx("clock")).await?;
    tokio::spawn(run(app.clone()));
    Ok(())
}

async fn run(app: App) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while app.stop.or(ticks.tick()).await.is_some() {
        if let Err(error) = observe(&app, &app.system_ctx("clock")).await {
            tracing::debug!(%error, "cannot update the observed time at the moment");
        }
    }
}

fn read(q: &Query<'_>) -> Result<Option<Observed>, Error> {
    let sql = "SELECT elapsed_ms, wall_clock_at, uncredited_ms, uncredited_since_ms FROM observed_time WHERE id = 1";
    q.one(sql, &[], |row| {
        Ok(Observed {
            elapsed_ms: row.get(0)?,
            at: row.get(1)?,
            uncredited_ms: row.get(2)?,
            uncredited_since_ms: row.get(3)?,
        })
    })
}

fn write(tx: &Tx<'_>, observed: &Observed) -> Result<(), Error> {
    let Observed { elapsed_ms, at, uncredited_ms, uncredited_since_ms } = *observed;
    let sql = "INSERT INTO observed_time (id, elapsed_ms, wall_clock_at, uncredited_ms, uncredited_since_ms)
               VALUES (1, $1, $2, $3, $4)
               ON CONFLICT (id) DO UPDATE SET elapsed_ms = excluded.elapsed_ms,  wall_clock_at = excluded.wall_clock_at,
                   uncredited_ms = excluded.uncredited_ms, uncredited_since_ms = excluded.uncredited_since_ms";
    tx.exec(sql, params![elapsed_ms, at, uncredited_ms, uncredited_since_ms]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    /// Processes that run one after the other and observe a wall clock, which can jump.
    struct SimulatedProcesses {
        kept: Option<Observed>,
        last: Option<ClockUpdate>,
        monotonic: Duration,
        wall: Timestamp,
    }

    impl SimulatedProcesses {
        fn new() -> Self {
            let mut world = Self { kept: None, last: None, monotonic: Duration::ZERO, wall: START };
            world.last_update();
            world
        }

        fn last_update(&mut self) -> Option<i64> {
            let (next, jumped) = Observed::next(self.kept, self.last, self.monotonic, self.wall);
            self.kept = Some(next);
            self.last =
                Some(ClockUpdate { monotonic: self.monotonic, wall: self.wall, elapsed_ms: next.elapsed_ms });
            jumped
        }

        /// Simulates a running process for `time`, with an update every minute.
        fn run(&mut self, time: Duration) -> Option<i64> {
            let mut jumped = None;
            for _ in 0..time.as_secs() / 60 {
                self.monotonic += minutes(1);
                self.wall = self.wall + minutes(1);
                jumped = self.last_update().or(jumped);
            }
            jumped
        }

        /// Simulates `time` without a running process.
        fn pause(&mut self, time: Duration) {
            self.wall = self.wall + time;
            self.last = None;
            self.monotonic = Duration::ZERO;
            self.last_update();
        }

        fn elapsed(&self) -> Duration {
            Duration::from_millis(u64::try_from(self.kept.unwrap().elapsed_ms).unwrap())
        }
    }

    #[test]
    fn observed_time_counts_running_processes() {
        let mut world = SimulatedProcesses::new();
        assert_eq!(world.run(days(2)), None);
        assert_eq!(world.elapsed(), days(2));
        world.pause(minutes(30));
        assert_eq!(world.elapsed(), days(2) + minutes(30), "a short pause counts as running time");
    }

    #[test]
    fn wall_clock_jump_is_not_counted() {
        let mut world = SimulatedProcesses::new();
        world.run(hours(1));
        world.wall = world.wall + days(40);
        assert_eq!(world.run(minutes(1)), Some(millis(days(40))));
        world.wall = world.wall - days(40);
        assert_eq!(world.run(minutes(1)), Some(-millis(days(40))));
        assert_eq!(world.elapsed(), hours(1) + minutes(2));
        // A small correction of the clock is not a jump.
        world.wall = world.wall + minutes(4);
        assert_eq!(world.run(minutes(1)), None);
    }

    #[test]
    fn long_gap_is_credited_after_a_day_without_jumps() {
        let mut world = SimulatedProcesses::new();
        world.pause(days(10));
        world.run(days(1) - minutes(1));
        assert_eq!(world.elapsed(), days(1) - minutes(1));
        world.run(minutes(1));
        assert_eq!(world.elapsed(), days(11));
    }

    #[test]
    fn long_gaps_are_credited_across_restarts() {
        let mut world = SimulatedProcesses::new();
        for _ in 0..3 {
            world.pause(hours(16));
            world.run(hours(8));
        }
        assert_eq!(world.elapsed(), days(3));
    }

    #[test]
    fn each_long_gap_requires_a_day_without_jumps() {
        let mut world = SimulatedProcesses::new();
        world.pause(hours(2));
        world.run(days(1) - minutes(1));
        // A day after the first pause, the process starts with a clock that is 40 days ahead. The clock may
        // be wrong, so neither pause is added yet.
        world.pause(days(40));
        world.run(minutes(1));
        assert_eq!(world.elapsed(), days(1));
        world.run(days(1));
        assert_eq!(
            world.elapsed(),
            days(42) + hours(2),
            "both pauses count in full because the clock was not ahead"
        );
    }

    #[test]
    fn gap_from_wrong_clock_is_never_credited() {
        let mut world = SimulatedProcesses::new();
        // The clock is wrong when the process starts, and is corrected while the process runs.
        world.pause(days(40));
        world.run(hours(2));
        world.wall = world.wall - days(40);
        world.run(days(2));
        assert_eq!(world.elapsed(), days(2) + hours(2));
        // The clock is corrected between the end of one process and the start of the next.
        world.pause(days(40));
        world.run(hours(2));
        world.wall = world.wall - days(40);
        world.pause(Duration::ZERO);
        world.run(days(2));
        assert_eq!(world.elapsed(), days(4) + hours(4));
    }

    #[test]
    fn concurrent_processes_do_not_count_time_twice() {
        let mut world = SimulatedProcesses::new();
        let mut other = SimulatedProcesses { last: None, ..SimulatedProcesses::new() };
        for _ in 0..60 {
            other.kept = world.kept;
            other.wall = world.wall;
            other.run(minutes(1));
            world.kept = other.kept;
            world.run(minutes(1));
        }
        assert_eq!(world.elapsed(), hours(1));
    }
}
