//! Compares the final content of the database with the journal and lists violations. Does no I/O.

use std::collections::{HashMap, HashSet};

use super::journal::{Attempt, Journal};

/// Number of the state "completed" in the job history.
const COMPLETED: i64 = 4;

/// Final content of the database.
#[derive(Clone, Debug, Default)]
pub struct FinalState {
    pub live: HashSet<i64>,
    pub dead: HashSet<i64>,
    /// Job id, state and attempt of each history row.
    pub history: Vec<(i64, i64, i64)>,
    /// Number of effects of each job, by the number that the enqueuer assigned.
    pub effects: HashMap<i64, u64>,
}

/// Result of comparing the database with the journal.
#[derive(Clone, Debug, Default)]
pub struct JobVerdict {
    pub acknowledged: usize,
    pub executed: usize,
    pub pending: usize,
    pub dead: usize,
    /// Number of jobs with more than one attempt.
    pub run_again: usize,
    /// Number of attempts that were frozen while they ran, and number of those whose report was rejected.
    pub frozen: usize,
    pub fenced_off: usize,
    /// Acknowledged jobs that the database does not contain.
    pub lost: Vec<String>,
    /// Effects of jobs that happened twice, or that are missing although the job is completed.
    pub wrong_effects: Vec<String>,
    /// Accepted reports of attempts that were not the last of their job, and jobs that ended twice.
    pub stale_accepted: Vec<String>,
    /// Attempts of one job that ran at the same time although neither was frozen.
    pub concurrent: Vec<String>,
}

impl FinalState {
    /// Parses the dump of the database that the test program prints.
    pub fn read(output: &str) -> Self {
        let mut final_state = Self::default();
        for line in output.lines() {
            let mut words = line.split(' ');
            let word = words.next().unwrap_or_default();
            let numbers: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
            match (word, &*numbers) {
                ("l", [job, ..]) => final_state.live.extend([*job]),
                ("d", [job, ..]) => final_state.dead.extend([*job]),
                ("h", [job, state, attempt]) => final_state.history.push((*job, *state, *attempt)),
                ("x", [n, ..]) => *final_state.effects.entry(*n).or_default() += 1,
                _ => {}
            }
        }
        final_state
    }
}

impl JobVerdict {
    /// Compares the final content of the database with the journal.
    pub fn of(journal: &Journal, final_state: &FinalState) -> Self {
        let mut verdict = Self {
            acknowledged: journal.acknowledged.len(),
            pending: final_state.live.len(),
            dead: final_state.dead.len(),
            ..Self::default()
        };
        let completed: HashSet<_> =
            final_state.history.iter().filter(|row| row.1 == COMPLETED).map(|row| row.0).collect();
        for (n, job) in &journal.acknowledged {
            let is_there =
                completed.contains(job) || final_state.live.contains(job) || final_state.dead.contains(job);
            if !is_there {
                verdict.lost.push(format!("number {n}, job {job}"));
            }
            if completed.contains(job) {
                verdict.executed += 1;
                if !final_state.effects.contains_key(n) {
                    verdict.wrong_effects.push(format!("number {n}: completed without its effect"));
                }
            }
        }
        let doubled = final_state.effects.iter().filter(|(_, times)| **times > 1);
        verdict.wrong_effects.extend(doubled.map(|(n, times)| format!("number {n}: {times} effects")));
        verdict.judge_attempts(journal, final_state);
        verdict
    }

    fn judge_attempts(&mut self, journal: &Journal, final_state: &FinalState) {
        let mut by_job: HashMap<i64, Vec<Attempt>> = HashMap::new();
        journal.attempts.iter().for_each(|attempt| by_job.entry(attempt.job).or_default().push(*attempt));
        let mut accepted = HashMap::new();
        for (job, _, attempt) in &final_state.history {
            if accepted.insert(*job, *attempt).is_some() {
                self.stale_accepted.push(format!("job {job} ended twice"));
            }
        }
        for (job, attempts) in &mut by_job {
            attempts.sort_by_key(|attempt| (attempt.began_ms, attempt.attempt));
            self.run_again += usize::from(attempts.len() > 1);
            let last = attempts.iter().map(|attempt| attempt.attempt).max().unwrap_or(0);
            if let Some(accepted) = accepted.get(job).filter(|accepted| **accepted < last) {
                self.stale_accepted.push(format!("job {job}: attempt {accepted} ended it, {last} had begun"));
            }
            for frozen in attempts.iter().filter(|attempt| was_frozen(journal, attempt)) {
                self.frozen += 1;
                let is_late = frozen.ended_ms.is_some() && accepted.get(job) != Some(&frozen.attempt);
                self.fenced_off += usize::from(is_late);
            }
            self.check_concurrent_attempts(journal, attempts);
        }
    }

    fn check_concurrent_attempts(&mut self, journal: &Journal, attempts: &[Attempt]) {
        let awake: Vec<_> = attempts.iter().filter(|attempt| !was_frozen(journal, attempt)).collect();
        for (at, first) in awake.iter().enumerate() {
            let end = end_of(journal, first);
            for second in &awake[at + 1..] {
                if end.is_none_or(|end| second.began_ms < end) {
                    self.concurrent.push(format!(
                        "job {}: attempt {} from {} to {end:?} in process {}, attempt {} from {} in process {}",
                        first.job,
                        first.attempt,
                        first.began_ms,
                        first.process,
                        second.attempt,
                        second.began_ms,
                        second.process
                    ));
                }
            }
        }
    }

    /// Returns true if there are no violations and no pending jobs.
    pub fn is_clean(&self) -> bool {
        let faults = [&self.lost, &self.wrong_effects, &self.stale_accepted, &self.concurrent];
        self.pending == 0 && faults.iter().all(|faults| faults.is_empty())
    }

    /// Returns at most ten violations of each kind.
    pub fn faults(&self) -> Vec<String> {
        let named = [
            ("lost", &self.lost),
            ("effect", &self.wrong_effects),
            ("stale", &self.stale_accepted),
            ("together", &self.concurrent),
        ];
        let all = named
            .into_iter()
            .flat_map(|(name, faults)| faults.iter().take(10).map(move |fault| format!("{name}: {fault}")));
        all.collect()
    }
}

/// Returns the time at which an attempt ended: its report, or the kill of its process. `None` if neither
/// happened.
fn end_of(journal: &Journal, attempt: &Attempt) -> Option<i64> {
    attempt.ended_ms.or(journal.process_faults[attempt.process].killed_ms)
}

/// Returns true if the process was frozen during the attempt. The job may then run in another process at the
/// same time.
fn was_frozen(journal: &Journal, attempt: &Attempt) -> bool {
    let end = end_of(journal, attempt).unwrap_or(i64::MAX);
    let frozen = &journal.process_faults[attempt.process].frozen_ms;
    frozen.iter().any(|(from, to)| attempt.began_ms <= *to && end >= *from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a consistent record of one job, run by process 0 and completed.
    fn consistent_state() -> (Journal, FinalState) {
        let mut journal = Journal::default();
        journal.add_process();
        journal.add_process();
        ["t 7", "a 7 70", "b 70 1 1000", "e 70 1 1010"].iter().for_each(|line| journal.record_line(0, line));
        (journal, FinalState::read("h 70 4 1\nx 7 0 0\n"))
    }

    #[test]
    fn consistent_state_has_no_violations() {
        let (journal, final_state) = consistent_state();
        let verdict = JobVerdict::of(&journal, &final_state);
        assert!(verdict.is_clean(), "{:?}", verdict.faults());
        assert_eq!((verdict.acknowledged, verdict.executed, verdict.run_again), (1, 1, 0));
    }

    #[test]
    fn each_violation_is_detected() {
        let judged = |change: fn(&mut Journal, &mut FinalState)| {
            let (mut journal, mut final_state) = consistent_state();
            change(&mut journal, &mut final_state);
            let verdict = JobVerdict::of(&journal, &final_state);
            assert!(!verdict.is_clean());
            verdict
        };
        assert_eq!(judged(|_, final_state| final_state.history.clear()).lost.len(), 1);
        assert_eq!(judged(|_, final_state| final_state.effects.clear()).wrong_effects.len(), 1);
        assert_eq!(judged(|_, final_state| final_state.effects.extend([(7, 2)])).wrong_effects.len(), 1);
        assert_eq!(judged(|_, final_state| final_state.history.push((70, 4, 1))).stale_accepted.len(), 1);
        assert_eq!(judged(|journal, _| journal.record_line(1, "b 70 2 1020")).stale_accepted.len(), 1);
        assert_eq!(judged(|_, final_state| final_state.live.extend([71])).pending, 1);
        let together = |journal: &mut Journal, final_state: &mut FinalState| {
            journal.record_line(1, "b 70 2 1005");
            journal.record_line(1, "e 70 2 1006");
            final_state.history[0].2 = 2;
        };
        assert_eq!(judged(together).concurrent.len(), 1);
    }

    #[test]
    fn frozen_or_killed_attempts_are_not_concurrent() {
        let (mut journal, mut final_state) = consistent_state();
        journal.attempts[0].ended_ms = Some(9_000);
        journal.process_faults[0].frozen_ms.push((1_005, 8_990));
        journal.record_line(1, "b 70 2 8000");
        journal.record_line(1, "e 70 2 8001");
        final_state.history[0].2 = 2;
        let verdict = JobVerdict::of(&journal, &final_state);
        assert!(verdict.is_clean(), "{:?}", verdict.faults());
        assert_eq!((verdict.frozen, verdict.fenced_off, verdict.run_again), (1, 1, 1));

        journal.process_faults[0].frozen_ms.clear();
        journal.attempts[0].ended_ms = None;
        journal.process_faults[0].killed_ms = Some(1_500);
        assert!(JobVerdict::of(&journal, &final_state).is_clean());
        journal.process_faults[0].killed_ms = Some(8_500);
        assert_eq!(JobVerdict::of(&journal, &final_state).concurrent.len(), 1);
    }
}
