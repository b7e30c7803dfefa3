//! Where outbound requests may go although it is internal, as it stands in a list, and ports.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Network;

/// A network, and the one port of it that is meant, if one stands there: `10.1.2.0/24`, `10.1.2.3:9000`,
/// `[fd12::/64]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedNetwork {
    network: Network,
    port: Option<Port>,
}

/// A TCP port, 1 to 65535; as a number, or as text where it comes from an environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Port(u16);

impl AllowedNetwork {
    /// Whether `ip` may be asked on `port`. IPv4 inside IPv6 (`::ffff:10.0.0.1`) is IPv4.
    pub fn allows(&self, ip: IpAddr, port: u16) -> bool {
        self.network.contains(ip) && self.port.is_none_or(|Port(only)| only == port)
    }
}

impl Port {
    /// The number.
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
    fn a_network_may_have_a_port_and_reads_back() {
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
    fn what_could_be_meant_otherwise_is_refused() {
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
    fn a_port_is_a_number_or_the_text_of_one() {
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
