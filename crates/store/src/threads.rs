//! The store's threads: started with a name, and waited for when it closes.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::Error;

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    Builder::new().name(name.to_owned()).spawn(run).map_err(Error::unavailable)
}

/// Waits for the end of each; they have been told to end.
pub(crate) fn join_all(threads: &Mutex<Vec<JoinHandle<()>>>) {
    for thread in threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if thread.join().is_err() {
            tracing::error!("a thread of the store panicked");
        }
    }
}
