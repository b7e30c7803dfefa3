//! Checks of TLS and of plain HTTP at the public address of the deployment.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use kith_kernel::{Clock as _, SystemClock};
use kith_readiness::{Check, Run, Shortfall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client_hello::{self, ClientHello, OLD_SUITES, Reply, STRONG_SUITES, WEAK_SUITES};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-09",
        description: "sends a read and a log-in to port 80 of the same host",
        remediation: "close port 80, or let it only redirect to https on the same host with 301 or 308",
        runs_last: false,
        run: |run| Box::pin(as_unmeasured(plain_http(run))),
    },
    Check {
        row: "SEC-10",
        description: "verifies certificate and chain, reads the expiry date, and offers each TLS version and weak \
               ciphers separately",
        remediation: "renew the certificate, send the whole chain, and allow only TLS 1.2 and 1.3 on the TLS endpoint",
        runs_last: false,
        run: |run| Box::pin(as_unmeasured(scan(run))),
    },
];

/// Time without a connection after which a port counts as closed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum number of days for which a certificate must remain valid.
const MIN_CERTIFICATE_DAYS: i64 = 21;
const LOOPBACK_REASON: &str =
    "the target is plain HTTP on this machine: TLS is terminated in front of it and was not verified";

/// Parsed address of the target.
struct TargetAddress {
    is_tls: bool,
    host: String,
    port: u16,
}

impl TargetAddress {
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_tls = uri.scheme_str()? == "https";
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        Some(Self { is_tls, port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), host })
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Returns the server name to send in the handshake. `None` for an IP address (RFC 6066).
    fn name(&self) -> Option<&str> {
        self.host.parse::<IpAddr>().is_err().then_some(&*self.host)
    }
}

/// Returns true if the URL is plain HTTP to a loopback address.
pub(super) fn is_loopback_http(url: &str) -> bool {
    TargetAddress::of(url).is_some_and(|address| !address.is_tls && address.is_loopback())
}

/// Returns the address to check, or a shortfall if TLS does not apply to the target.
fn address(run: &Run) -> Result<TargetAddress, Shortfall> {
    let url = &run.deployment().target().url;
    let address = TargetAddress::of(url);
    let address = address
        .ok_or_else(|| Shortfall::unmeasured(format!("{url} is not a URL"), "use a URL such as https://…"))?;
    if !address.is_tls && address.is_loopback() {
        return Err(Shortfall::NotApplicable(LOOPBACK_REASON.to_owned()));
    }
    Ok(address)
}

/// Replaces the result "not applicable" by "unmeasured", because another machine may terminate TLS.
async fn as_unmeasured(found: impl Future<Output = Result<String, Shortfall>>) -> Result<String, Shortfall> {
    found.await.map_err(|shortfall| match shortfall {
        Shortfall::NotApplicable(reason) => {
            Shortfall::unmeasured(reason, "use the public address as --target https://…")
        }
        other => other,
    })
}

async fn plain_http(run: &Run) -> Result<String, Shortfall> {
    let address = address(run)?;
    let port = if address.is_tls { 80 } else { address.port };
    let login = "POST /api/v1/auth/login HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n";
    let mut redirects = 0;
    for head in ["GET /api/v1/ping HTTP/1.1\r\n", login] {
        let body = if head.starts_with("POST") { "{}" } else { "" };
        let request = format!("{head}Host: {}\r\nConnection: close\r\n\r\n{body}", address.host);
        let Some(response) = send_over_tcp(&address.host, port, &request).await? else { continue };
        require_redirect(&address, port, &response)?;
        redirects += 1;
    }
    run.record("port", port);
    Ok(match redirects {
        0 => format!("port {port} of {} is closed", address.host),
        _ => format!("port {port} of {} only redirects to https on the same host", address.host),
    })
}

/// Sends a request over plain TCP and returns the response as text. Returns `None` if there is no response.
async fn send_over_tcp(host: &str, port: u16, request: &str) -> Result<Option<String>, Shortfall> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
    let Ok(Ok(mut stream)) = connected else { return Ok(None) };
    let mut response = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        (&mut stream).take(64 << 10).read_to_end(&mut response).await
    };
    // A connection that is closed without data counts as no response.
    let _ = tokio::time::timeout(CONNECT_TIMEOUT, exchange).await;
    Ok((!response.is_empty()).then(|| String::from_utf8_lossy(&response).into_owned()))
}

fn require_redirect(address: &TargetAddress, port: u16, response: &str) -> Result<(), Shortfall> {
    let head = response.split("\r\n\r\n").next().unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        lines
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    let fails = |what: String| Err(Shortfall::fails(format!("plain HTTP on port {port} {what}")));
    if field("set-cookie").is_some() {
        return fails("sets a cookie".to_owned());
    }
    if !["301", "308"].contains(&status) {
        return fails(format!("answers {status}"));
    }
    let location = field("location").unwrap_or_default();
    match TargetAddress::of(&location) {
        Some(to) if to.is_tls && to.host.eq_ignore_ascii_case(&address.host) => Ok(()),
        _ => fails(format!("redirects to {location:?}")),
    }
}

/// Checks the TLS configuration. The result is that of row SEC-10, and row SEC-07 uses it too.
pub(super) async fn scan(run: &Run) -> Result<String, Shortfall> {
    let address = address(run)?;
    if !address.is_tls {
        return Err(Shortfall::fails(format!("the target {} uses plain HTTP", address.host)));
    }
    // The client verifies name, dates and chain of the certificate. It does not download missing
    // certificates.
    let response = run.anonymous().get("/livez").await.map_err(|refused| {
        if refused.reason.contains("certificate") { Shortfall::fails(refused.reason) } else { refused.into() }
    })?;
    let days = response.certificate_days(SystemClock.now());
    let days = days.ok_or_else(|| Shortfall::fails("the certificate cannot be parsed"))?;
    run.record("days_left", days);
    if days <= MIN_CERTIFICATE_DAYS {
        return Err(Shortfall::fails(format!("the certificate expires in {days} days")));
    }
    for (name, version, suites) in [
        ("SSL 3.0", client_hello::SSL_3, OLD_SUITES),
        ("TLS 1.0", client_hello::TLS_1_0, OLD_SUITES),
        ("TLS 1.1", client_hello::TLS_1_1, OLD_SUITES),
        ("a weak cipher", client_hello::TLS_1_2, WEAK_SUITES),
    ] {
        if let Reply::Accepts { suite } = send_client_hello(&address, version, suites).await? {
            return Err(Shortfall::fails(format!(
                "{} accepts {name} (cipher suite {suite:#06x})",
                address.host
            )));
        }
    }
    let mut accepted = Vec::new();
    for (name, version) in [("TLS 1.2", client_hello::TLS_1_2), ("TLS 1.3", client_hello::TLS_1_3)] {
        if let Reply::Accepts { suite } = send_client_hello(&address, version, STRONG_SUITES).await? {
            accepted.push(format!("{name} ({suite:#06x})"));
        }
    }
    run.record("speaks", accepted.clone());
    if accepted.is_empty() {
        return Err(Shortfall::fails(format!("{} supports neither TLS 1.2 nor 1.3", address.host)));
    }
    Ok(format!(
        "certificate and chain are valid for {} and expire in {days} days; the server supports {}, and no \
         SSL 3.0, TLS 1.0, TLS 1.1 or weak ciphers",
        address.host,
        accepted.join(" and ")
    ))
}

/// Sends a `ClientHello` with one version and the given cipher suites, and returns the reply.
async fn send_client_hello(
    address: &TargetAddress,
    version: u16,
    suites: &[u16],
) -> Result<Reply, Shortfall> {
    let hello = ClientHello { version, suites, name: address.name() }.to_bytes();
    let exchange = async {
        let mut stream = TcpStream::connect((&*address.host, address.port)).await?;
        stream.write_all(&hello).await?;
        let mut bytes = vec![0; 512];
        let mut have = 0;
        // Reads until the reply can be parsed. The handshake is then abandoned.
        while have < bytes.len() {
            match stream.read(&mut bytes[have..]).await {
                Ok(0) | Err(_) => break,
                Ok(n) => have += n,
            }
            if bytes[0] != client_hello::HANDSHAKE || Reply::read(&bytes[..have]) != Reply::Refuses {
                break;
            }
        }
        bytes.truncate(have);
        Ok::<_, std::io::Error>(Reply::read(&bytes))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, exchange).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => {
            Err(Shortfall::unmeasured(format!("cannot connect to {}: {error}", address.host), "try again"))
        }
        Err(_) => Err(Shortfall::unmeasured(
            format!("{} does not respond to a TLS handshake", address.host),
            "try again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_to_loopback_needs_no_tls() {
        for url in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080", "http://127.9.9.9/"] {
            assert!(is_loopback_http(url), "{url}");
        }
        for url in
            ["https://127.0.0.1", "http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example"]
        {
            assert!(!is_loopback_http(url), "{url}");
        }
    }

    #[test]
    fn only_https_redirect_to_same_host_is_accepted() {
        let address = TargetAddress::of("https://kith.example").unwrap();
        let is_well = |response: &str| require_redirect(&address, 80, response).is_ok();
        assert!(is_well("HTTP/1.1 308 X\r\nLocation: https://kith.example/api/v1/ping\r\n\r\n"));
        for response in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: https://kith.example/\r\n\r\n",
            "HTTP/1.1 308 X\r\nLocation: http://kith.example/\r\n\r\n",
            "HTTP/1.1 308 X\r\nLocation: https://kith.example.evil.example/\r\n\r\n",
            "HTTP/1.1 308 X\r\nLocation: https://kith.example/\r\nSet-Cookie: a=b\r\n\r\n",
        ] {
            assert!(!is_well(response), "{response}");
        }
    }
}
