//! Exports of everything that is kept about a person or a space: read in pieces, sent as they are read, so that each takes a few megabytes
//! of memory whatever is stored. One at a time for each user, and a few a day.

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

use crate::http::{ApiResult, Time, store_problem};
use crate::{App, ExportPart};

/// A chunk of an answer is complete once it has this many bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Users that are remembered before those are forgotten who have their whole allowance again.
const MAX_REMEMBERED: usize = 4_096;

/// Text that was read, and where the next piece begins.
#[derive(Clone, Debug, Default)]
pub struct ExportPiece {
    /// A part of a JSON text.
    pub json: String,
    /// Handed back for the next piece; nothing after the last.
    pub next: Option<String>,
}

impl ExportPiece {
    /// Some items of an array, without its brackets; `after` is what this piece begins behind.
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

/// Reads a piece of an export, behind the one that `after` was handed out with.
type ReadPiece = dyn Fn(&Query<'_>, Option<&str>) -> Result<ExportPiece, Error> + Send + Sync;

/// A part of an export that is under way.
pub enum ExportSection {
    /// This text.
    Text(String),
    /// Text in pieces.
    Pieces(Box<ReadPiece>),
}

impl ExportSection {
    /// A module's part, of what is kept about `user`.
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

/// How far an export has come.
#[derive(Clone, Debug, Default)]
struct Place {
    section: usize,
    after: Option<String>,
}

/// Reads about a chunk. The closure of one read sees one state of the database; the next sees a later one.
fn read_chunk(
    q: &Query<'_>,
    sections: &[ExportSection],
    mut place: Place,
) -> Result<(String, Option<Place>), Error> {
    let mut chunk = String::new();
    while let Some(section) = sections.get(place.section) {
        if chunk.len() >= CHUNK_BYTES {
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
    place: Place,
) -> Result<(String, Option<Place>), Error> {
    let sections = Arc::clone(sections);
    app.db.export(move |q| read_chunk(q, &sections, place.clone())).await
}

/// Answers with `sections`, one after the other, which make one JSON value. A small one is read at once and has a length and an ETag; a
/// large one is streamed. If the database fails in the middle, the connection is cut.
///
/// # Errors
/// The database's, before the first byte.
pub async fn answer(app: &App, slot: ExportSlot, sections: Vec<ExportSection>) -> ApiResult<Response> {
    let sections = Arc::new(sections);
    let (first, place) = next_chunk(app, &sections, Place::default()).await.map_err(store_problem)?;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let Some(place) = place else { return Ok((kind, first).into_response()) };
    let state = (app.clone(), slot, sections, Some(place));
    let rest = stream::unfold(state, |(app, slot, sections, place)| async move {
        match next_chunk(&app, &sections, place?).await {
            Ok((chunk, next)) => Some((Ok(chunk), (app, slot, sections, next))),
            Err(error) => {
                tracing::error!(%error, "an export was cut short");
                Some((Err(error), (app, slot, sections, None)))
            }
        }
    });
    let body = Body::from_stream(stream::once(async { Ok::<_, Error>(first) }).chain(rest));
    Ok((kind, body).into_response())
}

type Limiter = RateLimiter<UserId, DashMapStateStore<UserId>, Time, NoOpMiddleware<governor::nanos::Nanos>>;

/// Who exports at this moment on this node, and who has exported how much lately.
pub(crate) struct Exports {
    running: Arc<Mutex<HashSet<UserId>>>,
    lately: Option<Limiter>,
}

/// The right to one export; it ends when this is dropped.
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
    /// At most `per_day` for each user, which may come at once; 0 is no limit.
    pub fn new(per_day: u32, clock: Arc<dyn Clock>) -> Self {
        let quota = NonZeroU32::new(per_day)
            .and_then(|per_day| Some(Quota::with_period(hours(24) / per_day.get())?.allow_burst(per_day)));
        let limiter = |quota| RateLimiter::new(quota, DashMapStateStore::default(), Time::of(clock));
        Self { running: Arc::default(), lately: quota.map(limiter) }
    }

    fn begin(&self, user: UserId, is_limited: bool) -> Result<ExportSlot, Problem> {
        if !self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(user) {
            let detail =
                "One export at a time: wait until the other has been received, or close its connection.";
            return Err(Problem::new(&problems::EXPORT_RUNNING, detail).retry_after(5));
        }
        let slot = ExportSlot { running: Arc::clone(&self.running), user };
        if let Some(lately) = self.lately.as_ref().filter(|_| is_limited) {
            if lately.len() > MAX_REMEMBERED {
                lately.retain_recent();
            }
            lately.check_key(&user).map_err(|until| {
                let wait = until.wait_time_from(clock::Clock::now(lately.clock()));
                let wait_s = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
                let detail = "You have exported too often in the last 24 hours (`limits.exports_per_day`).";
                Problem::new(&problems::RATE_LIMITED, detail).retry_after(wait_s.max(1))
            })?;
        }
        Ok(slot)
    }
}

impl App {
    /// Begins an export of `user`.
    ///
    /// # Errors
    /// 409 `export_running` while another runs, 429 after too many in a day.
    pub fn begin_export(&self, user: UserId) -> ApiResult<ExportSlot> {
        Ok(self.exports.begin(user, !self.is_without_limits())?)
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
    fn user_exports_one_at_a_time_and_a_few_a_day() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_767_225_600_000)));
        let exports = Exports::new(2, Arc::clone(&clock) as Arc<dyn Clock>);
        let code = |user| exports.begin(user, true).err().map(|problem| problem.code.code);
        let slot = exports.begin(user(1), true).unwrap();
        assert_eq!((code(user(1)), code(user(2))), (Some("export_running"), None));
        drop(slot);
        assert_eq!((code(user(1)), code(user(1))), (None, Some("rate_limited")));
        assert!(exports.begin(user(1), false).is_ok(), "limits are lifted");
        clock.advance(hours(12));
        assert_eq!((code(user(1)), code(user(1))), (None, Some("rate_limited")));
        let unlimited = Exports::new(0, clock);
        assert!((0..100).all(|_| unlimited.begin(user(1), true).is_ok()));
    }
}
