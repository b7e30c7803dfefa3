//! `kith serve`: starts the server, and stops it when it receives a signal.

use std::io::{IsTerminal as _, stdout};
use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use kith_accounts::accounts::first_admin;
use kith_platform::config::{Config, Flag};
use kith_platform::http::raise_descriptor_limit;
use kith_platform::telemetry::log;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, Settings, print};
use crate::control::reachable;
use crate::{Running, TestOverrides, demo, start};

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Address to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Serve only the modules of a preset: bond-mate, hamsaya, platform or chronizer
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Disable rate limits and request tiers, for load tests; rejected in production mode
    #[arg(long)]
    disable_limits: bool,
    /// Fill an empty database with synthetic demo data, and serve /demo; rejected in production mode
    #[arg(long)]
    demo: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut flags = Vec::new();
        if let Some(listen) = self.listen {
            flags.push(Flag { name: "--listen", key: "server.listen", value: listen.into() });
        }
        if let Some(preset) = self.preset {
            flags.push(Flag { name: "--preset", key: "server.preset", value: preset.into() });
        }
        if self.disable_limits {
            flags.push(Flag { name: "--disable-limits", key: "server.disable_limits", value: true.into() });
        }
        if self.demo {
            flags.push(Flag { name: "--demo", key: "server.demo", value: true.into() });
        }
        let config = self.settings.load(flags)?;
        let (_flush, log_level) = log::init(&config.log).context("cannot log")?;
        run(config, TestOverrides { log_level: Some(log_level), ..TestOverrides::default() })
    }
}

fn run(config: Config, overrides: TestOverrides) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let done = runtime.block_on(serve(config, overrides));
    // Does not wait for threads of the runtime, because a thread may be blocked on the database.
    runtime.shutdown_background();
    done
}

async fn serve(config: Config, overrides: TestOverrides) -> Result<(), Failure> {
    // Signals are handled from here on, so that a signal during the start also stops the server in order.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let wanted = config.server.listen;
    raise_descriptor_limit();
    let running = tokio::select! {
        started = start(config, overrides) => started.map_err(anyhow::Error::from)?,
        () = signals.next() => {
            tracing::info!("stopped during the start");
            return Ok(());
        }
    };
    let taken = wanted.port() != 0 && wanted.port() != running.addr.port();
    if taken {
        tracing::warn!(wanted = %wanted, instead = %running.addr, "the port is in use; listening on the next free one");
    }
    let listen = SocketAddr::new(running.app.config.server.listen.ip(), running.addr.port());
    let base = format!("http://{}", reachable(listen));
    print(&ready_line(&running.app.config, &base, taken))?;
    print_first_admin_hint(&running, &base).await?;
    if running.app.config.server.demo {
        print(&demo::lines(&base))?;
    }
    signals.next().await;
    tracing::info!("stopping");
    tokio::select! {
        () = running.stop() => {
            tracing::info!("stopped");
            Ok(())
        }
        () = signals.next() => Err(anyhow::anyhow!("stopped immediately by a second signal").into()),
    }
}

/// Prints how to create the first administrator, if there is none. The link for it is printed only to a
/// terminal, because other output may be stored and read by others.
async fn print_first_admin_hint(running: &Running, base: &str) -> Result<(), Failure> {
    let offer = match first_admin::create_link(&running.app, base).await {
        Ok(Some(offer)) => offer,
        Ok(None) => return Ok(()),
        Err(error) => {
            tracing::warn!(%error, "cannot create a link for the first administrator; use `kith admin create`");
            return Ok(());
        }
    };
    let link = if stdout().is_terminal() {
        format!("open {}", offer.link)
    } else {
        format!("open the link in {}", offer.file.display())
    };
    print(&format!(
        "There is no administrator yet: {link} until {}, or use `kith admin create`",
        offer.expires_at
    ))
}

fn ready_line(config: &Config, base: &str, was_taken: bool) -> String {
    let mode = if config.is_production() { "production" } else { "development" };
    let moved =
        if was_taken { format!("; port {} is in use", config.server.listen.port()) } else { String::new() };
    format!("Kith is ready at {base} ({}, {mode} mode{moved})", database(config))
}

/// Describes the database for the log. Of a PostgreSQL URL only the host is shown, because the rest may
/// contain secrets.
fn database(config: &Config) -> String {
    if config.is_sqlite() {
        return format!("SQLite in {}", config.data.folder.display());
    }
    match host(config.database.url.expose()) {
        "" => "PostgreSQL".to_owned(),
        host => format!("PostgreSQL at {host}"),
    }
}

/// Returns the host in a database URL. User name and password are everything before the first `@`, as in the
/// database driver.
fn host(url: &str) -> &str {
    let place = url.split_once("://").map_or("", |(_, place)| place);
    let place = place.split_once('@').map_or(place, |(_, place)| place);
    place.split(['/', '?']).next().unwrap_or_default()
}

/// Listeners for the signals SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use kith_platform::config::Secret;
    use kith_store::testing::TestDatabase;
    use rustix::process::{getpid, kill_process};

    use super::*;

    #[test]
    fn ready_line_names_address_without_password() {
        let mut config = Config::default();
        assert_eq!(
            ready_line(&config, "http://127.0.0.1:8080", false),
            "Kith is ready at http://127.0.0.1:8080 (SQLite in ./kith-data, development mode)"
        );
        assert!(ready_line(&config, "http://127.0.0.1:8081", true).contains("http://127.0.0.1:8081"));
        assert!(ready_line(&config, "http://127.0.0.1:8081", true).contains("port 8080 is in use"));
        for (url, shown) in [
            ("postgres://kith:s3cret@db.example:5433/kith?password=s3cret", "PostgreSQL at db.example:5433,"),
            ("postgres://kith:s3c://s3cret@db.example/kith", "PostgreSQL at db.example,"),
            ("postgres://kith:?s3cret/@db.example?password=s3cret", "PostgreSQL at db.example,"),
            ("postgres://db.example?user=kith&password=s3cret", "PostgreSQL at db.example,"),
            ("postgres:///kith?host=/run/postgresql&password=s3cret", "(PostgreSQL,"),
        ] {
            config.database.url = Secret::new(url);
            let line = ready_line(&config, "http://127.0.0.1:8080", false);
            assert!(line.contains(shown) && !line.contains("s3cret"), "{line}");
        }
    }

    /// Returns a port that is currently free.
    fn free_port() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// Sends SIGTERM to this process.
    fn terminate() {
        kill_process(getpid(), rustix::process::Signal::TERM).unwrap();
    }

    /// Returns the response to `GET /readyz`, or `None` if there is no response.
    fn readyz(addr: SocketAddr) -> Option<String> {
        let mut stream = TcpStream::connect(addr).ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n\r\n").ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    }

    /// Tests both in one function, because a signal affects the whole process.
    #[test]
    fn signal_aborts_start_and_second_signal_aborts_stop() {
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        let folder = tempfile::tempdir().unwrap();
        config.data.folder = folder.path().to_owned();
        config.database.url = Secret::new(format!("postgres://kith:x@{}/kith", mute.local_addr().unwrap()));
        let starting = thread::spawn(move || run(config, TestOverrides::default()));
        // The server is still starting, because the database never responds.
        let (waiting, _) = mute.accept().unwrap();
        terminate();
        starting.join().unwrap().unwrap();
        waiting.set_nonblocking(true).unwrap();
        let end = loop {
            match (&waiting).read(&mut [0; 64]) {
                Ok(0) => break "closed",
                Ok(_) => {}
                Err(_) => break "still waited for",
            }
        };
        assert_eq!(end, "still waited for", "the start failed instead of being stopped");

        let database = TestDatabase::sqlite();
        let mut config = Config::default();
        config.data.folder = database.folder().unwrap().to_owned();
        config.server.listen = free_port();
        config.server.drain_ms = 600_000;
        let addr = config.server.listen;
        let serving = thread::spawn(move || run(config, TestOverrides::default()));
        let until = |status: &str| {
            while !readyz(addr).is_some_and(|response| response.starts_with(&format!("HTTP/1.1 {status}"))) {
                assert!(!serving.is_finished(), "the server ended before it returned {status}");
                thread::yield_now();
            }
        };
        until("200");
        terminate();
        until("503");
        terminate();
        let Err(Failure::Other(error)) = serving.join().unwrap() else { panic!("the stop was not aborted") };
        assert!(error.to_string().contains("stopped immediately"), "{error}");
    }
}
