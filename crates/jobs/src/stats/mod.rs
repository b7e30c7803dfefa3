//! Statistics: counts of this process, which are regularly added to a database row per minute, and samples of
//! the queues.

mod counters;
mod minutes;
mod samples;

pub(crate) use counters::JobCounters;
pub use counters::{DURATION_BUCKETS_MS, JobCounts, JobTotals};
pub(crate) use minutes::write_counts;
pub use minutes::{KindSummary, Minute, list_kind_summaries, list_minutes};
pub(crate) use samples::store_samples;
pub use samples::{QueueSample, list_samples, sample_queues};
