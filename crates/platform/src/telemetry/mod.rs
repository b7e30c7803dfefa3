//! What the operator sees from outside: log lines and metrics. No personal data, no queries, no secrets.

pub mod log;
mod metrics;
mod process;

pub use metrics::{Metrics, RouteMetrics, SecurityEvent};
pub use process::{disk_free, resident_bytes};
