//! `cargo xtask attack`: starts a server and sends it hostile requests, each with a list of accepted
//! responses and a time limit.
//!
//! All traffic is on loopback and bounded in time and number. An attack fails if the response is not in its
//! list or arrives too late.

mod attacked_server;
mod bodies;
mod conditions;
mod crowds;
mod edge;
mod mailboxes;
mod memory;
mod operations;
mod races;
mod report;
mod restart;
mod schemas;
mod spellings;
mod strangers;
mod targets;
mod tokens;
mod wire;

use std::path::Path;

use anyhow::{Context as _, Result};
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use serde_json::Value;

use self::attacked_server::AttackedServer;
use self::report::{AttackReport, DEFAULT_TIME_LIMIT, status_in};
use crate::kith::{Start, build};
use crate::mode::Mode;

const GROUPS: [&str; 13] = [
    "limits",
    "tokens",
    "bodies",
    "heads",
    "spellings",
    "operations",
    "strangers",
    "conditions",
    "schemas",
    "crowds",
    "memory",
    "races",
    "restart",
];

/// Options of `cargo xtask attack`.
#[derive(clap::Args)]
pub struct Args {
    /// Attack a PostgreSQL-backed server instead of SQLite
    #[arg(long)]
    postgres: bool,
    /// Run only this group of attacks; repeat for several
    #[arg(long, value_parser = GROUPS)]
    only: Vec<String>,
    #[command(flatten)]
    mode: Mode,
}

impl Args {
    fn has(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == group)
    }
}

/// Starts the debug binary and attacks it.
///
/// # Errors
/// Returns an error if an attack had an unexpected response, or if the server could not be started.
pub fn attack(args: &Args) -> Result<()> {
    let binary = build(Mode::SMOKE)?;
    let folder = tempfile::tempdir()?;
    let start_postgres = |_| PostgresServer::start(PostgresServerOptions::default());
    let postgres = args.postgres.then_some(()).map(start_postgres).transpose()?;
    let mut report = AttackReport::default();
    if args.has("limits") || args.has("tokens") {
        // The only server with rate limits, and with loopback blocked as a callback target, as in production.
        let strict = AttackedServer::new(strict(&binary, &folder.path().join("strict")))?;
        if args.has("limits") {
            limits(&strict, &mut report);
        }
        let start = strict.start.clone();
        if args.has("tokens") {
            tokens(&binary, folder.path(), &strict.eve.token, &mut report)?;
        }
        strict.kith.stop()?;
        restart::log(&start, &mut report);
    }
    let start = Start {
        data: folder.path().join("data"),
        database: postgres.as_ref().map(|server| server.url("postgres")),
        log: folder.path().join("log"),
        binary,
        ..Start::default()
    };
    let server = AttackedServer::new(start).context("the server that is attacked")?;
    corpus(&server, args, &mut report);
    let start = server.start.clone();
    let survivor = if args.has("restart") { restart::kill(server, &mut report) } else { Some(server) };
    if let Some(server) = survivor {
        report.attack("ready after everything", DEFAULT_TIME_LIMIT, || {
            status_in(&server.call("GET", "/readyz", None, &Value::Null)?, &[200])
        });
        server.kith.stop()?;
        restart::log(&start, &mut report);
        if args.has("restart") {
            restart::audit(&start, &mut report);
        }
    }
    report.end()
}

/// Runs the attacks that need a server without rate limits.
fn corpus(server: &AttackedServer, args: &Args, report: &mut AttackReport) {
    let mut begin = |name: &str, run: &dyn Fn(&mut AttackReport)| {
        if args.has(name) {
            run(report);
        }
    };
    begin("bodies", &|report| {
        bodies::run(server, report);
        mailboxes::run(server, report);
    });
    begin("heads", &|report| edge::run(server, report));
    begin("spellings", &|report| spellings::run(server, report));
    begin("operations", &|report| operations::run(server, report));
    begin("strangers", &|report| {
        strangers::run(server, report);
        strangers::reserved(server, report);
        targets::redirects(server, report);
    });
    begin("conditions", &|report| conditions::run(server, report));
    begin("schemas", &|report| schemas::run(server, report));
    begin("crowds", &|report| crowds::run(server, report));
    begin("memory", &|report| memory::run(server, args.mode, report));
    begin("races", &|report| races::run(server, report));
}

/// Returns the options of a server that has rate limits and blocks callbacks to internal addresses, as in
/// production. Only the mode differs from production.
fn strict(binary: &Path, folder: &Path) -> Start {
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Start {
        binary: binary.to_owned(),
        data: folder.join("data"),
        log: folder.with_extension("log"),
        has_limits: true,
        environment: vec![
            // Loopback is blocked if the list is set explicitly. The network in this list is reserved for
            // documentation.
            set("KITH__OUTBOUND__ALLOWED_NETWORKS", "192.0.2.0/24"),
            set("KITH__SERVER__HEAD_TIMEOUT_MS", &edge::HEAD_TIMEOUT_MS.to_string()),
            set("KITH__SERVER__MAX_CONNECTIONS", &edge::MAX_CONNECTIONS.to_string()),
            set("KITH__SERVER__MAX_CONNECTIONS_PER_NETWORK", &edge::MAX_CONNECTIONS.to_string()),
        ],
        ..Start::default()
    }
}

fn limits(server: &AttackedServer, report: &mut AttackReport) {
    targets::run(server.address(), &server.admin, report);
    edge::connections(server, report);
    report.group("limits");
    mailboxes::taken_addresses(server, report);
    mailboxes::forged_forwarded_for(server, report);
}

/// Runs the token attacks on a server of their own, because they move its clock.
fn tokens(binary: &Path, folder: &Path, foreign: &str, report: &mut AttackReport) -> Result<()> {
    let server = AttackedServer::new(Start {
        binary: binary.to_owned(),
        data: folder.join("tokens"),
        log: folder.join("tokens.log"),
        ..Start::default()
    })?;
    tokens::run(&server, foreign, report);
    tokens::expired(&server, report);
    let start = server.start.clone();
    server.kith.stop()?;
    restart::log(&start, report);
    Ok(())
}
