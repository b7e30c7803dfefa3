//! Section `job_queues` of the configuration.

use kith_platform::config::Settings;
use serde::{Deserialize, Serialize};

/// Settings of jobs and queues over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Maximum number of requests per minute and client network to each route of jobs and queues; 0 means no
    /// limit.
    pub requests_per_minute: u32,
}

impl Settings for QueueSettings {
    const SECTION: &'static str = "job_queues";
    const DEFAULTS: &'static str = include_str!("settings.toml");
}
