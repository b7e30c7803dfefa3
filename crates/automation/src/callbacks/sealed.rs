//! Encrypts and decrypts the signing secrets of endpoints and the headers of callbacks, which the database
//! stores encrypted ("sealed"). They are never logged. A secret is returned only when it is created.

use kith_kernel::{Ctx, Timestamp};
use kith_platform::auth::Keyring;
use kith_platform::outbound::signature::SigningSecret;

use super::model::{CallbackId, EndpointId, StoredEndpoint};

/// Creates a signing secret. Returns the secret and its encrypted form.
pub fn new_secret(keyring: &Keyring, ctx: &Ctx, endpoint: EndpointId) -> (SigningSecret, Vec<u8>) {
    let secret = SigningSecret::generate(ctx.randomness());
    let sealed = keyring.seal(ctx.randomness(), &endpoint_name(endpoint), secret.as_bytes());
    (secret, sealed)
}

/// Decrypts the signing secrets of `endpoint` that are valid at `now`, current secret first. Returns `None`
/// if they were encrypted with another key.
pub fn decrypt_secrets(
    keyring: &Keyring,
    endpoint: &StoredEndpoint,
    now: Timestamp,
) -> Option<Vec<SigningSecret>> {
    let previous = endpoint.previous.as_ref().filter(|(_, until)| now < *until).map(|(sealed, _)| sealed);
    let open = |sealed: &Vec<u8>| {
        let bytes = keyring.open(&endpoint_name(endpoint.id), sealed)?;
        SigningSecret::from_bytes(bytes).ok()
    };
    std::iter::once(&endpoint.secret).chain(previous).map(open).collect()
}

/// Encrypts headers. Returns `None` if there are no headers.
pub fn seal_headers(
    keyring: &Keyring,
    ctx: &Ctx,
    name: &str,
    headers: &[(String, String)],
) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let json = serde_json::to_vec(headers).expect("pairs of texts");
    Some(keyring.seal(ctx.randomness(), name, &json))
}

/// Decrypts headers. Returns `None` if they were encrypted with another key.
pub fn open_headers(keyring: &Keyring, name: &str, sealed: Option<&[u8]>) -> Option<Vec<(String, String)>> {
    let Some(sealed) = sealed else { return Some(Vec::new()) };
    serde_json::from_slice(&keyring.open(name, sealed)?).ok()
}

fn endpoint_name(endpoint: EndpointId) -> String {
    format!("callback_endpoint:{endpoint}")
}

/// Returns the name with which the headers of a callback are encrypted. Decryption requires the same name.
pub fn headers_name(callback: CallbackId) -> String {
    format!("callback:{callback}")
}
