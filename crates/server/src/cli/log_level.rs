//! `kith log-level`: shows or changes the log level of the running server. A change lasts until the server
//! stops.

use anyhow::Context as _;
use clap::Args;

use super::{Failure, Settings, print, runtime};
use crate::control;

#[derive(Debug, Args)]
pub(super) struct LogLevel {
    /// New level, such as `debug`, or different levels by target, such as `warn,kith_store=debug`
    level: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl LogLevel {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = self.settings.load(Vec::new())?.data.folder;
        let request = control::set_log_level(&folder, self.level);
        let level = runtime()?.block_on(request);
        let level = level.context("the log level was not changed")?;
        let no_server = || {
            let folder = folder.display();
            anyhow::anyhow!("no server runs on {folder}; on PostgreSQL, use PUT /api/v1/admin/log-level")
        };
        print(&level.ok_or_else(no_server)?)
    }
}
