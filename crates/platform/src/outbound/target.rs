//! Targets of outbound requests. Parses URLs strictly, and applies all checks that do not need name
//! resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

use super::address::{AddressClass, classify};
use crate::config::{AllowedNetwork, Config, Port};

const MAX_URL_BYTES: usize = 2_048;

/// Parsed `http` or `https` URL that has passed the checks that do not need name resolution. The addresses of
/// its host name are checked when a connection is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    pub(super) host: TargetHost,
    pub(super) port: u16,
}

/// Host of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetHost {
    /// Name in lower-case ASCII, without a trailing dot.
    Name(String),
    /// IP address.
    Address(IpAddr),
    /// Local machine, given by a name that RFC 6761 reserves for it. The name is not resolved.
    Localhost,
}

/// Reason for rejecting a URL.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// The text is not an absolute http or https URL.
    #[error("the target is not an absolute http or https URL")]
    Unreadable,
    /// The text is longer than 2048 bytes.
    #[error("the URL is longer than 2048 bytes")]
    TooLong,
    /// The scheme is `http`, which is not allowed.
    #[error("the URL must begin with https://")]
    PlainHttp,
    /// The URL contains a user or password.
    #[error("the URL must not contain a user or password; send credentials in a header")]
    UserInfo,
    /// The port is not allowed.
    #[error("port {0} is not permitted")]
    Port(u16),
    /// The host is an internal IP address.
    #[error("the host is {}, which is not permitted", .0.description())]
    InternalAddress(AddressClass),
}

impl TargetError {
    /// Returns a stable code for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "not_a_target",
            Self::TooLong => "too_long",
            Self::PlainHttp => "https_only",
            Self::UserInfo => "user_info",
            Self::Port(_) => "port_not_allowed",
            Self::InternalAddress(_) => "internal_address",
        }
    }
}

/// Rules for targets, from the configuration.
#[derive(Clone, Debug)]
pub(super) struct TargetRules {
    allowed: Vec<AllowedNetwork>,
    ports: Vec<u16>,
    allows_plain_http: bool,
}

impl TargetRules {
    pub(super) fn new(config: &Config) -> Self {
        let outbound = &config.outbound;
        Self {
            allowed: outbound.allowed_networks.clone(),
            ports: outbound.ports.iter().copied().map(Port::number).collect(),
            allows_plain_http: outbound.allow_plain_http || !config.is_production(),
        }
    }

    /// Parses `text`, and applies all checks that do not need name resolution.
    pub(super) fn target(&self, text: &str) -> Result<Target, TargetError> {
        if text.len() > MAX_URL_BYTES {
            return Err(TargetError::TooLong);
        }
        // The URL parser removes white space and control characters, but the parser of another program may
        // keep them.
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
            return Err(TargetError::Unreadable);
        }
        // The URL parser also accepts a URL with fewer or more than two slashes.
        let rest = text.split_once("://").map(|(_, rest)| rest);
        if rest.is_none_or(|rest| rest.starts_with('/')) {
            return Err(TargetError::Unreadable);
        }
        let mut url = Url::parse(text).map_err(|_| TargetError::Unreadable)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allows_plain_http => {}
            "http" => return Err(TargetError::PlainHttp),
            _ => return Err(TargetError::Unreadable),
        }
        if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
            return Err(TargetError::UserInfo);
        }
        url.set_fragment(None);
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or(TargetError::Unreadable)?;
        let place = place(&url).ok_or(TargetError::Unreadable)?;
        match &place {
            TargetHost::Name(_) => self.port(port)?,
            TargetHost::Address(ip) => self.address(*ip, port)?,
            TargetHost::Localhost => {
                let any = LOCALHOST.iter().find_map(|ip| self.address(*ip, port).ok());
                any.ok_or(TargetError::InternalAddress(AddressClass::Loopback))?;
            }
        }
        Ok(Target { url, host: place, port })
    }

    /// Checks whether requests may be sent to `ip` on `port`.
    pub(super) fn address(&self, ip: IpAddr, port: u16) -> Result<(), TargetError> {
        if self.allowed.iter().any(|allowed| allowed.allows(ip, port)) {
            return Ok(());
        }
        match classify(ip) {
            Some(kind) => Err(TargetError::InternalAddress(kind)),
            None if self.ports.is_empty() || self.ports.contains(&port) => Ok(()),
            None => Err(TargetError::Port(port)),
        }
    }

    /// Checks whether requests may be sent to a host name on `port`. [`TargetRules::address`] checks the
    /// addresses of the name later.
    fn port(&self, port: u16) -> Result<(), TargetError> {
        let is_usual = self.ports.is_empty() || self.ports.contains(&port);
        if is_usual || !self.allowed.is_empty() { Ok(()) } else { Err(TargetError::Port(port)) }
    }
}

/// Addresses of `localhost`.
pub(super) const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn authority(text: &str) -> &str {
    let rest = text.split_once("//").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn place(url: &Url) -> Option<TargetHost> {
    Some(match url.host()? {
        Host::Ipv4(ip) => TargetHost::Address(ip.into()),
        Host::Ipv6(ip) => TargetHost::Address(ip.into()),
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() || name.len() > 253 || name.split('.').any(|label| !is_label(label)) {
                return None;
            }
            let is_local = name == "localhost" || name.ends_with(".localhost");
            if is_local { TargetHost::Localhost } else { TargetHost::Name(name.to_owned()) }
        }
    })
}

/// Returns true if the text is a valid label of a host name (RFC 1123). Underscores are also accepted,
/// because some internal names contain them.
fn is_label(label: &str) -> bool {
    let of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(of_label)
}

impl Target {
    /// Returns the normalized URL, such as `https://api.example.org/hook?day=1`.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Returns the URL without its query, which may contain secrets.
    pub fn without_query(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.into()
    }

    /// Returns true if the request uses TLS.
    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns the value of the `Host` header.
    pub(super) fn host_header(&self) -> String {
        let host = match &self.host {
            TargetHost::Name(name) => name.clone(),
            _ => self.url.host_str().unwrap_or_default().trim_end_matches('.').to_owned(),
        };
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Returns the name for which the server must present a certificate.
    pub(super) fn server_name(&self) -> String {
        match &self.host {
            TargetHost::Name(name) => name.clone(),
            TargetHost::Address(ip) => ip.to_string(),
            TargetHost::Localhost => self.url.host_str().unwrap_or_default().trim_end_matches('.').to_owned(),
        }
    }

    /// Returns path and query, for the first line of the request.
    pub(super) fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }
}
