//! Reads the event log on every node and runs the hooks of modules, so that caches reflect changes made by
//! other nodes.

use std::time::{Duration, Instant};

use kith_kernel::seconds;
use kith_store::{EngineKind, Error};

use super::routes::{run_all_hooks, run_hooks};
use crate::App;

/// Interval at which the log is read if no notification arrives.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum number of events read at once.
const BATCH: i64 = 500;
/// Minimum interval between two reads of the sequencer's delay. Under load, events arrive more often than
/// this.
const LAG_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum delay of the sequencer at which this node still counts as up to date.
const TOLERATED_LAG: Duration = seconds(1);

/// Starts a task that follows the event log until the server stops. Does nothing on SQLite, because there is
/// only one node.
pub fn start(app: &App) {
    if app.db.kind() == EngineKind::Postgres {
        tokio::spawn(run(app.clone()));
    }
}

/// Cursor of this node in the event log.
struct Cursor {
    /// Position of the last event that was read. `None` until the end of the log is known.
    position: Option<i64>,
    /// Value of [`kith_store::Store::server_changes`] when the cursor was set.
    servers: u64,
    /// Time at which the delay of the sequencer was last read. `None` if it was never read.
    lag_checked_at: Option<Instant>,
}

async fn run(app: App) {
    let mut head = app.db.watch_last_position();
    let mut cursor = Cursor { position: None, servers: app.db.server_changes(), lag_checked_at: None };
    while app.stop.or(tokio::time::timeout(POLL_INTERVAL, head.changed())).await.is_some() {
        while match read_events(&app, &mut cursor).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "cannot read events of other nodes at the moment");
                false
            }
        } {}
    }
}

/// Reads the next events after `cursor` and runs their hooks. Returns true if there may be more events.
#[expect(clippy::disallowed_methods, reason = "the age of events is measured in real time")]
async fn read_events(app: &App, cursor: &mut Cursor) -> Result<bool, Error> {
    let started = Instant::now();
    let servers = app.db.server_changes();
    if cursor.servers != servers {
        // After a failover of the database, positions that were read before may belong to other events now.
        *cursor = Cursor { position: None, servers, lag_checked_at: None };
        app.invalidation_feed.invalidate_all();
    }
    let behind = match cursor.position {
        Some(behind) => behind,
        // Before this point, the only cached data are the signing keys, which are read at start.
        None => {
            let last = app.db.last_position().await?;
            // Events up to this position are not read, so entries that were cached in the meantime may be
            // stale.
            app.invalidation_feed.invalidate_all();
            run_all_hooks(app).await;
            last
        }
    };
    let events = app.db.events_after(behind, BATCH).await?;
    for sequenced in &events {
        run_hooks(app, &sequenced.event).await;
    }
    cursor.position = Some(events.last().map_or(behind, |last| last.position));
    let more = i64::try_from(events.len()).unwrap_or(BATCH) == BATCH;
    let is_due =
        cursor.lag_checked_at.is_none_or(|at| started.saturating_duration_since(at) >= LAG_CHECK_INTERVAL);
    if more || !is_due {
        // With further events, this node is not up to date, however small the delay of the sequencer is.
        return Ok(more);
    }
    let waiting = app.db.oldest_unsequenced().await?;
    cursor.lag_checked_at = Some(started);
    let now = app.sources.clock.now();
    if app.db.server_changes() != servers {
        return Ok(true);
    }
    if app.event_routes.has_no_failures() && waiting.is_none_or(|oldest| now.since(oldest) <= TOLERATED_LAG) {
        app.invalidation_feed.mark_current_at(started);
    }
    Ok(false)
}
