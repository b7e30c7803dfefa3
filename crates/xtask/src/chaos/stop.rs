//! `cargo xtask chaos stop`: two nodes run behind HAProxy under load. SIGTERM stops and restarts one of them,
//! then the other, in turns. Every request must get a complete response, and every acknowledged write must
//! exist exactly once.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::fresh_folder;
use crate::evidence::{self, EvidenceOutcome, EvidenceRow, Tests, Trials};
use crate::kith::{Kith, Start, build};
use crate::load::accounts::{LoadAccount, register};
use crate::load::http::encode_request;
use crate::load::{Connection, Pairs, now, on_one_thread};
use crate::mode::Mode;

const CLIENTS: usize = 32;
/// Duration of load from the restart of a node to the next stop. HAProxy detects the restarted node in this
/// time.
const BETWEEN_STOPS: Duration = Duration::from_millis(400);
/// Maximum time in which a stopped node must exit.
const EXIT_WITHIN: Duration = Duration::from_secs(10);
const HAPROXY_UP_WITHIN: Duration = Duration::from_secs(10);

/// Options of `cargo xtask chaos stop`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of stops, alternating between the nodes [default: 50, smoke: 2]
    #[arg(long)]
    rounds: Option<u32>,
    #[command(flatten)]
    mode: Mode,
}

/// Stops nodes repeatedly. Fails if a client gets an error or an acknowledged write is missing.
pub fn stop(args: &Args) -> Result<()> {
    let binary = build(args.mode)?;
    let rounds = args.rounds.unwrap_or(args.mode.pick(50, 2));
    let accounts = args.mode.pick(2_000, 200);
    let folder = fresh_folder("stop")?;
    let server = PostgresServer::start(PostgresServerOptions { fsync: true, ..Default::default() })?;
    // In a smoke run other commands run at the same time, so HAProxy may detect a stop later.
    let drain = args.mode.is_smoke().then(|| ("KITH__SERVER__DRAIN_MS".to_owned(), "2000".to_owned()));
    let starts = [free_port()?, free_port()?].map(|port| Start {
        environment: drain.clone().into_iter().collect(),
        binary: binary.clone(),
        data: folder.join(format!("data-{port}")),
        database: Some(server.url("postgres")),
        log: folder.join(format!("kith-{port}.log")),
        port: Some(port),
        ..Start::default()
    });
    let mut nodes = Vec::new();
    for start in &starts {
        nodes.push(Kith::start(start)?);
    }
    let haproxy = Haproxy::start(&folder, [nodes[0].address, nodes[1].address])?;
    eprintln!("\nSIGTERM under load behind HAProxy: {} stops, in {}", rounds, folder.display());
    let report = on_one_thread(run(rounds, accounts, &starts, nodes, haproxy.address))?;
    let there = count_requests(&server)?;
    report.print(rounds, there);
    drop(haproxy);
    if !args.mode.is_smoke() {
        report.write_evidence(rounds, there)?;
    }
    ensure!(there > 0, "no request was acknowledged, so nothing was tested");
    ensure!(report.failures.is_empty(), "a client got an error during a stop");
    ensure!(
        there == report.acknowledged,
        "{} requests were acknowledged, but {there} are in the database",
        report.acknowledged
    );
    ensure!(report.exits.iter().all(|exit| *exit < EXIT_WITHIN), "a stop took too long");
    Ok(())
}

#[derive(Default)]
struct StopReport {
    acknowledged: u64,
    /// Responses and errors that clients got instead of acknowledgements.
    failures: Vec<String>,
    exits: Vec<Duration>,
}

impl StopReport {
    fn write_evidence(&self, rounds: u32, there: u64) -> Result<()> {
        let holds = self.failures.is_empty()
            && there == self.acknowledged
            && self.exits.iter().all(|exit| *exit < EXIT_WITHIN);
        let (acknowledged, cut) = (self.acknowledged, self.failures.len());
        let row = EvidenceRow {
            id: "REL-01",
            result: EvidenceOutcome::of(holds),
            figures: json!({ "stops": rounds, "acknowledged": acknowledged, "without a whole answer": cut }),
            summary: format!(
                "{rounds} stops under load, {acknowledged} acknowledged, {cut} without a complete response"
            ),
        };
        let what =
            "SIGTERM under load behind HAProxy: every request of which a byte was read gets its response"
                .to_owned();
        let trials = Trials { row: "REL-01".to_owned(), what, trials: rounds.into() };
        let trials = Tests { trials: holds.then_some(trials).into_iter().collect(), ..Tests::default() };
        // The row passes only with at least 20 stops.
        let rows: Vec<_> = (rounds >= 20 || !holds).then_some(row).into_iter().collect();
        evidence::write_with_tests("cargo xtask chaos stop", &rows, &trials)
    }

    fn print(&self, rounds: u32, there: u64) {
        let mut exits = self.exits.clone();
        exits.sort_unstable();
        let at = |share: f64| exits.get((exits.len() as f64 * share) as usize).or(exits.last()).copied();
        let (median, p99) = (at(0.5).unwrap_or_default(), at(0.99).unwrap_or_default());
        println!("\nSIGTERM under load behind HAProxy, two nodes on PostgreSQL");
        println!("  {rounds} stops, {} requests acknowledged, {there} in the database", self.acknowledged);
        println!(
            "  {} without a complete 2xx response; exit median {median:.0?}, p99 {p99:.0?}",
            self.failures.len()
        );
        println!("  zero in n stops bounds the rate per stop at 3/n = {:.1} %", 300.0 / f64::from(rounds));
        self.failures.iter().take(5).for_each(|failure| println!("  {failure}"));
    }
}

async fn run(
    rounds: u32,
    accounts: usize,
    starts: &[Start; 2],
    nodes: Vec<Kith>,
    proxy: SocketAddr,
) -> Result<StopReport> {
    let accounts = Rc::new(register(proxy, "person", accounts).await?);
    let report = Rc::new(RefCell::new(StopReport::default()));
    let (pairs, over) = (
        Rc::new(RefCell::new(Pairs::new(accounts.len(), &mut Rng::with_seed(1)))),
        Rc::new(Cell::new(false)),
    );
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn_local(client(
            proxy,
            Rc::clone(&accounts),
            Rc::clone(&pairs),
            Rc::clone(&over),
            Rc::clone(&report),
        ));
    }
    let mut nodes = nodes.into_iter().map(Some).collect::<Vec<_>>();
    for round in 0..rounds as usize {
        sleep(BETWEEN_STOPS).await;
        let (place, start) = (round % 2, starts[round % 2].clone());
        let node = nodes[place].take().context("the node runs")?;
        let began = now();
        // The stop runs on another thread, so that the clients continue.
        let status = tokio::task::spawn_blocking(move || node.stop()).await??;
        report.borrow_mut().exits.push(began.elapsed());
        ensure!(status.success(), "kith ended with {status} on a stop request");
        nodes[place] = Some(tokio::task::spawn_blocking(move || Kith::start(&start)).await??);
    }
    over.set(true);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    drop(nodes);
    Ok(report.take())
}

async fn client(
    proxy: SocketAddr,
    accounts: Rc<Vec<LoadAccount>>,
    pairs: Rc<RefCell<Pairs>>,
    over: Rc<Cell<bool>>,
    report: Rc<RefCell<StopReport>>,
) -> Result<()> {
    let mut connection = Connection::open(proxy).await?;
    while !over.get() {
        let Some((from, to)) = pairs.borrow_mut().next() else { bail!("the pairs are used up") };
        let body = json!({"to": {"user_id": accounts[to].id}}).to_string();
        let request = encode_request(
            "POST",
            "/api/v1/partners/requests",
            Some(&accounts[from].token),
            Some(body.as_bytes()),
        );
        let answered = connection.call(&request).await;
        let mut report = report.borrow_mut();
        match answered {
            Ok(200..=299) => report.acknowledged += 1,
            Ok(status) => {
                report.failures.push(format!("{status}: {}", String::from_utf8_lossy(connection.body())))
            }
            Err(error) => {
                report.failures.push(format!("{error:#}"));
                return Ok(());
            }
        }
    }
    Ok(())
}

fn count_requests(server: &PostgresServer) -> Result<u64> {
    use kith_store::{EngineOptions, Error, PostgresOptions, Store, StoreOptions};
    let engine = EngineOptions::Postgres(PostgresOptions::at(server.url("postgres")));
    let options = StoreOptions::new(engine, kith_store::testing::TestVault::with_secret(1));
    on_one_thread(async move {
        let store = Store::open(options).await?;
        let counted: Result<Option<i64>, Error> =
            store.read(|q| q.one("SELECT COUNT(*) FROM partner_requests", &[], |row| row.get(0))).await;
        store.close().await;
        Ok(counted?.unwrap_or(0).cast_unsigned())
    })
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// HAProxy in front of two nodes in a typical configuration: it checks `/readyz` and does not retry requests.
struct Haproxy {
    address: SocketAddr,
    child: Child,
}

impl Haproxy {
    fn start(folder: &Path, nodes: [SocketAddr; 2]) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let [a, b] = nodes;
        let config = folder.join("haproxy.cfg");
        let text = format!(
            "global\n    maxconn 1000\ndefaults\n    mode http\n    timeout connect 2s\n    timeout client 60s\n    \
             timeout server 60s\n    timeout check 5s\n    option redispatch\n    retries 3\nfrontend front\n    bind {address}\n    \
             default_backend nodes\nbackend nodes\n    option httpchk GET /readyz\n    \
             default-server check inter 100ms fall 2 rise 1\n    server a {a}\n    server b {b}\n"
        );
        fs::write(&config, text)?;
        let log = fs::File::create(folder.join("haproxy.log"))?;
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("HAProxy does not start; `cargo xtask setup` installs it")?;
        let haproxy = Self { address, child };
        on_one_thread(haproxy.wait_until_it_listens())?;
        Ok(haproxy)
    }

    async fn wait_until_it_listens(&self) -> Result<()> {
        let began = now();
        while TcpStream::connect(self.address).await.is_err() {
            ensure!(began.elapsed() < HAPROXY_UP_WITHIN, "HAProxy does not listen; see its log");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
