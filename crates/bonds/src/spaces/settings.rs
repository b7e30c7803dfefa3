//! Section `spaces` of the configuration.

use kith_platform::config::{SettingFault, Settings, at_least_one};
use serde::{Deserialize, Serialize};

/// Limits of spaces, and retention of archived spaces.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceSettings {
    /// Maximum size of an item in bytes, as JSON without white space.
    pub max_item_bytes: u32,
    /// Maximum number of items in one space.
    pub max_items: u32,
    /// Maximum number of collections in one space.
    pub max_collections: u32,
    /// Maximum size in bytes of all items in one space.
    pub max_bytes: u32,
    /// Retention of the space of an archived bond in days, counted from the archiving of the bond.
    pub archive_retention_days: u16,
    /// Maximum number of archives that one run schedules for purge, and maximum number that it purges,
    /// longest overdue first. The rest waits for the next run, one minute later.
    pub max_purged_per_run: u16,
}

impl Settings for SpaceSettings {
    const SECTION: &'static str = "spaces";
    const DEFAULTS: &'static str = include_str!("settings.toml");

    fn check(&self) -> Result<(), SettingFault> {
        at_least_one(&[
            ("max_item_bytes", self.max_item_bytes),
            ("max_items", self.max_items),
            ("max_collections", self.max_collections),
            ("max_bytes", self.max_bytes),
            ("archive_retention_days", self.archive_retention_days.into()),
        ])
    }
}
