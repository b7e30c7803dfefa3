//! `/dev/clock`: moves the clock of this node forward for development, and resets it to the real time.
//!
//! The offset is stored in a file in the data folder. Otherwise, after a restart, rows that were written with
//! the moved clock would be in the future.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use axum::extract::State;
use kith_kernel::{Clock, FieldError, Problem, Timestamp, days, problems};
use kith_store::create_folder;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::module::Routes;
use crate::{ApiResult, App, Caller, Json};

const OFFSET_FILE: &str = "clock-ahead";
/// Maximum offset of the clock. It ensures that all times can be formatted.
const MAX_OFFSET: Duration = days(100 * 365);

/// Clock that shows the time of another clock plus an adjustable offset.
pub struct AdjustableClock {
    base_clock: Arc<dyn Clock>,
    offset_ms: AtomicI64,
    /// Sum of all advances in this process. It counts as elapsed time of the monotonic clock.
    advanced_ms: AtomicI64,
    file: PathBuf,
    /// Serializes changes of the offset.
    change_lock: Mutex<()>,
}

impl AdjustableClock {
    /// Creates a clock with the offset that is stored in `data_folder`, or with no offset. Logs a warning if
    /// the offset is not zero.
    ///
    /// # Errors
    /// Returns the I/O error if the file exists and cannot be read.
    pub fn resume(behind: Arc<dyn Clock>, data_folder: &Path) -> io::Result<Arc<Self>> {
        let file = data_folder.join(OFFSET_FILE);
        let kept = match fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = kept.and_then(|text| text.trim().parse().ok()).filter(|ms: &i64| *ms > 0);
        let clock = Self {
            base_clock: behind,
            offset_ms: AtomicI64::new(kept.unwrap_or(0)),
            advanced_ms: AtomicI64::new(0),
            file,
            change_lock: Mutex::new(()),
        };
        if let Some(offset_ms) = kept {
            let (file, now) = (clock.file.display(), clock.now());
            tracing::warn!(offset_ms, %now, "the clock is ahead of real time, as set by /dev/clock; delete {file} to reset it");
        }
        Ok(Arc::new(clock))
    }

    /// Moves the clock forward by `by` and returns the new offset in milliseconds. Returns `None` if the
    /// offset would exceed [`MAX_OFFSET`].
    fn advance(&self, by: Duration) -> io::Result<Option<i64>> {
        let _moving = self.change_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let max_offset_ms = i64::try_from(MAX_OFFSET.as_millis()).unwrap_or(i64::MAX);
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let offset_ms = self.offset_ms.load(Ordering::SeqCst).saturating_add(by_ms);
        if offset_ms > max_offset_ms {
            return Ok(None);
        }
        if let Some(folder) = self.file.parent() {
            create_folder(folder)?;
        }
        let unfinished = self.file.with_extension("new");
        fs::write(&unfinished, format!("{offset_ms}\n"))?;
        fs::rename(&unfinished, &self.file)?;
        self.offset_ms.store(offset_ms, Ordering::SeqCst);
        self.advanced_ms.fetch_add(by_ms, Ordering::SeqCst);
        Ok(Some(offset_ms))
    }
}

impl AdjustableClock {
    /// Resets the clock to the real time, and removes the file with the offset.
    fn reset(&self) -> io::Result<()> {
        let _moving = self.change_lock.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.offset_ms.store(0, Ordering::SeqCst);
        Ok(())
    }
}

impl Clock for AdjustableClock {
    fn now(&self) -> Timestamp {
        let offset_ms = u64::try_from(self.offset_ms.load(Ordering::SeqCst)).unwrap_or(0);
        self.base_clock.now() + Duration::from_millis(offset_ms)
    }

    fn real_now(&self) -> Timestamp {
        self.base_clock.real_now()
    }

    fn monotonic(&self) -> Duration {
        let advanced_ms = u64::try_from(self.advanced_ms.load(Ordering::SeqCst)).unwrap_or(0);
        self.base_clock.monotonic() + Duration::from_millis(advanced_ms)
    }
}

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(get_clock, advance_clock, put_clock_back))
}

/// Time of this node's clock and its offset.
#[derive(Serialize, ToSchema)]
struct ClockReport {
    /// Current time of the node, including the offset.
    now: Timestamp,
    /// Offset from the real time in milliseconds; 0 if the clock was not moved.
    offset_ms: i64,
}

/// Duration by which to move the clock forward.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AdvanceBody {
    /// Duration: a whole number followed by a unit, `ms`, `s`, `m`, `h` or `d` (24 hours).
    #[schema(example = "30d")]
    advance: String,
}

/// Get the clock
///
/// Returns the time of the node that handles the request. Available in development mode only.
#[utoipa::path(get, path = "/dev/clock", responses((status = 200, body = ClockReport)))]
async fn get_clock(State(app): State<App>) -> ApiResult<Json<ClockReport>> {
    let clock = clock_of(&app)?;
    Ok(Json(ClockReport { now: clock.now(), offset_ms: clock.offset_ms.load(Ordering::SeqCst) }))
}

/// Advance the clock
///
/// Moves the clock of the node that handles the request forward. Then runs the jobs, purges and other
/// maintenance that are due at the new time. The clock can be at most 100 years ahead in total. Access tokens
/// expire by the moved clock. Other nodes on the same PostgreSQL database do not move their clocks. Available
/// in development mode only.
#[utoipa::path(
    post, path = "/dev/clock",
    request_body = AdvanceBody,
    responses((
        status = 200, body = ClockReport,
        description = "The clock was advanced, and due work was done."
    ))
)]
async fn advance_clock(
    State(app): State<App>,
    _: Caller,
    Json(body): Json<AdvanceBody>,
) -> ApiResult<Json<ClockReport>> {
    let clock = clock_of(&app)?;
    let by = parse(&body.advance).ok_or_else(|| {
        let detail = "Enter a whole number and a unit: ms, s, m, h or d, such as \"30d\".";
        Problem::invalid(vec![FieldError::new("/advance", "invalid", detail)])
    })?;
    let handle = Arc::clone(clock);
    let moved = tokio::task::spawn_blocking(move || handle.advance(by)).await;
    let offset_ms = moved.map_err(io::Error::other).flatten().map_err(|error| {
        tracing::error!(%error, "cannot advance the clock: its file cannot be written");
        Problem::new(
            &problems::INTERNAL,
            "The clock was not advanced, because its file cannot be written. See the server's log.",
        )
    })?;
    let offset_ms = offset_ms.ok_or_else(|| {
        let detail = "The clock can be at most 100 years ahead in total.";
        Problem::invalid(vec![FieldError::new("/advance", "too_large", detail)])
    })?;
    tracing::warn!(by = body.advance, offset_ms, now = %clock.now(), "the clock was advanced by /dev/clock");
    let done = async {
        app.run_due().await?;
        // This maintenance otherwise runs once a minute. It must be complete before the response is sent.
        app.run_maintenance().await
    };
    done.await.map_err(|_| {
        let detail = "The clock was advanced, but some due work failed. `GET /api/v1/jobs` lists the errors.";
        Problem::new(&problems::INTERNAL, detail)
    })?;
    Ok(Json(ClockReport { now: clock.now(), offset_ms }))
}

/// Reset the clock
///
/// Runs the jobs that are due by the moved clock, then resets the clock of the node that handles the request
/// to the real time. Timestamps that were written with the moved clock stay unchanged and can be in the
/// future. Refresh your access tokens afterwards. Scheduled work waits until its time. Available in
/// development mode only.
#[utoipa::path(
    delete, path = "/dev/clock",
    responses((status = 200, description = "The clock was reset.", body = ClockReport))
)]
async fn put_clock_back(State(app): State<App>, _: Caller) -> ApiResult<Json<ClockReport>> {
    let clock = clock_of(&app)?;
    let undone = |_| {
        let detail = "Some due work failed, so the clock was not reset. `GET /api/v1/jobs` lists the errors.";
        Problem::new(&problems::INTERNAL, detail)
    };
    app.run_due().await.map_err(undone)?;
    let handle = Arc::clone(clock);
    let moved = tokio::task::spawn_blocking(move || handle.reset()).await;
    moved.map_err(io::Error::other).flatten().map_err(|error| {
        tracing::error!(%error, "cannot reset the clock: its file cannot be removed");
        Problem::new(
            &problems::INTERNAL,
            "The clock was not reset, because its file cannot be removed. See the server's log.",
        )
    })?;
    tracing::warn!(now = %clock.now(), "the clock was reset to real time by /dev/clock");
    // Schedules detect that the clock was set back, and continue from the real time.
    app.jobs.tick().await.map_err(|error| {
        tracing::error!(%error, "cannot continue schedules after the clock was reset");
        Problem::new(
            &problems::INTERNAL,
            "The clock was reset, but schedules could not continue. See the server's log.",
        )
    })?;
    Ok(Json(ClockReport { now: clock.now(), offset_ms: 0 }))
}

fn clock_of(app: &App) -> Result<&Arc<AdjustableClock>, Problem> {
    let none = || Problem::new(&problems::NOT_FOUND, "The clock of this server cannot be changed.");
    app.adjustable_clock.as_ref().ok_or_else(none)
}

/// Parses a duration such as `30d`.
fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use kith_kernel::{ManualClock, hours, minutes, seconds};

    use super::*;

    #[test]
    fn duration_requires_number_and_unit() {
        for (text, duration) in [
            ("1ms", Duration::from_millis(1)),
            ("90s", seconds(90)),
            ("5m", minutes(5)),
            ("24h", hours(24)),
            ("30d", days(30)),
        ] {
            assert_eq!(parse(text), Some(duration), "{text}");
        }
        for text in [
            "",
            "d",
            "30",
            "-1d",
            "+1d",
            "1.5h",
            "30 d",
            "1d2h",
            "1w",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn clock_offset_survives_restart_and_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let behind = || Arc::new(ManualClock::at(Timestamp::from_millis(1_000)));
        let clock = AdjustableClock::resume(behind(), folder.path()).unwrap();
        assert_eq!(clock.now().as_millis(), 1_000);
        assert_eq!(clock.advance(seconds(5)).unwrap(), Some(5_000));
        assert_eq!(clock.advance(MAX_OFFSET).unwrap(), None);
        assert_eq!((clock.now().as_millis(), clock.real_now().as_millis()), (6_000, 1_000));
        let again = AdjustableClock::resume(behind(), folder.path()).unwrap();
        assert_eq!(again.now().as_millis(), 6_000);
        again.reset().unwrap();
        again.reset().unwrap();
        assert_eq!((again.now().as_millis(), again.real_now().as_millis()), (1_000, 1_000));
        assert_eq!(AdjustableClock::resume(behind(), folder.path()).unwrap().now().as_millis(), 1_000);
        fs::write(folder.path().join(OFFSET_FILE), "not a number").unwrap();
        assert_eq!(AdjustableClock::resume(behind(), folder.path()).unwrap().now().as_millis(), 1_000);
    }
}
