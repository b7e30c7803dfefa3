//! Section `partners` of the configuration.

use kith_platform::config::Settings;
use serde::{Deserialize, Serialize};

/// Settings for invites.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BondSettings {
    /// Template of the link of an invite. `{code}` is replaced by the invite code.
    pub invite_link: String,
    /// Maximum number of requests per minute and client network to each route that lists partners; 0 means no
    /// limit.
    pub lists_per_minute: u32,
}

impl Settings for BondSettings {
    const SECTION: &'static str = "partners";
    const DEFAULTS: &'static str = include_str!("settings.toml");
}
