//! Reading of the database's clock.

use std::time::Duration;

use kith_kernel::Timestamp;

/// Reading of another machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Estimated current time on that machine.
    pub now: Timestamp,
    /// Maximum error of `now`: half the round-trip time.
    pub uncertainty: Duration,
}
