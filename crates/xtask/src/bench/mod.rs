//! `cargo xtask bench`: measures Kith's throughput and latency. Throughput is reported as a ratio to a
//! ceiling, a simpler server that is measured in the same run.
//!
//! The server is pinned to one core and the load generator to the other; PostgreSQL may use both. No test
//! depends on the results.

mod ceiling;
mod jobs;
mod log_ins;
mod machine;
mod rows;
mod sources;
mod spaces;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use serde_json::{Value, json};

use self::ceiling::PING;
use self::log_ins::LogIns;
use self::rows::{BenchResult, BenchRow, Ceiling, Server};
use self::sources::{
    NewRequests, PreparedRequests, RepeatedRequest, UniformRequests, ZipfReads, write_request,
};
use crate::kith::{Kith, Start, build};
use crate::load::accounts::{LoadAccount, register};
use crate::load::http::encode_request;
use crate::load::{on_one_thread, send_all};
use crate::mode::Mode;
use crate::workspace::{cargo, root, run};

pub use self::ceiling::serve as serve_ceiling;

const SERVER_CORE: u32 = 0;
const GENERATOR_CORE: u32 = 1;
const SEED: u64 = 1;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    only: Option<Only>,
    /// Make short runs, as a test; the figures are not representative
    #[arg(long)]
    quick: bool,
    /// Number of runs of each row; each follows a run of the ceiling [default: 5, quick: 2]
    #[arg(long)]
    pairs: Option<usize>,
    /// Seconds for each run of a write row [default: 60, quick: 5]
    #[arg(long)]
    write_seconds: Option<u64>,
    /// Seconds for each run of a read row [default: 10, quick: 2]
    #[arg(long)]
    read_seconds: Option<u64>,
    /// Measure only one database
    #[arg(long)]
    database: Option<Engine>,
    #[command(flatten)]
    mode: Mode,
}

/// Benchmark to run instead of that of the HTTP server.
#[derive(clap::Subcommand)]
enum Only {
    /// Compare the job engine on both databases with BullMQ and Graphile Worker
    Jobs(jobs::Args),
}

/// Database to measure on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// SQLite in the data folder, each commit synced
    Sqlite,
    /// PostgreSQL started for the benchmark on the same cores, fsync on
    Postgres,
}

struct BenchmarkSizes {
    pairs: usize,
    write: Duration,
    read: Duration,
    /// Number of requests in each run of a row in which every account acts once.
    counted_requests: usize,
    /// Number of accounts that list items. Each has one page of items.
    listers: usize,
    /// Number of accounts that send requests to each other and never have a partner.
    writers: usize,
    /// Number of accounts that log in, and duration of each run of log-ins.
    log_ins: usize,
    log_in: Duration,
    warm_up: Duration,
    /// Duration of the fsync measurement.
    fsync: Duration,
}

impl Args {
    fn lengths(&self) -> BenchmarkSizes {
        if self.mode.is_smoke() {
            let moment = Duration::from_millis(150);
            return BenchmarkSizes {
                pairs: 1,
                write: moment,
                read: moment,
                counted_requests: 10,
                listers: 10,
                writers: 100,
                log_ins: 4,
                log_in: Duration::from_millis(500),
                warm_up: Duration::from_millis(50),
                fsync: moment,
            };
        }
        let pick = |given: Option<u64>, full, quick| {
            Duration::from_secs(given.unwrap_or(if self.quick { quick } else { full }))
        };
        BenchmarkSizes {
            pairs: self.pairs.unwrap_or(if self.quick { 2 } else { 5 }).max(1),
            write: pick(self.write_seconds, 60, 5),
            read: pick(self.read_seconds, 10, 2),
            counted_requests: if self.quick { 2_000 } else { 5_000 },
            listers: if self.quick { 1_000 } else { 10_000 },
            writers: 10_000,
            log_ins: 100,
            log_in: pick(self.read_seconds, 10, 2),
            warm_up: Duration::from_secs(1),
            fsync: machine::FSYNC_FOR,
        }
    }
}

/// Builds the binaries and runs the benchmark.
pub fn bench(args: &Args) -> Result<()> {
    if let Some(Only::Jobs(args)) = &args.only {
        return jobs::jobs(args);
    }
    if cfg!(debug_assertions) && !args.mode.is_smoke() {
        return with_release_build();
    }
    let binary = match args.mode.is_smoke() {
        true => build(args.mode)?,
        false => root()?.join("target/release/kith"),
    };
    let folder = root()?.join("target/bench");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    ensure!(
        std::thread::available_parallelism()?.get() >= 2,
        "the server and the generator need a core each"
    );
    let engines: Vec<_> = [Engine::Sqlite, Engine::Postgres]
        .into_iter()
        .filter(|engine| args.database.is_none_or(|only| only == *engine))
        .collect();
    // PostgreSQL is started before the generator is pinned, because child processes inherit the CPU affinity.
    let postgres = engines
        .contains(&Engine::Postgres)
        .then(|| PostgresServer::start(PostgresServerOptions { fsync: true, ..Default::default() }));
    let postgres = postgres.transpose()?;
    let pid = std::process::id().to_string();
    run(Command::new("taskset").args(["-acp", &GENERATOR_CORE.to_string(), &pid]))?;
    let bare = ceiling::start(SERVER_CORE)?;
    let mut results = Vec::new();
    for engine in engines {
        let postgres = postgres.as_ref().filter(|_| engine == Engine::Postgres);
        results.push(measure_engine(engine, postgres, &bare, &binary, &folder, &args.lengths())?);
    }
    report(&results, args.mode)
}

/// Runs the benchmark again as a release build, because a debug build of the load generator would be the
/// bottleneck.
fn with_release_build() -> Result<()> {
    build(Mode::default())?;
    run(cargo()?.args(["build", "--release", "--locked", "-p", "kith-xtask"]))?;
    let mut command = Command::new(root()?.join("target/release/kith-xtask"));
    command.args(env::args_os().skip(1));
    Err(command.exec()).context("cannot run the release build")
}

/// Results of the benchmark on one database.
struct Results {
    engine: &'static str,
    durability: &'static str,
    fsync_rate: f64,
    rows: Vec<BenchResult>,
    log_ins: LogIns,
}

fn measure_engine(
    engine: Engine,
    postgres: Option<&PostgresServer>,
    bare: &Kith,
    binary: &Path,
    folder: &Path,
    lengths: &BenchmarkSizes,
) -> Result<Results> {
    let (name, durability) = match engine {
        Engine::Sqlite => ("SQLite", "WAL, synchronous=FULL"),
        Engine::Postgres => ("PostgreSQL", "fsync and synchronous_commit on"),
    };
    let fsync_rate = machine::fsync(folder, lengths.fsync)?.rate;
    eprintln!("\n{name} ({durability}); this disk makes 4 KiB durable {fsync_rate:.0} times a second");
    let start = Start {
        binary: binary.to_owned(),
        data: folder.join(name),
        database: postgres.map(|server| server.url("postgres")),
        core: Some(SERVER_CORE),
        // Requests are logged as in the default configuration, but the log is discarded to save disk space.
        log: PathBuf::from("/dev/null"),
        ..Start::default()
    };
    let kith = Kith::start(&start)?;
    let database_pid = postgres.and_then(PostgresServer::pid);
    let server = Server { address: kith.address, pid: kith.pid(), database_pid };
    let bare = Server { address: bare.address, pid: bare.pid(), database_pid: None };
    let rows = on_one_thread(measure_rows(server, bare, lengths))?;
    kith.stop()?;
    let log_ins = log_ins::measure(&start, lengths)?;
    Ok(Results { engine: name, durability, fsync_rate, rows, log_ins })
}

async fn measure_rows(server: Server, bare: Server, lengths: &BenchmarkSizes) -> Result<Vec<BenchResult>> {
    // One part of the accounts for each pair of runs, and one for the run at a steady rate.
    let couples = lengths.counted_requests * (lengths.pairs + 1);
    eprintln!("  registering {} users", lengths.writers + 3 * couples);
    let strangers = register(server.address, "stranger", couples).await?;
    let writers = register(server.address, "writer", lengths.writers).await?;
    let partners = register(server.address, "partner", 2 * couples).await?;
    let accepts = PreparedRequests::of(prepare_accepts(server, &partners).await?);
    let requests = NewRequests::among(writers, SEED);
    let (bare, own) =
        (Ceiling { name: "bare axum's 204", server: bare }, Ceiling { name: "Kith's own 204", server });
    let mut rows = Vec::new();
    let read =
        |name, ceiling| RowShape { name, ceiling, length: lengths.read, warm_up: true, durable: false };
    let write =
        |name, warm_up| RowShape { name, ceiling: own, length: lengths.write, warm_up, durable: true };
    let ping = || Box::new(RepeatedRequest(encode_request("GET", PING, None, None))) as _;
    rows.push(read("204, through the whole stack", bare).measure(server, lengths, ping).await?);
    let accept = || Box::new(accepts.part(lengths.counted_requests)) as _;
    rows.push(write("accept a partner request", false).measure(server, lengths, accept).await?);
    let current = || Box::new(ZipfReads::of(&partners, "/api/v1/partners/current", SEED)) as _;
    rows.push(read("read the current bond", own).measure(server, lengths, current).await?);
    let me = || Box::new(ZipfReads::of(&partners, "/api/v1/me", SEED)) as _;
    rows.push(read("read own profile", own).measure(server, lengths, me).await?);
    let unseen =
        strangers.iter().map(|who| encode_request("GET", "/api/v1/me", Some(&who.token), None)).collect();
    let unseen = PreparedRequests::of(unseen);
    let cold = || Box::new(unseen.part(lengths.counted_requests)) as _;
    let first = RowShape { warm_up: false, ..read("read own profile, token new to the server", own) };
    rows.push(first.measure(server, lengths, cold).await?);
    let bonded = &partners[..2 * lengths.counted_requests * lengths.pairs];
    let items = Rc::new(spaces::writes(bonded));
    let keep = || Box::new(UniformRequests::of(Rc::clone(&items), SEED)) as _;
    rows.push(write("write an item of a space", true).measure(server, lengths, keep).await?);
    let items = Rc::new(spaces::reads(server.address, bonded).await?);
    let item = || Box::new(UniformRequests::of(Rc::clone(&items), SEED)) as _;
    rows.push(read("read an item of a space", own).measure(server, lengths, item).await?);
    eprintln!("  writing 20 items for each of {} users", lengths.listers);
    let lists = Rc::new(spaces::lists(server.address, &partners[..lengths.listers]).await?);
    let list = || Box::new(UniformRequests::of(Rc::clone(&lists), SEED)) as _;
    rows.push(read("list 20 items of a space", own).measure(server, lengths, list).await?);
    let send = || Box::new(requests.clone()) as _;
    rows.push(write("send a partner request", true).measure(server, lengths, send).await?);
    Ok(rows)
}

/// Properties of a row of the benchmark that differ between rows.
struct RowShape {
    name: &'static str,
    ceiling: Ceiling,
    length: Duration,
    warm_up: bool,
    durable: bool,
}

impl RowShape {
    async fn measure(
        self,
        server: Server,
        lengths: &BenchmarkSizes,
        mut source: impl FnMut() -> Box<dyn crate::load::Source>,
    ) -> Result<BenchResult> {
        let Self { name, ceiling, length, warm_up, durable } = self;
        let (pairs, ceiling_length, source) = (lengths.pairs, lengths.read, &mut source);
        let ceiling_warm_up = lengths.warm_up;
        let warm_up = if warm_up { ceiling_warm_up } else { Duration::ZERO };
        let row = BenchRow {
            name,
            server,
            ceiling,
            pairs,
            length,
            ceiling_length,
            warm_up,
            ceiling_warm_up,
            durable,
            source,
        };
        row.measure().await
    }
}

/// Pairs the accounts. Sends a partner request from the first account of each pair to the second, and returns
/// the requests by which the second accepts.
async fn prepare_accepts(server: Server, accounts: &[LoadAccount]) -> Result<Vec<Vec<u8>>> {
    let asks = accounts.chunks_exact(2).map(|pair| {
        let mut out = Vec::new();
        write_request(&mut out, &pair[0], &pair[1]);
        out
    });
    let responses = send_all(server.address, 64, asks.collect()).await?;
    let accepts = accounts.chunks_exact(2).zip(responses).map(|(pair, (status, body))| {
        let id = body["id"].as_str().filter(|_| status == 201);
        let id = id.with_context(|| format!("asking gave {status}: {body}"))?;
        Ok(encode_request(
            "POST",
            &format!("/api/v1/partners/requests/{id}/accept"),
            Some(&pair[1].token),
            None,
        ))
    });
    accepts.collect()
}

fn report(results: &[Results], mode: Mode) -> Result<()> {
    let commit = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let commit =
        commit.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default();
    let machine = machine::describe()?;
    println!("\ncommit {commit}, {} cores of {}", machine["cores"], machine["processor"]);
    println!(
        "64 connections from one core to a server on the other; only 2xx count; times at half the highest rate"
    );
    for Results { engine, durability, fsync_rate, rows, log_ins } in results {
        println!("\n{engine}, {durability}; {fsync_rate:.0} fsync/s\n{}", BenchResult::head());
        rows.iter().for_each(|row| println!("{}", row.line(*fsync_rate)));
        println!("{}", log_ins.line());
    }
    let databases: Vec<Value> = results.iter().map(Results::json).collect();
    let whole = json!({
        "commit": commit,
        "machine": machine,
        "generator": "cargo xtask bench: one thread, 64 kept-alive HTTP/1.1 connections over loopback",
        "databases": databases,
    });
    if mode.is_smoke() {
        ensure!(results.iter().all(Results::has_figures), "a row has no figures");
        return Ok(());
    }
    let path = root()?.join("target/bench.json");
    fs::write(&path, serde_json::to_string_pretty(&whole)? + "\n")?;
    println!("\nthe same for programs: {}", path.display());
    Ok(())
}

impl Results {
    /// Returns true if every row and the log-ins have figures.
    fn has_figures(&self) -> bool {
        self.rows.iter().all(BenchResult::has_figures) && self.log_ins.has_figures()
    }

    fn json(&self) -> Value {
        let Self { engine, durability, fsync_rate, rows, log_ins } = self;
        let rows: Vec<_> = rows.iter().map(|row| row.json(*fsync_rate)).collect();
        json!({"database": engine, "durability": durability, "fsync_rate_per_s": fsync_rate, "rows": rows, "log_ins": log_ins.json()})
    }
}
