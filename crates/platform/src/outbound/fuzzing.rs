//! Fuzz target for the URLs of outbound requests. See `crate::fuzzing`.

use std::net::IpAddr;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::Outbound;
use super::address::classify;
use super::signature::SigningSecret;
use super::target::TargetHost;
use crate::config::Config;

/// Parses each line as a target and as a signing secret. No accepted target may have an internal address.
/// Parsing the normalized form of a target must give the same target.
pub fn targets(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut config = Config::default();
    config.outbound.allowed_networks.clear();
    let outbound = Outbound::new(&config);
    for line in text.lines() {
        if let Ok(secret) = SigningSecret::parse(line) {
            assert_eq!(SigningSecret::parse(&secret.to_text()), Ok(secret));
        }
        let Ok(target) = outbound.target(line) else { continue };
        match &target.host {
            TargetHost::Address(ip) => assert_eq!(classify(*ip), None, "{line}"),
            TargetHost::Localhost => panic!("{line} is this machine"),
            // Resolvers would interpret such a name as an IP address.
            TargetHost::Name(name) => assert!(name.parse::<IpAddr>().is_err(), "{line}"),
        }
        assert_eq!(outbound.target(target.as_str()).as_ref(), Ok(&target), "{line}");
        assert!(outbound.target(&target.without_query()).is_ok(), "{line}");
        let host = target.host_header();
        assert!(HeaderValue::from_str(&host).is_ok() && !host.contains(['@', '/', ' ']), "{line}");
        assert!(target.path_and_query().parse::<PathAndQuery>().is_ok(), "{line}");
    }
}
