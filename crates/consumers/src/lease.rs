//! Leases: the node that holds the lease of a consumer delivers its events, and renews the lease while it
//! runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kith_kernel::{Timestamp, seconds};
use kith_store::{EngineKind, Error, Store, Tx, last_position};

use crate::rows;
use crate::{Consumer, StartAt};

/// Duration of a lease in milliseconds. When a node fails, another one takes over within this time plus one
/// renewal interval.
pub const LEASE_TTL_MS: u64 = 6_000;

/// Inserts the consumers of this build into the database, or updates the time of their declaration. A new
/// consumer gets a cursor at [`Consumer::start`].
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn declare(tx: &Tx<'_>, consumers: &[Consumer], now: Timestamp) -> Result<(), Error> {
    for consumer in consumers {
        let position = match consumer.start {
            StartAt::Now => last_position(tx)?,
            StartAt::Beginning => rows::position_before_first(tx)?,
        };
        rows::declare(tx, consumer.name, position, now)?;
    }
    Ok(())
}

/// Deletes the cursors of consumers that no node has declared since `before`, and returns the names of the
/// consumers. Retention does not remove events after a cursor, so abandoned cursors must be deleted.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn delete_undeclared(tx: &Tx<'_>, before: Timestamp) -> Result<Vec<String>, Error> {
    rows::delete_undeclared(tx, before)
}

/// Acquires or renews all leases available to `node` at `now`, except those of consumers in `down`. Returns
/// the indexes of the consumers that the node may deliver to. Declares consumers that are not in the
/// database.
///
/// # Errors
/// Returns the error of the database.
pub(crate) async fn acquire_leases(
    store: Store,
    consumers: Arc<[Consumer]>,
    node: String,
    now: Timestamp,
    down: BTreeSet<usize>,
) -> Result<BTreeSet<usize>, Error> {
    let declared_at = now;
    let is_alone = store.kind() == EngineKind::Sqlite;
    // On SQLite only one process uses the database. Leases of other nodes belong to processes that have
    // ended, and the leases of this process never expire.
    let (now, until) = match is_alone {
        true => (Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MAX)),
        false => (now, now + Duration::from_millis(LEASE_TTL_MS)),
    };
    let latest = until.max(Timestamp::from_millis(until.as_millis().saturating_add(LEASE_TTL_MS as i64)));
    let cursors = store.read(rows::cursors).await?;
    if consumers.iter().any(|consumer| cursors.iter().all(|row| row.name != consumer.name)) {
        let declared = Arc::clone(&consumers);
        store.write(move |tx| declare(tx, &declared, declared_at)).await?;
    }
    let mut held = BTreeSet::new();
    let mut open = Vec::new();
    for (index, consumer) in consumers.iter().enumerate().filter(|(index, _)| !down.contains(index)) {
        let Some(row) = cursors.iter().find(|row| row.name == consumer.name) else { continue };
        let is_own = row.owner == node;
        // A lease that ends later than `latest` was written by a node with a wrong clock.
        let is_over = row.leased_until <= now || row.leased_until > latest;
        if is_own && is_alone {
            held.insert(index);
        } else if is_own || row.owner.is_empty() || is_over {
            open.push((index, consumer.name.to_owned()));
        }
    }
    if open.is_empty() {
        return Ok(held);
    }
    store
        .write(move |tx| {
            let mut leased = held.clone();
            for (index, name) in &open {
                if rows::lease(tx, name, &node, now, until, latest)? {
                    leased.insert(*index);
                }
            }
            Ok(leased)
        })
        .await
}

/// Interval at which leases are renewed.
pub(crate) const RENEW_INTERVAL: Duration = seconds(2);
