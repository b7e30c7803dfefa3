//! Exports of all data of a user or a space. Data is read and sent in pieces, so that an export needs only a
//! few megabytes of memory, regardless of its size. A user can run one export at a time, and a limited number
//! per day.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter, clock};
use http::header::{self, HeaderValue};
use kith_kernel::{Clock, Problem, UserId, hours, problems};
use kith_store::{Error, Query};
use serde::Serialize;

use crate::http::{ApiResult, LimiterClock, store_problem};
use crate::{App, ExportPart};

/// Minimum size in bytes of a chunk of the response.
const MIN_CHUNK_BYTES: usize = 64 << 10;
/// Number of users in the rate limiter above which entries with a full allowance are removed.
const SWEEP_THRESHOLD_USERS: usize = 4_096;

/// Piece of an export.
#[derive(Clone, Debug, Default)]
pub struct ExportPiece {
    /// Part of a JSON text.
    pub json: String,
    /// Cursor of the next piece; `None` if this is the last piece.
    pub next: Option<String>,
}

impl ExportPiece {
    /// Formats items of a JSON array, without its brackets. `after` is the cursor with which this piece was
    /// read.
    pub fn of_items<T: Serialize>(items: &[T], after: Option<&str>, next: Option<String>) -> Self {
        let mut json = String::new();
        for (n, item) in items.iter().enumerate() {
            if n > 0 || after.is_some() {
                json.push(',');
            }
            json.push_str(&serde_json::to_string(item).expect("an item is plain data"));
        }
        Self { json, next }
    }
}

/// Function that reads the piece of an export that starts after a cursor.
type ReadPiece = dyn Fn(&Query<'_>, Option<&str>) -> Result<ExportPiece, Error> + Send + Sync;

/// Section of an export, which is a part of its JSON text.
pub enum ExportSection {
    /// Fixed text.
    Text(String),
    /// Text that is read from the database in pieces.
    Pieces(Box<ReadPiece>),
}

impl ExportSection {
    /// Creates the section of a module's `part` for `user`.
    pub fn of(part: ExportPart, user: UserId) -> Self {
        match part {
            ExportPart::Text(text) => Self::Text(text.to_owned()),
            ExportPart::Value(read) => Self::Pieces(Box::new(move |q, _| {
                Ok(ExportPiece { json: read(q, user)?.to_string(), next: None })
            })),
            ExportPart::Pieces(read) => Self::Pieces(Box::new(move |q, after| read(q, user, after))),
        }
    }
}

/// Position that a running export has reached.
#[derive(Clone, Debug, Default)]
struct ExportPosition {
    section: usize,
    after: Option<String>,
}

/// Reads pieces until they fill about one chunk. All pieces of a chunk come from one database snapshot; the
/// next chunk comes from a later snapshot.
fn read_chunk(
    q: &Query<'_>,
    sections: &[ExportSection],
    mut place: ExportPosition,
) -> Result<(String, Option<ExportPosition>), Error> {
    let mut chunk = String::new();
    while let Some(section) = sections.get(place.section) {
        if chunk.len() >= MIN_CHUNK_BYTES {
            return Ok((chunk, Some(place)));
        }
        place.after = match section {
            ExportSection::Text(text) => {
                chunk.push_str(text);
                None
            }
            ExportSection::Pieces(read) => {
                let piece = read(q, place.after.as_deref())?;
                chunk.push_str(&piece.json);
                piece.next
            }
        };
        place.section += usize::from(place.after.is_none());
    }
    Ok((chunk, None))
}

async fn next_chunk(
    app: &App,
    sections: &Arc<Vec<ExportSection>>,
    place: ExportPosition,
) -> Result<(String, Option<ExportPosition>), Error> {
    let sections = Arc::clone(sections);
    app.db.export(move |q| read_chunk(q, &sections, place.clone())).await
}

/// Responds with the concatenation of `sections`, which must be one JSON value. If the result fits in one
/// chunk, the response has a length and an ETag. Otherwise it is streamed. If the database fails during
/// streaming, the connection is closed.
///
/// # Errors
/// Returns a problem of the store if the database fails before the first byte is sent.
pub async fn answer(app: &App, slot: ExportSlot, sections: Vec<ExportSection>) -> ApiResult<Response> {
    let sections = Arc::new(sections);
    let (first, place) =
        next_chunk(app, &sections, ExportPosition::default()).await.map_err(store_problem)?;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let Some(place) = place else { return Ok((kind, first).into_response()) };
    let state = (app.clone(), slot, sections, Some(place));
    let rest = stream::unfold(state, |(app, slot, sections, place)| async move {
        match next_chunk(&app, &sections, place?).await {
            Ok((chunk, next)) => Some((Ok(chunk), (app, slot, sections, next))),
            Err(error) => {
                tracing::error!(%error, "an export was aborted, because the database failed");
                Some((Err(error), (app, slot, sections, None)))
            }
        }
    });
    let body = Body::from_stream(stream::once(async { Ok::<_, Error>(first) }).chain(rest));
    Ok((kind, body).into_response())
}

type Limiter =
    RateLimiter<UserId, DashMapStateStore<UserId>, LimiterClock, NoOpMiddleware<governor::nanos::Nanos>>;

/// Running exports on this node, and the daily allowance of each user.
pub(crate) struct Exports {
    running: Arc<Mutex<HashSet<UserId>>>,
    limiter: Option<Limiter>,
}

/// Permission to run one export of a user. The user can start another export after it is dropped.
pub struct ExportSlot {
    running: Arc<Mutex<HashSet<UserId>>>,
    user: UserId,
}

impl Drop for ExportSlot {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.user);
    }
}

impl Exports {
    /// Creates a limit of `per_day` exports per user; 0 means no limit. The exports may follow each other
    /// immediately.
    pub fn new(per_day: u32, clock: Arc<dyn Clock>) -> Self {
        let quota = NonZeroU32::new(per_day)
            .and_then(|per_day| Some(Quota::with_period(hours(24) / per_day.get())?.allow_burst(per_day)));
        let limiter = |quota| RateLimiter::new(quota, DashMapStateStore::default(), LimiterClock::of(clock));
        Self { running: Arc::default(), limiter: quota.map(limiter) }
    }

    fn begin(&self, user: UserId, is_limited: bool) -> Result<ExportSlot, Problem> {
        if !self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(user) {
            let detail =
                "Another export of yours is running. Wait until it is complete, or close its connection.";
            return Err(Problem::new(&problems::EXPORT_RUNNING, detail).retry_after(5));
        }
        let slot = ExportSlot { running: Arc::clone(&self.running), user };
        if let Some(limiter) = self.limiter.as_ref().filter(|_| is_limited) {
            if limiter.len() > SWEEP_THRESHOLD_USERS {
                limiter.retain_recent();
            }
            limiter.check_key(&user).map_err(|until| {
                let wait = until.wait_time_from(clock::Clock::now(limiter.clock()));
                let wait_s = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
                let detail = "You have exported too often in the last 24 hours (`limits.exports_per_day`).";
                Problem::new(&problems::RATE_LIMITED, detail).retry_after(wait_s.max(1))
            })?;
        }
        Ok(slot)
    }
}

impl App {
    /// Starts an export of `user`.
    ///
    /// # Errors
    /// Returns 409 `export_running` if another export of the user is running, and 429 if the user has used up
    /// the daily allowance.
    pub fn begin_export(&self, user: UserId) -> ApiResult<ExportSlot> {
        Ok(self.exports.begin(user, !self.are_limits_disabled())?)
    }
}

#[cfg(test)]
mod tests {
    use kith_kernel::{ManualClock, Timestamp, uuid::Uuid};

    use super::*;

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    #[test]
    fn exports_are_limited_per_user() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_767_225_600_000)));
        let exports = Exports::new(2, Arc::clone(&clock) as Arc<dyn Clock>);
        let code = |user| exports.begin(user, true).err().map(|problem| problem.code.code);
        let slot = exports.begin(user(1), true).unwrap();
        assert_eq!((code(user(1)), code(user(2))), (Some("export_running"), None));
        drop(slot);
        assert_eq!((code(user(1)), code(user(1))), (None, Some("rate_limited")));
        assert!(exports.begin(user(1), false).is_ok(), "an export without limits is not rate limited");
        clock.advance(hours(12));
        assert_eq!((code(user(1)), code(user(1))), (None, Some("rate_limited")));
        let unlimited = Exports::new(0, clock);
        assert!((0..100).all(|_| unlimited.begin(user(1), true).is_ok()));
    }
}
