//! The job engine over HTTP: jobs and queues, schedules, and signed HTTP callbacks.

pub mod callbacks;
pub mod jobs;
pub mod schedules;
