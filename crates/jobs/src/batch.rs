//! Batches: requests of many callers that are written in one transaction. A request that fails, or that waits
//! for another transaction, does not block the other requests.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kith_store::{Error, Store, Tx};

use crate::rows;

/// Maximum total time that the parts of one batch wait for locks with the normal lock timeout.
const MAX_TOTAL_LOCK_WAIT: Duration = Duration::from_secs(1);
/// Lock timeout of the remaining parts after [`MAX_TOTAL_LOCK_WAIT`] was used up.
const SHORT_LOCK_TIMEOUT: Duration = Duration::from_millis(1);

/// Function that returns the store's error inside a request's error, if there is one.
pub(crate) type Cause<E> = fn(&E) -> Option<&Error>;

/// Returns true if the error means that the database was unavailable or overloaded, so that the request did
/// not cause it.
pub(crate) const fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Busy | Error::Unavailable(_) | Error::OutcomeUnknown(_))
}

/// Writes all `items` with `write`, in one transaction if that succeeds. Otherwise the batch is split into
/// halves, down to single requests, each of which succeeds or fails separately. A request that waits longer
/// than `lock_wait` for a lock fails with [`Error::DeadlinePassed`]. After the parts have waited for
/// [`MAX_TOTAL_LOCK_WAIT`] in total, the remaining parts wait only for [`SHORT_LOCK_TIMEOUT`]. In an outage
/// the batch is not split, and the remaining requests are not tried. Returns one outcome per item, in order.
pub(crate) async fn write_batch<I, T, E, F>(
    db: &Store,
    items: &Arc<Vec<I>>,
    lock_wait: Duration,
    cause: Cause<E>,
    write: F,
) -> Vec<Result<T, E>>
where
    I: Send + Sync + 'static,
    T: Send + 'static,
    E: From<Error> + Clone + Send + 'static,
    F: Fn(&Tx<'_>, &[I]) -> Result<Vec<T>, E> + Clone + Send + 'static,
{
    let mut outcomes = Vec::with_capacity(items.len());
    let mut parts: Vec<Range<usize>> = (!items.is_empty()).then(|| 0..items.len()).into_iter().collect();
    let mut waited = Duration::ZERO;
    while let Some(part) = parts.pop() {
        let wait = if waited < MAX_TOTAL_LOCK_WAIT { lock_wait } else { SHORT_LOCK_TIMEOUT };
        let (run, all, own) = (write.clone(), Arc::clone(items), part.clone());
        let run = move |tx: &Tx<'_>| {
            rows::set_lock_timeout(tx, wait)?;
            run(tx, &all[own.clone()])
        };
        let (written, has_started) = write_part(db, run).await;
        let store_error = written.as_ref().err().and_then(cause);
        if has_started && matches!(store_error, Some(Error::DeadlinePassed)) {
            waited += wait;
        }
        let is_away = !has_started || store_error.is_some_and(is_outage);
        match written {
            Ok(written) => outcomes.extend(written.into_iter().map(Ok)),
            Err(error) if is_away => {
                let untried = untried(&error, cause);
                outcomes.extend(part.clone().map(|_| Err(error.clone())));
                outcomes.extend((part.end..items.len()).map(|_| Err(untried.clone())));
                break;
            }
            Err(error) if part.len() == 1 => outcomes.push(Err(error)),
            Err(_) => {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
            }
        }
    }
    outcomes
}

/// Returns the error for requests of a batch that were not tried because an earlier one failed in an outage.
/// None of them was written, so [`Error::OutcomeUnknown`] is replaced by [`Error::Unavailable`].
fn untried<E: From<Error> + Clone>(error: &E, cause: Cause<E>) -> E {
    match cause(error) {
        Some(Error::OutcomeUnknown(_)) => {
            Error::unavailable("the outcome of an earlier part of the batch is unknown").into()
        }
        _ => error.clone(),
    }
}

/// Writes a part of a batch in one transaction. The second value is true if the transaction started.
async fn write_part<T, E>(
    db: &Store,
    write: impl Fn(&Tx<'_>) -> Result<Vec<T>, E> + Send + 'static,
) -> (Result<Vec<T>, E>, bool)
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let started = Arc::new(AtomicBool::new(false));
    let set_started = Arc::clone(&started);
    let written = db.write(move |tx| {
        set_started.store(true, Ordering::Relaxed);
        write(tx)
    });
    let written = written.await;
    (written, started.load(Ordering::Relaxed))
}
