//! Checks of the database server: durability, version, network access, connections and privileges.

use std::net::IpAddr;
use std::time::Duration;

use kith_kernel::{Clock as _, SystemClock, Timestamp};
use kith_readiness::{Check, Run, Shortfall};
use tokio::net::TcpStream;

use super::database::{count, database, is_sqlite, join_names};
use crate::networks::ListedNetwork;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "DRV-17",
        description: "reads the durability settings of a connection that commits",
        remediation: "set database.synchronous to \"full\"; on PostgreSQL fsync, full_page_writes and synchronous_commit to on, and \
               turn checksums on (`pg_checksums --enable` while the server is stopped)",
        runs_last: false,
        run: |run| Box::pin(check_durability(run)),
    },
    Check {
        row: "CFG-06",
        description: "reads the versions of the server's dependencies, and compares them with the minimum version \
               and the end of support",
        remediation: "upgrade to a supported version",
        runs_last: false,
        run: |run| Box::pin(versions(run)),
    },
    Check {
        row: "SEC-19",
        description: "reads the addresses on which the database listens, and tries to connect to its port at the \
               deployment's address",
        remediation: "let the database listen on private addresses only, and close its port to other networks",
        runs_last: false,
        run: |run| Box::pin(check_database_network(run)),
    },
    Check {
        row: "SEC-21",
        description: "counts the server's encrypted connections to its database",
        remediation: "set sslmode=verify-full in database.url, and sslrootcert for your own certificate authority",
        runs_last: false,
        run: |run| Box::pin(check_connection_encryption(run)),
    },
    Check {
        row: "SEC-22",
        description: "compares the privileges of the serving database role with the required ones",
        remediation: "use a separate role for serving: set database.migrate_url to the owner's URL and run `kith \
               migrate up`",
        runs_last: false,
        run: |run| Box::pin(least_privilege(run)),
    },
];

const MIN_POSTGRES_VERSION: u64 = 15;
const MIN_SQLITE_VERSION: [u64; 2] = [3, 46];
/// End of support of each major version (<https://www.postgresql.org/support/versioning/>).
const POSTGRES_END_OF_LIFE: &[(u64, &str)] = &[
    (15, "2027-11-11T23:59:59Z"),
    (16, "2028-11-09T23:59:59Z"),
    (17, "2029-11-08T23:59:59Z"),
    (18, "2030-11-14T23:59:59Z"),
];
const PRIVATE: [&str; 7] =
    ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

async fn check_durability(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    let durability = &database["durability"];
    run.record("durability", durability.clone());
    let legal: &[(&str, &[&str])] = if is_sqlite(&database) {
        &[("journal_mode", &["wal", "delete", "truncate", "persist"]), ("synchronous", &["full", "extra"])]
    } else {
        &[
            ("fsync", &["on"]),
            ("full_page_writes", &["on"]),
            ("synchronous_commit", &["on", "remote_apply", "remote_write", "local"]),
            ("data_checksums", &["on"]),
        ]
    };
    for (name, legal) in legal {
        let value = durability[*name].as_str().unwrap_or("unknown");
        if !legal.contains(&value) {
            return Err(Shortfall::fails(format!("{name} is {value} on the committing connection")));
        }
    }
    if is_sqlite(&database) && durability["foreign_keys"] != true {
        return Err(Shortfall::fails("foreign keys are not enforced on the committing connection"));
    }
    let settings: Vec<_> = legal
        .iter()
        .map(|(name, _)| format!("{name} {}", durability[*name].as_str().unwrap_or_default()))
        .collect();
    let note = if is_sqlite(&database) { "; SQLite has no page checksums" } else { "" };
    Ok(format!("on the committing connection: {}{note}", settings.join(", ")))
}

async fn versions(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    let version = database["version"].as_str().unwrap_or_default().to_owned();
    run.record("version", version.clone());
    let nothing_else = "Redis, NATS and an object store are not used";
    if is_sqlite(&database) {
        let parts: Vec<u64> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        if parts.len() < 2 || parts[..2] < MIN_SQLITE_VERSION[..] {
            return Err(Shortfall::fails(format!("SQLite is {version}, older than 3.46")));
        }
        return Ok(format!("SQLite {version}, part of the build; {nothing_else}"));
    }
    let major = count(&database["server"], "version_number") / 10_000;
    if major < MIN_POSTGRES_VERSION {
        return Err(Shortfall::fails(format!("PostgreSQL is {version}, older than {MIN_POSTGRES_VERSION}")));
    }
    let end = POSTGRES_END_OF_LIFE
        .iter()
        .find(|(of, _)| *of == major)
        .and_then(|(_, end)| end.parse::<Timestamp>().ok());
    let end = match end {
        Some(end) if end < SystemClock.now() => {
            return Err(Shortfall::fails(format!("PostgreSQL {version} is unsupported since {end}")));
        }
        Some(end) => format!("supported until {}", end.to_string().split('T').next().unwrap_or_default()),
        None => "newer than all versions whose end of support this build knows".to_owned(),
    };
    Ok(format!("PostgreSQL {version}, {end}; {nothing_else}"))
}

fn is_private(ip: IpAddr) -> bool {
    PRIVATE.iter().any(|network| network.parse::<ListedNetwork>().is_ok_and(|network| network.contains(ip)))
}

async fn check_database_network(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    if is_sqlite(&database) {
        return Err(Shortfall::NotApplicable(
            "SQLite is a file in the data folder and does not listen on the network".to_owned(),
        ));
    }
    let server = &database["server"];
    let listens = server["listen_addresses"].as_str().unwrap_or("*").to_owned();
    let port = u16::try_from(count(server, "port")).unwrap_or(5432);
    let address = server["address"].as_str().and_then(|address| address.parse::<IpAddr>().ok());
    run.record("listen_addresses", listens.clone());
    if let Some(public) = address.filter(|ip| !is_private(*ip)) {
        return Err(Shortfall::fails(format!("the database has the public address {public}")));
    }
    let named = listens.split(',').map(str::trim).filter(|name| !name.is_empty());
    let open: Vec<_> = named
        .filter(|name| *name != "localhost" && !name.parse().is_ok_and(is_private))
        .map(str::to_owned)
        .collect();
    let host = host_of(&run.deployment().target().url);
    let is_outside = host
        .as_deref()
        .is_some_and(|host| host != "localhost" && !host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()));
    if let Some(host) = host.filter(|_| is_outside) {
        if tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((&*host, port)))
            .await
            .is_ok_and(|opened| opened.is_ok())
        {
            return Err(Shortfall::fails(format!(
                "{host} accepts connections on the database's port {port}"
            )));
        }
        return Ok(format!(
            "the database listens on {listens:?}, port {port}; {host}:{port} does not accept connections \
             from here"
        ));
    }
    if !open.is_empty() {
        return Err(Shortfall::unmeasured(
            format!(
                "the database listens on {}; its own machine cannot show which networks reach it",
                open.join(", ")
            ),
            "run it from another network with --target and the deployment's public address, or let the \
             database listen on private addresses only",
        ));
    }
    Ok(format!("the database listens on {listens:?} only, which are not public addresses"))
}

fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
}

async fn check_connection_encryption(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    if is_sqlite(&database) {
        return Err(Shortfall::NotApplicable(
            "SQLite is part of the process; there are no connections".to_owned(),
        ));
    }
    let connections = &database["connections"];
    let (all, encrypted, remote) =
        (count(connections, "all"), count(connections, "encrypted"), count(connections, "remote"));
    run.record("connections", connections.clone());
    if all == 0 {
        return Err(Shortfall::fails("the server does not report its connections"));
    }
    if remote == 0 && encrypted == 0 {
        return Err(Shortfall::NotApplicable(format!(
            "all {all} connections are local to the database's machine"
        )));
    }
    if encrypted < all {
        return Err(Shortfall::fails(format!("{} of {all} connections are not encrypted", all - encrypted)));
    }
    Ok(format!(
        "all {all} connections are encrypted and verify the server certificate; Redis, NATS and an object \
         store are not used"
    ))
}

async fn least_privilege(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    if is_sqlite(&database) {
        return Err(Shortfall::NotApplicable(
            "SQLite has no roles; access to the file is access to all data".to_owned(),
        ));
    }
    let role = &database["role"];
    let (besides, missing) = (join_names(&role["besides"]), join_names(&role["missing"]));
    run.record("besides", besides.clone());
    run.record("missing", missing.clone());
    if !role["besides"].is_array() {
        return Err(Shortfall::fails("the server does not report the privileges of its role"));
    }
    if !besides.is_empty() {
        let some: Vec<_> = besides.iter().take(4).copied().collect();
        return Err(Shortfall::fails(format!(
            "the serving role has {} unneeded privileges: {}",
            besides.len(),
            some.join(", ")
        )));
    }
    if !missing.is_empty() {
        return Err(Shortfall::fails(format!("the serving role lacks {}", missing.join(", "))));
    }
    Ok("the serving role can only read and write rows".to_owned())
}
