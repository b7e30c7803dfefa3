//! Which web pages may call from elsewhere: those of the listed origins, and no others.
//!
//! Credentials are never allowed: whoever calls sends a token, and no cookie means anything here.

use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};

use crate::config::WebOrigin;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const MAY_SEND: HeaderValue = HeaderValue::from_static(
    "authorization, content-encoding, content-type, idempotency-key, if-match, if-none-match, traceparent, \
     x-app-build, x-request-id",
);
const MAY_READ: HeaderValue = HeaderValue::from_static(
    "etag, idempotency-replayed, link, location, ratelimit, ratelimit-policy, retry-after, server-timing, \
     www-authenticate, x-request-id",
);
/// The longest that browsers keep it.
const TWO_HOURS: HeaderValue = HeaderValue::from_static("7200");
const ORIGIN: HeaderValue = HeaderValue::from_static("origin");

/// The listed origins.
pub(super) struct Cors(Vec<HeaderValue>);

impl Cors {
    pub fn of(origins: &[WebOrigin]) -> Self {
        let value = |origin: &WebOrigin| HeaderValue::from_str(origin.as_str());
        Self(origins.iter().map(|origin| value(origin).expect("origins are plain ASCII")).collect())
    }

    /// The listed origin that the request comes from.
    pub fn origin_of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.0.iter().find(|listed| *listed == origin).cloned()
    }

    /// The answer to a browser that asks whether a page of a listed origin may send something.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response> {
        if *request.method() != Method::OPTIONS {
            return None;
        }
        self.origin_of(request.headers())?;
        request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, MAY_SEND);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, TWO_HOURS);
        Some(response)
    }

    /// Lets pages of `origin` read the answer.
    pub fn allow(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        headers.append(header::VARY, ORIGIN);
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, MAY_READ);
        }
    }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
