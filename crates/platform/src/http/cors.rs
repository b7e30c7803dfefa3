//! Cross-origin resource sharing (CORS). Allows the configured origins and, in development mode, origins on
//! the same machine.
//!
//! Credentials are never allowed: callers authenticate with tokens, not with cookies.

use std::net::IpAddr;

use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use kith_kernel::{Problem, problems};

use crate::config::{Config, WebOrigin};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-encoding, content-type, idempotency-key, if-match, if-none-match, traceparent, \
     x-app-build, x-request-id",
);
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "etag, idempotency-replayed, link, location, ratelimit, ratelimit-policy, retry-after, server-timing, \
     www-authenticate, x-request-id",
);
/// Time for which browsers may cache preflight responses.
const TWO_HOURS: HeaderValue = HeaderValue::from_static("7200");
const ORIGIN: HeaderValue = HeaderValue::from_static("origin");

/// Allowed origins.
pub(super) struct Cors {
    allowed_origins: Vec<HeaderValue>,
    /// True if origins on a loopback host are allowed, with any port. This is the case in development mode.
    allows_loopback: bool,
}

impl Cors {
    pub fn of(config: &Config) -> Self {
        let value = |origin: &WebOrigin| HeaderValue::from_str(origin.as_str());
        let listed = config.server.cors_origins.iter();
        Self {
            allowed_origins: listed.map(|origin| value(origin).expect("origins are plain ASCII")).collect(),
            allows_loopback: !config.is_production(),
        }
    }

    /// Returns the origin of the request if it is allowed.
    pub fn origin_of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let is_allowed =
            self.allowed_origins.contains(origin) || (self.allows_loopback && is_loopback(origin));
        is_allowed.then(|| origin.clone())
    }

    /// Returns the response to a preflight request, or `None` if the request is not a preflight request.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Result<Response, Problem>> {
        let headers = request.headers();
        let asks = headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if *request.method() != Method::OPTIONS || !asks {
            return None;
        }
        if self.origin_of(headers).is_none() {
            let detail =
                "Pages of this origin may not call this server. Add the origin to `server.cors_origins`.";
            return Some(Err(Problem::new(&problems::ORIGIN_NOT_ALLOWED, detail)));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, TWO_HOURS);
        Some(Ok(response))
    }

    /// Adds the headers that allow pages of `origin` to read the response.
    pub fn allow(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.allowed_origins.is_empty() && !self.allows_loopback {
            return;
        }
        headers.append(header::VARY, ORIGIN);
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
    }
}

/// Returns true if the origin is on the local machine: `localhost`, a subdomain of it (RFC 6761) or a
/// loopback address, with any port. Expects the form in which browsers send origins.
fn is_loopback(origin: &HeaderValue) -> bool {
    let Some(rest) = origin
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")))
    else {
        return false;
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some("80"))),
            None => return false,
        },
        None => rest.split_once(':').map_or((rest, Some("80")), |(host, port)| (host, Some(port))),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    port.is_some_and(is_port) && is_loopback_host(host)
}

/// Returns true if the host always means the local machine: `localhost`, a subdomain of it (RFC 6761) or a
/// loopback address, with or without brackets. Expects lower case.
pub(super) fn is_loopback_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let is_name = || {
        let mut labels = host.rsplit('.');
        labels.next() == Some("localhost") && labels.all(is_label)
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    is_name() || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
