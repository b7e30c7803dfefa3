//! Election of the node that delivers: a lease per consumer, renewed while the node lives.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_kernel::{Timestamp, seconds};
use kith_store::{EngineKind, Error, Query, Store, Tx, last_position};

use crate::rows;
use crate::{Consumer, StartAt};

/// Time for which a node that no longer renews its lease keeps it, in milliseconds. Another node takes over within this time
/// and one interval of renewal.
pub const LEASE_TTL_MS: u64 = 6_000;

/// Makes the consumers of this build known to the database: a new one gets a cursor at [`Consumer::start`].
///
/// # Errors
/// Any error of the database.
pub fn declare(tx: &Tx<'_>, consumers: &[Consumer], now: Timestamp) -> Result<(), Error> {
    for consumer in consumers {
        let position = match consumer.start {
            StartAt::Now => last_position(tx)?,
            StartAt::Beginning => rows::position_before_all(tx)?,
        };
        rows::declare(tx, consumer.name, position, now)?;
    }
    Ok(())
}

/// Deletes the cursors of consumers that no node has declared since `before`, and returns their names. Their cursors would
/// keep events from retention for ever.
///
/// # Errors
/// Any error of the database.
pub fn forget_undeclared(tx: &Tx<'_>, before: Timestamp) -> Result<Vec<String>, Error> {
    rows::delete_undeclared(tx, before)
}

/// Takes or renews every lease that `node` can have at `now`, and returns the names of the consumers it may deliver to.
///
/// # Errors
/// Any error of the database.
pub(crate) async fn campaign(
    store: &Store,
    consumers: &[Consumer],
    node: &str,
    now: Timestamp,
) -> Result<BTreeSet<&'static str>, Error> {
    let is_alone = store.kind() == EngineKind::Sqlite;
    // The process that has the file is alone: leases of others are those of processes that are gone, and its own never end.
    let (now, until) = match is_alone {
        true => (Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MAX)),
        false => (now, now + Duration::from_millis(LEASE_TTL_MS)),
    };
    let cursors = store.read(|q: &Query<'_>| rows::cursors(q)).await?;
    let cursor = |name: &str| cursors.iter().find(|row| row.name == name);
    let names = || consumers.iter().map(|consumer| consumer.name);
    let is_held = |name: &&str| is_alone && cursor(name).is_some_and(|row| row.owner == node);
    let is_open = |name: &&str| {
        cursor(name).is_some_and(|row| row.owner == node || row.owner.is_empty() || row.leased_until <= now)
    };
    let held: BTreeSet<_> = names().filter(is_held).collect();
    let open: Vec<_> = names().filter(|name| is_open(name) && !is_held(name)).collect();
    if open.is_empty() {
        return Ok(held);
    }
    let node = node.to_owned();
    store
        .write(move |tx| {
            let mut leased = held.clone();
            for name in &open {
                if rows::lease(tx, name, &node, now, until)? {
                    leased.insert(*name);
                }
            }
            Ok(leased)
        })
        .await
}

/// Time between two renewals.
pub(crate) const RENEW_INTERVAL: Duration = seconds(2);
