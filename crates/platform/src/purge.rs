//! Guarded purges, which delete data permanently. A due item is first kept for a grace period, measured in
//! observed time. Then a manifest is written to disk, and the items are purged in limited batches, longest
//! overdue first. Items that one user makes due do not stop the purge of other users' items.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx, params};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{App, Fact, MaintenanceError, observed_time};

/// Folder of the manifests in the data folder. Keep it with the backups, so that the purges can be repeated
/// after a restore.
const FOLDER: &str = "purges";

/// Fact for administrators: the result of the latest run of each guarded purge.
pub(crate) const FACT: Fact = Fact {
    name: "purges",
    read: |q, _| {
        let sql = "SELECT name, at, backlog, fault FROM purge_runs ORDER BY name";
        let runs = q.all(sql, &[], |row| {
            Ok(json!({
                "name": row.get::<String>(0)?, "at": row.get::<Timestamp>(1)?, "backlog": row.get::<i64>(2)?,
                "fault": row.get::<Option<String>>(3)?,
            }))
        })?;
        Ok(Value::from(runs))
    },
};

/// One run of a guarded purge.
#[derive(Clone, Copy, Debug)]
pub struct PurgeRun {
    name: &'static str,
    /// Wall clock time at the start of the run.
    pub now: Timestamp,
    /// Observed time in milliseconds. A grace period ends when the observed time has grown by its length.
    pub elapsed_ms: i64,
    /// Observed time of the previous run in milliseconds.
    pub previous_ms: i64,
}

/// Result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgeOutcome {
    /// Number of due items that remain for the next run.
    pub backlog: i64,
    /// Reason why some due items were not purged.
    pub fault: Option<String>,
}

impl PurgeRun {
    /// Starts a run of the purge `name`. `mark` runs in the same transaction. It must record, in observed
    /// time, when the grace period ends of items that have newly become due.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn begin(
        app: &App,
        ctx: &Ctx,
        name: &'static str,
        mark: impl Fn(&Tx<'_>, &Self) -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let elapsed_ms = observed_time::observe(app, ctx).await?;
        app.write(ctx, move |tx, ctx| {
            tx.lock("purge_runs", [name])?;
            let sql = "SELECT elapsed_ms FROM purge_runs WHERE name = $1";
            let previous_ms = tx.one(sql, params![name], |row| row.get(0))?.unwrap_or(0);
            let run = Self { name, now: ctx.now, elapsed_ms, previous_ms };
            mark(tx, &run)?;
            let sql = "INSERT INTO purge_runs (name, at, elapsed_ms, backlog) VALUES ($1, $2, $3, 0)
                       ON CONFLICT (name) DO UPDATE SET at = excluded.at, elapsed_ms = excluded.elapsed_ms";
            tx.exec_deferred(sql, params![name, ctx.now, elapsed_ms])?;
            Ok(run)
        })
        .await
    }

    /// Records the outcome. If due items remain or there was a fault, logs this and counts a delayed purge.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn end(self, app: &App, ctx: &Ctx, outcome: PurgeOutcome) -> Result<(), Error> {
        let PurgeOutcome { backlog, fault } = outcome;
        if let Some(fault) = &fault {
            tracing::error!(purge = self.name, fault, "some due items were not purged");
        }
        if backlog > 0 {
            tracing::warn!(purge = self.name, backlog, "more items are due than one run purges");
        }
        if backlog > 0 || fault.is_some() {
            app.metrics.record_delayed_purge(self.name);
        }
        app.write(ctx, move |tx, _| {
            let sql = "UPDATE purge_runs SET backlog = $2, fault = $3 WHERE name = $1";
            tx.exec(sql, params![self.name, backlog, fault]).map(drop)
        })
        .await
    }
}

/// Returns the outcome of a purge whose latest run left due items or had a fault. If there are several such
/// purges, returns that of the first by name.
pub(crate) fn find_delayed(q: &Query<'_>) -> Result<Option<PurgeOutcome>, Error> {
    let sql = "SELECT backlog, fault FROM purge_runs WHERE backlog > 0 OR fault IS NOT NULL ORDER BY name";
    q.one(sql, &[], |row| Ok(PurgeOutcome { backlog: row.get(0)?, fault: row.get(1)? }))
}

/// Writes the manifest of a purge to disk and returns its text. Call it before the purge. The file is synced
/// to disk when the function returns.
///
/// # Errors
/// Returns an error if the manifest cannot be written. In this case, nothing may be purged.
pub async fn write_manifest(
    app: &App,
    name: &str,
    manifest: &(impl Serialize + Sync),
) -> Result<String, MaintenanceError> {
    let text = serde_json::to_string(manifest)?;
    let (folder, file, line) = (app.config.data.folder.join(FOLDER), format!("{name}.json"), text.clone());
    let kept = tokio::task::spawn_blocking(move || write_durably(&folder, &file, &line)).await?;
    kept.map_err(|error| format!("cannot write the manifest of a purge, so nothing was purged: {error}"))?;
    Ok(text)
}

fn write_durably(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(name);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}
