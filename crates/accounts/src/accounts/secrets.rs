//! Refresh tokens and device tokens. They are not stored, but computed from stored values with a keyed hash.
//! The same values always produce the same token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_kernel::UserId;
use kith_kernel::uuid::Uuid;
use kith_platform::auth::{Keyring, MacPurpose};

use super::model::SessionId;

const ID_BYTES: usize = 16;
const GENERATION_BYTES: usize = 8;
const VERSION_BYTES: usize = 8;
const MAC_BYTES: usize = 32;

/// Refresh token. Any client that has its text can refresh the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// Session that the token belongs to. All refresh tokens of a session form one token family.
    pub session: SessionId,
    /// Number of refreshes before this token was issued; 0 for the first token.
    pub generation: i64,
}

impl RefreshToken {
    /// Returns the token as text: session, generation and an HMAC over both. For responses only.
    pub fn reveal(self, keyring: &Keyring) -> String {
        let (id, generation) = (self.session.0.into_bytes(), self.generation.to_be_bytes());
        let mac = keyring.mac(MacPurpose::Refresh, &[&id, &generation]);
        URL_SAFE_NO_PAD.encode([id.as_slice(), &generation, &mac].concat())
    }

    /// Parses the text of [`RefreshToken::reveal`]. Returns `None` if it is malformed or its HMAC is wrong.
    pub fn parse(keyring: &Keyring, text: &str) -> Option<Self> {
        let bytes: [u8; ID_BYTES + GENERATION_BYTES + MAC_BYTES] =
            URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (id, rest) = bytes.split_first_chunk::<ID_BYTES>()?;
        let (generation, mac) = rest.split_first_chunk::<GENERATION_BYTES>()?;
        let is_valid = keyring.is_mac(MacPurpose::Refresh, &[id, generation], mac);
        is_valid.then(|| Self {
            session: SessionId(Uuid::from_bytes(*id)),
            generation: i64::from_be_bytes(*generation),
        })
    }
}

/// Device token. It identifies a device on which the user has logged in before, like OWASP's "device
/// cookies". Failed log-ins with a device token are counted separately, so that attempts from elsewhere
/// cannot lock out the device. A token is valid for one account, e-mail address and password version. It can
/// be verified without reading the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceToken {
    /// Device ID.
    pub id: Uuid,
    /// User who logged in.
    pub user: UserId,
    /// Version of the password at that log-in.
    pub password_version: i64,
}

impl DeviceToken {
    /// Creates the token of `user` for a device.
    pub fn new(id: Uuid, user: UserId, password_version: i64) -> Self {
        Self { id, user, password_version }
    }

    /// Returns the token as text: device, user, password version, and an HMAC over these and the e-mail key.
    /// For responses only.
    pub fn reveal(self, keyring: &Keyring, email_key: &str) -> String {
        let (id, user) = (self.id.as_bytes(), self.user.0.as_bytes());
        let version = self.password_version.to_be_bytes();
        let mac = keyring.mac(MacPurpose::Device, &[id, user, &version, email_key.as_bytes()]);
        URL_SAFE_NO_PAD.encode([id.as_slice(), user, &version, &mac].concat())
    }

    /// Parses the text of [`DeviceToken::reveal`] for this e-mail key. Returns `None` if it is malformed or
    /// its HMAC is wrong.
    pub fn parse(keyring: &Keyring, text: &str, email_key: &str) -> Option<Self> {
        let bytes: [u8; 2 * ID_BYTES + VERSION_BYTES + MAC_BYTES] =
            URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (id, rest) = bytes.split_first_chunk::<ID_BYTES>()?;
        let (user, rest) = rest.split_first_chunk::<ID_BYTES>()?;
        let (version, mac) = rest.split_first_chunk::<VERSION_BYTES>()?;
        let is_valid = keyring.is_mac(MacPurpose::Device, &[id, user, version, email_key.as_bytes()], mac);
        is_valid.then(|| Self {
            id: Uuid::from_bytes(*id),
            user: UserId(Uuid::from_bytes(*user)),
            password_version: i64::from_be_bytes(*version),
        })
    }
}

#[cfg(test)]
mod tests {
    use kith_platform::config::{Config, Secret};

    use super::*;

    fn keyring(secret: &str) -> Keyring {
        let mut config = Config::default();
        config.auth.jwt_refresh_secret = Secret::new(secret);
        Keyring::new(&config.auth)
    }

    #[test]
    fn refresh_token_is_deterministic_and_authenticated() {
        let is_valid = keyring("a");
        let token = RefreshToken { session: SessionId(Uuid::from_u128(7)), generation: 3 };
        let text = token.reveal(&is_valid);
        assert_eq!(text, token.reveal(&is_valid));
        assert_eq!(RefreshToken::parse(&is_valid, &text), Some(token));
        assert_eq!(RefreshToken::parse(&keyring("b"), &text), None);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'B' { b'C' } else { b'B' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(RefreshToken::parse(&is_valid, &forged), None, "{at}");
        }
        assert_eq!(RefreshToken::parse(&is_valid, "short"), None);
    }

    #[test]
    fn device_token_is_bound_to_email() {
        let (is_valid, ada) = (keyring("a"), UserId(Uuid::from_u128(1)));
        let token = DeviceToken::new(Uuid::from_u128(9), ada, 3);
        let text = token.reveal(&is_valid, "ada@example.org");
        assert_eq!(DeviceToken::parse(&is_valid, &text, "ada@example.org"), Some(token));
        assert_eq!(DeviceToken::parse(&is_valid, &text, "ben@example.org"), None);
        assert_eq!(DeviceToken::parse(&keyring("b"), &text, "ada@example.org"), None);
    }
}
