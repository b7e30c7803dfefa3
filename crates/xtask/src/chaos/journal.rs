//! Record of the clients' requests and their outcomes, with which the server's state is compared.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use fastrand::Rng;

use crate::load::Pairs;
use crate::load::people::Person;

/// Outcome of a write as far as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Not sent, or rejected by a response that guarantees that nothing was changed.
    Nothing,
    /// No response, or one that reports an unknown outcome. Both states are correct.
    Unknown,
    /// Acknowledged, with the id of the new object.
    Done(String),
}

/// Partner request that stays pending.
#[derive(Clone, Debug)]
pub struct Ask {
    pub from: usize,
    pub to: usize,
    pub told: Told,
}

/// Scenario: a sender requests `a`, `a` requests `b`, and `b` accepts, which supersedes the sender's request.
#[derive(Clone, Debug)]
pub struct Couple {
    pub a: usize,
    pub b: usize,
    pub by_sender: Ask,
    pub asked: Told,
    /// Outcome of the accept, with the bond's id.
    pub accepted: Told,
}

/// Complete record in memory and, line by line, in a file.
pub struct Journal {
    pub people: Vec<Person>,
    pub asks: Vec<Ask>,
    pub couples: Vec<Couple>,
    /// Responses that Kith must not send.
    pub surprises: Vec<String>,
    pub acknowledged: u64,
    pub unknown: u64,
    pairs: Pairs,
    /// Number of `people`, from the first, that only send plain requests.
    senders: usize,
    /// Index of the first of `people` that has not been in a couple.
    fresh: usize,
    file: BufWriter<File>,
}

/// Position in the journal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    pub people: usize,
    pub asks: usize,
    pub couples: usize,
}

impl Journal {
    /// Creates an empty journal with its file at `path`.
    pub fn new(path: &Path, senders: usize, rng: &mut Rng) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            people: Vec::new(),
            asks: Vec::new(),
            couples: Vec::new(),
            surprises: Vec::new(),
            acknowledged: 0,
            unknown: 0,
            pairs: Pairs::new(senders, rng),
            senders,
            fresh: senders,
            file: BufWriter::new(file),
        })
    }

    /// Records the outcome of `what`.
    pub fn note(&mut self, what: &str, told: &Told) -> Result<()> {
        match told {
            Told::Nothing => return Ok(()),
            Told::Unknown => self.unknown += 1,
            Told::Done(_) => self.acknowledged += 1,
        }
        let id = if let Told::Done(id) = told { id } else { "unknown" };
        writeln!(self.file, "{what} {id}").context("the journal's file")
    }

    /// Returns two senders who have not met.
    pub fn next_pair(&mut self) -> Option<(usize, usize)> {
        self.pairs.next()
    }

    /// Returns a sender and two accounts without a history.
    pub fn next_couple(&mut self) -> Option<(usize, usize, usize)> {
        let a = self.fresh;
        (a + 1 < self.people.len()).then(|| {
            self.fresh += 2;
            (a % self.senders, a, a + 1)
        })
    }

    /// Returns the number of accounts that are left for couples.
    pub fn fresh_people(&self) -> usize {
        self.people.len().saturating_sub(self.fresh)
    }

    /// Flushes the file and returns the current position.
    pub fn mark(&mut self) -> Result<Mark> {
        self.file.flush()?;
        Ok(Mark { people: self.people.len(), asks: self.asks.len(), couples: self.couples.len() })
    }
}
