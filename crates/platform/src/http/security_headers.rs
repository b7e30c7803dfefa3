//! Security headers that are added to every response.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const EMBEDDER_POLICY: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Security headers. A header is added unless the response already has it.
pub(super) struct SecurityHeaders(Vec<(HeaderName, HeaderValue)>);

impl SecurityHeaders {
    pub fn new(is_production: bool) -> Self {
        let mut headers = vec![
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
            (PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
            (OPENER_POLICY, "same-origin"),
            (EMBEDDER_POLICY, "require-corp"),
            (RESOURCE_POLICY, "same-origin"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        if is_production {
            // `includeSubDomains` is omitted, because subdomains of the host may not support TLS.
            headers.push((header::STRICT_TRANSPORT_SECURITY, "max-age=63072000"));
        }
        Self(headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn add(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

#[cfg(test)]
#[path = "observatory_tests.rs"]
mod tests;
