//! Setting: an internal network, with an optional port, to which outbound requests may be sent.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Network;

/// Network, optionally restricted to one port: `10.1.2.0/24`, `10.1.2.3:9000`, `[fd12::/64]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedNetwork {
    network: Network,
    port: Option<Port>,
}

/// TCP port, 1 to 65535. A number, or a text if it comes from an environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Port(u16);

impl AllowedNetwork {
    /// Returns true if requests may be sent to `ip` on `port`. IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`)
    /// count as IPv4.
    pub fn allows(&self, ip: IpAddr, port: u16) -> bool {
        self.network.contains(ip) && self.port.is_none_or(|Port(only)| only == port)
    }
}

impl Port {
    /// Returns the port number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for Port {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        text.parse().ok().filter(|_| is_plain).map(Self).ok_or("expected a port from 1 to 65535")
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a port from 1 to 65535")]
        enum Written {
            Number(u16),
            Text(String),
        }
        let text = match Written::deserialize(from)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl FromStr for AllowedNetwork {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected networks such as \"10.1.2.0/24\", \"10.1.2.3:9000\" or \"[fd12::/64]:443\"";
        let (network, port) = match text.strip_prefix('[').map(|rest| rest.split_once("]:")) {
            Some(Some((network, port))) if network.contains(':') => (network, Some(port)),
            Some(_) => return Err(expected),
            None if text.matches(':').count() == 1 => {
                let (network, port) = text.split_once(':').ok_or(expected)?;
                (network, Some(port))
            }
            None => (text, None),
        };
        let port = port.map(str::parse).transpose().map_err(|_| expected)?;
        Ok(Self { network: network.parse().map_err(|_| expected)?, port })
    }
}

impl TryFrom<String> for AllowedNetwork {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Serialize for AllowedNetwork {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let network = serde_json::to_value(self.network).map_err(serde::ser::Error::custom)?;
        let network = network.as_str().unwrap_or_default();
        match self.port {
            None => to.serialize_str(network),
            Some(Port(port)) if network.contains(':') => to.collect_str(&format_args!("[{network}]:{port}")),
            Some(Port(port)) => to.collect_str(&format_args!("{network}:{port}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_with_port_round_trips() {
        for (text, inside, outside) in [
            ("10.1.2.0/24", ("10.1.2.3", 1), ("10.1.3.3", 1)),
            ("10.1.2.3/32:9000", ("10.1.2.3", 9000), ("10.1.2.3", 9001)),
            ("10.1.0.0/16:9000", ("10.1.2.3", 9000), ("10.2.2.3", 9000)),
            ("fd12::/64", ("fd12::1", 1), ("fd13::1", 1)),
            ("[fd12::/64]:443", ("fd12::1", 443), ("fd12::1", 80)),
            ("127.0.0.0/8", ("::ffff:127.0.0.1", 80), ("::1", 80)),
        ] {
            let allowed: AllowedNetwork = text.parse().unwrap();
            let allows = |(ip, port): (&str, u16)| allowed.allows(ip.parse().unwrap(), port);
            assert!(allows(inside) && !allows(outside), "{text}");
            assert_eq!(serde_json::to_value(allowed).unwrap(), text);
        }
        let single: AllowedNetwork = "10.1.2.3:9000".parse().unwrap();
        assert!(single.allows("10.1.2.3".parse().unwrap(), 9000));
    }

    #[test]
    fn ambiguous_allowed_networks_are_rejected() {
        for wrong in [
            "",
            ":80",
            "10.1.2.3:",
            "10.1.2.3:0",
            "10.1.2.3:080",
            "10.1.2.3:65536",
            "10.1.2.3:80:81",
            "[10.1.2.3]:80",
            "[fd12::/64]",
            "fd12::/64]:443",
            "localhost:80",
            "10.1.2.3:+80",
        ] {
            assert!(wrong.parse::<AllowedNetwork>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn port_is_parsed_from_number_or_text() {
        #[derive(Deserialize)]
        struct Ports {
            ports: Vec<Port>,
        }
        let ports: Ports = toml::from_str("ports = [443, \"8443\"]").unwrap();
        assert_eq!(ports.ports.iter().map(|port| port.number()).collect::<Vec<_>>(), [443, 8443]);
        for wrong in ["ports = [0]", "ports = [65536]", "ports = [\"x\"]", "ports = [-1]"] {
            assert!(toml::from_str::<Ports>(wrong).is_err(), "{wrong}");
        }
    }
}
