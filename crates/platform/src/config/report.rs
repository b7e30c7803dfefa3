//! Reports on secrets that do not reveal them, and a digest with which configurations can be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use kith_kernel::Timestamp;
use sha2::{Digest, Sha256};

use super::{Config, Origin, Secret, development, env, secrets};

/// Description of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReport {
    /// Key, as `section.key`.
    pub key: &'static str,
    /// True if the server cannot serve requests without the secret.
    pub required: bool,
    /// Description of the length of the secret, in steps.
    pub length: &'static str,
    /// Description of the estimated entropy of the secret, in steps.
    pub entropy: &'static str,
    /// True if the secret is a known example or default.
    pub well_known: bool,
    /// True if development mode generated the secret for this data folder.
    pub made_for_development: bool,
    /// Time of the last change of the file that contains the secret; `None` if no file contains it.
    pub unchanged_since: Option<Timestamp>,
    /// Source of the value.
    pub origin: Origin,
}

impl Config {
    /// Describes all secrets: their source, whether they are set, their length in steps, and whether they are
    /// known defaults.
    pub fn secret_reports(&self) -> Vec<SecretReport> {
        self.secrets().into_iter().map(|(key, secret)| self.report(key, secret)).collect()
    }

    fn report(&self, key: &'static str, secret: &Secret) -> SecretReport {
        let hidden = secrets::secret_part(key, secret);
        let length = match hidden.as_ref().map(String::len) {
            None => "not set",
            Some(..16) => "under 16 bytes",
            Some(16..32) => "16 to 31 bytes",
            Some(32..) => "32 bytes or more",
        };
        // A secret counts as generated only if its key is not set. If a generated secret was copied into a
        // configuration, others may know it.
        let made_for_development = self.origin(key) == Origin::Default
            && hidden.as_ref().is_some_and(|hidden| hidden.starts_with(development::MARK));
        let file = if made_for_development {
            Some(self.development_file())
        } else {
            self.secret_files.get(key).cloned()
        };
        SecretReport {
            key,
            required: secrets::REQUIRED.contains(&key),
            length,
            entropy: hidden.as_deref().map_or("not set", entropy),
            well_known: hidden.is_some_and(|hidden| secrets::is_well_known(&hidden)) && !made_for_development,
            made_for_development,
            unchanged_since: file.and_then(changed_at),
            origin: self.origin(key),
        }
    }

    fn development_file(&self) -> PathBuf {
        self.data.folder.join(development::FILE)
    }

    /// Returns true if the two token secrets differ.
    pub fn token_secrets_differ(&self) -> bool {
        self.auth.jwt_secret != self.auth.jwt_refresh_secret
    }

    /// Returns all settings by section and key, with secrets masked.
    pub fn settings(&self) -> serde_json::Value {
        let mut settings = serde_json::to_value(self).unwrap_or_default();
        if let Some(own) = settings.as_object_mut() {
            own.extend(self.sections.to_json());
        }
        settings
    }

    /// Returns the SHA-256 digest of all settings, for comparing the configuration of a running server with a
    /// rendered one. For secrets, only whether they are set affects the digest.
    pub fn digest(&self) -> String {
        let mut settings = self.settings();
        for (key, _) in self.secrets() {
            let pointer = format!("/{}", key.replace('.', "/"));
            if self.is_default(key)
                && let Some(made) = settings.pointer_mut(&pointer)
            {
                *made = "".into();
            }
        }
        let digest = Sha256::digest(settings.to_string());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digest}")
    }
}

/// Estimates the entropy of a secret from the frequencies of its bytes (Shannon). The estimate is right for
/// random values. For other values, a dictionary attack can need fewer guesses.
fn entropy(secret: &str) -> &'static str {
    let mut counts = BTreeMap::<u8, u32>::new();
    secret.bytes().for_each(|byte| *counts.entry(byte).or_default() += 1);
    let length = f64::from(u32::try_from(secret.len()).unwrap_or(u32::MAX));
    let bits: f64 =
        counts.values().map(|count| f64::from(*count) * (length / f64::from(*count)).log2()).sum();
    match bits {
        ..64.0 => "under 64 bits",
        ..128.0 => "64 to 127 bits",
        _ => "128 bits or more",
    }
}

fn changed_at(file: PathBuf) -> Option<Timestamp> {
    let since = std::fs::metadata(file).ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?))
}

impl fmt::Display for SecretReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24}  {:<16}", self.key, self.length)?;
        if self.length == "not set" {
            return write!(f, "  ({})", env::names_of(self.key).join(" or "));
        }
        let known = if self.well_known { ", a well-known value" } else { "" };
        write!(f, "  from {}{known}", self.origin)
    }
}
