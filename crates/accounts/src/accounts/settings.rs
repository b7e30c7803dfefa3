//! Section `accounts` of the configuration.

use kith_platform::config::{SettingFault, Settings};
use serde::{Deserialize, Serialize};

/// Settings for purging deleted accounts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSettings {
    /// Maximum number of accounts that one run purges, longest overdue first. The rest waits for the next
    /// run, one minute later.
    pub max_purged_per_run: u16,
    /// Maximum percentage (1 to 100) of accounts older than 30 days that may be due for purging at the same
    /// time. If more are due, and more than 20, these accounts are purged at a rate of 20 per day.
    pub max_purge_percent: u8,
}

impl Settings for AccountSettings {
    const SECTION: &'static str = "accounts";
    const DEFAULTS: &'static str = include_str!("settings.toml");

    fn check(&self) -> Result<(), SettingFault> {
        match self.max_purge_percent {
            1..=100 => Ok(()),
            _ => Err(SettingFault { key: "max_purge_percent", why: "must be from 1 to 100".to_owned() }),
        }
    }
}
