//! Where a request goes: an address as people write it, read the one way, and what can be said of it before any name is
//! resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

use super::address::{Internal, internal};
use crate::config::{AllowedNetwork, Config, Port};

const MOST_BYTES: usize = 2_048;

/// An `http` or `https` address that was read and allowed so far. What its name resolves to is judged when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    pub(super) place: Place,
    pub(super) port: u16,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name, in lower case and ASCII, without a dot at the end.
    Name(String),
    /// An address.
    Address(IpAddr),
    /// This machine, by the name that RFC 6761 keeps for it: no resolver is asked.
    Localhost,
}

/// Why an address is nowhere to send to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// It cannot be read.
    #[error("it is not an absolute http or https address")]
    Unreadable,
    /// It is longer than 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
    /// `http://`, where that is not allowed.
    #[error("it must begin with https://")]
    PlainHttp,
    /// `https://user:password@…`.
    #[error("it must not hold a user or a password; send them in a header")]
    UserInfo,
    /// A port that is not asked on public addresses.
    #[error("port {0} is not one that requests may go to")]
    Port(u16),
    /// It names an internal address.
    #[error("it is {}, which requests may not go to", .0.told())]
    Internal(Internal),
}

impl TargetError {
    /// A word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "not_a_target",
            Self::TooLong => "too_long",
            Self::PlainHttp => "https_only",
            Self::UserInfo => "user_info",
            Self::Port(_) => "port_not_allowed",
            Self::Internal(_) => "internal_address",
        }
    }
}

/// What the configuration says about targets.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    allowed: Vec<AllowedNetwork>,
    ports: Vec<u16>,
    plain_http: bool,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        let outbound = &config.outbound;
        Self {
            allowed: outbound.allowed_networks.clone(),
            ports: outbound.ports.iter().copied().map(Port::number).collect(),
            plain_http: outbound.plain_http || !config.is_production(),
        }
    }

    /// Reads `text`, and refuses what is wrong whatever its name resolves to.
    pub(super) fn target(&self, text: &str) -> Result<Target, TargetError> {
        if text.len() > MOST_BYTES {
            return Err(TargetError::TooLong);
        }
        // The parser drops white space and control characters that others would not.
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
            return Err(TargetError::Unreadable);
        }
        // It also takes fewer slashes than two, and more.
        let rest = text.split_once("://").map(|(_, rest)| rest);
        if rest.is_none_or(|rest| rest.starts_with('/')) {
            return Err(TargetError::Unreadable);
        }
        let mut url = Url::parse(text).map_err(|_| TargetError::Unreadable)?;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
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
            Place::Name(_) => self.port(port)?,
            Place::Address(ip) => self.address(*ip, port)?,
            Place::Localhost => {
                let any = LOCALHOST.iter().find_map(|ip| self.address(*ip, port).ok());
                any.ok_or(TargetError::Internal(Internal::Loopback))?;
            }
        }
        Ok(Target { url, place, port })
    }

    /// Whether `ip` may be asked on `port`.
    pub(super) fn address(&self, ip: IpAddr, port: u16) -> Result<(), TargetError> {
        if self.allowed.iter().any(|allowed| allowed.allows(ip, port)) {
            return Ok(());
        }
        match internal(ip) {
            Some(kind) => Err(TargetError::Internal(kind)),
            None if self.ports.is_empty() || self.ports.contains(&port) => Ok(()),
            None => Err(TargetError::Port(port)),
        }
    }

    /// Whether a name may be asked on `port` at all; what it resolves to is judged by [`Rules::address`].
    fn port(&self, port: u16) -> Result<(), TargetError> {
        let is_usual = self.ports.is_empty() || self.ports.contains(&port);
        if is_usual || !self.allowed.is_empty() { Ok(()) } else { Err(TargetError::Port(port)) }
    }
}

/// What `localhost` is.
pub(super) const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn authority(text: &str) -> &str {
    let rest = text.split_once("//").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn place(url: &Url) -> Option<Place> {
    Some(match url.host()? {
        Host::Ipv4(ip) => Place::Address(ip.into()),
        Host::Ipv6(ip) => Place::Address(ip.into()),
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() || name.len() > 253 || name.split('.').any(|label| !is_label(label)) {
                return None;
            }
            let is_local = name == "localhost" || name.ends_with(".localhost");
            if is_local { Place::Localhost } else { Place::Name(name.to_owned()) }
        }
    })
}

/// A label of a host's name (RFC 1123), or with the underscore that some internal names have.
fn is_label(label: &str) -> bool {
    let of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(of_label)
}

impl Target {
    /// As it was read: `https://api.example.org/hook?day=1`.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The same without a query: what is asked, whatever it is asked with.
    pub fn without_query(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.into()
    }

    /// Whether it is asked over TLS.
    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// What stands in the `Host` header.
    pub(super) fn host_header(&self) -> String {
        let host = match &self.place {
            Place::Name(name) => name.clone(),
            _ => self.url.host_str().unwrap_or_default().trim_end_matches('.').to_owned(),
        };
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Who has to show a certificate.
    pub(super) fn server_name(&self) -> String {
        match &self.place {
            Place::Name(name) => name.clone(),
            Place::Address(ip) => ip.to_string(),
            Place::Localhost => self.url.host_str().unwrap_or_default().trim_end_matches('.').to_owned(),
        }
    }

    /// What stands in the first line of the request.
    pub(super) fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }
}
