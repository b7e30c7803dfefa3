//! Outbound HTTP requests to URLs that users provide. The address to which a connection is made is checked.
//!
//! Each request is sent once, over its own connection. Redirects are not followed, and proxy settings of the
//! environment are ignored. Bodies are not decompressed, and only a limited part of the response is read.

mod address;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod resolve;
pub mod signature;
mod target;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

pub use address::AddressClass;
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use target::{Target, TargetError};

use crate::config::{Config, millis};
use target::TargetRules;

/// Sender of outbound requests. Clones share the configuration.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    rules: TargetRules,
    connect_timeout: Duration,
    timeout: Duration,
    max_body_bytes: usize,
    resolver: Arc<dyn Resolve>,
    /// TLS configuration, loaded on first use. A machine without certificate authorities can then still run
    /// the server.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
}

/// Outbound request.
#[derive(Clone, Debug)]
pub struct OutboundRequest {
    /// Destination.
    pub target: Target,
    /// HTTP method.
    pub method: Method,
    /// Headers. Headers that only Kith sets are ignored or replaced; see [`is_own_header`].
    pub headers: HeaderMap,
    /// Body; may be empty.
    pub body: Bytes,
    /// Timeout for the whole request. Ignored if it is longer than the configured timeout.
    pub timeout: Option<Duration>,
}

/// Response to an outbound request.
#[derive(Clone, Debug)]
pub struct OutboundResponse {
    /// HTTP status code.
    pub status: u16,
    /// Response headers.
    pub headers: HeaderMap,
    /// Body as received, truncated to the configured maximum size.
    pub body: Bytes,
    /// True if the body is complete.
    pub is_complete: bool,
    /// Time from the start of name resolution to the last byte.
    pub took: Duration,
}

/// Reason why no response was received. It does not reveal the addresses of a host name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OutboundError {
    /// The target is not allowed.
    #[error("the target is not permitted: {0}")]
    Refused(#[from] TargetError),
    /// The host name has no address.
    #[error("the host name of the target cannot be resolved")]
    NotFound,
    /// The connection was not established in time.
    #[error("the connection timed out")]
    ConnectTimeout,
    /// No response arrived in time.
    #[error("the response timed out")]
    Timeout,
    /// The connection was refused or lost.
    #[error("the connection failed: {0}")]
    Connection(ErrorKind),
    /// The certificate is not trusted, or not valid for the host name.
    #[error("the target's certificate is not trusted for its host name")]
    Certificate,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed")]
    Tls,
    /// This machine has no certificate authorities.
    #[error("this machine has no certificate authorities; install ca-certificates")]
    NoAuthorities,
    /// The response is not HTTP/1.1, or its head is too large.
    #[error("the response is not HTTP/1.1, or its head exceeds 32 KiB")]
    Protocol,
}

impl OutboundError {
    /// Returns a stable code for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "target_refused",
            Self::NotFound => "name_not_found",
            Self::ConnectTimeout => "connect_timeout",
            Self::Timeout => "timeout",
            Self::Connection(_) => "connection_failed",
            Self::Certificate => "certificate_not_trusted",
            Self::Tls => "tls_failed",
            Self::NoAuthorities => "no_authorities",
            Self::Protocol => "not_http",
        }
    }
}

/// Returns true for headers that only Kith sets: headers that concern the connection, and headers of the
/// signature.
pub fn is_own_header(name: &HeaderName) -> bool {
    exchange::HOP_BY_HOP.contains(&name.as_str()) || name.as_str().starts_with("webhook-")
}

impl Outbound {
    /// Creates a sender that uses the system's resolver and certificate authorities.
    pub fn new(config: &Config) -> Self {
        Self::with(config, Arc::new(SystemResolver), None)
    }

    /// Creates a sender that uses `resolver`. If `roots` is given, it replaces the system's certificate
    /// authorities.
    pub fn with(config: &Config, resolver: Arc<dyn Resolve>, roots: Option<RootCertStore>) -> Self {
        let outbound = &config.outbound;
        let tls = OnceLock::new();
        if let Some(roots) = roots {
            let _ = tls.set(client_config(roots));
        }
        Self(Arc::new(Inner {
            rules: TargetRules::new(config),
            connect_timeout: millis(outbound.connect_timeout_ms),
            timeout: millis(outbound.timeout_ms),
            max_body_bytes: usize::try_from(outbound.max_response_bytes).unwrap_or(usize::MAX),
            resolver,
            tls,
        }))
    }

    /// Returns the maximum duration of [`Outbound::send`].
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Parses a URL and applies all checks that do not depend on name resolution.
    ///
    /// # Errors
    /// Returns a [`TargetError`] with the reason for the rejection.
    pub fn target(&self, url: &str) -> Result<Target, TargetError> {
        self.0.rules.target(url)
    }

    /// Sends the request once and reads the response. A response with any status is a success, including
    /// redirects.
    ///
    /// # Errors
    /// Returns an [`OutboundError`] if no response is received.
    #[expect(clippy::disallowed_methods, reason = "the timeout of a response is measured in real time")]
    pub async fn send(&self, outgoing: OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let began = Instant::now();
        let deadline = began + outgoing.timeout.map_or(self.0.timeout, |own| own.min(self.0.timeout));
        let answer = tokio::time::timeout_at(deadline.into(), self.request(outgoing)).await;
        let answer = answer.map_err(|_| OutboundError::Timeout)??;
        let received = answer.read(self.0.max_body_bytes, deadline).await;
        Ok(OutboundResponse { took: began.elapsed(), ..received })
    }

    async fn request(&self, outgoing: OutboundRequest) -> Result<exchange::PendingResponse, OutboundError> {
        let Inner { rules, connect_timeout, .. } = &*self.0;
        let target = &outgoing.target;
        let tls = target.is_https().then(|| self.tls().ok_or(OutboundError::NoAuthorities)).transpose()?;
        let resolving = exchange::addresses(rules, &*self.0.resolver, target);
        let ips = tokio::time::timeout(*connect_timeout, resolving).await;
        let ips = ips.map_err(|_| OutboundError::ConnectTimeout)??;
        let stream = exchange::connect(rules, &ips, target.port, *connect_timeout).await?;
        exchange::exchange(stream, tls, outgoing, *connect_timeout).await
    }

    fn tls(&self) -> Option<Arc<ClientConfig>> {
        let of_the_machine = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            client_config(roots)
        };
        self.0.tls.get_or_init(of_the_machine).clone()
    }
}

fn client_config(roots: RootCertStore) -> Option<Arc<ClientConfig>> {
    if roots.is_empty() {
        return None;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("rules", &self.0.rules).finish_non_exhaustive()
    }
}
