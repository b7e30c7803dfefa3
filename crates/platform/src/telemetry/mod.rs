//! Logs and metrics for operators. They contain no personal data, queries or secrets.

mod consumer_metrics;
mod job_metrics;
mod json_format;
mod level;
pub mod log;
mod metrics;
mod process;

pub(crate) use level::routes;
pub use metrics::{Metrics, RouteMetrics, SecurityEvent};
pub use process::{disk_free, machine, resident_bytes};
