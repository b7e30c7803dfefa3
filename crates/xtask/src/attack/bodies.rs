//! Attacks with request bodies that are malformed, oversized, or interpreted differently by different
//! parsers. Also sends names of invisible characters.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::attacked_server::{AttackedServer, PASSWORD};
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, status_in};
use super::wire::{RawResponse, request, send};

const NOTES: &str = "/api/v1/spaces/me/notes";

/// Attack name, body of `POST /api/v1/spaces/me/notes`, and the accepted statuses.
type BodyAttack = (&'static str, Vec<u8>, &'static [u16]);

fn bodies() -> Vec<BodyAttack> {
    let nested = |levels: usize| format!(r#"{{"data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let keys = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!(r#""k{n}":0"#)).collect();
        format!(r#"{{"data":{{{}}}}}"#, members.join(","))
    };
    vec![
        ("100 levels of nesting", nested(100).into_bytes(), &[422]),
        ("10,000 levels of nesting", nested(10_000).into_bytes(), &[400, 422]),
        ("100,000 levels, never closed", "[".repeat(100_000).into_bytes(), &[400, 422]),
        ("an object of 10,000 keys", keys(10_000).into_bytes(), &[413, 422]),
        ("a body of 1 MiB", nested(1 << 19).into_bytes(), &[413]),
        ("invalid UTF-8", b"{\"data\":{\"a\":\"\xff\xfe\"}}".to_vec(), &[400, 422]),
        ("an overlong encoding", b"{\"data\":{\"a\":\"\xc0\xaf\"}}".to_vec(), &[400, 422]),
        ("a byte of zero", b"{\"data\":{\"a\":\"\0\"}}".to_vec(), &[400, 422]),
        ("an escaped zero", br#"{"data":{"a":"\u0000"}}"#.to_vec(), &[400, 422]),
        ("half a surrogate pair", br#"{"data":{"a":"\ud800"}}"#.to_vec(), &[400, 422]),
        ("a field twice", br#"{"data":{"a":1},"data":{"a":2}}"#.to_vec(), &[400, 422]),
        ("a number past all bounds", br#"{"data":{"a":1e999}}"#.to_vec(), &[400, 422]),
        ("not a number", br#"{"data":{"a":NaN}}"#.to_vec(), &[400]),
        ("an unknown field", br#"{"data":{"a":1},"role":"admin"}"#.to_vec(), &[400, 422]),
        ("a byte order mark", b"\xef\xbb\xbf{\"data\":{\"a\":1}}".to_vec(), &[400]),
        ("UTF-16", "{\"data\":{}}".encode_utf16().flat_map(u16::to_le_bytes).collect(), &[400]),
        ("something after the end", br#"{"data":{"a":1}} {"data":{"a":2}}"#.to_vec(), &[400]),
        ("nothing", Vec::new(), &[400]),
        ("a list instead of an object", b"[1]".to_vec(), &[400, 422]),
        ("a collection in the prototype", br#"{"data":{"__proto__":{"a":1}}}"#.to_vec(), &[201]),
    ]
}

/// Runs all attacks with bodies.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("bodies");
    for (name, body, expected) in bodies() {
        report.attack(name, DEFAULT_TIME_LIMIT, || status_in(&post(server, &[], &body)?, expected));
    }
    report.attack("a key of an item twice", DEFAULT_TIME_LIMIT, || {
        let response = post(server, &[], br#"{"data":{"twice":1,"twice":2}}"#)?;
        let summary = status_in(&response, &[201, 400, 422])?;
        if response.status == 201 {
            let path = format!("{NOTES}/{}", response.json()["id"].as_str().unwrap_or_default());
            let kept = String::from_utf8(server.get(&server.eve, &path)?.body)?;
            // Parsers disagree on whether the first or the last of two equal keys counts. The server must
            // therefore store only one.
            ensure!(kept.matches("twice").count() == 1, "both are kept: {kept}");
        }
        Ok(summary)
    });
    for (name, header) in
        [("another content type", "text/plain"), ("a form", "application/x-www-form-urlencoded")]
    {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let head = format!(
                "POST {NOTES} HTTP/1.1\r\nhost: kith\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
                 content-type: {header}\r\ncontent-length: 2\r\n\r\n{{}}",
                server.eve.token
            );
            status_in(&send(server.address(), head.as_bytes())?, &[415])
        });
    }
    report.attack("100 MiB in a gzip body of 100 KiB", DEFAULT_TIME_LIMIT, || {
        status_in(&post(server, &[("content-encoding", "gzip")], &bomb()?)?, &[413])
    });
    report.attack("an encoding of an encoding", DEFAULT_TIME_LIMIT, || {
        status_in(&post(server, &[("content-encoding", "gzip, gzip")], &bomb()?)?, &[413, 415])
    });
    names(server, report);
}

fn post(server: &AttackedServer, more: &[(&str, &str)], body: &[u8]) -> Result<RawResponse> {
    send(server.address(), &request("POST", NOTES, Some(&server.eve.token), more, Some(body)))
}

fn bomb() -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..100 {
        gzip.write_all(&zeros)?;
    }
    Ok(gzip.finish()?)
}

/// Display names without any visible character.
const INVISIBLE: &[&str] = &[
    "",
    " ",
    "\u{200B}",
    "\u{3164}",
    "\u{115F}\u{1160}",
    "\u{2800}",
    "\u{FE0F}\u{00AD}",
    "\u{200D} \u{200D}",
    "\u{2060}\u{FEFF}",
    "\u{034F}",
    "\u{180E}",
    "\u{E0020}\u{E007F}",
    "\u{202E}",
];

fn names(server: &AttackedServer, report: &mut AttackReport) {
    report.attack("names in which nothing can be seen", Duration::from_secs(20), || {
        for (n, name) in INVISIBLE.iter().enumerate() {
            let new = json!({
                "email": format!("invisible{n}@example.org"), "password": PASSWORD, "display_name": name,
            });
            let shown = name.escape_unicode();
            let registered = server.call("POST", "/api/v1/auth/register", None, &new)?;
            ensure!(registered.status == 422, "{shown} returned {}", registered.status);
            let renamed = server.call(
                "PATCH",
                "/api/v1/me",
                Some(&server.eve.token),
                &json!({ "display_name": name }),
            )?;
            ensure!(renamed.status == 422, "{shown} as a new name returned {}", renamed.status);
        }
        Ok(format!("422 for {} names, registered and renamed", INVISIBLE.len()))
    });
}
