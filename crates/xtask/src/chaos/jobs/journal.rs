//! Record of what the processes reported and which faults were injected. The database is compared with it
//! after the run.

use std::collections::HashMap;

/// Execution of one attempt, as reported by the process that ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub process: usize,
    pub job: i64,
    pub attempt: i64,
    pub began_ms: i64,
    /// Time at which the attempt ended. `None` if the process did not report it.
    pub ended_ms: Option<i64>,
}

/// Faults injected into one process.
#[derive(Clone, Debug, Default)]
pub struct ProcessFaults {
    pub killed_ms: Option<i64>,
    /// Start and end of the periods in which the process was frozen.
    pub frozen_ms: Vec<(i64, i64)>,
}

/// Complete record of a run.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Ids of acknowledged jobs, by the number that the enqueuer assigned.
    pub acknowledged: HashMap<i64, i64>,
    pub attempts: Vec<Attempt>,
    pub process_faults: Vec<ProcessFaults>,
    /// Highest number under which any process tried to enqueue a job.
    pub max_number: i64,
    /// Number of unfinished jobs at the last query.
    pub left: Option<i64>,
    /// Number of rejected stale reports, from processes that stopped gracefully.
    pub stale: i64,
    open: HashMap<(usize, i64, i64), usize>,
}

impl Journal {
    /// Adds a process and returns its number.
    pub fn add_process(&mut self) -> usize {
        self.process_faults.push(ProcessFaults::default());
        self.process_faults.len() - 1
    }

    /// Records one line of the output of a process.
    pub fn record_line(&mut self, process: usize, line: &str) {
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let numbers: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
        match (word, &*numbers) {
            ("t", [n]) => self.max_number = self.max_number.max(*n),
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
            // Line that was truncated by a kill.
            _ => {}
        }
    }
}
