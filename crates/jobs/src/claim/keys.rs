//! Claims in queues with limits per key. Keys take turns, and jobs without a key get up to half of each
//! claim.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_kernel::Timestamp;
use kith_store::{Error, Tx};

use super::{ClaimState, FoundJobs};
use crate::model::{ClaimedJob, JobId};
use crate::queues::{QueueSettings, remaining_starts};
use crate::rows;
use crate::rows::claims::Claimer;

/// Maximum number of keys examined per claim.
const MAX_KEYS: i64 = 500;
/// Delay before the next claim if no examined key admits a job and more keys follow.
const MORE_KEYS_DELAY: Duration = Duration::from_millis(100);

/// Claims jobs key by key, within the limits of each key, starting after the last key examined. Jobs with a
/// key and jobs without a key each get half of the claim, and can use what the other half leaves unused.
pub(super) fn claim_by_keys(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    limit: i64,
    settings: &QueueSettings,
    marks: &mut ClaimState,
) -> Result<FoundJobs, Error> {
    let mut keyless = rows::claims::first_without_key(tx, queue, limit)?;
    let half = if marks.prefers_keyless { limit - limit / 2 } else { limit / 2 };
    let for_keys = limit - half.min(keyless.len() as i64);
    let (keys, has_more_keys) = next_keys(tx, queue, &marks.last_key)?;
    let wanted = admitted_keys(tx, now, queue, keys, for_keys, settings, marks)?;
    let mut ids = take_fair_share(tx, queue, &wanted, for_keys)?;
    marks.prefers_keyless = !marks.prefers_keyless;
    keyless.truncate(usize::try_from(limit - ids.len() as i64).unwrap_or(0));
    ids.extend(keyless);
    let claimed = rows::claims::claim_these(tx, now, claimer, queue, &ids)?;
    let is_short = claimed.len() < ids.len();
    let mut found = FoundJobs::complete(tx, claimed)?;
    found.may_have_more = is_short && !found.is_truncated;
    if has_more_keys && ids.is_empty() {
        found.next_claim_at = Some(now + MORE_KEYS_DELAY);
    }
    count_keys(tx, now, queue, settings, &found.jobs)?;
    Ok(found)
}

/// Returns the keys after `last`, and then the keys from the first one up to `last`. The second value is true
/// if there are more keys than were read.
fn next_keys(tx: &Tx<'_>, queue: &str, last: &str) -> Result<(Vec<(String, i64)>, bool), Error> {
    let mut keys = rows::claims::keys_after(tx, queue, last, MAX_KEYS)?;
    if keys.len() as i64 >= MAX_KEYS {
        return Ok((keys, true));
    }
    if !last.is_empty() {
        let from_the_start = rows::claims::keys_after(tx, queue, "", MAX_KEYS)?;
        keys.extend(from_the_start.into_iter().take_while(|(key, _)| key.as_str() <= last));
    }
    Ok((keys, false))
}

/// Returns up to `limit` keys that admit jobs, with the number of jobs each of them admits.
fn admitted_keys(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    keys: Vec<(String, i64)>,
    limit: i64,
    settings: &QueueSettings,
    marks: &mut ClaimState,
) -> Result<Vec<(String, i64)>, Error> {
    let mut wanted = Vec::new();
    for (key, running) in keys {
        let left = limit - wanted.len() as i64;
        if left <= 0 {
            break;
        }
        let admitted = key_room(tx, now, queue, &key, running, settings)?.min(left);
        marks.last_key.clone_from(&key);
        if admitted > 0 {
            wanted.push((key, admitted));
        }
    }
    Ok(wanted)
}

/// Returns how many more jobs the limits of a key admit. `running` is the number of its running jobs.
pub(super) fn key_room(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    key: &str,
    running: i64,
    settings: &QueueSettings,
) -> Result<i64, Error> {
    let by_number = settings.key_concurrency.map_or(i64::MAX, |limit| limit - running);
    let Some(rate) = settings.key_rate.filter(|_| by_number > 0) else { return Ok(by_number) };
    Ok(by_number.min(remaining_starts(rate, rows::queues::find_window(tx, queue, key)?, now).0))
}

/// Counts the started jobs in the rate windows of their keys, if the queue has a rate limit per key.
pub(super) fn count_keys(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    settings: &QueueSettings,
    jobs: &[ClaimedJob],
) -> Result<(), Error> {
    let Some(rate) = settings.key_rate else { return Ok(()) };
    let mut started = BTreeMap::new();
    for key in jobs.iter().filter_map(|job| job.limit_key.as_deref()) {
        *started.entry(key).or_insert(0) += 1;
    }
    for (key, started) in started {
        let (_, since, used) = remaining_starts(rate, rows::queues::find_window(tx, queue, key)?, now);
        rows::queues::save_rate_window(tx, queue, key, since, used + started)?;
    }
    Ok(())
}

/// Returns up to `limit` job ids of the admitted keys, distributed evenly over the keys.
fn take_fair_share(
    tx: &Tx<'_>,
    queue: &str,
    wanted: &[(String, i64)],
    limit: i64,
) -> Result<Vec<JobId>, Error> {
    let each = (limit / (wanted.len() as i64).max(1)).max(1);
    let fair: Vec<_> = wanted.iter().map(|(key, admitted)| (key.clone(), (*admitted).min(each))).collect();
    let mut ids = rows::claims::first_of_keys(tx, queue, &fair)?;
    ids.truncate(usize::try_from(limit).unwrap_or(0));
    Ok(ids)
}
