//! Networks in the lists of the settings.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value;

/// Entry of a list of allowed networks, optionally with a port: `10.0.0.0/8`, `::1`, `10.1.2.3:9000`,
/// `[fd12::/64]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedNetwork {
    network: IpNet,
    port: Option<u16>,
}

impl ListedNetwork {
    /// Parses a list that is part of the facts of a deployment. Entries that are no networks are skipped.
    pub fn all(listed: &Value) -> Vec<Self> {
        let entries = listed.as_array().into_iter().flatten();
        entries.filter_map(|entry| entry.as_str()?.parse().ok()).collect()
    }

    /// Returns true if `ip` is in the network, regardless of the port. An IPv4-mapped IPv6 address such as
    /// `::ffff:10.0.0.1` counts as an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.network.contains(&ip.to_canonical())
    }

    /// Returns true if the entry allows `ip` on `port`.
    pub fn allows(&self, ip: IpAddr, port: u16) -> bool {
        self.contains(ip) && self.port.is_none_or(|only| only == port)
    }
}

impl FromStr for ListedNetwork {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected a network such as \"10.1.2.0/24\" or \"[fd12::/64]:443\"";
        let (network, port) = match text.strip_prefix('[') {
            Some(rest) => {
                rest.split_once("]:").map(|(network, port)| (network, Some(port))).ok_or(expected)?
            }
            None if text.matches(':').count() == 1 => {
                text.split_once(':').map(|(network, port)| (network, Some(port))).ok_or(expected)?
            }
            None => (text, None),
        };
        let network = network.parse().or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
        let port = port.map(str::parse).transpose().map_err(|_| expected)?;
        Ok(Self { network: network.map_err(|_| expected)?, port })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn listed_networks_are_parsed() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", ("10.9.9.9", 1), ("11.0.0.0", 1)),
            ("10.0.0.0/8", ("::ffff:10.0.0.1", 1), ("::ffff:11.0.0.1", 1)),
            ("192.0.2.7", ("192.0.2.7", 1), ("192.0.2.8", 1)),
            ("::1", ("::1", 1), ("::2", 1)),
            ("fd12::/64", ("fd12::1", 1), ("fd13::1", 1)),
            ("10.1.2.3/32:9000", ("10.1.2.3", 9000), ("10.1.2.3", 9001)),
            ("[fd12::/64]:443", ("fd12::1", 443), ("fd12::1", 80)),
        ] {
            let network: ListedNetwork = text.parse().unwrap();
            let allows = |(ip, port): (&str, u16)| network.allows(ip.parse().unwrap(), port);
            assert!(allows(inside) && !allows(outside), "{text}");
        }
        assert!(
            ["", "host", "10.0.0.0/33", "[fd12::/64]"]
                .iter()
                .all(|text| text.parse::<ListedNetwork>().is_err())
        );
        assert_eq!(ListedNetwork::all(&json!(["10.0.0.0/8", 7, "host"])).len(), 1);
        assert_eq!(ListedNetwork::all(&json!(null)), []);
    }
}
