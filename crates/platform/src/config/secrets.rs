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

/// Fewest different characters of a secret. Random ones of this length have many more.
const MIN_DISTINCT_CHARACTERS: usize = 5;

/// Shortest password of a service.
const MIN_PASSWORD_CHARACTERS: usize = 12;

/// A value is an example if at most this many letters and digits stand beside it: `changeme-please` is one, a random value
/// or a long passphrase in which such a word occurs is none.
const MAX_BESIDE_EXAMPLE: usize = 12;

/// What stands in examples, compose files and tutorials, and is long enough that no random value holds it; compared in lower
/// case, letters and digits only.
const PLACEHOLDERS: &[&str] = &[
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
];

/// Words that are examples only where little stands beside them.
const EXAMPLES: &[&str] = &["password", "passw0rd", "qwerty", "123456", "letmein", "example"];

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

/// The variables that something uses and that a deployment makes by itself.
const GENERATED: &[&str] = &["JWT_SECRET", "JWT_REFRESH_SECRET", "DATABASE_PASSWORD"];

/// A fresh secret for each variable that needs one: name and base64url text.
pub fn generated_secrets(random: &dyn Random) -> Vec<(&'static str, String)> {
    let fresh = || {
        let mut bytes = [0; GENERATED_BYTES];
        random.fill(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    GENERATED.iter().map(|name| (*name, fresh())).collect()
}

impl Config {
    /// Every secret and the key that holds it.
    pub(super) fn secrets(&self) -> [(&'static str, &Secret); 7] {
        [
            ("auth.jwt_secret", &self.auth.jwt_secret),
            ("auth.jwt_refresh_secret", &self.auth.jwt_refresh_secret),
            ("auth.jwt_secret_previous", &self.auth.jwt_secret_previous),
            ("auth.jwt_refresh_secret_previous", &self.auth.jwt_refresh_secret_previous),
            ("database.url", &self.database.url),
            ("database.migrate_url", &self.database.migrate_url),
            ("database.password", &self.database.password),
        ]
    }
}

/// Refuses a password on the command line, in either mode: other users of the machine read it in the list of processes.
pub(super) fn check_flags(config: &Config) -> Result<(), ConfigError> {
    let why = "must not hold a password on the command line, which other users of this machine can read; set \
               DATABASE_PASSWORD or DATABASE_PASSWORD_FILE, or the whole address in KITH__DATABASE__URL";
    config.secrets().into_iter().try_for_each(|(key, secret)| {
        let is_shown = hidden(key, secret).is_some() && matches!(config.origin(key), Origin::Flag(_));
        refuse_if(config, is_shown, key, why)
    })
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
        // The previous ones are on their way out, and may have been made for development.
        if key.ends_with("_previous") {
            continue;
        }
        refuse_if(config, is_well_known(&secret), key, WELL_KNOWN)?;
        refuse_if(config, is_weak(&secret), key, WEAK)?;
    }
    Ok(())
}

const WELL_KNOWN: &str = "is a value for development that everybody knows; production mode needs one of its own, which \
                          `kith secrets generate` makes";

const WEAK: &str = "must have at least 12 characters, 5 of them different, in production mode";

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

/// Returns whether a secret is a known example, or was generated in development mode.
pub(super) fn is_well_known(secret: &str) -> bool {
    let folded: String = secret.chars().filter(char::is_ascii_alphanumeric).collect();
    let folded = folded.to_ascii_lowercase();
    let is_mostly =
        |example: &str| folded.contains(example) && folded.len() <= example.len() + MAX_BESIDE_EXAMPLE;
    secret.starts_with(development::MARK)
        || DEFAULTS.contains(&folded.as_str())
        || PLACEHOLDERS.iter().any(|placeholder| folded.contains(placeholder))
        || EXAMPLES.iter().any(|example| is_mostly(example))
}

/// Whether it is too short, or too uniform, for what it protects.
pub(super) fn is_weak(secret: &str) -> bool {
    let distinct = secret.chars().collect::<std::collections::BTreeSet<_>>().len();
    secret.chars().count() < MIN_PASSWORD_CHARACTERS || distinct < MIN_DISTINCT_CHARACTERS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a`, `apppw` and a random value were called well-known, and `kithpw` was accepted.
    #[test]
    fn passwords_are_judged_by_length_and_variety_and_examples_by_name() {
        for (secret, well_known, weak) in [
            ("a", false, true),
            ("apppw", false, true),
            ("kithpw", false, true),
            ("aaaaaaaaaaaaaaaa", false, true),
            ("changeme", true, true),
            ("change-me-please-1", true, false),
            ("minioadmin", true, true),
            ("kith-dev-0f3kJ2lq8sX", true, false),
            ("your-secret-key-kept-somewhere-else-1", true, false),
            ("Zk3-example-vR8qLmT2xWc9pYd4", false, false),
            ("q7Rz_password_hG2mN8bV4cX1sL6d", false, false),
            ("correct horse battery staple", false, false),
        ] {
            assert_eq!((is_well_known(secret), is_weak(secret)), (well_known, weak), "{secret}");
        }
    }

    #[test]
    fn generated_secrets_pass_the_check() {
        for (name, secret) in generated_secrets(&kith_kernel::SeededRandom::new(1)) {
            assert!(!is_well_known(&secret) && !is_weak(&secret) && secret.len() >= LEAST_BYTES, "{name}");
        }
    }
}
