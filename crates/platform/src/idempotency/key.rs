//! Parses the header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07) and computes the
//! fingerprint of a request.

use std::sync::{Arc, OnceLock};

use axum::extract::MatchedPath;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Problem, problems};
use sha2::{Digest, Sha256};

use crate::auth::{Keyring, MacPurpose};
use crate::http::RoutePolicy;

/// Request header that identifies a write. If the request is repeated with the same key, the write is not
/// repeated.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Maximum length of a key in characters.
const MAX_KEY_CHARS: usize = 255;

/// Idempotency key of a write, with the operation, target and body of its request.
#[derive(Clone, Debug)]
pub struct IdempotencyKey(Arc<KeyedRequest>);

#[derive(Debug)]
struct KeyedRequest {
    key: String,
    /// Method and path template, such as `POST /api/v1/partners/requests/{id}/accept`.
    operation: String,
    /// Path and query as the client sent them.
    target: String,
    body: OnceLock<[u8; 32]>,
}

impl IdempotencyKey {
    /// Returns the key of an authenticated request, or `None` if the request is not a write or has no key. If
    /// it is called again for the same request, returns the same key.
    ///
    /// # Errors
    /// Returns a 400 problem if the key is malformed. Also returns it if the route has secrets in requests or
    /// responses, because such routes reject keys.
    pub(crate) fn of(parts: &mut Parts) -> Result<Option<Self>, Problem> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(Some(known.clone()));
        }
        if !is_keyed(&parts.method, &parts.headers) {
            return Ok(None);
        }
        // Responses with secrets are not stored.
        if parts.extensions.get::<RoutePolicy>().is_some_and(|policy| policy.is_secret) {
            return Err(key_not_accepted());
        }
        let key = parse(&parts.headers)?;
        let route = parts.extensions.get::<MatchedPath>().map_or(parts.uri.path(), MatchedPath::as_str);
        let operation = format!("{} {route}", parts.method);
        let target = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let keyed = Self(Arc::new(KeyedRequest { key, operation, target, body: OnceLock::new() }));
        parts.extensions.insert(keyed.clone());
        Ok(Some(keyed))
    }

    /// Records the body for the fingerprint. Without this call, the fingerprint is that of an empty body.
    pub(crate) fn record_body(&self, body: &[u8]) {
        self.0.body.get_or_init(|| Sha256::digest(body).into());
    }

    /// Returns the id of the write. It is unique for each combination of caller, operation and key.
    pub(super) fn id(&self, keyring: &Keyring, caller_id: Uuid) -> [u8; 32] {
        keyring.mac(MacPurpose::Idempotency, &self.parts(&caller_id))
    }

    /// Returns the id and the fingerprint computed with the previous secret, or `None` if no previous secret
    /// is configured.
    pub(super) fn previous(&self, keyring: &Keyring, caller_id: Uuid) -> Option<([u8; 32], [u8; 32])> {
        let id = keyring.previous_mac(MacPurpose::Idempotency, &self.parts(&caller_id))?;
        let body = self.0.body.get().map_or(&[][..], |digest| digest);
        let parts: [&[u8]; 3] = [&id, self.0.target.as_bytes(), body];
        Some((id, keyring.previous_mac(MacPurpose::Idempotency, &parts)?))
    }

    fn parts<'a>(&'a self, caller_id: &'a Uuid) -> [&'a [u8]; 3] {
        [caller_id.as_bytes(), self.0.operation.as_bytes(), self.0.key.as_bytes()]
    }

    /// Returns the fingerprint of path, query and body. It is a keyed digest, so that a password in the body
    /// cannot be found by guessing.
    pub(super) fn fingerprint(&self, keyring: &Keyring, id: &[u8; 32]) -> [u8; 32] {
        let body = self.0.body.get().map_or(&[][..], |digest| digest);
        keyring.mac(MacPurpose::Idempotency, &[id, self.0.target.as_bytes(), body])
    }
}

/// Returns true if the request is a write with an idempotency key.
pub(crate) fn is_keyed(method: &http::Method, headers: &HeaderMap) -> bool {
    !method.is_safe() && headers.contains_key(IDEMPOTENCY_KEY)
}

/// Rejects an idempotency key on an operation without authentication, because keys of different callers could
/// not be distinguished.
///
/// # Errors
/// Returns a 400 problem if the request is a write with a key.
pub(crate) fn refuse(parts: &Parts) -> Result<(), Problem> {
    if is_keyed(&parts.method, &parts.headers) { Err(key_not_accepted()) } else { Ok(()) }
}

fn key_not_accepted() -> Problem {
    Problem::new(
        &problems::MALFORMED,
        "This operation does not accept `Idempotency-Key`. Send the request without it.",
    )
}

/// Parses a string with quotes (RFC 9651), or the same characters without quotes, which most clients send.
pub(crate) fn parse(headers: &HeaderMap) -> Result<String, Problem> {
    let malformed = || {
        let detail = "Send `Idempotency-Key` once, with 1 to 255 printable ASCII characters.";
        Problem::new(&problems::MALFORMED, detail)
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(malformed()) };
    let text = value.to_str().map_err(|_| malformed())?.trim_matches(' ');
    let key = match text.strip_prefix('"') {
        Some(rest) => unquote(rest).ok_or_else(malformed)?,
        None => text.to_owned(),
    };
    let legal = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if legal && (1..=MAX_KEY_CHARS).contains(&key.len()) { Ok(key) } else { Err(malformed()) }
}

/// Parses a quoted string. `rest` is the text after the opening quote.
fn unquote(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            other => key.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, Request};

    use super::*;

    fn parsed(values: &[&[u8]]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
        }
        parse(&headers).ok()
    }

    #[test]
    fn key_accepts_printable_ascii_with_or_without_quotes() {
        let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
        for (value, key) in [
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("\"8e03978e\"", "8e03978e"),
            ("\"a \\\"b\\\\ c\"", "a \"b\\ c"),
            (" spaced out ", "spaced out"),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(parsed(&[value.as_bytes()]).as_deref(), Some(key), "{value}");
        }
        let malformed: [&[u8]; 9] = [
            b"",
            b"\"\"",
            b"\"open",
            b"\"a\\b\"",
            b"\"a\";b=1",
            b"tab\there",
            too_long.as_bytes(),
            "ü".as_bytes(),
            b"\xff",
        ];
        for value in malformed {
            assert_eq!(parsed(&[value]), None, "{value:?}");
        }
        assert_eq!(parsed(&[b"one", b"two"]), None);
    }

    fn of(method: Method, target: &str, key: &str) -> Result<Option<IdempotencyKey>, Problem> {
        let request = Request::builder().method(method).uri(target).header(IDEMPOTENCY_KEY, key);
        IdempotencyKey::of(&mut request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn reads_ignore_keys_and_routes_with_secrets_reject_them() {
        assert!(of(Method::GET, "/api/v1/me", "").unwrap().is_none());
        assert!(of(Method::POST, "/api/v1/me", "key").unwrap().is_some());
        assert_eq!(of(Method::POST, "/api/v1/me", "").unwrap_err().code, &problems::MALFORMED);
        let to_secret = |method, key| {
            let policy = RoutePolicy { is_secret: true, ..RoutePolicy::default() };
            let request = Request::builder().method(method).header(IDEMPOTENCY_KEY, key).extension(policy);
            IdempotencyKey::of(&mut request.body(()).unwrap().into_parts().0)
        };
        assert!(to_secret(Method::HEAD, "").unwrap().is_none());
        assert_eq!(to_secret(Method::DELETE, "key").unwrap_err().code, &problems::MALFORMED);
    }

    #[test]
    fn id_and_fingerprint_distinguish_writes() {
        let key = |method, target, key| of(method, target, key).unwrap().unwrap();
        let keyring = Keyring::new(&crate::config::Config::default().auth);
        let fingerprint = |key: IdempotencyKey| key.fingerprint(&keyring, &[0; 32]);
        let (ada, ben) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let one = key(Method::POST, "/things?a=1", "key");
        let ids = [
            one.id(&keyring, ada),
            one.id(&keyring, ben),
            key(Method::PUT, "/things?a=1", "key").id(&keyring, ada),
            key(Method::POST, "/others", "key").id(&keyring, ada),
            key(Method::POST, "/things", "key2").id(&keyring, ada),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        let with_body = |body| {
            let keyed = key(Method::POST, "/things?a=1", "key");
            keyed.record_body(body);
            keyed
        };
        assert_eq!(with_body(b"1").id(&keyring, ada), one.id(&keyring, ada));
        assert_eq!(fingerprint(with_body(b"1")), fingerprint(with_body(b"1")));
        assert_ne!(fingerprint(with_body(b"1")), fingerprint(with_body(b"2")));
        assert_ne!(fingerprint(key(Method::POST, "/things?a=2", "key")), fingerprint(one));
    }
}
