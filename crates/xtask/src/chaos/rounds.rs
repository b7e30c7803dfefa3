//! Rounds of a chaos run. Each round starts the server, compares its state after the previous fault with the
//! journal, generates load, and injects a fault at a random moment. The run stops at the first violation.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use tokio::time::{sleep, timeout};

use super::clients;
use super::journal::{Journal, JournalPosition, WriteOutcome};
use super::server_view::read_view;
use super::verdict::{RoundsVerdict, judge};
use crate::load::accounts::{account, registration};
use crate::load::{on_one_thread, send_all_patiently};
use crate::mode::Mode;

/// Minimum and maximum time from the beginning of the load to the fault, in milliseconds.
const MIN_FAULT_DELAY_MS: u64 = 100;
const MAX_FAULT_DELAY_MS: u64 = 800;
/// Maximum time until all clients have ended. It is longer than Kith's request timeout.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(40);

/// Size of a run.
#[derive(Clone, Copy)]
pub struct Size {
    pub rounds: u32,
    pub accounts: AccountCounts,
}

/// Numbers of accounts of a run.
#[derive(Clone, Copy)]
pub struct AccountCounts {
    /// Number of accounts that send requests to each other and never have a partner.
    pub senders: usize,
    /// Number of new accounts that a round may use for couples.
    pub unused: usize,
}

impl AccountCounts {
    /// Returns the numbers of accounts for a full round or a smoke round.
    pub fn of(mode: Mode) -> Self {
        mode.pick(Self { senders: 1_000, unused: 1_500 }, Self { senders: 100, unused: 300 })
    }
}

/// System under test.
pub trait Target {
    /// Starts all processes that are not running. The server accepts requests when this returns.
    ///
    /// # Errors
    /// Returns an error if a process does not start. After a fault, this is a violation.
    fn start(&mut self) -> Result<SocketAddr>;

    /// Injects the fault. Processes that still run may reject requests, but must not acknowledge writes that
    /// are then lost.
    ///
    /// # Errors
    /// Returns an error if the harness itself fails.
    fn inject_fault(&mut self, rng: &mut Rng) -> Result<()>;

    /// Stops all processes that still run.
    ///
    /// # Errors
    /// Returns an error if a process does not stop.
    fn end(&mut self) -> Result<()>;
}

/// Result of a run.
pub struct RoundsReport {
    pub name: String,
    pub seed: u64,
    pub rounds: u32,
    pub acknowledged: u64,
    pub unknown: u64,
    pub verdict: RoundsVerdict,
    /// Responses that Kith must not send.
    pub invalid_responses: Vec<String>,
    /// Error with which the server failed to start after a fault.
    pub start_failure: Option<String>,
}

impl RoundsReport {
    pub fn is_clean(&self) -> bool {
        self.verdict.faults() == 0 && self.invalid_responses.is_empty() && self.start_failure.is_none()
    }
}

impl fmt::Display for RoundsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            seed,
            rounds,
            acknowledged,
            unknown,
            verdict,
            invalid_responses: surprises,
            start_failure: broken,
        } = self;
        let RoundsVerdict { lost, doubled, half_applied, unexpected: invented } = verdict;
        writeln!(f, "{name} (seed {seed})")?;
        writeln!(f, "  {rounds} rounds, {acknowledged} acknowledgements, {unknown} outcomes unknown")?;
        write!(f, "  {} lost, {} doubled, {} half applied,", lost.len(), doubled.len(), half_applied.len())?;
        write!(f, " {} present against a refusal, {} surprises", invented.len(), surprises.len())?;
        if self.is_clean() {
            let bound = 300.0 / f64::from(*rounds);
            write!(
                f,
                "\n  so with 95 % confidence fewer than 3/{rounds} = {bound:.1} % of such blows lose anything"
            )?;
        }
        for fault in [lost, doubled, half_applied, invented, surprises].into_iter().flatten().take(10) {
            write!(f, "\n  - {fault}")?;
        }
        broken.iter().try_for_each(|broken| write!(f, "\n  - did not start again: {broken}"))
    }
}

/// Runs up to `size.rounds` rounds against `target`, with the journal's file at `journal`.
///
/// # Errors
/// Returns an error if the harness failed, or if nothing was acknowledged.
pub fn run(
    name: &str,
    target: &mut dyn Target,
    size: Size,
    seed: u64,
    journal: &Path,
) -> Result<RoundsReport> {
    let mut rng = Rng::with_seed(seed);
    let mut journal = Rc::new(RefCell::new(Journal::new(journal, size.accounts.senders, &mut rng)?));
    let mut report = RoundsReport {
        name: name.to_owned(),
        seed,
        rounds: 0,
        acknowledged: 0,
        unknown: 0,
        verdict: RoundsVerdict::default(),
        invalid_responses: Vec::new(),
        start_failure: None,
    };
    on_one_thread(run_rounds(target, size, &mut rng, &mut journal, &mut report))?;
    let journal = exclusive_journal(&mut journal);
    (report.acknowledged, report.unknown) = (journal.acknowledged, journal.unknown);
    report.invalid_responses.clone_from(&journal.invalid_responses);
    ensure!(report.acknowledged > 0, "no request was acknowledged, so nothing was tested");
    Ok(report)
}

async fn run_rounds(
    target: &mut dyn Target,
    size: Size,
    rng: &mut Rng,
    journal: &mut Rc<RefCell<Journal>>,
    report: &mut RoundsReport,
) -> Result<()> {
    let mut since = JournalPosition::default();
    for round in 0..=size.rounds {
        let server = match target.start() {
            Ok(server) => server,
            Err(e) if round > 0 => {
                report.start_failure = Some(format!("{e:#}"));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let is_last = round == size.rounds;
        let known = exclusive_journal(journal);
        report.verdict =
            review(server, known, if is_last { JournalPosition::default() } else { since }).await?;
        if is_last || report.verdict.faults() > 0 || !known.invalid_responses.is_empty() {
            break;
        }
        since = known.mark()?;
        register_missing(server, known, size.accounts, round)
            .await
            .with_context(|| format!("registering users in round {round}"))?;
        load_and_inject_fault(server, target, rng, journal).await?;
        report.rounds += 1;
        if report.rounds.is_multiple_of(10) {
            eprintln!("  {} rounds, {} acknowledgements", report.rounds, journal.borrow().acknowledged);
        }
    }
    target.end()
}

/// Returns exclusive access to the journal. All clients must have ended.
fn exclusive_journal(journal: &mut Rc<RefCell<Journal>>) -> &mut Journal {
    Rc::get_mut(journal).expect("each client has ended").get_mut()
}

async fn review(server: SocketAddr, journal: &Journal, since: JournalPosition) -> Result<RoundsVerdict> {
    let view = read_view(server, journal, since).await.context("reading the remaining data")?;
    Ok(judge(journal, since, &view))
}

/// Registers the accounts that a round may use. Each registration is an acknowledged write that must not be
/// lost.
async fn register_missing(
    server: SocketAddr,
    journal: &mut Journal,
    accounts: AccountCounts,
    round: u32,
) -> Result<()> {
    let senders = accounts.senders.saturating_sub(journal.accounts.len());
    let missing = senders + accounts.unused.saturating_sub(journal.unused_accounts());
    let requests = (0..missing).map(|i| registration(&format!("r{round}n{i}"))).collect();
    for (status, body) in send_all_patiently(server, 32, requests).await? {
        match (status, account(&body)) {
            (201, Some(account)) => {
                journal.record_outcome("person", &WriteOutcome::Acknowledged(account.id.clone()))?;
                journal.accounts.push(account);
            }
            // The account exists because an earlier attempt with unknown outcome succeeded.
            (409, _) => {}
            _ => bail!("registering gave {status}: {body}"),
        }
    }
    Ok(())
}

async fn load_and_inject_fault(
    server: SocketAddr,
    target: &mut dyn Target,
    rng: &mut Rng,
    journal: &Rc<RefCell<Journal>>,
) -> Result<()> {
    let stop = Rc::new(Cell::new(false));
    let mut clients = clients::start(server, journal, &stop);
    sleep(Duration::from_millis(rng.u64(MIN_FAULT_DELAY_MS..=MAX_FAULT_DELAY_MS))).await;
    target.inject_fault(rng)?;
    // The load continues for a short time after the fault, so that responses of processes that still run are
    // checked too.
    sleep(Duration::from_millis(rng.u64(0..=MIN_FAULT_DELAY_MS))).await;
    stop.set(true);
    let ended = timeout(CLIENTS_END_WITHIN, async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    });
    ended.await.context("a client got no response")?
}
