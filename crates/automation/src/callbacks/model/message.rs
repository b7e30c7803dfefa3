//! Requests that callbacks send, and the validation of the parts that callers can set.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kith_kernel::FieldError;
use kith_platform::outbound::is_own_header;
use serde_json::Value;

/// Maximum number of additional headers, and their maximum total length in bytes.
const MAX_HEADERS: usize = 30;
const MAX_HEADER_BYTES: usize = 8_192;
/// Maximum length of a body in bytes.
const MAX_BODY_BYTES: usize = 128 * 1_024;
const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");

/// Request of a callback.
#[derive(Clone, Debug)]
pub struct CallbackMessage {
    /// HTTP method.
    pub method: Method,
    /// Additional headers. Every callback also has the headers of Standard Webhooks.
    pub headers: Vec<(String, String)>,
    /// Body; `None` if the request has no body.
    pub body: Option<String>,
    /// Maximum time to wait for the response; `None` for the server's default.
    pub timeout: Option<Duration>,
}

impl CallbackMessage {
    /// Creates a message from its parts.
    ///
    /// # Errors
    /// Returns one [`FieldError`] for each invalid part.
    pub fn new(
        method: Option<&str>,
        headers: Vec<(String, String)>,
        json: Option<&Value>,
        text: Option<String>,
        timeout: Option<Duration>,
    ) -> Result<Self, Vec<FieldError>> {
        let mut faults = check_headers(&headers);
        let method = match method.unwrap_or("POST") {
            known @ ("POST" | "PUT" | "PATCH" | "DELETE" | "GET") => known.parse().unwrap_or(Method::POST),
            _ => {
                let detail = "Expected POST, PUT, PATCH, DELETE or GET.";
                faults.push(FieldError::new("/method", "not_a_method", detail));
                Method::POST
            }
        };
        let mut headers = headers;
        let has_type = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let body = match (json, text) {
            (Some(_), Some(_)) => {
                faults.push(FieldError::new(
                    "/text",
                    "not_exactly_one",
                    "Send either body or text, not both.",
                ));
                None
            }
            (Some(json), None) => {
                if !has_type {
                    headers.push(("content-type".to_owned(), "application/json".to_owned()));
                }
                Some(json.to_string())
            }
            (None, Some(text)) => {
                if !has_type {
                    headers.push(("content-type".to_owned(), "text/plain; charset=utf-8".to_owned()));
                }
                Some(text)
            }
            (None, None) => None,
        };
        if body.as_ref().is_some_and(|body| body.len() > MAX_BODY_BYTES) {
            faults.push(FieldError::new(
                "/body",
                "too_long",
                format!("Expected at most {MAX_BODY_BYTES} bytes."),
            ));
        }
        if body.is_some() && method == Method::GET {
            faults.push(FieldError::new("/body", "not_with_get", "A GET request cannot have a body."));
        }
        if faults.is_empty() { Ok(Self { method, headers, body, timeout }) } else { Err(faults) }
    }

    /// Returns the additional headers in the type that the HTTP client requires.
    pub fn header_map(&self) -> HeaderMap {
        let pairs = self.headers.iter().filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
        });
        pairs.collect()
    }
}

fn check_headers(headers: &[(String, String)]) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        let detail =
            format!("Expected at most {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes in total.");
        faults.push(FieldError::new("/headers", "too_long", detail));
    }
    for (at, (name, value)) in headers.iter().enumerate() {
        let pointer = || format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let is_duplicate = headers[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        match name.parse::<HeaderName>() {
            Err(_) => {
                faults.push(FieldError::new(pointer(), "not_a_header", "This is not a valid header name."))
            }
            Ok(known) if is_own_header(&known) => {
                faults.push(FieldError::new(pointer(), "reserved", "The server sets this header itself."));
            }
            Ok(_) if is_duplicate => {
                faults.push(FieldError::new(pointer(), "not_unique", "This header is listed twice."));
            }
            Ok(known)
                if HeaderValue::from_str(value).is_err() || (known == CONTENT_TYPE && value.is_empty()) =>
            {
                faults.push(FieldError::new(
                    pointer(),
                    "not_a_header_value",
                    "This is not a valid header value.",
                ));
            }
            Ok(_) => {}
        }
    }
    faults
}
