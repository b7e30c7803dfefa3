//! What the two secrets of the configuration are used for: a key of its own for each purpose, none of them ever shown.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use kith_kernel::Random;

use crate::config::{Auth, Secret};

/// Keys derived (HKDF-SHA256, RFC 5869) from `auth.jwt_secret` and `auth.jwt_refresh_secret`. All nodes with the same
/// secrets have the same.
pub struct Keyring {
    sealing: LessSafeKey,
    pseudonyms: hmac::Key,
    refresh: hmac::Key,
    devices: hmac::Key,
    idempotency: hmac::Key,
}

/// What a MAC is about: values of one purpose are never mistaken for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPurpose {
    /// Refresh tokens.
    Refresh,
    /// Tokens by which a device is known again.
    Device,
    /// Names of writes, and what was asked under them.
    Idempotency,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &Secret, purpose: &str) -> [u8; 32] {
    let extracted = Salt::new(HKDF_SHA256, b"kith").extract(secret.expose().as_bytes());
    let mut key = [0; 32];
    let info = [purpose.as_bytes()];
    let derived = extracted.expand(&info, Length).and_then(|okm| okm.fill(&mut key));
    derived.expect("32 bytes are within what HKDF gives");
    key
}

impl Keyring {
    /// The keys of this configuration.
    pub fn new(config: &Auth) -> Self {
        let mac = |secret, purpose| hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, purpose));
        let sealing = UnboundKey::new(&AES_256_GCM, &derive(&config.jwt_secret, "seal"));
        Self {
            sealing: LessSafeKey::new(sealing.expect("the key has the algorithm's length")),
            pseudonyms: mac(&config.jwt_secret, "pseudonym"),
            refresh: mac(&config.jwt_refresh_secret, "refresh"),
            devices: mac(&config.jwt_refresh_secret, "device"),
            idempotency: mac(&config.jwt_secret, "idempotency"),
        }
    }

    /// Encrypts what the database keeps (AES-256-GCM): a random nonce, then the ciphertext with its tag. Only under the
    /// same `name` can it be opened.
    pub fn seal(&self, random: &dyn Random, name: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut sealed = plain.to_vec();
        let tag = self.sealing.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(name.as_bytes()),
            &mut sealed,
        );
        tag.expect("a few bytes are within what AES-GCM takes");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Decrypts what [`Keyring::seal`] made; nothing, if it was sealed with another secret or under another name.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = self.sealing.open_in_place(nonce, Aad::from(name.as_bytes()), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    /// HMAC-SHA256 over `parts`, each preceded by its length.
    pub fn mac(&self, purpose: MacPurpose, parts: &[&[u8]]) -> [u8; 32] {
        digest(self.mac_key(purpose), parts)
    }

    /// Whether `mac` is what [`Keyring::mac`] gives, compared in constant time.
    pub fn is_mac(&self, purpose: MacPurpose, parts: &[&[u8]], mac: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.mac(purpose, parts), mac).is_ok()
    }

    /// What stands in the database for something personal that is only ever looked for: an e-mail address, a client
    /// address. Without the secret nobody can try out what it may have been.
    pub fn pseudonym(&self, kind: &str, text: &str) -> [u8; 32] {
        digest(&self.pseudonyms, &[kind.as_bytes(), text.as_bytes()])
    }

    fn mac_key(&self, purpose: MacPurpose) -> &hmac::Key {
        match purpose {
            MacPurpose::Refresh => &self.refresh,
            MacPurpose::Device => &self.devices,
            MacPurpose::Idempotency => &self.idempotency,
        }
    }
}

fn digest(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut mac = [0; 32];
    mac.copy_from_slice(context.sign().as_ref());
    mac
}

#[cfg(test)]
mod tests {
    use kith_kernel::SeededRandom;

    use super::*;
    use crate::config::Config;

    fn keyring(jwt: &str, refresh: &str) -> Keyring {
        let (jwt_secret, jwt_refresh_secret) = (Secret::new(jwt), Secret::new(refresh));
        Keyring::new(&Auth { jwt_secret, jwt_refresh_secret, ..Config::default().auth })
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_secret_and_name_only() {
        let (ours, theirs) = (keyring("a", "b"), keyring("x", "b"));
        let random = SeededRandom::new(1);
        let sealed = ours.seal(&random, "key-1", b"seed");
        assert_eq!(ours.open("key-1", &sealed).as_deref(), Some(&b"seed"[..]));
        assert_eq!(keyring("a", "other").open("key-1", &sealed).as_deref(), Some(&b"seed"[..]));
        assert_eq!(ours.open("key-2", &sealed), None);
        assert_eq!(theirs.open("key-1", &sealed), None);
        assert_eq!(ours.open("key-1", &sealed[..5]), None);
        let mut altered = sealed.clone();
        altered[NONCE_LEN] ^= 1;
        assert_eq!(ours.open("key-1", &altered), None);
        assert_ne!(sealed, ours.seal(&random, "key-1", b"seed"), "nonces repeat");
    }

    #[test]
    fn macs_depend_on_purpose_parts_and_secret() {
        let ours = keyring("a", "b");
        let mac = ours.mac(MacPurpose::Refresh, &[b"ab", b"c"]);
        assert!(ours.is_mac(MacPurpose::Refresh, &[b"ab", b"c"], &mac));
        assert!(!ours.is_mac(MacPurpose::Refresh, &[b"a", b"bc"], &mac));
        assert!(!ours.is_mac(MacPurpose::Device, &[b"ab", b"c"], &mac));
        assert!(!ours.is_mac(MacPurpose::Refresh, &[b"ab", b"c"], &mac[..31]));
        assert!(!keyring("a", "x").is_mac(MacPurpose::Refresh, &[b"ab", b"c"], &mac));
        assert_ne!(ours.pseudonym("email", "a"), keyring("x", "b").pseudonym("email", "a"));
    }
}
