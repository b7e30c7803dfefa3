//! Settlement of ended jobs. To settle an ended job means to release its unique key and to update its
//! dependents, which are the jobs that wait for it. If there are many dependents, this takes several
//! transactions.

use std::collections::VecDeque;

use kith_kernel::Timestamp;
use kith_store::{Error, Tx};

use crate::jobs::Jobs;
use crate::model::{Failure, JobId, JobState};
use crate::rows::dependencies::Settlement;
use crate::rows::unsettled::UnsettledJob;
use crate::{queue_channel, rows};

/// Maximum number of dependents that one transaction updates.
const MAX_SETTLED: i64 = 500;
/// Number of deferred settlements read at once.
const SETTLEMENT_BATCH: i64 = 50;
/// Maximum number of times that one transaction reads deferred settlements. It stops earlier after it has
/// updated [`MAX_SETTLED`] dependents.
const MAX_SETTLEMENT_BATCHES: usize = 20;
/// Maximum number of transactions in which one run of maintenance processes deferred settlements. The rest
/// waits for the next run, so that other maintenance is not delayed.
const MAX_SETTLE_TRANSACTIONS: usize = 20;

/// Number of dependents that a transaction may still update. All jobs that end in the transaction share it.
pub(crate) struct DependentUpdateBudget(i64);

impl Default for DependentUpdateBudget {
    fn default() -> Self {
        Self(MAX_SETTLED)
    }
}

/// Moves a job that is not running to the dead letters. Returns the data with which the caller releases its
/// unique key and updates its dependents, or `None` if the job was not moved.
pub(crate) fn move_waiting_to_dead_letters(
    tx: &Tx<'_>,
    job: JobId,
    why: &str,
    now: Timestamp,
) -> Result<Option<UnsettledJob>, Error> {
    if rows::live::lock_job(tx, job)?.is_none_or(|state| state == JobState::Running) {
        return Ok(None);
    }
    let failure = Failure { attempt: 0, at: now, error: why.to_owned() };
    let errors = serde_json::to_string(&[failure]).unwrap_or_default();
    if !rows::ended::insert_dead(tx, job, 0, Some(&errors), now)? {
        return Ok(None);
    }
    let deleted = rows::live::delete_waiting(tx, job)?;
    Ok(deleted.map(|(unique_key, has_dependents)| UnsettledJob { id: job, unique_key, has_dependents }))
}

/// Releases the unique key of an ended job and updates its dependents, as far as the transaction's budget
/// allows. Dependents that go to the dead letters are settled in the same way. The rest is deferred to
/// maintenance.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub(crate) fn settle(
    tx: &Tx<'_>,
    left: &UnsettledJob,
    state: JobState,
    result: Option<&str>,
    now: Timestamp,
    budget: &mut DependentUpdateBudget,
) -> Result<(), Error> {
    if let Some(key) = &left.unique_key {
        rows::dependencies::release_key(tx, key, left.id, now)?;
    }
    if !left.has_dependents {
        return Ok(());
    }
    let ended = Settlement { job: left.id, state, result: result.map(str::to_owned) };
    settle_dependents(tx, VecDeque::from([ended]), now, budget)
}

fn settle_dependents(
    tx: &Tx<'_>,
    mut ended: VecDeque<Settlement>,
    now: Timestamp,
    DependentUpdateBudget(left): &mut DependentUpdateBudget,
) -> Result<(), Error> {
    while let Some(one) = ended.pop_front() {
        let dependents = if *left > 0 { rows::dependencies::settle(tx, &one, *left)? } else { Vec::new() };
        *left -= dependents.len() as i64;
        for (dependent, on_failure) in dependents {
            if one.state == JobState::Completed || on_failure != 0 {
                if let Some(queue) = rows::dependencies::decrement_pending_dependencies(tx, dependent, now)? {
                    tx.notify(queue_channel(&queue));
                }
                continue;
            }
            let why = format!("dependency {} is {}", one.job, one.state.as_str());
            let Some(dead) = move_waiting_to_dead_letters(tx, dependent, &why, now)? else { continue };
            if let Some(key) = &dead.unique_key {
                rows::dependencies::release_key(tx, key, dead.id, now)?;
            }
            if dead.has_dependents {
                ended.push_back(Settlement { job: dead.id, state: JobState::Dead, result: None });
            }
        }
        if *left == 0 {
            rows::dependencies::defer_settlement(tx, &one)?;
        }
    }
    Ok(())
}

impl Jobs {
    /// Processes the settlements that were deferred because the budget of a transaction was exhausted.
    pub(crate) async fn settle_deferred(&self) -> Result<(), Error> {
        for _ in 0..MAX_SETTLE_TRANSACTIONS {
            if !self.db().read(rows::dependencies::has_settlements).await? {
                break;
            }
            let now = self.inner().sources.clock.now();
            self.db().write(move |tx| settle_batch(tx, now)).await?;
        }
        Ok(())
    }
}

/// Processes deferred settlements until the transaction's budget is exhausted or no settlement is left.
fn settle_batch(tx: &Tx<'_>, now: Timestamp) -> Result<(), Error> {
    tx.lock("job settlements", ["all"])?;
    let mut budget = DependentUpdateBudget::default();
    for _ in 0..MAX_SETTLEMENT_BATCHES {
        let taken = rows::dependencies::take_settlements(tx, SETTLEMENT_BATCH)?;
        let is_last = (taken.len() as i64) < SETTLEMENT_BATCH;
        settle_dependents(tx, taken.into(), now, &mut budget)?;
        if is_last || budget.0 == 0 {
            break;
        }
    }
    Ok(())
}
