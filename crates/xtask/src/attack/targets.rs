//! Attacks with callback targets at internal addresses, and with callback receivers that redirect.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, TestAccount, call};
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, status_in};

/// Attack name and target URL. The server accepts `http://` targets.
const TARGETS: &[(&str, &str)] = &[
    ("loopback", "http://127.0.0.1/"),
    ("loopback, another of its addresses", "http://127.1.2.3:8080/"),
    ("loopback, short", "http://127.1/"),
    ("loopback, decimal", "http://2130706433/"),
    ("loopback, octal", "http://0177.0.0.1/"),
    ("loopback, hexadecimal", "http://0x7f000001/"),
    ("loopback, hexadecimal parts", "http://0x7f.0x0.0x0.0x1/"),
    ("loopback, full-width digits", "http://\u{FF11}\u{FF12}\u{FF17}.0.0.1/"),
    ("loopback, enclosed digits", "http://\u{2460}\u{2461}\u{2466}.0.0.1/"),
    ("loopback, with a trailing dot", "http://127.0.0.1./"),
    ("loopback, by name", "http://localhost/"),
    ("loopback, by a name below", "http://db.localhost/"),
    ("loopback, IPv6", "http://[::1]/"),
    ("loopback, mapped", "http://[::ffff:127.0.0.1]/"),
    ("loopback, mapped in hexadecimal", "http://[::ffff:7f00:1]/"),
    ("loopback, compatible", "http://[::127.0.0.1]/"),
    ("loopback, translated (NAT64)", "http://[64:ff9b::7f00:1]/"),
    ("loopback, 6to4", "http://[2002:7f00:1::]/"),
    ("loopback behind user information", "http://example.org@127.0.0.1/"),
    ("user information", "https://user:password@example.org/"),
    ("loopback behind a backslash", "http://127.0.0.1\\@example.org/"),
    ("this host", "http://0.0.0.0/"),
    ("this host, short", "http://0/"),
    ("this host, IPv6", "http://[::]/"),
    ("metadata of clouds", "http://169.254.169.254/latest/meta-data/"),
    ("metadata, decimal", "http://2852039166/"),
    ("metadata, mapped", "http://[::ffff:a9fe:a9fe]/"),
    ("metadata, IPv6", "http://[fd00:ec2::254]/"),
    ("link-local", "http://[fe80::1]/"),
    ("private, 10/8", "http://10.0.0.1/"),
    ("private, 172.16/12", "http://172.31.255.254/"),
    ("private, 192.168/16", "http://192.168.0.1/"),
    ("private, carriers", "http://100.64.0.1/"),
    ("benchmarking", "http://198.18.0.1/"),
    ("multicast", "http://224.0.0.1/"),
    ("broadcast", "http://255.255.255.255/"),
    ("another scheme", "file:///etc/passwd"),
    ("gopher", "gopher://127.0.0.1:6379/_FLUSHALL"),
    ("no host", "http:///etc/passwd"),
    ("a line end", "http://example.org/\r\nHost: internal"),
    ("a port of a database", "http://93.184.215.14:5432/"),
];
const ENDPOINTS: &str = "/api/v1/callback-endpoints";
/// Maximum time until a callback arrives, with a margin for a busy machine.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);
/// Time to wait for a second request. A followed redirect would arrive within this time.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// Registers each target as a callback endpoint on a server that blocks loopback.
pub fn run(at: SocketAddr, admin: &TestAccount, report: &mut AttackReport) {
    report.group("callback targets");
    for (name, url) in TARGETS {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let body = json!({ "url": url });
            let response = call(at, "POST", ENDPOINTS, Some(&admin.token), &body)?;
            status_in(&response, &[422])
        });
    }
    report.attack("none was kept", DEFAULT_TIME_LIMIT, || {
        let kept = call(at, "GET", ENDPOINTS, Some(&admin.token), &Value::Null)?.expect(200)?;
        ensure!(kept["items"] == json!([]), "{kept}");
        Ok("no endpoint".to_owned())
    });
}

/// Starts a receiver that answers every request with a redirect to itself. Returns its address, and a channel
/// with the first line of each request.
fn redirecting() -> Result<(SocketAddr, Receiver<String>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let (say, summary) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().take(8) {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            // A connection without a complete request is ignored.
            let Ok(read) = stream.read(&mut head) else { continue };
            let line = String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
            let response = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{address}/internal\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
            );
            let _ = stream.write_all(response.as_bytes());
            if say.send(line).is_err() {
                return;
            }
        }
    });
    Ok((address, summary))
}

/// Sends a callback to a receiver that redirects. Fails if the server follows the redirect. The server must
/// allow loopback.
pub fn redirects(server: &AttackedServer, report: &mut AttackReport) {
    report.attack("a receiver that redirects", ARRIVES_WITHIN + FOLLOWS_WITHIN, || {
        let (address, summary) = redirecting()?;
        let body = json!({ "url": format!("http://{address}/hook"), "body": { "a": 1 } });
        server.post(&server.admin, "/api/v1/callbacks", &body)?.expect(201)?;
        let first = summary.recv_timeout(ARRIVES_WITHIN).context("the callback did not arrive")?;
        ensure!(first.contains("/hook"), "{first}");
        match summary.recv_timeout(FOLLOWS_WITHIN) {
            Err(_) => Ok("not followed".to_owned()),
            Ok(second) => anyhow::bail!("the redirect was followed: {second}"),
        }
    });
}
