//! Tools for forging access tokens. They can use the server's own signing key, so that a forged token has
//! exactly one fault.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_store::Error;
use serde_json::{Value, json};

use super::TestApp;

/// Signing key of a server, read from its database and decrypted with its secret.
pub struct Key {
    /// Key id.
    pub id: String,
    seed: Vec<u8>,
}

impl Key {
    /// Returns the key of a server with exactly one key.
    pub async fn of(app: &TestApp) -> Self {
        let read = app.db().read(|q| {
            q.one("SELECT id, sealed FROM signing_keys", &[], |row| {
                Ok::<(String, Vec<u8>), Error>((row.get(0)?, row.get(1)?))
            })
        });
        let (id, sealed) = read.await.expect("the keys").expect("a key");
        let seed = app.parts().keyring.open(&id, &sealed).expect("the configured secret decrypts the key");
        Self { id, seed }
    }

    /// Returns the key pair.
    pub fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.seed).expect("a seed")
    }

    /// Returns another key with the same id.
    pub fn other(&self) -> Self {
        Self { id: self.id.clone(), seed: vec![7; 32] }
    }

    /// Signs a token with this header and payload.
    pub fn sign(&self, header: &Value, payload: &Value) -> String {
        let text = format!("{}.{}", part(header), part(payload));
        let signature = self.pair().sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns a token authenticated with HMAC-SHA256. A vulnerable verifier would use the public key as the
    /// secret.
    pub fn sign_hs256(&self, secret: &[u8], payload: &Value) -> String {
        let header = json!({ "typ": "at+jwt", "alg": "HS256", "kid": self.id });
        let text = format!("{}.{}", part(&header), part(payload));
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac))
    }
}

/// Encodes a part of a token.
pub fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// Returns a copy of `json` in which `key` has this value.
pub fn with(json: &Value, key: &str, value: impl Into<Value>) -> Value {
    let mut json = json.clone();
    json[key] = value.into();
    json
}

/// Returns a copy of `json` without `key`.
pub fn without(json: &Value, key: &str) -> Value {
    let mut json = json.clone();
    json.as_object_mut().expect("an object").remove(key);
    json
}

/// Decodes a part of a token: 0 is the header, 1 the claims.
pub fn read(token: &str, part: usize) -> Value {
    let text = token.split('.').nth(part).expect("a part of the token");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
}
