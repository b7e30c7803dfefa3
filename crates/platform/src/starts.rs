//! Records in the database when servers start and stop cleanly, so that restarts and crashes can be counted.

use std::net::SocketAddr;
use std::time::Duration;

use kith_kernel::{Timestamp, days};
use kith_store::{Error, Query, Tx, params};
use serde_json::{Value, json};

use crate::App;

const COUNT_WINDOW: Duration = days(1);
const RETENTION: Duration = days(7);

/// Recorded start of a server.
#[derive(Clone, Debug)]
pub struct ServerStart {
    id: String,
}

impl ServerStart {
    /// Records that `app` serves at `addr`. Marks earlier servers on the same host and address as unclean if
    /// they did not record their stop.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn record(app: &App, addr: SocketAddr) -> Result<Self, Error> {
        let ctx = app.system_ctx("start");
        let id = app.sources.ids.next(ctx.now).to_string();
        let started = Self { id: id.clone() };
        let address = format!("{} {addr}", rustix::system::uname().nodename().to_string_lossy());
        app.write(&ctx, move |tx, ctx| begin(tx, ctx.now, &id, &address)).await?;
        Ok(started)
    }

    /// Records that the server has stopped cleanly.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn end(self, app: &App) -> Result<(), Error> {
        let end = "UPDATE server_starts SET ended_at = $2 WHERE id = $1";
        app.write(&app.system_ctx("stop"), move |tx, ctx| tx.exec(end, params![self.id, ctx.now]).map(drop))
            .await
    }
}

fn begin(tx: &Tx<'_>, now: Timestamp, id: &str, address: &str) -> Result<(), Error> {
    let mark_unclean = "UPDATE server_starts SET is_unclean = TRUE WHERE address = $1 AND ended_at IS NULL";
    tx.exec_deferred(mark_unclean, params![address])?;
    tx.exec_deferred("DELETE FROM server_starts WHERE started_at < $1", params![now - RETENTION])?;
    let insert = "INSERT INTO server_starts (id, address, started_at) VALUES ($1, $2, $3)";
    tx.exec(insert, params![id, address, now]).map(drop)
}

/// Counts the servers that started within the last 24 hours, and those among them that did not stop cleanly.
pub(crate) fn recent(now: Timestamp) -> impl Fn(&Query<'_>) -> Result<Value, Error> {
    move |q| {
        let sql = "SELECT COUNT(*), COALESCE(SUM(CASE WHEN is_unclean THEN 1 ELSE 0 END), 0)
                   FROM server_starts WHERE started_at > $1";
        let counted = q.one(sql, params![now - COUNT_WINDOW], |row| {
            Ok(json!({ "within_24_h": row.get::<i64>(0)?, "unclean_stops": row.get::<i64>(1)? }))
        })?;
        Ok(counted.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;

    /// Proves the readiness requirement DRV-31.
    #[tokio::test]
    async fn start_without_recorded_stop_marks_previous_unclean() {
        let test = TestServer::start(|_| {}).await;
        let here = SocketAddr::from(([127, 0, 0, 1], 4711));
        let counted = async || test.app.db.read(recent(test.app.sources.clock.now())).await.unwrap();
        let first = ServerStart::record(&test.app, here).await.unwrap();
        first.end(&test.app).await.unwrap();
        ServerStart::record(&test.app, here).await.unwrap();
        ServerStart::record(&test.app, SocketAddr::from(([127, 0, 0, 1], 4712))).await.unwrap();
        assert_eq!(counted().await, json!({ "within_24_h": 3, "unclean_stops": 0 }));
        ServerStart::record(&test.app, here).await.unwrap();
        assert_eq!(counted().await, json!({ "within_24_h": 4, "unclean_stops": 1 }));
        test.clock.advance(days(1));
        assert_eq!(counted().await, json!({ "within_24_h": 0, "unclean_stops": 0 }));
    }
}
