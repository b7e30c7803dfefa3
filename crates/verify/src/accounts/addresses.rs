//! Checks that administration is available only to the configured client addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;
use kith_readiness::{Check, CheckResponse, Client, Run, Shortfall};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::networks::ListedNetwork;
use crate::synthetic_accounts::ensure;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "ACC-14",
    description: "calls an administration operation from this address, also with forged `X-Forwarded-For` headers, \
           and from another address of this machine if the target runs on it",
    remediation: "list the addresses of administrators in server.admin_addresses, and only your own proxies in \
           server.trusted_proxies",
    runs_last: false,
    run: |run| Box::pin(check_admin_addresses(run)),
}];

const FACTS: &str = "/api/v1/admin/facts";
/// Forged `X-Forwarded-For` values that claim an internal address.
const FORGED_FORWARDED_FOR: [&str; 4] = ["127.0.0.1", "::1", "10.0.0.1", "127.0.0.1, 203.0.113.9"];
const UNLISTED_HERE: &str = "run it from an address that server.admin_addresses lists";

async fn check_admin_addresses(run: &Run) -> Result<String, Shortfall> {
    let admin = run.admin().await?;
    let response = admin.get(FACTS).await?;
    if check_admin_rejected(&response) {
        for forged in FORGED_FORWARDED_FOR {
            let response = admin.with("x-forwarded-for", forged).get(FACTS).await?;
            ensure(check_admin_rejected(&response), || {
                format!("this address is not listed, but is accepted with X-Forwarded-For: {forged}")
            })?;
        }
        let reason = "this address is not listed and was rejected, also with forged headers; a listed address was not tried";
        return Err(Shortfall::unmeasured(reason, UNLISTED_HERE));
    }
    let facts = response.expect(200)?.json();
    let listed = &facts["configuration"]["settings"]["server"]["admin_addresses"];
    let networks = ListedNetwork::all(listed);
    ensure(!networks.is_empty(), || {
        "administration is open to every address: server.admin_addresses is empty".to_owned()
    })?;
    let digest: String =
        Sha256::digest(listed.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    run.record("admin_addresses_digest", format!("sha256:{digest}…"));
    run.record("admin_addresses", networks.len());
    Ok(match unlisted_local_address(run, &networks) {
        Some(from) => {
            let mut refused = 0;
            for forged in std::iter::once(None).chain(FORGED_FORWARDED_FOR.map(Some)) {
                let status = get_from_address(run, from, &admin, forged).await?;
                ensure(status == 403, || {
                    let forged_as =
                        forged.map_or(String::new(), |forged| format!(" with X-Forwarded-For: {forged}"));
                    format!("{from} is not listed, but got {status}{forged_as} instead of 403")
                })?;
                refused += 1;
            }
            format!(
                "this address is accepted; {from}, which is not listed, is rejected in {refused} ways, including forged headers"
            )
        }
        None => format!(
            "this address belongs to one of {} listed networks; no unlisted address could be tried from \
             here, the tests cover that",
            networks.len()
        ),
    })
}

fn check_admin_rejected(response: &CheckResponse) -> bool {
    response.status == 403 && response.code().is_some_and(|code| code == "address_not_listed")
}

/// Returns a loopback address of this machine that is not in `listed`. `None` if the target runs on another
/// machine.
fn unlisted_local_address(run: &Run, listed: &[ListedNetwork]) -> Option<IpAddr> {
    let host = target_socket_addr(run)?.ip();
    let others = (2..=254).map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)));
    others
        .into_iter()
        .find(|ip| host.is_loopback() && host.is_ipv4() && !listed.iter().any(|one| one.contains(*ip)))
}

/// Returns the socket address of the target. `None` unless its URL is plain HTTP with a numeric host.
fn target_socket_addr(run: &Run) -> Option<SocketAddr> {
    let url: Uri = run.node().parse().ok()?;
    let host = url.host()?.replace("localhost", "127.0.0.1");
    let ip = host.parse::<IpAddr>().ok().filter(|_| url.scheme_str() == Some("http"))?;
    Some(SocketAddr::new(ip, url.port_u16().unwrap_or(80)))
}

/// Sends a request from the given local address and returns the status of the response.
async fn get_from_address(
    run: &Run,
    from: IpAddr,
    admin: &Client,
    forwarded_for: Option<&str>,
) -> Result<u16, Shortfall> {
    let refused = |error: std::io::Error| {
        Shortfall::unmeasured(
            format!("cannot send a request from {from}: {error}"),
            "run it on the server's machine",
        )
    };
    let to = target_socket_addr(run)
        .ok_or_else(|| Shortfall::unmeasured("the target is not on this machine", UNLISTED_HERE))?;
    let socket = TcpSocket::new_v4().map_err(refused)?;
    socket.bind(SocketAddr::new(from, 0)).map_err(refused)?;
    let mut connection = socket.connect(to).await.map_err(refused)?;
    let forged = forwarded_for.map_or(String::new(), |address| format!("x-forwarded-for: {address}\r\n"));
    let authorization = admin.header("authorization").unwrap_or_default();
    let head = format!(
        "GET {FACTS} HTTP/1.1\r\nhost: {to}\r\nauthorization: {authorization}\r\n{forged}connection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.map_err(refused)?;
    let mut response = Vec::new();
    connection.read_to_end(&mut response).await.map_err(refused)?;
    let status = String::from_utf8_lossy(&response).split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| {
        Shortfall::unmeasured(format!("{to} did not respond with HTTP"), "check which program listens there")
    })
}
