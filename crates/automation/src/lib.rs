//! Modules that give other programs access to the job engine: jobs and queues, schedules, and signed HTTP
//! callbacks.

pub mod callbacks;
pub mod jobs;
pub mod schedules;
