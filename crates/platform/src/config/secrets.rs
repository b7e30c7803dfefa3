//! What production mode asks of secrets: that they are there, long enough, and nobody else's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_kernel::Random;
use kith_store::PostgresOptions;

use super::check::refuse_if;
use super::{Config, ConfigError, Origin, Secret, development, env};

/// What nothing can be served without, in either mode.
pub(super) const REQUIRED: &[&str] = &["auth.jwt_secret", "auth.jwt_refresh_secret"];

/// Least length of what keys are derived from (RFC 7518, section 3.2, for its strength).
const LEAST_BYTES: usize = 32;

/// A secret of fewer different characters than this is one that somebody typed.
const LEAST_VARIETY: usize = 5;

/// What stands in examples, compose files and tutorials; compared in lower case, letters and digits only.
const EXAMPLES: &[&str] = &[
    "changeme",
    "changein",
    "changethis",
    "yoursecret",
    "yoursuper",
    "yourjwt",
    "yourkey",
    "yourpassword",
    "supersecret",
    "secretkey",
    "secretpassword",
    "placeholder",
    "replaceme",
    "insecure",
    "minioadmin",
    "password",
    "passw0rd",
    "qwerty",
    "123456",
    "letmein",
    "example",
];

/// Too short to look for within others.
const DEFAULTS: &[&str] = &[
    "secret",
    "jwtsecret",
    "refreshsecret",
    "jwtrefreshsecret",
    "postgres",
    "admin",
    "root",
    "kith",
    "redis",
    "minio",
    "test",
    "dev",
    "development",
    "user",
    "default",
];

/// Random bytes of a generated secret.
const GENERATED_BYTES: usize = 48;
/// An access key is a name, and longer ones are refused by some stores.
const ACCESS_KEY_BYTES: usize = 15;

/// A fresh secret for each variable that has one: name and base64url text.
pub fn generated_secrets(random: &dyn Random) -> Vec<(&'static str, String)> {
    let fresh = |key: &str| {
        let mut bytes = [0; GENERATED_BYTES];
        random.fill(&mut bytes);
        let length = if key == "storage.access_key" { ACCESS_KEY_BYTES } else { GENERATED_BYTES };
        URL_SAFE_NO_PAD.encode(&bytes[..length])
    };
    env::ALIASES.iter().map(|(name, key)| (*name, fresh(key))).collect()
}

impl Config {
    /// Every secret and the key that holds it.
    pub(super) fn secrets(&self) -> [(&'static str, &Secret); 8] {
        [
            ("auth.jwt_secret", &self.auth.jwt_secret),
            ("auth.jwt_refresh_secret", &self.auth.jwt_refresh_secret),
            ("database.url", &self.database.url),
            ("database.migrate_url", &self.database.migrate_url),
            ("database.password", &self.database.password),
            ("redis.password", &self.redis.password),
            ("storage.access_key", &self.storage.access_key),
            ("storage.secret_key", &self.storage.secret_key),
        ]
    }
}

/// Refuses what production mode must not run with.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (secret, refresh_secret) = (&config.auth.jwt_secret, &config.auth.jwt_refresh_secret);
    for (key, secret) in [("auth.jwt_secret", secret), ("auth.jwt_refresh_secret", refresh_secret)] {
        if secret.is_empty() {
            return Err(ConfigError::Missing { key, variables: env::names_of(key).join(" or ") });
        }
        refuse_if(config, is_well_known(secret.expose()), key, WELL_KNOWN)?;
        let is_short = secret.expose().len() < LEAST_BYTES;
        refuse_if(config, is_short, key, "must have at least 32 bytes in production mode")?;
    }
    let why = "must not be the same as `auth.jwt_secret` in production mode";
    refuse_if(config, secret == refresh_secret, "auth.jwt_refresh_secret", why)?;
    for (key, secret) in config.secrets() {
        let Some(secret) = hidden(key, secret) else { continue };
        refuse_if(config, is_well_known(&secret), key, WELL_KNOWN)?;
        let why = "must not hold a password on the command line, which other users of this machine can read; \
                   set DATABASE_PASSWORD or DATABASE_PASSWORD_FILE";
        refuse_if(config, matches!(config.origin(key), Origin::Flag(_)), key, why)?;
    }
    Ok(())
}

const WELL_KNOWN: &str = "is a value for development that everybody knows; production mode needs one of its own, which \
                          `kith secrets generate` makes";

/// What is secret in a value: all of it, or of a database's address the password.
pub(super) fn hidden(key: &str, secret: &Secret) -> Option<String> {
    let text = match key {
        "database.url" | "database.migrate_url" => {
            let password = PostgresOptions::password_in(secret.expose())?;
            String::from_utf8_lossy(&password).into_owned()
        }
        _ => secret.expose().to_owned(),
    };
    (!text.is_empty()).then_some(text)
}

/// Whether it is somebody's example, what development mode made, or no more than a few characters repeated.
pub(super) fn is_well_known(secret: &str) -> bool {
    let folded: String = secret.chars().filter(char::is_ascii_alphanumeric).collect();
    let folded = folded.to_ascii_lowercase();
    let variety = secret.bytes().collect::<std::collections::BTreeSet<_>>().len();
    secret.starts_with(development::MARK)
        || variety < LEAST_VARIETY
        || DEFAULTS.contains(&folded.as_str())
        || EXAMPLES.iter().any(|example| folded.contains(example))
}
