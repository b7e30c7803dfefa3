//! Classifies IP addresses that are not on the public internet, without any I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

/// Class of an address that is not on the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressClass {
    /// `0.0.0.0/8`, `::`.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918, and `fc00::/7` (RFC 4193). Includes addresses of cloud metadata services.
    Private,
    /// `169.254.0.0/16`, `fe80::/10` and the former site-local addresses. Includes addresses of cloud
    /// metadata services.
    LinkLocal,
    /// `100.64.0.0/10` (RFC 6598), the address space that network providers share.
    CarrierGrade,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// Protocol assignments, benchmarking, documentation, broadcast and future use.
    Reserved,
    /// IPv4 address embedded in an IPv6 address: mapped, compatible, NAT64, 6to4 or Teredo. Rejected, because
    /// it can represent an address of another class.
    EmbeddedIpv4,
    /// Public address at which a cloud provider offers an internal service, such as the Azure wire server.
    Platform,
}

impl AddressClass {
    /// Returns a phrase for messages, which can follow "it is".
    pub const fn description(self) -> &'static str {
        match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::CarrierGrade => "a shared address of a carrier network",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::EmbeddedIpv4 => "an IPv4 address embedded in IPv6",
            Self::Platform => "an internal address of a cloud provider",
        }
    }
}

/// Classified IPv4 networks: IANA's special-purpose registry, multicast, the former class E, and the Azure
/// wire server.
const IPV4: &[(Ipv4Addr, u32, AddressClass)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, AddressClass::Unspecified),
    (Ipv4Addr::new(10, 0, 0, 0), 8, AddressClass::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, AddressClass::CarrierGrade),
    (Ipv4Addr::new(127, 0, 0, 0), 8, AddressClass::Loopback),
    (Ipv4Addr::new(168, 63, 129, 16), 32, AddressClass::Platform),
    (Ipv4Addr::new(169, 254, 0, 0), 16, AddressClass::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, AddressClass::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, AddressClass::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, AddressClass::Reserved),
    (Ipv4Addr::new(192, 88, 99, 0), 24, AddressClass::Reserved),
    (Ipv4Addr::new(192, 168, 0, 0), 16, AddressClass::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, AddressClass::Reserved),
    (Ipv4Addr::new(198, 51, 100, 0), 24, AddressClass::Reserved),
    (Ipv4Addr::new(203, 0, 113, 0), 24, AddressClass::Reserved),
    (Ipv4Addr::new(224, 0, 0, 0), 4, AddressClass::Multicast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, AddressClass::Reserved),
];

/// Classified IPv6 networks. All other addresses in `2000::/3` are public, and all addresses outside it are
/// reserved.
const IPV6: &[(Ipv6Addr, u32, AddressClass)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, AddressClass::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, AddressClass::Loopback),
    (Ipv6Addr::UNSPECIFIED, 96, AddressClass::EmbeddedIpv4),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, AddressClass::EmbeddedIpv4),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, AddressClass::EmbeddedIpv4),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 32, AddressClass::EmbeddedIpv4),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, AddressClass::EmbeddedIpv4),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, AddressClass::Reserved),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, AddressClass::Reserved),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, AddressClass::EmbeddedIpv4),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, AddressClass::Reserved),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, AddressClass::Private),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9, AddressClass::LinkLocal),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, AddressClass::Multicast),
];

/// Returns the class of `ip`, or `None` if `ip` is a public address.
pub fn classify(ip: IpAddr) -> Option<AddressClass> {
    match ip {
        IpAddr::V4(ip) => IPV4.iter().find(|(net, bits, _)| shares(ip, *net, *bits)).map(|known| known.2),
        IpAddr::V6(ip) => {
            let known = IPV6.iter().find(|(net, bits, _)| {
                let apart = ip.to_bits() ^ net.to_bits();
                apart.checked_shr(128 - bits).unwrap_or(0) == 0
            });
            let is_public = ip.to_bits() >> 125 == 1;
            known.map(|known| known.2).or((!is_public).then_some(AddressClass::Reserved))
        }
    }
}

fn shares(ip: Ipv4Addr, network: Ipv4Addr, bits: u32) -> bool {
    (ip.to_bits() ^ network.to_bits()) >> (32 - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(ip: &str) -> Option<AddressClass> {
        classify(ip.parse().unwrap_or_else(|_| panic!("{ip}")))
    }

    #[test]
    fn network_boundaries_are_classified() {
        for (first, last, before, after) in [
            ("0.0.0.0", "0.255.255.255", "", "1.0.0.0"),
            ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
            ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
            ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
            ("168.63.129.16", "168.63.129.16", "168.63.129.15", "168.63.129.17"),
            ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
            ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
            ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
            ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
            ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
            ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
            ("224.0.0.0", "255.255.255.255", "223.255.255.255", ""),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "", "2001:200::"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff::", "2001:db9::"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff::", "2003::"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffe:ffff::", ""),
            ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", "2000::"),
            ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::", ""),
        ] {
            assert!(classified(first).is_some() && classified(last).is_some(), "{first}-{last}");
            for outside in [before, after].into_iter().filter(|ip| !ip.is_empty()) {
                assert_eq!(classified(outside), None, "{outside}");
            }
        }
    }

    #[test]
    fn well_known_addresses_are_classified() {
        for (ip, expected) in [
            ("127.0.0.1", AddressClass::Loopback),
            ("::1", AddressClass::Loopback),
            ("::", AddressClass::Unspecified),
            ("169.254.169.254", AddressClass::LinkLocal),
            ("fe80::1", AddressClass::LinkLocal),
            ("fec0::1", AddressClass::LinkLocal),
            ("fd00:ec2::254", AddressClass::Private),
            ("fd20:ce::254", AddressClass::Private),
            ("100.100.100.200", AddressClass::CarrierGrade),
            ("::ffff:127.0.0.1", AddressClass::EmbeddedIpv4),
            ("::ffff:8.8.8.8", AddressClass::EmbeddedIpv4),
            ("::127.0.0.1", AddressClass::EmbeddedIpv4),
            ("::ffff:0:10.0.0.1", AddressClass::EmbeddedIpv4),
            ("64:ff9b::a9fe:a9fe", AddressClass::EmbeddedIpv4),
            ("64:ff9b:1::a00:1", AddressClass::EmbeddedIpv4),
            ("2002:7f00:1::", AddressClass::EmbeddedIpv4),
            ("2001:0:7f00:1::1", AddressClass::EmbeddedIpv4),
            ("ff02::1", AddressClass::Multicast),
            ("192.0.0.192", AddressClass::Reserved),
            ("168.63.129.16", AddressClass::Platform),
        ] {
            assert_eq!(classified(ip), Some(expected), "{ip}");
        }
        for public in ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e"] {
            assert_eq!(classified(public), None, "{public}");
        }
    }
}
