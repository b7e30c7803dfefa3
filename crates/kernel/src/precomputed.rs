//! Computations that run before the transaction that depends on them.

use crate::FieldError;

/// Stack size in bytes of the compute threads, which process client input.
pub const COMPUTE_STACK_BYTES: usize = 16 << 20;

/// Results that a transaction requires to have been computed before it. A transaction that misses one notes
/// it and is rolled back; it runs again after the result was computed.
pub trait Precomputed: Clone + Default + Send + Sync + 'static {
    /// Returns a computation that adds the results that transactions found missing, and clears the list of
    /// missing results; `None` if none is missing. The computation fails with the errors in the request.
    fn take_missing(&self) -> Option<impl FnOnce() -> Result<Self, Vec<FieldError>> + Send + 'static>;
}
