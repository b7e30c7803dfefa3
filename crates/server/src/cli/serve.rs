//! `kith serve`: from the command line to a running server, and from a signal to its end.

use anyhow::Context;
use clap::Args;
use kith_platform::config::{Config, Flag};
use kith_platform::telemetry::log;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, Settings, print};
use crate::{Seams, start};

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Lift 429 limits and tiers, for load tests; refused in production mode
    #[arg(long)]
    without_limits: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut flags = Vec::new();
        if let Some(listen) = self.listen {
            flags.push(Flag { name: "--listen", key: "server.listen", value: listen.into() });
        }
        if self.without_limits {
            flags.push(Flag { name: "--without-limits", key: "server.without_limits", value: true.into() });
        }
        let config = self.settings.load(flags)?;
        let _flush = log::init(&config.log).context("cannot log")?;
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(serve(config))
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    // Listened to from the start, so that a signal during it is not the process's sudden end.
    let mut signals = Signals::listen().context("cannot listen to signals")?;
    let wanted = config.server.listen;
    let running = start(config, Seams::default()).await.map_err(anyhow::Error::from)?;
    let taken = wanted.port() != 0 && wanted.port() != running.addr.port();
    if taken {
        tracing::warn!(wanted = %wanted, instead = %running.addr, "the port is taken; listening on the next free one");
    }
    print(&ready_line(&running.app.config, running.addr.port(), taken))?;
    signals.next().await;
    tracing::info!("stopping");
    tokio::select! {
        () = running.stop() => {
            tracing::info!("stopped");
            Ok(())
        }
        () = signals.next() => Err(anyhow::anyhow!("asked a second time to stop, and stopped at once").into()),
    }
}

fn ready_line(config: &Config, port: u16, was_taken: bool) -> String {
    let addr = std::net::SocketAddr::new(config.server.listen.ip(), port);
    let mode = if config.is_production() { "production" } else { "development" };
    let moved =
        if was_taken { format!("; port {} is taken", config.server.listen.port()) } else { String::new() };
    format!("Kith is ready at http://{addr} ({}, {mode} mode{moved})", database(config))
}

/// Which database, without the password in its address.
fn database(config: &Config) -> String {
    if config.is_sqlite() {
        return format!("SQLite in {}", config.data.folder.display());
    }
    let url = config.database.url.expose();
    let place = url.split("://").nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    format!("PostgreSQL at {place}")
}

/// What an operator or the system sends to stop a process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use kith_platform::config::Secret;

    use super::*;

    #[test]
    fn the_ready_line_says_where_and_how_but_no_password() {
        let mut config = Config::default();
        assert_eq!(
            ready_line(&config, 8080, false),
            "Kith is ready at http://127.0.0.1:8080 (SQLite in ./kith-data, development mode)"
        );
        assert!(ready_line(&config, 8081, true).contains("http://127.0.0.1:8081"));
        assert!(ready_line(&config, 8081, true).contains("port 8080 is taken"));
        config.database.url = Secret::new("postgres://kith:s3cret@db.example:5433/kith?password=s3cret");
        let line = ready_line(&config, 8080, false);
        assert!(line.contains("PostgreSQL at db.example:5433/kith,") && !line.contains("s3cret"), "{line}");
    }
}
