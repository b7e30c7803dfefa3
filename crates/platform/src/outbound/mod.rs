//! Requests that Kith sends of its own accord, to where others say: judged by the address that is really connected to.
//!
//! A request goes out once, over a connection of its own. No redirect is followed, no proxy of the environment is asked,
//! nothing is decompressed, and no more of an answer is read than is kept.

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

pub use address::Internal;
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use target::{Target, TargetError};

use crate::config::{Config, millis};
use target::Rules;

/// Sends. Clones share what is trusted.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    rules: Rules,
    connect_timeout: Duration,
    timeout: Duration,
    keep_bytes: usize,
    resolver: Arc<dyn Resolve>,
    /// Read when first needed: a machine without authorities may well serve.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub target: Target,
    /// How.
    pub method: Method,
    /// Beside those that are Kith's to say; see [`is_own_header`].
    pub headers: HeaderMap,
    /// May be empty.
    pub body: Bytes,
    /// How long it may take altogether, if less than the configuration says.
    pub timeout: Option<Duration>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Received {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or its beginning, as it came.
    pub body: Bytes,
    /// Whether that is all of the body.
    pub is_whole: bool,
    /// From the first question to the resolver to the last byte.
    pub took: Duration,
}

/// Why there is no answer. It tells nothing of what a name resolves to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OutboundError {
    /// It leads where requests may not go.
    #[error("the target was refused: {0}")]
    Refused(#[from] TargetError),
    /// The name has no address.
    #[error("the name of the target has no address")]
    NotFound,
    /// No connection within the time allowed.
    #[error("no connection came about in time")]
    ConnectTimeout,
    /// No answer within the time allowed.
    #[error("no answer came in time")]
    Timeout,
    /// The connection was refused or broke.
    #[error("the connection failed: {0}")]
    Connection(ErrorKind),
    /// The certificate is not one that this machine trusts for the name.
    #[error("the target's certificate is not trusted for its name")]
    Certificate,
    /// No TLS came about.
    #[error("no TLS connection came about")]
    Tls,
    /// This machine trusts nobody.
    #[error("this machine has no certificate authorities; install ca-certificates")]
    NoAuthorities,
    /// What came back is not HTTP/1.1, or its head is too long.
    #[error("the answer is not HTTP/1.1, or its head is longer than 32 KiB")]
    Protocol,
}

impl OutboundError {
    /// A word for programs.
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

/// Whether only Kith says this header: it belongs to the connection, or to the signature.
pub fn is_own_header(name: &HeaderName) -> bool {
    exchange::HOP_BY_HOP.contains(&name.as_str()) || name.as_str().starts_with("webhook-")
}

impl Outbound {
    /// As the configuration says, by the resolver and the authorities of this machine.
    pub fn new(config: &Config) -> Self {
        Self::with(config, Arc::new(SystemResolver), None)
    }

    /// The same by another resolver, and trusting `roots` instead of the machine's authorities.
    pub fn with(config: &Config, resolver: Arc<dyn Resolve>, roots: Option<RootCertStore>) -> Self {
        let outbound = &config.outbound;
        let tls = OnceLock::new();
        if let Some(roots) = roots {
            let _ = tls.set(client_config(roots));
        }
        Self(Arc::new(Inner {
            rules: Rules::new(config),
            connect_timeout: millis(outbound.connect_timeout_ms),
            timeout: millis(outbound.timeout_ms),
            keep_bytes: usize::try_from(outbound.response_bytes).unwrap_or(usize::MAX),
            resolver,
            tls,
        }))
    }

    /// The longest that [`Outbound::send`] takes.
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Reads an address, and refuses what is wrong whatever its name resolves to.
    ///
    /// # Errors
    /// [`TargetError`] says what is wrong with it.
    pub fn target(&self, url: &str) -> Result<Target, TargetError> {
        self.0.rules.target(url)
    }

    /// Sends once and reads the answer. Any status is an answer, a redirect's too.
    ///
    /// # Errors
    /// [`OutboundError`] if there is none.
    #[expect(clippy::disallowed_methods, reason = "how long an answer may take is measured in real time")]
    pub async fn send(&self, outgoing: Outgoing) -> Result<Received, OutboundError> {
        let began = Instant::now();
        let deadline = began + outgoing.timeout.map_or(self.0.timeout, |own| own.min(self.0.timeout));
        let answer = tokio::time::timeout_at(deadline.into(), self.ask(outgoing)).await;
        let answer = answer.map_err(|_| OutboundError::Timeout)??;
        let received = answer.read(self.0.keep_bytes, deadline).await;
        Ok(Received { took: began.elapsed(), ..received })
    }

    async fn ask(&self, outgoing: Outgoing) -> Result<exchange::Answer, OutboundError> {
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
