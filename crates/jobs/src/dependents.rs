//! Release of an ended job's unique key, and updates of its dependents, which are the jobs that wait for it. If
//! there are many dependents, this takes several transactions.

use std::collections::VecDeque;

use kith_kernel::Timestamp;
use kith_store::{Error, Tx};

use crate::jobs::Jobs;
use crate::model::{Failure, JobId, JobState};
use crate::rows::dependencies::DependentUpdate;
use crate::rows::releases::JobRelease;
use crate::{queue_channel, rows};

/// Maximum number of dependents that one transaction updates.
const MAX_UPDATED_DEPENDENTS: i64 = 500;
/// Number of deferred dependent updates read at once.
const DEFERRED_UPDATE_BATCH: i64 = 50;
/// Maximum number of times that one transaction reads deferred dependent updates. It stops earlier after it has
/// updated [`MAX_UPDATED_DEPENDENTS`] dependents.
const MAX_DEFERRED_UPDATE_BATCHES: usize = 20;
/// Maximum number of transactions in which one run of maintenance processes deferred dependent updates. The rest
/// waits for the next run, so that other maintenance is not delayed.
const MAX_DEFERRED_UPDATE_TRANSACTIONS: usize = 20;

/// Number of dependents that a transaction may still update. All jobs that end in the transaction share it.
pub(crate) struct DependentUpdateBudget(i64);

impl Default for DependentUpdateBudget {
    fn default() -> Self {
        Self(MAX_UPDATED_DEPENDENTS)
    }
}

/// Moves a job that is not running to the dead letters. Returns the data with which the caller releases its
/// unique key and updates its dependents, or `None` if the job was not moved.
pub(crate) fn move_waiting_to_dead_letters(
    tx: &Tx<'_>,
    job: JobId,
    why: &str,
    now: Timestamp,
) -> Result<Option<JobRelease>, Error> {
    if rows::live::lock_job(tx, job)?.is_none_or(|state| state == JobState::Running) {
        return Ok(None);
    }
    let failure = Failure { attempt: 0, at: now, error: why.to_owned() };
    let errors = serde_json::to_string(&[failure]).unwrap_or_default();
    if !rows::ended::insert_dead(tx, job, 0, Some(&errors), now)? {
        return Ok(None);
    }
    let deleted = rows::live::delete_waiting(tx, job)?;
    Ok(deleted.map(|(unique_key, has_dependents)| JobRelease { id: job, unique_key, has_dependents }))
}

/// Releases the unique key of an ended job and updates its dependents, as far as the transaction's budget
/// allows. Dependents that go to the dead letters are released in the same way. The rest is deferred to
/// maintenance.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub(crate) fn release_dependents(
    tx: &Tx<'_>,
    left: &JobRelease,
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
    let ended = DependentUpdate { job: left.id, state, result: result.map(str::to_owned) };
    update_all_dependents(tx, VecDeque::from([ended]), now, budget)
}

fn update_all_dependents(
    tx: &Tx<'_>,
    mut ended: VecDeque<DependentUpdate>,
    now: Timestamp,
    DependentUpdateBudget(left): &mut DependentUpdateBudget,
) -> Result<(), Error> {
    while let Some(one) = ended.pop_front() {
        let dependents =
            if *left > 0 { rows::dependencies::update_dependents(tx, &one, *left)? } else { Vec::new() };
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
                ended.push_back(DependentUpdate { job: dead.id, state: JobState::Dead, result: None });
            }
        }
        if *left == 0 {
            rows::dependencies::defer_dependent_update(tx, &one)?;
        }
    }
    Ok(())
}

impl Jobs {
    /// Processes the dependent updates that were deferred because the budget of a transaction was exhausted.
    pub(crate) async fn run_deferred_updates(&self) -> Result<(), Error> {
        for _ in 0..MAX_DEFERRED_UPDATE_TRANSACTIONS {
            if !self.db().read(rows::dependencies::has_dependent_updates).await? {
                break;
            }
            let now = self.inner().sources.clock.now();
            self.db().write(move |tx| run_deferred_update_batch(tx, now)).await?;
        }
        Ok(())
    }
}

/// Processes deferred dependent updates until the transaction's budget is exhausted or no dependent update is left.
fn run_deferred_update_batch(tx: &Tx<'_>, now: Timestamp) -> Result<(), Error> {
    tx.lock("job dependent updates", ["all"])?;
    let mut budget = DependentUpdateBudget::default();
    for _ in 0..MAX_DEFERRED_UPDATE_BATCHES {
        let taken = rows::dependencies::take_dependent_updates(tx, DEFERRED_UPDATE_BATCH)?;
        let is_last = (taken.len() as i64) < DEFERRED_UPDATE_BATCH;
        update_all_dependents(tx, taken.into(), now, &mut budget)?;
        if is_last || budget.0 == 0 {
            break;
        }
    }
    Ok(())
}
