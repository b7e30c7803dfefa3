//! What the processes said and what was done to them: the record that the database is judged by.

use std::collections::HashMap;

/// A run of one attempt, as its process told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub process: usize,
    pub job: i64,
    pub attempt: i64,
    pub began_ms: i64,
    /// None if its process never said so.
    pub ended_ms: Option<i64>,
}

/// What became of one process.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    pub killed_ms: Option<i64>,
    /// From and to.
    pub frozen_ms: Vec<(i64, i64)>,
}

/// Everything since the beginning.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// By number: the job that was acknowledged.
    pub acknowledged: HashMap<i64, i64>,
    pub attempts: Vec<Attempt>,
    pub fates: Vec<Fate>,
    /// The greatest number that anybody tried.
    pub tried: i64,
    /// Jobs that have not ended, when it was last asked.
    pub left: Option<i64>,
    /// Reports that came too late, of processes that left in peace.
    pub stale: i64,
    open: HashMap<(usize, i64, i64), usize>,
}

impl Journal {
    /// A process more.
    pub fn add_process(&mut self) -> usize {
        self.fates.push(Fate::default());
        self.fates.len() - 1
    }

    /// Writes down what a process said.
    pub fn hear(&mut self, process: usize, line: &str) {
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let numbers: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
        match (word, &*numbers) {
            ("t", [n]) => self.tried = self.tried.max(*n),
            ("a", [n, job]) => self.acknowledged.extend([(*n, *job)]),
            ("b", [job, attempt, began_ms]) => {
                let (job, attempt, began_ms) = (*job, *attempt, *began_ms);
                self.open.insert((process, job, attempt), self.attempts.len());
                self.attempts.push(Attempt { process, job, attempt, began_ms, ended_ms: None });
            }
            ("e", [job, attempt, ended_ms]) => {
                if let Some(at) = self.open.remove(&(process, *job, *attempt)) {
                    self.attempts[at].ended_ms = Some(*ended_ms);
                }
            }
            ("q", [left]) => self.left = Some(*left),
            ("s", [stale]) => self.stale += stale,
            // A line that was cut by a kill.
            _ => {}
        }
    }
}
