//! Setting: an IP network, as an entry of a list.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

/// Network in CIDR notation, such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl Network {
    /// Returns true if the network contains `ip`. IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`) count as
    /// IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl FromStr for Network {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected addresses such as \"10.0.0.1\" or \"10.0.0.0/8\"";
        // The address is parsed separately: the network parser accepts 010.0.0.0 as 10.0.0.0, but other
        // programs read 010 as an octal number.
        let address: IpAddr = text.split('/').next().unwrap_or_default().parse().map_err(|_| expected)?;
        let network =
            if text.contains('/') { text.parse().map_err(|_| expected)? } else { IpNet::from(address) };
        Ok(Self(network))
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl TryFrom<String> for Network {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_networks_are_rejected() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.9.9.9", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("fd00::/8", "fd12::1", "fe00::"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ] {
            let network: Network = text.parse().unwrap();
            let contains = |ip: &str| network.contains(ip.parse().unwrap());
            assert!(contains(inside) && !contains(outside), "{text}");
        }
        // Some parsers read leading zeros as octal.
        for ambiguous in ["010.0.0.0/8", "10.0.00.0/8", "010.0.0.1", "::ffff:05.0.0.0/104"] {
            assert!(ambiguous.parse::<Network>().is_err(), "{ambiguous}");
        }
        for wrong in
            ["", "/", "10.0.0.0/", "10.0.0.0/33", "fd00::/129", "10.0.0.0/8/8", "host/8", "10.0.0.0 /8"]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
