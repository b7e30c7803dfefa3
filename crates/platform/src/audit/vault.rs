//! Encrypts the keys of the audit chain with a key derived from `auth.jwt_secret`.

use std::fmt;

use kith_kernel::{Random, SystemRandom};
use kith_store::{AUDIT_KEY_BYTES, AuditVault, GeneratedKey};

use crate::auth::Keyring;
use crate::config::Auth;

/// Encrypts and decrypts the keys of the audit chain with the secrets of a configuration.
pub(crate) struct SecretVault {
    keyring: Keyring,
    random: SystemRandom,
}

impl fmt::Debug for SecretVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretVault")
    }
}

impl SecretVault {
    pub fn new(config: &Auth) -> Self {
        Self { keyring: Keyring::new(config), random: SystemRandom }
    }
}

impl AuditVault for SecretVault {
    fn generate(&self, name: &str) -> GeneratedKey {
        let mut key = [0; AUDIT_KEY_BYTES];
        self.random.fill(&mut key);
        GeneratedKey { sealed: self.keyring.seal(&self.random, name, &key), key }
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<[u8; AUDIT_KEY_BYTES]> {
        self.keyring.open(name, sealed)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Secret};

    #[test]
    fn audit_key_requires_same_secret_and_name() {
        let vault = |secret: &str| {
            SecretVault::new(&Auth { jwt_secret: Secret::new(secret), ..Config::default().auth })
        };
        let made = vault("ours").generate("audit-key:1:1");
        assert_eq!(vault("ours").open("audit-key:1:1", &made.sealed), Some(made.key));
        assert_eq!(vault("ours").open("audit-key:1:2", &made.sealed), None);
        assert_eq!(vault("theirs").open("audit-key:1:1", &made.sealed), None);
        assert_ne!(vault("ours").generate("audit-key:1:1").key, made.key, "each generated key is different");
    }
}
