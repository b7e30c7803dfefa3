//! `/dev/clock`: puts this node's clock forward, so that thirty days pass in a second, and back to the true time.
//!
//! How far it is ahead stands in a file in the data folder: what was written in that time is not of the future after a
//! restart.

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

const FILE: &str = "clock-ahead";
/// No rule needs more, and times stay ones that can be written.
const FURTHEST: Duration = days(100 * 365);

/// A clock ahead of another one.
pub struct AheadClock {
    behind: Arc<dyn Clock>,
    ahead_ms: AtomicI64,
    /// By how much this process has put it forward altogether, which counts as time that passed.
    advanced_ms: AtomicI64,
    file: PathBuf,
    /// Held by whoever moves it.
    moving: Mutex<()>,
}

impl AheadClock {
    /// As far ahead of `behind` as it was when the node on this data folder last ran, and loud about it.
    ///
    /// # Errors
    /// The system's, if the file that says so cannot be read.
    pub fn resume(behind: Arc<dyn Clock>, data_folder: &Path) -> io::Result<Arc<Self>> {
        let file = data_folder.join(FILE);
        let kept = match fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = kept.and_then(|text| text.trim().parse().ok()).filter(|ms: &i64| *ms > 0);
        let clock = Self {
            behind,
            ahead_ms: AtomicI64::new(kept.unwrap_or(0)),
            advanced_ms: AtomicI64::new(0),
            file,
            moving: Mutex::new(()),
        };
        if let Some(ahead_ms) = kept {
            let (file, now) = (clock.file.display(), clock.now());
            tracing::warn!(ahead_ms, %now, "THE CLOCK IS AHEAD, as /dev/clock has put it; without {file} it is not");
        }
        Ok(Arc::new(clock))
    }

    /// Moves it forward. Nothing if that is too far.
    fn advance(&self, by: Duration) -> io::Result<Option<i64>> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let furthest = i64::try_from(FURTHEST.as_millis()).unwrap_or(i64::MAX);
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let ahead_ms = self.ahead_ms.load(Ordering::SeqCst).saturating_add(by_ms);
        if ahead_ms > furthest {
            return Ok(None);
        }
        if let Some(folder) = self.file.parent() {
            create_folder(folder)?;
        }
        let unfinished = self.file.with_extension("new");
        fs::write(&unfinished, format!("{ahead_ms}\n"))?;
        fs::rename(&unfinished, &self.file)?;
        self.ahead_ms.store(ahead_ms, Ordering::SeqCst);
        self.advanced_ms.fetch_add(by_ms, Ordering::SeqCst);
        Ok(Some(ahead_ms))
    }
}

impl AheadClock {
    /// Puts it back to the true time. That it was ahead is forgotten.
    fn put_back(&self) -> io::Result<()> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.ahead_ms.store(0, Ordering::SeqCst);
        Ok(())
    }
}

impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        let ahead_ms = u64::try_from(self.ahead_ms.load(Ordering::SeqCst)).unwrap_or(0);
        self.behind.now() + Duration::from_millis(ahead_ms)
    }

    fn real_now(&self) -> Timestamp {
        self.behind.real_now()
    }

    fn monotonic(&self) -> Duration {
        let advanced_ms = u64::try_from(self.advanced_ms.load(Ordering::SeqCst)).unwrap_or(0);
        self.behind.monotonic() + Duration::from_millis(advanced_ms)
    }
}

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(get_clock, advance_clock, put_clock_back))
}

/// Where this node's clock stands.
#[derive(Serialize, ToSchema)]
struct ClockReport {
    /// What it takes to be now.
    now: Timestamp,
    /// By how many milliseconds that is ahead of the true time.
    ahead_ms: i64,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AdvanceBody {
    /// A whole number and its unit: `ms`, `s`, `m`, `h` or `d` (of 24 hours).
    #[schema(example = "30d")]
    advance: String,
}

/// Where the clock of this node stands. Development mode only.
#[utoipa::path(get, path = "/dev/clock", responses((status = 200, body = ClockReport)))]
async fn get_clock(State(app): State<App>) -> ApiResult<Json<ClockReport>> {
    let ahead = clock_of(&app)?;
    Ok(Json(ClockReport { now: ahead.now(), ahead_ms: ahead.ahead_ms.load(Ordering::SeqCst) }))
}

/// Put the clock of this node forward, and do what is due by then. Other nodes on the same PostgreSQL keep the time that
/// they have. Access tokens end with the time, as ever. Development mode only.
#[utoipa::path(
    post, path = "/dev/clock",
    request_body = AdvanceBody,
    responses((status = 200, description = "Moved, and done what is due", body = ClockReport))
)]
async fn advance_clock(
    State(app): State<App>,
    _: Caller,
    Json(body): Json<AdvanceBody>,
) -> ApiResult<Json<ClockReport>> {
    let ahead = clock_of(&app)?;
    let by = parse(&body.advance).ok_or_else(|| {
        let detail = "A whole number and its unit, ms, s, m, h or d: \"30d\".";
        Problem::invalid(vec![FieldError::new("/advance", "invalid", detail)])
    })?;
    let mover = Arc::clone(ahead);
    let moved = tokio::task::spawn_blocking(move || mover.advance(by)).await;
    let ahead_ms = moved.map_err(io::Error::other).flatten().map_err(|error| {
        tracing::error!(%error, "the clock was not moved: its file cannot be written");
        Problem::new(&problems::INTERNAL, "The file that says how far ahead it is cannot be written.")
    })?;
    let ahead_ms = ahead_ms.ok_or_else(|| {
        let detail = "At most a hundred years ahead altogether.";
        Problem::invalid(vec![FieldError::new("/advance", "too_large", detail)])
    })?;
    tracing::warn!(by = body.advance, ahead_ms, now = %ahead.now(), "THE CLOCK WAS PUT FORWARD by /dev/clock");
    let done = async {
        app.run_due().await?;
        // What looks for itself what is due does so each minute; nobody here waits for the next.
        app.upkeep().await
    };
    done.await.map_err(|_| {
        let detail =
            "The clock was put forward, but not all that is due could be done; `GET /api/v1/jobs` says why.";
        Problem::new(&problems::INTERNAL, detail)
    })?;
    Ok(Json(ClockReport { now: ahead.now(), ahead_ms }))
}

/// Put the clock of this node back to the true time. What is due by the time that it shows is done first. What was
/// written meanwhile keeps its times, which then lie in the future: access tokens have to be refreshed, and what waits
/// goes on waiting. Development mode only.
#[utoipa::path(
    delete, path = "/dev/clock",
    responses((status = 200, description = "Put back", body = ClockReport))
)]
async fn put_clock_back(State(app): State<App>, _: Caller) -> ApiResult<Json<ClockReport>> {
    let ahead = clock_of(&app)?;
    let undone = |_| {
        let detail =
            "Not all that is due could be done; `GET /api/v1/jobs` says why. The clock was not put back.";
        Problem::new(&problems::INTERNAL, detail)
    };
    app.run_due().await.map_err(undone)?;
    let mover = Arc::clone(ahead);
    let moved = tokio::task::spawn_blocking(move || mover.put_back()).await;
    moved.map_err(io::Error::other).flatten().map_err(|error| {
        tracing::error!(%error, "the clock was not put back: its file cannot be removed");
        Problem::new(&problems::INTERNAL, "The file that says how far ahead it is cannot be removed.")
    })?;
    tracing::warn!(now = %ahead.now(), "THE CLOCK WAS PUT BACK to the true time by /dev/clock");
    // Schedules notice that the clock went back, and go on from here.
    app.jobs.tick().await.map_err(|error| {
        tracing::error!(%error, "schedules could not go on after the clock was put back");
        Problem::new(&problems::INTERNAL, "The clock was put back, but schedules could not go on.")
    })?;
    Ok(Json(ClockReport { now: ahead.now(), ahead_ms: 0 }))
}

fn clock_of(app: &App) -> Result<&Arc<AheadClock>, Problem> {
    let none = || Problem::new(&problems::NOT_FOUND, "This server's clock cannot be moved.");
    app.ahead.as_ref().ok_or_else(none)
}

/// `30d` as a duration.
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
    fn a_number_and_its_unit_is_a_duration_and_nothing_else_is() {
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
    fn it_is_as_far_ahead_after_a_restart_and_never_further_than_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let behind = || Arc::new(ManualClock::at(Timestamp::from_millis(1_000)));
        let clock = AheadClock::resume(behind(), folder.path()).unwrap();
        assert_eq!(clock.now().as_millis(), 1_000);
        assert_eq!(clock.advance(seconds(5)).unwrap(), Some(5_000));
        assert_eq!(clock.advance(FURTHEST).unwrap(), None);
        assert_eq!((clock.now().as_millis(), clock.real_now().as_millis()), (6_000, 1_000));
        let again = AheadClock::resume(behind(), folder.path()).unwrap();
        assert_eq!(again.now().as_millis(), 6_000);
        again.put_back().unwrap();
        again.put_back().unwrap();
        assert_eq!((again.now().as_millis(), again.real_now().as_millis()), (1_000, 1_000));
        assert_eq!(AheadClock::resume(behind(), folder.path()).unwrap().now().as_millis(), 1_000);
        fs::write(folder.path().join(FILE), "what is no number").unwrap();
        assert_eq!(AheadClock::resume(behind(), folder.path()).unwrap().now().as_millis(), 1_000);
    }
}
