//! What can be told of each secret without telling it.

use std::fmt;

use super::{Config, Origin, env, secrets};

/// One secret, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReport {
    /// `section.key`.
    pub key: &'static str,
    /// Its length, roughly.
    pub length: &'static str,
    /// Whether everybody knows it.
    pub well_known: bool,
    /// Who set it.
    pub origin: Origin,
}

impl Config {
    /// Every secret as far as it may be told: whether it is set, its length class, whether it is a known default, and
    /// who set it.
    pub fn secret_reports(&self) -> Vec<SecretReport> {
        let report = |(key, secret)| {
            let hidden = secrets::hidden(key, secret);
            let length = match hidden.as_ref().map(String::len) {
                None => "not set",
                Some(..16) => "under 16 bytes",
                Some(16..32) => "16 to 31 bytes",
                Some(32..) => "32 bytes or more",
            };
            let well_known = hidden.is_some_and(|hidden| secrets::is_well_known(&hidden));
            SecretReport { key, length, well_known, origin: self.origin(key) }
        };
        self.secrets().into_iter().map(report).collect()
    }
}

impl fmt::Display for SecretReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24}  {:<16}", self.key, self.length)?;
        if self.length == "not set" {
            return write!(f, "  ({})", env::names_of(self.key).join(" or "));
        }
        let known = if self.well_known { ", a value that everybody knows" } else { "" };
        write!(f, "  from {}{known}", self.origin)
    }
}
