//! Requirements on secrets in production mode: they must be set, long enough and not well known.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_kernel::Random;
use kith_store::PostgresOptions;

use super::error::reject_if;
use super::{Config, ConfigError, Origin, Secret, development, env};

/// Secrets that the server requires in both modes.
pub(super) const REQUIRED: &[&str] = &["auth.jwt_secret", "auth.jwt_refresh_secret"];

/// Minimum length in bytes of a secret from which keys are derived (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Minimum number of distinct characters in a secret. Random secrets have many more.
const MIN_DISTINCT_CHARACTERS: usize = 5;

/// Minimum length of a password for another service, such as the database, in characters.
const MIN_PASSWORD_CHARACTERS: usize = 12;

/// Maximum number of other letters and digits in a value that counts as an example. `changeme-please` is an
/// example. A random value or a long passphrase that contains such a word is not.
const MAX_BESIDE_EXAMPLE: usize = 12;

/// Texts from examples, Compose files and tutorials. They are too long to occur in random values by chance.
/// Secrets are compared with them in lower case, by letters and digits only.
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

/// Words that make a value an example only if the value contains few other characters.
const EXAMPLES: &[&str] = &["password", "passw0rd", "qwerty", "123456", "letmein", "example"];

/// Known defaults. They are short, so only a value that is equal to one of them is rejected.
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

/// Length of a generated secret in bytes.
const GENERATED_BYTES: usize = 48;

/// Variables for which `kith secrets generate` generates a value.
const GENERATED_VARIABLES: &[&str] = &["JWT_SECRET", "JWT_REFRESH_SECRET", "DATABASE_PASSWORD"];

/// Generates a secret for each variable. Returns the names of the variables and the secrets in base64url.
pub fn generated_secrets(random: &dyn Random) -> Vec<(&'static str, String)> {
    let fresh = || {
        let mut bytes = [0; GENERATED_BYTES];
        random.fill(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    GENERATED_VARIABLES.iter().map(|name| (*name, fresh())).collect()
}

impl Config {
    /// Returns all secrets with their keys.
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

/// Rejects passwords in command-line flags, in both modes, because other users of the machine can read them
/// in the process list.
pub(super) fn check_flags(config: &Config) -> Result<(), ConfigError> {
    let why = "must not hold a password on the command line, which other users of this machine can read; set \
               DATABASE_PASSWORD or DATABASE_PASSWORD_FILE, or the whole address in KITH__DATABASE__URL";
    config.secrets().into_iter().try_for_each(|(key, secret)| {
        let is_shown = secret_part(key, secret).is_some() && matches!(config.origin(key), Origin::Flag(_));
        reject_if(config, is_shown, key, why)
    })
}

/// Rejects secrets that are not allowed in production mode.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (secret, refresh_secret) = (&config.auth.jwt_secret, &config.auth.jwt_refresh_secret);
    for (key, secret) in [("auth.jwt_secret", secret), ("auth.jwt_refresh_secret", refresh_secret)] {
        if secret.is_empty() {
            return Err(ConfigError::Missing { key, variables: env::names_of(key).join(" or ") });
        }
        reject_if(config, is_well_known(secret.expose()), key, WELL_KNOWN)?;
        let is_short = secret.expose().len() < MIN_SECRET_BYTES;
        reject_if(config, is_short, key, "must have at least 32 bytes in production mode")?;
    }
    let why = "must differ from `auth.jwt_secret` in production mode";
    reject_if(config, secret == refresh_secret, "auth.jwt_refresh_secret", why)?;
    for (key, secret) in config.secrets() {
        let Some(secret) = secret_part(key, secret) else { continue };
        // Previous secrets are about to be replaced, and may come from development mode.
        if key.ends_with("_previous") {
            continue;
        }
        reject_if(config, is_well_known(&secret), key, WELL_KNOWN)?;
        reject_if(config, is_weak(&secret), key, WEAK)?;
    }
    Ok(())
}

const WELL_KNOWN: &str = "is a well-known development value; production mode requires a secret value, such \
                          as one from `kith secrets generate`";

const WEAK: &str = "must have at least 12 characters, at least 5 of them distinct, in production mode";

/// Returns the secret part of a value: the password of a database URL, or the whole value of any other key.
pub(super) fn secret_part(key: &str, secret: &Secret) -> Option<String> {
    let text = match key {
        "database.url" | "database.migrate_url" => {
            let password = PostgresOptions::password_in(secret.expose())?;
            String::from_utf8_lossy(&password).into_owned()
        }
        _ => secret.expose().to_owned(),
    };
    (!text.is_empty()).then_some(text)
}

/// Returns true if a secret is a known example or default, or was generated in development mode.
pub(super) fn is_well_known(secret: &str) -> bool {
    let folded: String = secret.chars().filter(char::is_ascii_alphanumeric).collect();
    let folded = folded.to_ascii_lowercase();
    let is_mainly_example =
        |example: &str| folded.contains(example) && folded.len() <= example.len() + MAX_BESIDE_EXAMPLE;
    secret.starts_with(development::MARK)
        || DEFAULTS.contains(&folded.as_str())
        || PLACEHOLDERS.iter().any(|placeholder| folded.contains(placeholder))
        || EXAMPLES.iter().any(|example| is_mainly_example(example))
}

/// Returns true if a secret is too short or has too few different characters.
pub(super) fn is_weak(secret: &str) -> bool {
    let distinct = secret.chars().collect::<std::collections::BTreeSet<_>>().len();
    secret.chars().count() < MIN_PASSWORD_CHARACTERS || distinct < MIN_DISTINCT_CHARACTERS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: `a`, `apppw` and a random value were rejected as well known, and `kithpw` was accepted.
    #[test]
    fn weak_and_well_known_secrets_are_detected() {
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
            assert!(
                !is_well_known(&secret) && !is_weak(&secret) && secret.len() >= MIN_SECRET_BYTES,
                "{name}"
            );
        }
    }
}
