//! Sends job updates as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! Each event contains the whole job. A client that reconnects therefore receives the current state, and
//! `Last-Event-ID` is not needed.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use kith_jobs::progress_channel;
use kith_kernel::seconds;
use kith_platform::auth::ReadJobs;
use kith_platform::{Allowed, ApiResult, App, PathId, Principal, Routes};
use kith_store::ChannelListener;
use serde_json::json;
use utoipa_axum::routes;

use super::super::model::{Job, JobsError, read_json};
use super::super::queries;

/// Delay after which clients should reconnect, sent as `retry` with each event.
const RECONNECT_DELAY: Duration = seconds(2);
/// Interval between comments that keep an idle connection open.
const KEEP_ALIVE_INTERVAL: Duration = seconds(15);
/// Maximum time between two reads of a job, if no notification arrives.
const POLL_INTERVAL: Duration = seconds(1);

pub fn routes() -> Routes {
    Routes::new().routes(routes!(watch_job))
}

/// Watch a job
///
/// Streams server-sent events of type `job`. Each event contains the whole job with its result. The first
/// event is sent at once, further ones whenever the job changes. When the job has ended, the last event is
/// sent and the stream ends. Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", security(("bearer" = ["jobs.read"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    responses((
        status = 200, body = serde_json::Value, content_type = "text/event-stream",
        description = "Stream of server-sent events of type `job`."
    ))
)]
async fn watch_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadJobs>,
    PathId(id): PathId<i64>,
) -> ApiResult<Response> {
    let listener = app.db.listen(&progress_channel(id));
    // Return 404 here, as other endpoints do, instead of starting a stream for an unknown job.
    app.db.read(move |q| queries::find_job(q, id).map(drop)).await?;
    let watch = JobWatch { app, caller, id, listener, last_sent: String::new(), events: 0, ended: false };
    let events = stream::unfold(watch, JobWatch::next);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL)).into_response())
}

/// State of an event stream: a client that watches a job.
struct JobWatch {
    app: App,
    caller: Principal,
    id: i64,
    listener: ChannelListener,
    /// Data of the last event that was sent.
    last_sent: String,
    events: u64,
    ended: bool,
}

impl JobWatch {
    /// Waits for the next event. Returns `None` if the job has ended, the server stops, or the caller has
    /// lost the permission to read the job.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        while !self.ended {
            self.caller.reauthenticate(&self.app).await.ok()?;
            let (data, ended) = self.read_job().await.ok()?;
            self.ended = ended;
            if data != self.last_sent {
                self.events += 1;
                let event = Event::default().event("job").id(self.events.to_string()).retry(RECONNECT_DELAY);
                let event = event.data(&data);
                self.last_sent = data;
                return Some((Ok(event), self));
            }
            let app = self.app.clone();
            // A timeout is not an error here: the job is read again.
            let _ = app.stop.or(tokio::time::timeout(POLL_INTERVAL, self.listener.notified())).await?;
        }
        None
    }

    async fn read_job(&self) -> Result<(String, bool), JobsError> {
        let id = self.id;
        let job = self.app.db.read(move |q| queries::find_job(q, id)).await?;
        let (ended, result) = (job.state.has_ended(), read_json(job.result.clone()));
        let mut job_json = json!(Job::from(job));
        job_json["result"] = json!(result);
        Ok((job_json.to_string(), ended))
    }
}
