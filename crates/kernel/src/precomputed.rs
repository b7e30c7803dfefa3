//! Computations whose results a transaction needs, and which therefore run before it.

use crate::FieldError;

/// Stack size of the compute threads in bytes. These threads process client input.
pub const COMPUTE_STACK_BYTES: usize = 16 << 20;

/// Results that must be computed before a transaction needs them. A transaction that finds a result missing
/// records this and is rolled back. It runs again after the result has been computed.
pub trait Precomputed: Clone + Default + Send + Sync + 'static {
    /// Returns a computation that adds the missing results to these results, and clears the list of missing
    /// results. Returns `None` if no result is missing. The computation fails with the errors in the request.
    fn take_missing(&self) -> Option<impl FnOnce() -> Result<Self, Vec<FieldError>> + Send + 'static>;
}
