//! Vault for the audit keys of test databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::audit_keys::LinkKey;
use crate::{AUDIT_KEY_BYTES, AuditVault, GeneratedKey};

/// Vault that encrypts keys with a secret chosen by the test. The keys are not random: they are derived from
/// a counter.
#[derive(Debug)]
pub struct TestVault {
    secret: [u8; AUDIT_KEY_BYTES],
}

static COUNT: AtomicU64 = AtomicU64::new(1);

impl TestVault {
    /// Creates a vault. Each value of `secret` gives a different secret.
    pub fn with_secret(secret: u8) -> Arc<dyn AuditVault> {
        Arc::new(Self { secret: [secret; AUDIT_KEY_BYTES] })
    }

    fn digest(&self, parts: &[&[u8]]) -> [u8; AUDIT_KEY_BYTES] {
        LinkKey::new(&self.secret).hash(parts.iter().copied())
    }
}

impl AuditVault for TestVault {
    fn generate(&self, name: &str) -> GeneratedKey {
        let count = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let key = self.digest(&[b"key", &count]);
        let mask = self.digest(&[b"mask", name.as_bytes()]);
        let mut sealed: Vec<u8> = key.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        sealed.extend(self.digest(&[b"tag", &key, name.as_bytes()]));
        GeneratedKey { key, sealed }
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<[u8; AUDIT_KEY_BYTES]> {
        let (masked, tag) = sealed.split_at_checked(AUDIT_KEY_BYTES)?;
        let mask = self.digest(&[b"mask", name.as_bytes()]);
        let key = std::array::from_fn(|at| masked[at] ^ mask[at]);
        (tag == self.digest(&[b"tag", &key, name.as_bytes()])).then_some(key)
    }
}
