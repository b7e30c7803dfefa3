//! Attacks on the HTTP edge: ambiguous request heads, heads that never end, and idle connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use super::attacked_server::AttackedServer;
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, format_response, status_in};
use super::wire::{connect, send, send_for_all};

/// Time without data after which a response counts as complete.
const END_OF_RESPONSE_SILENCE: Duration = Duration::from_millis(700);
/// `server.head_timeout_ms` of the attacked server. `HEAD_ENDS_WITHIN` is longer, to allow for delays.
pub const HEAD_TIMEOUT_MS: u64 = 1_000;
const HEAD_ENDS_WITHIN: Duration = Duration::from_millis(4 * HEAD_TIMEOUT_MS);
/// `server.max_connections` of the attacked server.
pub const MAX_CONNECTIONS: usize = 1_000;
/// Number of idle connections to open. It exceeds `MAX_CONNECTIONS`.
const IDLE: usize = 1_100;
const SLOW: usize = 50;

/// Returns attack names, request heads, and the accepted statuses. Each head must get exactly one response.
fn heads() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let line = |line: &str| format!("{line}\r\nhost: kith\r\nconnection: close\r\n\r\n").into_bytes();
    let get = |lines: &str| format!("GET /livez HTTP/1.1\r\nconnection: close\r\n{lines}\r\n").into_bytes();
    let long = format!("host: kith\r\nx-long: {}\r\n", "a".repeat(600 << 10));
    let many: String = (0..2_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    vec![
        ("no Host", get(""), &[400]),
        ("two Hosts", get("host: kith\r\nhost: other\r\n"), &[400]),
        ("twice the same Host", get("host: kith\r\nhost: kith\r\n"), &[400]),
        ("an empty Host", get("host: \r\n"), &[400]),
        ("a Host with a path", get("host: kith/admin\r\n"), &[400]),
        ("a Host with user information", get("host: a@kith\r\n"), &[400]),
        ("a Host with a space", get("host: kith other\r\n"), &[400]),
        ("a Host with a list", get("host: kith, other\r\n"), &[400]),
        ("a Host with a port that is not a number", get("host: kith:abc\r\n"), &[400]),
        // HTTP/1.0 does not require Host (RFC 9112, 3.2).
        ("HTTP/1.0 without Host", b"GET /livez HTTP/1.0\r\n\r\n".to_vec(), &[200, 400, 505]),
        ("a Host with a port past all ports", get("host: kith:99999\r\n"), &[400]),
        ("HTTP/0.9", b"GET /livez\r\n\r\n".to_vec(), &[0, 400]),
        ("HTTP/2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[0, 400, 505]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        ("a head of 600 KiB", get(&long), &[400, 431]),
        ("2,000 headers", get(&format!("host: kith\r\n{many}")), &[400, 431]),
        (
            "an address of 100,000 letters",
            line(&format!("GET /{} HTTP/1.1", "a".repeat(100_000))),
            &[400, 404, 414, 431],
        ),
        ("a folded header", get("host: kith\r\nx-a: b\r\n c\r\n"), &[400]),
        ("a space before the colon", get("host : kith\r\n"), &[400]),
        ("a header without a name", get("host: kith\r\n: a\r\n"), &[400]),
        ("a zero in a header", get("host: kith\r\nx-a: b\0c\r\n"), &[400]),
        ("an unknown method", line("BREW /livez HTTP/1.1"), &[400, 405, 501]),
        ("TRACE", line("TRACE /livez HTTP/1.1"), &[400, 405, 501]),
        ("CONNECT", line("CONNECT 127.0.0.1:22 HTTP/1.1"), &[400, 404, 405, 501]),
        // A server accepts a request target in absolute form and ignores Host (RFC 9112, 3.2.2).
        ("an absolute address", line("GET http://other.example/livez HTTP/1.1"), &[200, 400, 421]),
        ("an absolute address that climbs", line("GET http://kith/../etc/passwd HTTP/1.1"), &[400, 404]),
        ("a path that climbs", line("GET /docs/../../etc/passwd HTTP/1.1"), &[400, 404]),
        (
            "a path that climbs, encoded",
            line("GET /docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1"),
            &[400, 404],
        ),
    ]
}

/// Attack names, and ambiguous or malformed length headers. The body of each request contains a second
/// request.
const LENGTHS: &[(&str, &str)] = &[
    ("Content-Length and Transfer-Encoding", "content-length: 60\r\ntransfer-encoding: chunked"),
    ("Transfer-Encoding and Content-Length", "transfer-encoding: chunked\r\ncontent-length: 60"),
    ("two Content-Lengths", "content-length: 5\r\ncontent-length: 0"),
    ("Content-Lengths in a list", "content-length: 5, 0"),
    ("a negative Content-Length", "content-length: -5"),
    ("a Content-Length with a plus", "content-length: +5"),
    ("a hexadecimal Content-Length", "content-length: 0x5"),
    ("a Content-Length past 64 bits", "content-length: 18446744073709551621"),
    ("Transfer-Encoding: xchunked", "transfer-encoding: xchunked"),
    ("Transfer-Encoding: identity", "transfer-encoding: identity"),
    ("Transfer-Encoding: chunked, identity", "transfer-encoding: chunked, identity"),
    ("two Transfer-Encodings", "transfer-encoding: chunked\r\ntransfer-encoding: identity"),
    ("Transfer-Encoding with a space before the colon", "transfer-encoding : chunked"),
    ("Transfer-Encoding with a tab", "transfer-encoding:\tchunked\x0b"),
    ("Transfer-Encoding behind a bare LF", "content-length: 60\nx-a: b\ntransfer-encoding: chunked"),
    ("Transfer-Encoding behind a bare CR", "content-length: 5\r\nx-a: b\rtransfer-encoding: chunked"),
    ("a folded Transfer-Encoding", "transfer-encoding:\r\n chunked"),
];
const CHUNKED: &str = "transfer-encoding: chunked";
/// Attack names, and bodies with malformed chunk sizes.
const CHUNKS: &[(&str, &str)] = &[
    ("a chunk size with a plus", "+0\r\n\r\n"),
    ("a chunk size with 0x", "0x0\r\n\r\n"),
    ("a chunk size past 64 bits", "10000000000000000\r\n\r\n"),
    ("a chunk size ended by LF alone", "0\n\n"),
    ("a chunk that is longer than its size", "1\r\nabcdef\r\n0\r\n\r\n"),
];

/// Runs all attacks with request heads.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("heads");
    for (name, head, expected) in heads() {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let responses = send_for_all(server.address(), &head, END_OF_RESPONSE_SILENCE)?;
            ensure!(responses.len() <= 1, "{} answers", responses.len());
            status_in(&responses.into_iter().next().unwrap_or_default(), expected)
        });
    }
    report.group("two requests in one");
    for (name, lengths) in LENGTHS {
        report.attack(name, DEFAULT_TIME_LIMIT, || smuggle(server, lengths, "0\r\n\r\n"));
    }
    for (name, chunks) in CHUNKS {
        report.attack(name, DEFAULT_TIME_LIMIT, || smuggle(server, CHUNKED, chunks));
    }
}

/// Sends a request of ambiguous length, followed by a second request. Fails if the second request gets a
/// successful response (request smuggling).
fn smuggle(server: &AttackedServer, lengths: &str, body: &str) -> Result<String> {
    let bytes = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: kith\r\ncontent-type: application/json\r\n{lengths}\r\n\r\n{body}\
         GET /livez HTTP/1.1\r\nhost: kith\r\n\r\n"
    );
    let responses = send_for_all(server.address(), bytes.as_bytes(), END_OF_RESPONSE_SILENCE)?;
    let statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
    ensure!(!statuses.contains(&200), "the second request was answered: {statuses:?}");
    ensure!(statuses.iter().all(|status| (400..500).contains(status) || *status == 501), "{statuses:?}");
    Ok(format!("{statuses:?}"))
}

/// Runs the attacks that open many or slow connections. The server needs a short head timeout and a low
/// connection limit.
pub fn connections(server: &AttackedServer, report: &mut AttackReport) {
    report.group("connections");
    report.attack("50 heads that never end", HEAD_ENDS_WITHIN, || slow_heads(server));
    report.attack("a body that never comes", DEFAULT_TIME_LIMIT, || {
        let mut stream = connect(server.address())?;
        let head = "POST /api/v1/auth/login HTTP/1.1\r\nhost: kith\r\ncontent-type: application/json\r\n\
                    content-length: 100\r\n\r\n{";
        stream.write_all(head.as_bytes())?;
        check_other_caller(server)
    });
    report.attack("1,100 connections without a request", Duration::from_secs(30), || {
        let limit = getrlimit(Resource::Nofile);
        let wanted = Some(4 * IDLE as u64).min(limit.maximum.or(Some(u64::MAX)));
        setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum })?;
        let mut open = Vec::new();
        for _ in 0..IDLE {
            open.push(TcpStream::connect(server.address()).context("one of them")?);
        }
        let summary = check_other_caller(server)?;
        let closed = open.iter().filter(|stream| has_ended(stream)).count();
        ensure!(closed >= IDLE - MAX_CONNECTIONS, "{closed} were closed, so the maximum does not hold");
        Ok(format!("{summary}; {closed} idle ones were closed"))
    });
    report.attack("afterwards", DEFAULT_TIME_LIMIT, || check_other_caller(server));
}

/// Opens connections that send their request heads slowly and never end them. The timeout counts from the
/// first byte, so sending more bytes does not extend it.
fn slow_heads(server: &AttackedServer) -> Result<String> {
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = connect(server.address())?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: ki")?;
        slow.push(stream);
    }
    let summary = check_other_caller(server)?;
    for stream in &mut slow {
        let mut response = Vec::new();
        // A connection reset also counts as the end of the response.
        let _ = stream.read_to_end(&mut response);
        let is_refused = response.is_empty() || response.starts_with(b"HTTP/1.1 4");
        ensure!(is_refused, "{}", String::from_utf8_lossy(&response));
    }
    Ok(format!("{summary}; all {SLOW} were ended"))
}

fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.set_nonblocking(true).is_ok()
        && !stream.peek(&mut byte).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Fails unless another caller gets a response within one second.
fn check_other_caller(server: &AttackedServer) -> Result<String> {
    let response = send(server.address(), b"GET /livez HTTP/1.1\r\nhost: kith\r\nconnection: close\r\n\r\n")?;
    ensure!(response.status == 200, "another caller got {}", format_response(&response));
    ensure!(response.took < Duration::from_secs(1), "another caller waited {:.1?}", response.took);
    let me = server.call("GET", "/api/v1/me", Some(&server.ada.token), &Value::Null)?;
    ensure!(me.status == 200, "another caller got {}", format_response(&me));
    Ok(format!("another caller waited {} ms", response.took.as_millis()))
}
