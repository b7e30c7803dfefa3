//! Batches: requests of many callers in one transaction. A request that cannot be written, or waits for another
//! transaction, does not hold up those beside it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kith_store::{Error, Store, Tx};

use crate::rows;

/// Waits for other transactions that the parts of one batch may cost together.
const MAX_LOCK_WAITS: Duration = Duration::from_secs(1);
/// Lock wait of the parts that are left once these are spent.
const SHORT_LOCK_WAIT: Duration = Duration::from_millis(1);

/// Names the store's error behind a request's, if there is one.
pub(crate) type Cause<E> = fn(&E) -> Option<&Error>;

/// Returns true if the database did not answer or was too busy. Such an error is not caused by a request.
pub(crate) const fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Busy | Error::Unavailable(_) | Error::OutcomeUnknown(_))
}

/// Writes all of `items` by `write`, in one transaction if that succeeds. Otherwise the batch is split into halves, down
/// to single requests, each of which then succeeds or fails by itself; one whose lock another transaction holds for longer
/// than `lock_wait` fails with [`Error::DeadlinePassed`]. Once the parts have waited for [`MAX_LOCK_WAITS`] together, those
/// that are left hardly wait. In an outage nothing is split, and what was not tried yet is not tried. Returns one outcome
/// for each item, in order.
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
        let wait = if waited < MAX_LOCK_WAITS { lock_wait } else { SHORT_LOCK_WAIT };
        let (run, all, own) = (write.clone(), Arc::clone(items), part.clone());
        let run = move |tx: &Tx<'_>| {
            rows::limit_lock_waits(tx, wait)?;
            run(tx, &all[own.clone()])
        };
        let (written, has_begun) = write_part(db, run).await;
        let store_error = written.as_ref().err().and_then(cause);
        if has_begun && matches!(store_error, Some(Error::DeadlinePassed)) {
            waited += wait;
        }
        let is_away = !has_begun || store_error.is_some_and(is_outage);
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

/// The error of the requests behind one that met an outage: they were not tried, so that their outcome is known.
fn untried<E: From<Error> + Clone>(error: &E, cause: Cause<E>) -> E {
    match cause(error) {
        Some(Error::OutcomeUnknown(_)) => {
            Error::unavailable("an earlier part of the batch is doubtful").into()
        }
        _ => error.clone(),
    }
}

/// Writes a part of a batch in one transaction. Says also whether the transaction began.
async fn write_part<T, E>(
    db: &Store,
    write: impl Fn(&Tx<'_>) -> Result<Vec<T>, E> + Send + 'static,
) -> (Result<Vec<T>, E>, bool)
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let has_begun = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&has_begun);
    let written = db.write(move |tx| {
        begins.store(true, Ordering::Relaxed);
        write(tx)
    });
    let written = written.await;
    (written, has_begun.load(Ordering::Relaxed))
}
