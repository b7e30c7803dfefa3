//! Record of the clients' requests and their outcomes. The server's state is compared with it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use fastrand::Rng;

use crate::load::Pairs;
use crate::load::accounts::LoadAccount;

/// Outcome of a write, as far as the client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The write was not sent, or was rejected by a response that guarantees that nothing was changed.
    NotApplied,
    /// There was no response, or the response says that the outcome is unknown. The write may or may not
    /// exist.
    Unknown,
    /// The write was acknowledged. Contains the id of the new object.
    Acknowledged(String),
}

/// Partner request that the recipient does not answer.
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
    /// Outcome of accepting the request, with the id of the bond.
    pub accepted: WriteOutcome,
}

/// Record of all requests of a run, in memory and as lines of a file.
pub struct Journal {
    pub accounts: Vec<LoadAccount>,
    pub sent_requests: Vec<SentRequest>,
    pub couples: Vec<CoupleScenario>,
    /// Responses that Kith must not send.
    pub invalid_responses: Vec<String>,
    pub acknowledged: u64,
    pub unknown: u64,
    pairs: Pairs,
    /// Number of accounts that only send partner requests. They are the first ones of `accounts`.
    senders: usize,
    /// Index in `accounts` of the first account that has not been used in a couple scenario.
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

    /// Records the outcome of the request described by `what`.
    pub fn record_outcome(&mut self, what: &str, outcome: &WriteOutcome) -> Result<()> {
        match outcome {
            WriteOutcome::NotApplied => return Ok(()),
            WriteOutcome::Unknown => self.unknown += 1,
            WriteOutcome::Acknowledged(_) => self.acknowledged += 1,
        }
        let id = if let WriteOutcome::Acknowledged(id) = outcome { id } else { "unknown" };
        writeln!(self.file, "{what} {id}").context("the journal's file")
    }

    /// Returns two senders between whom no request has been sent.
    pub fn next_pair(&mut self) -> Option<(usize, usize)> {
        self.pairs.next()
    }

    /// Returns a sender, and two unused accounts for a couple scenario.
    pub fn next_couple(&mut self) -> Option<(usize, usize, usize)> {
        let a = self.first_unused;
        (a + 1 < self.accounts.len()).then(|| {
            self.first_unused += 2;
            (a % self.senders, a, a + 1)
        })
    }

    /// Returns the number of accounts that are still unused.
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
