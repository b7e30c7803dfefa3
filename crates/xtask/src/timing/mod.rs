//! `cargo xtask timing`: tests whether the duration of a log-in reveals that an address has an account.

mod compare;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use fastrand::Rng;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use serde_json::json;

use self::compare::Comparison;
use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::kith::{Kith, Start, build};
use crate::load::accounts::register;
use crate::load::http::encode_request;
use crate::load::{Connection, now, on_one_thread};
use crate::mode::Mode;

const SEED: u64 = 1;
/// Number of failed log-ins that do not yet lock an address.
const FAILURES_BEFORE_LOCK: usize = 4;
/// Number of addresses to lock. It is so small that the locks last longer than the measurement.
const LOCKED: usize = 10;

/// Options of `cargo xtask timing`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of pairs of a known and an unknown address [default: 2000, smoke: 20]
    #[arg(long)]
    pairs: Option<usize>,
    /// Use a PostgreSQL server instead of SQLite
    #[arg(long)]
    postgres: bool,
    /// Use cheap hashing, to detect differences that full hashing hides
    #[arg(long)]
    cheap: bool,
    #[command(flatten)]
    mode: Mode,
}

impl Args {
    fn pairs(&self) -> usize {
        self.pairs.unwrap_or(self.mode.pick(2_000, 20)).max(1)
    }
}

/// Returns the settings for hashing: the full default cost, or a low cost if `cheap` is set. There is one
/// hashing thread, so no other hash is computed during a measurement.
fn environment(cheap: bool) -> Vec<(String, String)> {
    let (memory, iterations) = if cheap { ("8", "1") } else { ("19456", "2") };
    [("PASSWORD_MEMORY_KIB", memory), ("PASSWORD_ITERATIONS", iterations), ("HASH_THREADS", "1")]
        .map(|(key, value)| (format!("KITH__AUTH__{key}"), value.to_owned()))
        .to_vec()
}

/// Builds the server and measures log-ins. Fails if known and unknown addresses can be distinguished by their
/// durations.
pub fn timing(args: &Args) -> Result<ExitCode> {
    let (binary, pairs) = (build(args.mode)?, args.pairs());
    let folder = tempfile::tempdir()?;
    let options = PostgresServerOptions { fsync: true, ..Default::default() };
    let postgres = args.postgres.then(|| PostgresServer::start(options)).transpose()?;
    let start = Start {
        binary,
        data: folder.path().to_owned(),
        database: postgres.as_ref().map(|server| server.url("postgres")),
        log: PathBuf::from("/dev/null"),
        environment: environment(args.cheap || args.mode.is_smoke()),
        ..Start::default()
    };
    let kith = Kith::start(&start)?;
    let measured = on_one_thread(measure(&kith, pairs))?;
    kith.stop()?;
    write_evidence(&measured, args)?;
    let code = report(&measured, pairs);
    if !args.mode.is_smoke() {
        return Ok(code);
    }
    let has_times = |found: &Comparison| found.first.iter().chain(&found.second).all(|ms| *ms > 0.0);
    ensure!(measured.iter().all(|(_, found)| has_times(found)), "a log-in took no time");
    Ok(ExitCode::SUCCESS)
}

/// Results of the comparisons, by name.
type Comparisons = Vec<(&'static str, Comparison)>;

async fn measure(kith: &Kith, pairs: usize) -> Result<Comparisons> {
    let accounts = pairs.div_ceil(FAILURES_BEFORE_LOCK);
    eprintln!("registering {accounts} users");
    register(kith.address, "known", accounts + LOCKED).await?;
    let names = |prefix: &str| (0..accounts).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    let mut client =
        LogInClient { connection: Connection::open(kith.address).await?, rng: Rng::with_seed(SEED) };
    eprintln!("{pairs} pairs of log-ins with wrong passwords");
    let wrong = client.compare(&names("known"), &names("other"), pairs, 401).await?;
    let locked =
        |prefix: &str| (accounts..accounts + LOCKED).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    let (known, other) = (locked("known"), locked("other"));
    for name in known.iter().chain(&other) {
        for _ in 0..=FAILURES_BEFORE_LOCK {
            client.ask(name, 401).await?;
        }
    }
    eprintln!("{pairs} pairs of log-ins that are locked out");
    let locked = client.compare(&known, &other, pairs, 423).await?;
    Ok(vec![("wrong password", wrong), ("locked out", locked)])
}

struct LogInClient {
    connection: Connection,
    rng: Rng,
}

impl LogInClient {
    /// Sends pairs of log-ins, one of each kind. The order within each pair is random.
    async fn compare(
        &mut self,
        first: &[String],
        second: &[String],
        pairs: usize,
        status: u16,
    ) -> Result<Comparison> {
        let mut times = Vec::with_capacity(pairs);
        for n in 0..pairs {
            let (one, other) = (&first[n % first.len()], &second[n % second.len()]);
            times.push(if self.rng.bool() {
                [self.ask(one, status).await?, self.ask(other, status).await?]
            } else {
                let other = self.ask(other, status).await?;
                [self.ask(one, status).await?, other]
            });
        }
        Ok(Comparison::of(&times, &mut self.rng))
    }

    /// Returns the duration of a log-in in milliseconds. Fails if the response has another status than
    /// `status`.
    async fn ask(&mut self, name: &str, status: u16) -> Result<f64> {
        let body = json!({ "email": format!("{name}@example.org"), "password": "wrong horse battery" });
        let request = encode_request("POST", "/api/v1/auth/login", None, Some(body.to_string().as_bytes()));
        let began = now();
        let answered = self.connection.call(&request).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        ensure!(answered == status, "{name}: {answered} instead of {status}");
        Ok(took)
    }
}

/// Writes evidence. Requires at least 2,000 pairs at the full cost of hashing.
fn write_evidence(measured: &Comparisons, args: &Args) -> Result<()> {
    if args.cheap || args.pairs() < 2_000 {
        return Ok(());
    }
    let holds = measured.iter().all(|(_, found)| !found.is_significant() && found.difference.abs() < 5.0);
    let described = measured.iter().map(|(name, found)| {
        let [low, high] = found.interval.map(|bound| bound * 1e3);
        format!("{name}: {:.1} µs (99 % between {low:.1} and {high:.1})", found.difference * 1e3)
    });
    let differences: Vec<_> = described.collect();
    let row = EvidenceRow {
        id: "DRV-02",
        result: EvidenceOutcome::of(holds),
        figures: json!({ "pairs": args.pairs(), "differences": differences, "postgres": args.postgres }),
        summary: format!("{} interleaved pairs; {}", args.pairs(), differences.join("; ")),
    };
    evidence::write("cargo xtask timing", &[row])
}

fn report(measured: &Comparisons, pairs: usize) -> ExitCode {
    println!("{pairs} pairs each; median and p95 in ms, differences in µs with 99 % intervals");
    println!("                 known            unknown          known - unknown        known slower  p");
    for (name, found) in measured {
        let [low, high] = found.interval.map(|bound| bound * 1e3);
        println!(
            "{name:15} {:7.3} {:7.3}  {:7.3} {:7.3}  {:6.1} [{low:6.1}, {high:6.1}]  {:6.1} %      {:.4}",
            found.first[0],
            found.first[1],
            found.second[0],
            found.second[1],
            found.difference * 1e3,
            found.first_slower * 100.0,
            found.p,
        );
    }
    let significant: Vec<_> =
        measured.iter().filter(|(_, found)| found.is_significant()).map(|(name, _)| *name).collect();
    if significant.is_empty() {
        println!("no difference is measurable");
        return ExitCode::SUCCESS;
    }
    println!("distinguishable: {}", significant.join(", "));
    ExitCode::FAILURE
}
