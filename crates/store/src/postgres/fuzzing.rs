//! Fuzz target for database URLs, used in `crate::fuzzing`.

use std::net::IpAddr;

use tokio_postgres::config::Host;

use super::hosts::{is_local, split};
use super::password_in;
use super::settings::parse;

/// Checks that the error for an invalid URL does not contain the URL, and that only servers on this machine
/// count as local.
pub(crate) fn address(url: &str) {
    let (config, _) = match parse(url) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = error.to_string();
            let fixed = ["is not a PostgreSQL address: postgres://user@host/database", "has no value"];
            assert!(fixed.iter().any(|words| message.ends_with(words)), "{message}");
            return;
        }
    };
    assert_eq!(password_in(url).as_deref(), config.get_password());
    for server in split(&config).into_iter().flatten().filter(is_local) {
        let local = |ip: &IpAddr| ip.is_loopback();
        let named = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip| local(&ip)),
        };
        assert!(server.get_hostaddrs().iter().all(local));
        assert!(!server.get_hostaddrs().is_empty() || server.get_hosts().iter().all(named));
    }
}
