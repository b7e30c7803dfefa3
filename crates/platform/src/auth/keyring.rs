//! Keys derived from the two configured secrets, one key for each purpose. The keys are never returned to
//! callers.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use kith_kernel::Random;

use crate::config::{Auth, Secret};

/// Keys derived (HKDF-SHA256, RFC 5869) from `auth.jwt_secret` and `auth.jwt_refresh_secret`. Nodes with the
/// same secrets derive the same keys. If previous secrets are configured, values that were encrypted or
/// authenticated with them are still accepted.
pub struct Keyring {
    current: DerivedKeys,
    previous: Option<DerivedKeys>,
}

/// Keys derived from one pair of secrets.
struct DerivedKeys {
    sealing: LessSafeKey,
    pseudonyms: hmac::Key,
    refresh: hmac::Key,
    devices: hmac::Key,
    idempotency: hmac::Key,
}

/// Purpose of a MAC. Each purpose has its own key, so a MAC for one purpose is never valid for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPurpose {
    /// Refresh tokens.
    Refresh,
    /// Tokens that identify a known device.
    Device,
    /// Idempotency keys and the requests that contain them.
    Idempotency,
}

struct DerivedKeyLength;

impl KeyType for DerivedKeyLength {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &Secret, purpose: &str) -> [u8; 32] {
    let extracted = Salt::new(HKDF_SHA256, b"kith").extract(secret.expose().as_bytes());
    let mut key = [0; 32];
    let info = [purpose.as_bytes()];
    let derived = extracted.expand(&info, DerivedKeyLength).and_then(|okm| okm.fill(&mut key));
    derived.expect("HKDF can output 32 bytes");
    key
}

impl DerivedKeys {
    fn new(jwt_secret: &Secret, jwt_refresh_secret: &Secret) -> Self {
        let mac = |secret, purpose| hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, purpose));
        let sealing = UnboundKey::new(&AES_256_GCM, &derive(jwt_secret, "seal"));
        Self {
            sealing: LessSafeKey::new(sealing.expect("the key has the algorithm's length")),
            pseudonyms: mac(jwt_secret, "pseudonym"),
            refresh: mac(jwt_refresh_secret, "refresh"),
            devices: mac(jwt_refresh_secret, "device"),
            idempotency: mac(jwt_secret, "idempotency"),
        }
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = self.sealing.open_in_place(nonce, Aad::from(name.as_bytes()), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    fn pseudonym(&self, kind: &str, text: &str) -> [u8; 32] {
        digest(&self.pseudonyms, &[kind.as_bytes(), text.as_bytes()])
    }

    fn mac(&self, purpose: MacPurpose, parts: &[&[u8]]) -> [u8; 32] {
        let key = match purpose {
            MacPurpose::Refresh => &self.refresh,
            MacPurpose::Device => &self.devices,
            MacPurpose::Idempotency => &self.idempotency,
        };
        digest(key, parts)
    }
}

impl Keyring {
    /// Derives the keys of this configuration.
    pub fn new(config: &Auth) -> Self {
        let (jwt, refresh) = (&config.jwt_secret_previous, &config.jwt_refresh_secret_previous);
        let or = |previous: &Secret, present: &Secret| {
            if previous.is_empty() { present.clone() } else { previous.clone() }
        };
        let is_rotated = !jwt.is_empty() || !refresh.is_empty();
        Self {
            current: DerivedKeys::new(&config.jwt_secret, &config.jwt_refresh_secret),
            previous: is_rotated.then(|| {
                DerivedKeys::new(&or(jwt, &config.jwt_secret), &or(refresh, &config.jwt_refresh_secret))
            }),
        }
    }

    /// Encrypts `plain` with AES-256-GCM. Returns a random nonce followed by the ciphertext and its tag.
    /// `name` is authenticated data: decryption requires the same name.
    pub fn seal(&self, random: &dyn Random, name: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut sealed = plain.to_vec();
        let tag = self.current.sealing.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(name.as_bytes()),
            &mut sealed,
        );
        tag.expect("AES-GCM accepts inputs of this length");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Decrypts a value returned by [`Keyring::seal`] with the current or the previous secret. Returns `None`
    /// if the value was encrypted with another secret or name.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let previous = || self.previous.as_ref()?.open(name, sealed);
        self.current.open(name, sealed).or_else(previous)
    }

    /// Re-encrypts a value with the current secret. Returns `None` if it is already encrypted with the
    /// current secret.
    ///
    /// # Errors
    /// Returns [`UnknownSealingSecret`] if neither the current nor the previous secret decrypts the value.
    pub fn reseal(
        &self,
        random: &dyn Random,
        name: &str,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, UnknownSealingSecret> {
        if self.current.open(name, sealed).is_some() {
            return Ok(None);
        }
        let plain = self.open(name, sealed).ok_or(UnknownSealingSecret)?;
        Ok(Some(self.seal(random, name, &plain)))
    }

    /// Returns the HMAC-SHA256 of `parts`. Each part is preceded by its length.
    pub fn mac(&self, purpose: MacPurpose, parts: &[&[u8]]) -> [u8; 32] {
        self.current.mac(purpose, parts)
    }

    /// Returns the MAC computed with the previous secret, or `None` if no previous secret is configured.
    pub fn previous_mac(&self, purpose: MacPurpose, parts: &[&[u8]]) -> Option<[u8; 32]> {
        Some(self.previous.as_ref()?.mac(purpose, parts))
    }

    /// Compares `mac` with the MAC of the current and of the previous secret, in constant time.
    pub fn is_mac(&self, purpose: MacPurpose, parts: &[&[u8]], mac: &[u8]) -> bool {
        let is_equal = |own: &[u8; 32]| aws_lc_rs::constant_time::verify_slices_are_equal(own, mac).is_ok();
        let is_previous = || self.previous_mac(purpose, parts).is_some_and(|own| is_equal(&own));
        is_equal(&self.mac(purpose, parts)) || is_previous()
    }

    /// Returns a keyed digest of personal data, such as an e-mail or client address. If the data is needed
    /// only for lookups, the database stores this digest instead. Without the secret, an attacker cannot test
    /// guesses against it.
    pub fn pseudonym(&self, kind: &str, text: &str) -> [u8; 32] {
        self.current.pseudonym(kind, text)
    }

    /// Returns the pseudonym computed with the previous secret, or `None` if no previous secret is
    /// configured.
    pub fn previous_pseudonym(&self, kind: &str, text: &str) -> Option<[u8; 32]> {
        Some(self.previous.as_ref()?.pseudonym(kind, text))
    }
}

/// Error for an encrypted value that neither the current nor the previous secret decrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSealingSecret;

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
    fn encrypted_value_requires_same_secret_and_name() {
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
        assert_ne!(sealed, ours.seal(&random, "key-1", b"seed"), "each seal uses a different nonce");
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

    #[test]
    fn previous_secret_is_accepted_until_removed() {
        let (old, random) = (keyring("a", "b"), SeededRandom::new(1));
        let (sealed, mac) = (old.seal(&random, "key-1", b"seed"), old.mac(MacPurpose::Refresh, &[b"x"]));
        let rotated = Keyring::new(&Auth {
            jwt_secret: Secret::new("new"),
            jwt_refresh_secret: Secret::new("new refresh"),
            jwt_secret_previous: Secret::new("a"),
            jwt_refresh_secret_previous: Secret::new("b"),
            ..Config::default().auth
        });
        assert_eq!(rotated.open("key-1", &sealed).as_deref(), Some(&b"seed"[..]));
        assert!(rotated.is_mac(MacPurpose::Refresh, &[b"x"], &mac));
        assert_ne!(rotated.mac(MacPurpose::Refresh, &[b"x"]), mac);
        assert_eq!(rotated.previous_mac(MacPurpose::Refresh, &[b"x"]), Some(mac));
        assert_eq!(rotated.previous_pseudonym("invite", "x"), Some(old.pseudonym("invite", "x")));
        assert_eq!(old.previous_pseudonym("invite", "x"), None);
        let resealed = rotated.reseal(&random, "key-1", &sealed).unwrap().unwrap();
        let new = keyring("new", "new refresh");
        assert_eq!(new.open("key-1", &resealed).as_deref(), Some(&b"seed"[..]));
        assert_eq!(rotated.reseal(&random, "key-1", &resealed), Ok(None));
        assert_eq!(rotated.reseal(&random, "key-2", &sealed), Err(UnknownSealingSecret));
        assert_eq!(
            (new.open("key-1", &sealed), new.previous_mac(MacPurpose::Refresh, &[b"x"])),
            (None, None)
        );
    }
}
