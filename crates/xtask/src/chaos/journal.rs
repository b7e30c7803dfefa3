//! Record of the clients' requests and their outcomes, with which the server's state is compared.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use fastrand::Rng;

use crate::load::Pairs;
use crate::load::accounts::LoadAccount;

/// Outcome of a write as far as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Not sent, or rejected by a response that guarantees that nothing was changed.
    NotApplied,
    /// No response, or one that reports an unknown outcome. Both states are correct.
    Unknown,
    /// Acknowledged, with the id of the new object.
    Acknowledged(String),
}

/// Partner request that stays pending.
#[derive(Clone, Debug)]
pub struct SentRequest {
    pub from: usize,
    pub to: usize,
    pub outcome: WriteOutcome,
}

/// Scenario: a sender requests `a`, `a` requests `b`, and `b` accepts, which supersedes the sender's request.
#[derive(Clone, Debug)]
pub struct CoupleScenario {
    pub a: usize,
    pub b: usize,
    pub senders_request: SentRequest,
    pub request_outcome: WriteOutcome,
    /// Outcome of the accept, with the bond's id.
    pub accepted: WriteOutcome,
}

/// Complete record in memory and, line by line, in a file.
pub struct Journal {
    pub accounts: Vec<LoadAccount>,
    pub sent_requests: Vec<SentRequest>,
    pub couples: Vec<CoupleScenario>,
    /// Responses that Kith must not send.
    pub invalid_responses: Vec<String>,
    pub acknowledged: u64,
    pub unknown: u64,
    pairs: Pairs,
    /// Number of `accounts`, from the first, that only send plain requests.
    senders: usize,
    /// Index of the first of `accounts` that has not been in a couple.
    first_unused: usize,
    file: BufWriter<File>,
}

/// Position in the journal.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalPosition {
    pub accounts: usize,
    pub sent_requests: usize,
    pub couples: usize,
}

impl Journal {
    /// Creates an empty journal with its file at `path`.
    pub fn new(path: &Path, senders: usize, rng: &mut Rng) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            accounts: Vec::new(),
            sent_requests: Vec::new(),
            couples: Vec::new(),
            invalid_responses: Vec::new(),
            acknowledged: 0,
            unknown: 0,
            pairs: Pairs::new(senders, rng),
            senders,
            first_unused: senders,
            file: BufWriter::new(file),
        })
    }

    /// Records the outcome of `what`.
    pub fn record_outcome(&mut self, what: &str, outcome: &WriteOutcome) -> Result<()> {
        match outcome {
            WriteOutcome::NotApplied => return Ok(()),
            WriteOutcome::Unknown => self.unknown += 1,
            WriteOutcome::Acknowledged(_) => self.acknowledged += 1,
        }
        let id = if let WriteOutcome::Acknowledged(id) = outcome { id } else { "unknown" };
        writeln!(self.file, "{what} {id}").context("the journal's file")
    }

    /// Returns two senders who have not met.
    pub fn next_pair(&mut self) -> Option<(usize, usize)> {
        self.pairs.next()
    }

    /// Returns a sender and two accounts without a history.
    pub fn next_couple(&mut self) -> Option<(usize, usize, usize)> {
        let a = self.first_unused;
        (a + 1 < self.accounts.len()).then(|| {
            self.first_unused += 2;
            (a % self.senders, a, a + 1)
        })
    }

    /// Returns the number of accounts that are left for couples.
    pub fn unused_accounts(&self) -> usize {
        self.accounts.len().saturating_sub(self.first_unused)
    }

    /// Flushes the file and returns the current position.
    pub fn mark(&mut self) -> Result<JournalPosition> {
        self.file.flush()?;
        Ok(JournalPosition {
            accounts: self.accounts.len(),
            sent_requests: self.sent_requests.len(),
            couples: self.couples.len(),
        })
    }
}
