//! Client address of a request: the remote address of the connection, or the address that a trusted proxy
//! reports in `X-Forwarded-For`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use crate::config::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Mask of an IPv6 network. Limits count a /64 as one client, because one customer typically has a /64.
const IPV6_NETWORK: u128 = !0 << 64;

/// Address of a client. IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`) are converted to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    pub(crate) fn new(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }

    /// Returns the IP address.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// Returns the client network by which limits count, as text: the IPv4 address, or the first address of
    /// the IPv6 /64.
    pub fn network(self) -> String {
        self.first_of_network().to_string()
    }

    /// Returns the first address of the client network by which limits count.
    pub(crate) fn first_of_network(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & IPV6_NETWORK).into(),
        }
    }

    /// Returns the client address of a request that came from this address. If this address is not in
    /// `proxies`, it is the client address. Otherwise, the client address is the rightmost address in
    /// `X-Forwarded-For` that is not a proxy.
    pub(super) fn behind(self, proxies: &[Network], headers: &HeaderMap) -> Self {
        let is_proxy = |ip: IpAddr| proxies.iter().any(|network| network.contains(ip));
        if proxies.is_empty() || !is_proxy(self.0) {
            return self;
        }
        let mut client = self;
        // Each proxy appends the address from which it received the request. The client can forge all entries
        // to the left of its own address.
        for hop in headers.get_all(X_FORWARDED_FOR).into_iter().rev() {
            for hop in hop.as_bytes().rsplit(|byte| *byte == b',') {
                let Some(ip) = str::from_utf8(hop).ok().and_then(parse) else { return self };
                client = Self::new(ip);
                if !is_proxy(client.0) {
                    return client;
                }
            }
        }
        client
    }
}

/// Parses an IP address. It may be followed by a port or be in brackets, as some proxies write it.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    hop.parse()
        .ok()
        .or_else(|| hop.parse().ok().map(|with_port: std::net::SocketAddr| with_port.ip()))
        .or_else(bracketed)
}

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get().copied();
        Ok(known.expect("the connection adds an address to each request"))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn address(ip: &str) -> ClientAddress {
        ClientAddress::new(ip.parse().unwrap())
    }

    fn behind(peer: &str, forwarded: &[&str]) -> String {
        let proxies = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(|network| network.parse().unwrap());
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        address(peer).behind(&proxies, &headers).ip().to_string()
    }

    /// Proves the readiness requirement DRV-13.
    #[test]
    fn forwarded_for_is_trusted_only_from_proxies() {
        for forwarded in ["203.0.113.1", "10.0.0.1", "127.0.0.1", "::1", "192.0.2.7, 203.0.113.1"] {
            for stranger in ["198.51.100.1", "2001:db8::1", "192.0.2.8", "127.0.0.1", "::ffff:198.51.100.1"] {
                let itself = address(stranger).ip().to_string();
                assert_eq!(behind(stranger, &[forwarded]), itself, "{forwarded}");
            }
        }
        for proxy in ["10.1.2.3", "192.0.2.7", "fd12::1", "::ffff:10.1.2.3"] {
            assert_eq!(behind(proxy, &["203.0.113.1"]), "203.0.113.1");
        }
        assert_eq!(address("192.0.2.1").behind(&[], &HeaderMap::new()), address("192.0.2.1"));
    }

    /// DRV-13: entries sent by the client are to the left of those that the proxy added.
    #[test]
    fn forged_forwarded_entries_are_ignored() {
        for forged in
            ["1.1.1.1", "10.0.0.9", "garbage", "", ",,,", "unknown", "'", "1.1.1.1, 2.2.2.2", "\u{fc}"]
        {
            for hops in [
                vec![format!("{forged}, 203.0.113.1")],
                vec![format!("{forged},203.0.113.1 ,10.0.0.2")],
                vec![forged.to_owned(), "203.0.113.1".to_owned()],
                vec![forged.to_owned(), "203.0.113.1".to_owned(), "10.0.0.2, 192.0.2.7".to_owned()],
            ] {
                let hops: Vec<_> = hops.iter().map(String::as_str).collect();
                assert_eq!(behind("10.0.0.1", &hops), "203.0.113.1", "{hops:?}");
            }
        }
    }

    /// Proves the readiness requirement DRV-13.
    #[test]
    fn invalid_forwarded_entry_falls_back_to_proxy() {
        for garbage in [
            "",
            "unknown",
            "_hidden",
            "203.0.113.1.",
            "203.0.113.256",
            "0x7f.1",
            "2130706433",
            "fe80::1%eth0",
        ] {
            assert_eq!(behind("10.0.0.1", &[garbage]), "10.0.0.1", "{garbage}");
            let behind_another = format!("203.0.113.1, {garbage}, 10.0.0.2");
            assert_eq!(behind("10.0.0.1", &[&behind_another]), "10.0.0.1", "{garbage}");
        }
        assert_eq!(behind("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn forwarded_addresses_with_ports_are_parsed() {
        for (hop, ip) in [
            ("203.0.113.1:5000", "203.0.113.1"),
            ("[2001:db8::1]:5000", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:203.0.113.1", "203.0.113.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ] {
            assert_eq!(behind("10.0.0.1", &[hop]), ip);
        }
    }

    /// DRV-13: all addresses in one /64 count as one client.
    #[test]
    fn limits_count_ipv6_by_64_bit_prefix() {
        let network = |ip| address(ip).network();
        for rotated in ["2001:db8:1:2::", "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"] {
            assert_eq!(network(rotated), network("2001:db8:1:2:3::4"));
        }
        assert_ne!(network("2001:db8:1:3::1"), network("2001:db8:1:2::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_eq!(network("::ffff:c000:201"), network("192.0.2.1"));
        assert_ne!(network("::ffff:192.0.2.1"), network("::1"));
    }
}
