//! Parsing of URLs with several servers, such as `postgres://kith@db1:5432,db2:5432/kith`. Only one of the
//! servers accepts writes.

use std::net::IpAddr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, TargetSessionAttrs};

use crate::OpenError;

/// Returns one configuration per server, in the order of the URL, so that each has its own TLS name and its
/// own timeout. With one configuration for all servers, a server that does not respond would use up the time
/// for the others.
pub(super) fn split(all: &Config) -> Result<Vec<Config>, OpenError> {
    let (hosts, addresses, ports) = (all.get_hosts().len(), all.get_hostaddrs().len(), all.get_ports().len());
    let servers = hosts.max(addresses);
    if servers == 0 {
        return Err(settings("database.url names no server: postgres://user@host/database"));
    }
    if ![0, servers].contains(&hosts) || ![0, servers].contains(&addresses) {
        return Err(settings(format!(
            "database.url has {hosts} hosts and {addresses} addresses in hostaddr"
        )));
    }
    if ![0, 1, servers].contains(&ports) {
        return Err(settings(format!("database.url has {servers} hosts and {ports} ports")));
    }
    if all.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
        return Err(settings("target_session_attrs in database.url must be read-write"));
    }
    Ok((0..servers).map(|n| server(all, n)).collect())
}

/// Returns the configuration of server `n` alone. It rejects standbys. A connection to a standby would
/// survive its promotion, which can undo commits as a crash does, and reads could miss acknowledged changes.
fn server(all: &Config, n: usize) -> Config {
    let mut one = Config::new();
    match all.get_hosts().get(n) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = all.get_hostaddrs().get(n) {
        one.hostaddr(*address);
    }
    if let Some(port) = all.get_ports().get(n).or(all.get_ports().first()) {
        one.port(*port);
    }
    all.get_user().map(|user| one.user(user));
    all.get_password().map(|password| one.password(password));
    all.get_dbname().map(|name| one.dbname(name));
    all.get_options().map(|options| one.options(options));
    one.ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .load_balance_hosts(all.get_load_balance_hosts())
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    one
}

/// Returns true if the traffic to `server` does not leave this machine. If `hostaddr` is given, only
/// `hostaddr` is checked.
pub(super) fn is_local(server: &Config) -> bool {
    match server.get_hostaddrs() {
        [] => server.get_hosts().iter().all(is_local_name),
        addresses => addresses.iter().all(IpAddr::is_loopback),
    }
}

fn is_local_name(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// Creates an error for an invalid setting.
pub(super) fn settings(text: impl Into<String>) -> OpenError {
    OpenError::Settings(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(url: &str) -> Result<Vec<Config>, String> {
        split(&url.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_server_keeps_its_host_port_and_credentials() {
        let found = servers("postgres://a:b@one:5433,127.0.0.1/db?options=-csearch_path%3Dx").unwrap();
        let seen: Vec<_> =
            found.iter().map(|one| (one.get_hosts().to_vec(), one.get_ports().to_vec())).collect();
        let tcp = |name: &str| vec![Host::Tcp(name.to_owned())];
        assert_eq!(seen, [(tcp("one"), vec![5433]), (tcp("127.0.0.1"), vec![5432])]);
        for one in &found {
            assert_eq!((one.get_user(), one.get_password()), (Some("a"), Some(&b"b"[..])));
            assert_eq!((one.get_dbname(), one.get_options()), (Some("db"), Some("-csearch_path=x")));
            assert_eq!(one.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        }
        assert_eq!(found.iter().map(is_local).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn url_can_name_sockets_and_ip_addresses() {
        let found = servers("postgres:///db?host=/run/postgresql&host=other.example&port=5433").unwrap();
        assert_eq!(found[0].get_hosts(), [Host::Unix("/run/postgresql".into())]);
        assert_eq!(found[1].get_ports(), [5433]);
        assert_eq!(found.iter().map(is_local).collect::<Vec<_>>(), [true, false]);
        let found = servers("postgres://x@a,b/db?hostaddr=10.0.0.1,127.0.0.1").unwrap();
        assert_eq!(found.iter().map(is_local).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn host_lists_of_different_length_are_rejected() {
        for (url, why) in [
            ("postgres:///db", "names no server"),
            ("postgres://x@a,b/db?hostaddr=10.0.0.1", "2 hosts and 1 addresses"),
            ("postgres:///db?host=a&host=b&host=c&port=1,2", "3 hosts and 2 ports"),
            ("postgres://x@a/db?target_session_attrs=read-only", "must be read-write"),
        ] {
            let refused = servers(url).unwrap_err();
            assert!(refused.contains(why), "{url}: {refused}");
        }
    }
}
