//! Round after round: start, judge what the last blow left, load, strike at a random moment. Ends at the first fault.

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
use super::journal::{Journal, Mark, Told};
use super::look::look;
use super::verdict::{Verdict, judge};
use crate::load::people::{person, registration};
use crate::load::{on_one_thread, send_all_patiently};
use crate::smoke::Mode;

/// A blow falls between these after the load began.
const EARLIEST_MS: u64 = 100;
const LATEST_MS: u64 = 800;
/// No client may wait longer for an answer than Kith lets a request take.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(40);

/// How much there is to a run.
#[derive(Clone, Copy)]
pub struct Size {
    pub rounds: u32,
    pub people: People,
}

/// Accounts of a run.
#[derive(Clone, Copy)]
pub struct People {
    /// Send to one another, and never have a partner.
    pub senders: usize,
    /// What a round may use up.
    pub fresh: usize,
}

impl People {
    /// As many as a full round, or a smoke round, needs.
    pub fn of(mode: Mode) -> Self {
        mode.pick(Self { senders: 1_000, fresh: 1_500 }, Self { senders: 100, fresh: 300 })
    }
}

/// What is struck.
pub trait Target {
    /// Starts what is down; the server answers when this returns.
    ///
    /// # Errors
    /// It does not come up: after a blow, that is a fault.
    fn start(&mut self) -> Result<SocketAddr>;

    /// The blow. What is left may refuse, but must not acknowledge what it does not keep.
    ///
    /// # Errors
    /// The harness itself failed.
    fn strike(&mut self, rng: &mut Rng) -> Result<()>;

    /// Ends what still runs.
    ///
    /// # Errors
    /// It does not end.
    fn end(&mut self) -> Result<()>;
}

/// How it went.
pub struct Report {
    pub name: String,
    pub seed: u64,
    pub rounds: u32,
    pub acknowledged: u64,
    pub unknown: u64,
    pub verdict: Verdict,
    /// Answers that Kith may not give.
    pub surprises: Vec<String>,
    /// Why it did not come up again after a blow.
    pub broken: Option<String>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.verdict.faults() == 0 && self.surprises.is_empty() && self.broken.is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, seed, rounds, acknowledged, unknown, verdict, surprises, broken } = self;
        let Verdict { lost, doubled, half_applied, invented } = verdict;
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
        broken.iter().try_for_each(|broken| write!(f, "\n  - did not come up again: {broken}"))
    }
}

/// Runs up to `size.rounds` rounds against `target`, whose journal is kept at `journal`.
///
/// # Errors
/// The harness failed, or nothing was acknowledged.
pub fn run(name: &str, target: &mut dyn Target, size: Size, seed: u64, journal: &Path) -> Result<Report> {
    let mut rng = Rng::with_seed(seed);
    let mut journal = Rc::new(RefCell::new(Journal::new(journal, size.people.senders, &mut rng)?));
    let mut report = Report {
        name: name.to_owned(),
        seed,
        rounds: 0,
        acknowledged: 0,
        unknown: 0,
        verdict: Verdict::default(),
        surprises: Vec::new(),
        broken: None,
    };
    on_one_thread(strike_again_and_again(target, size, &mut rng, &mut journal, &mut report))?;
    let journal = between_loads(&mut journal);
    (report.acknowledged, report.unknown) = (journal.acknowledged, journal.unknown);
    report.surprises.clone_from(&journal.surprises);
    ensure!(report.acknowledged > 0, "nothing was acknowledged, so nothing was tried");
    Ok(report)
}

async fn strike_again_and_again(
    target: &mut dyn Target,
    size: Size,
    rng: &mut Rng,
    journal: &mut Rc<RefCell<Journal>>,
    report: &mut Report,
) -> Result<()> {
    let mut since = Mark::default();
    for round in 0..=size.rounds {
        let server = match target.start() {
            Ok(server) => server,
            Err(e) if round > 0 => {
                report.broken = Some(format!("{e:#}"));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let is_last = round == size.rounds;
        let known = between_loads(journal);
        report.verdict = review(server, known, if is_last { Mark::default() } else { since }).await?;
        if is_last || report.verdict.faults() > 0 || !known.surprises.is_empty() {
            break;
        }
        since = known.mark()?;
        top_up(server, known, size.people, round)
            .await
            .with_context(|| format!("registering people in round {round}"))?;
        load_and_strike(server, target, rng, journal).await?;
        report.rounds += 1;
        if report.rounds.is_multiple_of(10) {
            eprintln!("  {} rounds, {} acknowledgements", report.rounds, journal.borrow().acknowledged);
        }
    }
    target.end()
}

/// The journal, while no client writes into it.
fn between_loads(journal: &mut Rc<RefCell<Journal>>) -> &mut Journal {
    Rc::get_mut(journal).expect("each client has ended").get_mut()
}

async fn review(server: SocketAddr, journal: &Journal, since: Mark) -> Result<Verdict> {
    let view = look(server, journal, since).await.context("looking at what is left")?;
    Ok(judge(journal, since, &view))
}

/// Registers as many people as a round may use up. Each is an acknowledgement to be kept like any other.
async fn top_up(server: SocketAddr, journal: &mut Journal, people: People, round: u32) -> Result<()> {
    let senders = people.senders.saturating_sub(journal.people.len());
    let missing = senders + people.fresh.saturating_sub(journal.fresh_people());
    let requests = (0..missing).map(|i| registration(&format!("r{round}n{i}"))).collect();
    for (status, body) in send_all_patiently(server, 32, requests).await? {
        match (status, person(&body)) {
            (201, Some(person)) => {
                journal.note("person", &Told::Done(person.id.clone()))?;
                journal.people.push(person);
            }
            // Sent again after an unknown outcome that had come about.
            (409, _) => {}
            _ => bail!("registering gave {status}: {body}"),
        }
    }
    Ok(())
}

async fn load_and_strike(
    server: SocketAddr,
    target: &mut dyn Target,
    rng: &mut Rng,
    journal: &Rc<RefCell<Journal>>,
) -> Result<()> {
    let stop = Rc::new(Cell::new(false));
    let mut clients = clients::start(server, journal, &stop);
    sleep(Duration::from_millis(rng.u64(EARLIEST_MS..=LATEST_MS))).await;
    target.strike(rng)?;
    // What is still up is asked on for a moment, so that what it says in its need is judged too.
    sleep(Duration::from_millis(rng.u64(0..=EARLIEST_MS))).await;
    stop.set(true);
    let ended = timeout(CLIENTS_END_WITHIN, async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    });
    ended.await.context("a client was left without an answer")?
}
