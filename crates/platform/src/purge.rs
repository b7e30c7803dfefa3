//! Purging for good. It is never one step: what is due is held for time that really passes, so many go at a time, the
//! longest due first, and a manifest is on the disk first. What others can make due never stops what is due to somebody
//! else.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx, params};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{App, Fact, UpkeepError, observed_time};

/// In the data folder, kept with the backups: what was purged since.
const FOLDER: &str = "purges";

/// What guarded purges came to when they last ran.
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

/// A run of a guarded purge.
#[derive(Clone, Copy, Debug)]
pub struct PurgeRun {
    name: &'static str,
    /// By the wall clock.
    pub now: Timestamp,
    /// Observed time, in milliseconds: a hold is over when it has grown by the hold.
    pub elapsed_ms: i64,
    /// Observed time of the run before.
    pub previous_ms: i64,
}

/// What a run left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgeOutcome {
    /// How many are due that the next run has to purge.
    pub backlog: i64,
    /// Why some of what is due is not purged.
    pub fault: Option<String>,
}

impl PurgeRun {
    /// Begins a run of what is called `name`. `mark` notes for what is held, and was not at the run before, at which
    /// observed time the hold is over.
    ///
    /// # Errors
    /// The database's.
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
            tx.exec(sql, params![name, ctx.now, elapsed_ms])?;
            Ok(run)
        })
        .await
    }

    /// Notes what the run left, and raises the alarm if that is anything.
    ///
    /// # Errors
    /// The database's.
    pub async fn end(self, app: &App, ctx: &Ctx, outcome: PurgeOutcome) -> Result<(), Error> {
        let PurgeOutcome { backlog, fault } = outcome;
        if let Some(fault) = &fault {
            tracing::error!(purge = self.name, fault, "some of what is due is not purged");
        }
        if backlog > 0 {
            tracing::warn!(purge = self.name, backlog, "more is due to be purged than one run purges");
        }
        if backlog > 0 || fault.is_some() {
            app.metrics.count_delayed_purge(self.name);
        }
        app.write(ctx, move |tx, _| {
            let sql = "UPDATE purge_runs SET backlog = $2, fault = $3 WHERE name = $1";
            tx.exec(sql, params![self.name, backlog, fault]).map(drop)
        })
        .await
    }
}

/// Whether a run left anything when it was last made.
pub(crate) fn is_delayed(q: &Query<'_>) -> Result<Option<PurgeOutcome>, Error> {
    let sql = "SELECT backlog, fault FROM purge_runs WHERE backlog > 0 OR fault IS NOT NULL ORDER BY name";
    q.one(sql, &[], |row| Ok(PurgeOutcome { backlog: row.get(0)?, fault: row.get(1)? }))
}

/// Writes the manifest of a purge that is about to be made where a power cut does not lose it, and returns its text.
///
/// # Errors
/// The disk's; nothing may be purged then.
pub async fn keep_manifest(
    app: &App,
    name: &str,
    manifest: &(impl Serialize + Sync),
) -> Result<String, UpkeepError> {
    let text = serde_json::to_string(manifest)?;
    let (folder, file, line) = (app.config.data.folder.join(FOLDER), format!("{name}.json"), text.clone());
    let kept = tokio::task::spawn_blocking(move || keep(&folder, &file, &line)).await?;
    kept.map_err(|error| {
        format!("the manifest of a purge cannot be written, so nothing is purged: {error}")
    })?;
    Ok(text)
}

fn keep(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(name);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}
