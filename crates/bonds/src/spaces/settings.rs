//! Section `spaces` of the configuration.

use kith_platform::config::{SettingFault, Settings, at_least_one};
use serde::{Deserialize, Serialize};

/// Limits of spaces, and what becomes of archived ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceSettings {
    /// Size of the largest item, as JSON without white space.
    pub item_bytes: u32,
    /// Maximum number of items in one space.
    pub most_items: u32,
    /// Maximum number of collections in one space.
    pub most_collections: u32,
    /// Maximum size of all items of one space together.
    pub most_bytes: u32,
    /// Days for which the space of an archived bond is kept.
    pub keep_archives_days: u16,
    /// Maximum number of archives held, and purged, in one run, the longest due first; the rest waits for the next run.
    pub purge_most: u16,
}

impl Settings for SpaceSettings {
    const SECTION: &'static str = "spaces";
    const DEFAULTS: &'static str = include_str!("settings.toml");

    fn check(&self) -> Result<(), SettingFault> {
        at_least_one(&[
            ("item_bytes", self.item_bytes),
            ("most_items", self.most_items),
            ("most_collections", self.most_collections),
            ("most_bytes", self.most_bytes),
            ("keep_archives_days", self.keep_archives_days.into()),
        ])
    }
}
