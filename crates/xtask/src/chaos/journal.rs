//! What the clients asked for and what they were told: the record that the server's state is judged by.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use fastrand::Rng;

use crate::load::Pairs;
use crate::load::people::Person;

/// What is known of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was never sent, or refused by an answer that promises that nothing was changed.
    Nothing,
    /// No answer came, or one that says that the outcome is not known: either is right.
    Unknown,
    /// It was acknowledged; the id it was given.
    Done(String),
}

/// A request from one sender to another, which nobody decides.
#[derive(Clone, Debug)]
pub struct Ask {
    pub from: usize,
    pub to: usize,
    pub told: Told,
}

/// A sender asks `a`; `a` asks `b`; `b` accepts, which closes the sender's request.
#[derive(Clone, Debug)]
pub struct Couple {
    pub a: usize,
    pub b: usize,
    pub by_sender: Ask,
    pub asked: Told,
    /// With the bond's id.
    pub accepted: Told,
}

/// Everything since the beginning, in memory and, line by line, in a file.
pub struct Journal {
    pub people: Vec<Person>,
    pub asks: Vec<Ask>,
    pub couples: Vec<Couple>,
    /// Answers that neither acknowledge nor excuse themselves: each is a fault.
    pub surprises: Vec<String>,
    pub acknowledged: u64,
    pub unknown: u64,
    pairs: Pairs,
    /// How many of `people`, from the first, only send to one another.
    senders: usize,
    /// The first of `people` that has not been in a couple.
    fresh: usize,
    file: BufWriter<File>,
}

/// How far the journal had come at some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    pub people: usize,
    pub asks: usize,
    pub couples: usize,
}

impl Journal {
    /// An empty journal whose file is at `path`.
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

    /// Writes down what a client was told about `what`.
    pub fn note(&mut self, what: &str, told: &Told) -> Result<()> {
        match told {
            Told::Nothing => return Ok(()),
            Told::Unknown => self.unknown += 1,
            Told::Done(_) => self.acknowledged += 1,
        }
        let id = if let Told::Done(id) = told { id } else { "unknown" };
        writeln!(self.file, "{what} {id}").context("the journal's file")
    }

    /// Two senders who have not met.
    pub fn next_pair(&mut self) -> Option<(usize, usize)> {
        self.pairs.next()
    }

    /// A sender and two people without a past.
    pub fn next_couple(&mut self) -> Option<(usize, usize, usize)> {
        let a = self.fresh;
        (a + 1 < self.people.len()).then(|| {
            self.fresh += 2;
            (a % self.senders, a, a + 1)
        })
    }

    /// How many people there are still to make couples of.
    pub fn fresh_people(&self) -> usize {
        self.people.len().saturating_sub(self.fresh)
    }

    /// How far it has come, with everything before in the file.
    pub fn mark(&mut self) -> Result<Mark> {
        self.file.flush()?;
        Ok(Mark { people: self.people.len(), asks: self.asks.len(), couples: self.couples.len() })
    }
}
