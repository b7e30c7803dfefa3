//! Claims of queues that limit by key: each key has its turn, and jobs without a key have half of a claim.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_kernel::Timestamp;
use kith_store::{Error, Tx};

use super::{Found, Marks};
use crate::model::{Claimed, JobId};
use crate::queues::{QueueSettings, room};
use crate::rows;
use crate::rows::live::Claimer;

/// Keys looked at in one claim.
const KEYS: i64 = 500;
/// When keys are looked at again, if those that were looked at admit nothing and there are more.
const MORE_KEYS_AFTER: Duration = Duration::from_millis(100);

/// Each key in turn, as far as its own limits admit, beginning behind the last that was looked at. Jobs with a key and jobs
/// without one have half of the claim each, and what the others leave.
pub(super) fn claim_by_keys(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    most: i64,
    settings: &QueueSettings,
    marks: &mut Marks,
) -> Result<Found, Error> {
    let mut keyless = rows::live::first_without_key(tx, queue, most)?;
    let half = if marks.favours_keyless { most - most / 2 } else { most / 2 };
    let for_keys = most - half.min(keyless.len() as i64);
    let (keys, has_more_keys) = next_keys(tx, queue, &marks.last_key)?;
    let wanted = admitted_keys(tx, now, queue, keys, for_keys, settings, marks)?;
    let mut ids = first_of(tx, queue, &wanted, for_keys)?;
    marks.favours_keyless = !marks.favours_keyless;
    keyless.truncate(usize::try_from(most - ids.len() as i64).unwrap_or(0));
    ids.extend(keyless);
    let claimed = rows::live::claim_these(tx, now, claimer, queue, &ids)?;
    let is_short = claimed.len() < ids.len();
    let mut found = Found::complete(tx, claimed)?;
    found.is_short = is_short && !found.is_cut;
    if has_more_keys && ids.is_empty() {
        found.look_again_at = Some(now + MORE_KEYS_AFTER);
    }
    count_keys(tx, now, queue, settings, &found.jobs)?;
    Ok(found)
}

/// The keys behind `last`, and those up to it once there are no more. Says also whether the round goes on behind them.
fn next_keys(tx: &Tx<'_>, queue: &str, last: &str) -> Result<(Vec<(String, i64)>, bool), Error> {
    let mut keys = rows::live::keys_behind(tx, queue, last, KEYS)?;
    if keys.len() as i64 >= KEYS {
        return Ok((keys, true));
    }
    if !last.is_empty() {
        let from_the_start = rows::live::keys_behind(tx, queue, "", KEYS)?;
        keys.extend(from_the_start.into_iter().take_while(|(key, _)| key.as_str() <= last));
    }
    Ok((keys, false))
}

/// Keys that admit jobs, at most `most`, and how many each of them admits.
fn admitted_keys(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    keys: Vec<(String, i64)>,
    most: i64,
    settings: &QueueSettings,
    marks: &mut Marks,
) -> Result<Vec<(String, i64)>, Error> {
    let mut wanted = Vec::new();
    for (key, running) in keys {
        let left = most - wanted.len() as i64;
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

/// How many jobs a key admits of which `running` run.
pub(super) fn key_room(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    key: &str,
    running: i64,
    settings: &QueueSettings,
) -> Result<i64, Error> {
    let by_number = settings.key_concurrency.map_or(i64::MAX, |most| most - running);
    let Some(rate) = settings.key_rate.filter(|_| by_number > 0) else { return Ok(by_number) };
    Ok(by_number.min(room(rate, rows::queues::find_window(tx, queue, key)?, now).0))
}

/// Counts jobs that start in the windows of their keys, if keys have a rate.
pub(super) fn count_keys(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    settings: &QueueSettings,
    jobs: &[Claimed],
) -> Result<(), Error> {
    let Some(rate) = settings.key_rate else { return Ok(()) };
    let mut started = BTreeMap::new();
    for key in jobs.iter().filter_map(|job| job.limit_key.as_deref()) {
        *started.entry(key).or_insert(0) += 1;
    }
    for (key, started) in started {
        let (_, since, used) = room(rate, rows::queues::find_window(tx, queue, key)?, now);
        rows::queues::save_window(tx, queue, key, since, used + started)?;
    }
    Ok(())
}

/// At most `most` of the wanted jobs, so that no key is left out for another's second.
fn first_of(tx: &Tx<'_>, queue: &str, wanted: &[(String, i64)], most: i64) -> Result<Vec<JobId>, Error> {
    let each = (most / (wanted.len() as i64).max(1)).max(1);
    let fair: Vec<_> = wanted.iter().map(|(key, admitted)| (key.clone(), (*admitted).min(each))).collect();
    let mut ids = rows::live::first_of_keys(tx, queue, &fair)?;
    ids.truncate(usize::try_from(most).unwrap_or(0));
    Ok(ids)
}
