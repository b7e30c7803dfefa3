//! Reads the log of events on every node and runs the hooks, so that no cache outlives a change on another node.

use std::time::{Duration, Instant};

use kith_kernel::seconds;
use kith_store::{EngineKind, Error};

use super::routes::{run_all_hooks, run_hooks};
use crate::App;

/// How long to wait for news before asking anyway.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Events heard at once.
const BATCH: i64 = 500;
/// A sequencer that is further behind than this has not told everything there is to hear.
const TOLERATED_LAG: Duration = seconds(1);

/// Follows the log until the server stops. On SQLite there is no other node.
pub fn start(app: &App) {
    if app.db.kind() == EngineKind::Postgres {
        tokio::spawn(run(app.clone()));
    }
}

/// Cursor of this node in the log of events.
struct Cursor {
    /// Position of the last event that was heard; `None` until the end of the log was looked up.
    position: Option<i64>,
    /// Number of server changes when it was set: see [`kith_store::Store::server_changes`].
    servers: u64,
}

async fn run(app: App) {
    let mut head = app.db.head();
    let mut cursor = Cursor { position: None, servers: app.db.server_changes() };
    while app.stop.or(tokio::time::timeout(ASK_EVERY, head.changed())).await.is_some() {
        while match hear(&app, &mut cursor).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "what happens on other nodes cannot be heard at the moment");
                false
            }
        } {}
    }
}

/// Hears the next events behind `cursor`; says whether there may be more.
#[expect(clippy::disallowed_methods, reason = "hearing is about real time")]
async fn hear(app: &App, cursor: &mut Cursor) -> Result<bool, Error> {
    let asked = Instant::now();
    let servers = app.db.server_changes();
    if cursor.servers != servers {
        // The positions heard so far may have been given again to other events.
        *cursor = Cursor { position: None, servers };
        app.hearing.forget_all();
    }
    let behind = match cursor.position {
        Some(behind) => behind,
        // Nothing was kept before this node first heard anything but the signing keys, which were read when it started.
        None => {
            let last = app.db.last_position().await?;
            // Events up to this position are not heard, so that entries cached meanwhile may be stale.
            app.hearing.forget_all();
            run_all_hooks(app).await;
            last
        }
    };
    let events = app.db.events_after(behind, BATCH).await?;
    for heard in &events {
        run_hooks(app, &heard.event).await;
    }
    cursor.position = Some(events.last().map_or(behind, |last| last.position));
    let more = i64::try_from(events.len()).unwrap_or(BATCH) == BATCH;
    let waiting = app.db.oldest_unplaced().await?;
    let now = app.sources.clock.now();
    if app.db.server_changes() != servers {
        return Ok(true);
    }
    if !more
        && app.event_routes.has_no_failures()
        && waiting.is_none_or(|oldest| now.since(oldest) <= TOLERATED_LAG)
    {
        app.hearing.heard_at(asked);
    }
    Ok(more)
}
