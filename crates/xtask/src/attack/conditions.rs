//! Attacks with preconditions, idempotency keys, cursors and limits, and with line breaks in values that may
//! be copied into headers.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, text};
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, format_response, status_in};
use super::wire::{RawResponse, request, send};

const NOTES: &str = "/api/v1/spaces/me/notes";

/// Runs all attacks with preconditions, idempotency keys, cursors, limits and line breaks.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    preconditions(server, report);
    idempotency(server, report);
    cursors(server, report);
    line_ends(server, report);
}

fn preconditions(server: &AttackedServer, report: &mut AttackReport) {
    report.group("preconditions");
    let me = "/api/v1/me";
    let rename = json!({ "display_name": "eve" });
    for (name, headers) in [
        ("an ETag that was never returned", &[("if-match", "\"never\"")][..]),
        ("If-None-Match: * where something is", &[("if-none-match", "*")]),
        ("a weak tag for a strong comparison", &[("if-match", "W/\"never\"")]),
        ("both at once", &[("if-match", "*"), ("if-none-match", "*")]),
        ("a list of wrong tags", &[("if-match", "\"a\", \"b\", \"c\"")]),
    ] {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            status_in(&server.call_with("PATCH", me, &server.eve, headers, &rename)?, &[412])
        });
    }
    for (name, value) in [("a tag without quotes", "never"), ("an endless tag", "\"never")] {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let response = server.call_with("PATCH", me, &server.eve, &[("if-match", value)], &rename)?;
            status_in(&response, &[400, 412])
        });
    }
    report.attack("the tag of an older state", DEFAULT_TIME_LIMIT, || {
        let shown = server.get(&server.eve, me)?;
        let tag = shown.header("etag").unwrap_or_default().to_owned();
        ensure!(!tag.is_empty(), "no ETag");
        let changed = json!({ "display_name": "Eve the second" });
        server.call_with("PATCH", me, &server.eve, &[("if-match", &tag)], &changed)?.expect(200)?;
        status_in(&server.call_with("PATCH", me, &server.eve, &[("if-match", &tag)], &rename)?, &[412])
    });
    report.attack("1,000 tags in a header", DEFAULT_TIME_LIMIT, || {
        let tags = (0..1_000).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let response = server.call_with("PATCH", me, &server.eve, &[("if-match", &tags)], &rename)?;
        status_in(&response, &[400, 412, 431])
    });
}

fn idempotency(server: &AttackedServer, report: &mut AttackReport) {
    report.group("idempotency keys");
    let key = [("idempotency-key", "attack-0001")];
    let (one, other) = (json!({ "data": { "n": 1 } }), json!({ "data": { "n": 2 } }));
    report.attack("the same key and body again", DEFAULT_TIME_LIMIT, || {
        let first = server.call_with("POST", NOTES, &server.eve, &key, &one)?.expect(201)?;
        let again = server.call_with("POST", NOTES, &server.eve, &key, &one)?.expect(201)?;
        ensure!(first["id"] == again["id"], "two items: {first} and {again}");
        Ok("the first answer again".to_owned())
    });
    report.attack("the same key with another body", DEFAULT_TIME_LIMIT, || {
        status_in(&server.call_with("POST", NOTES, &server.eve, &key, &other)?, &[422])
    });
    report.attack("the same key on another path", DEFAULT_TIME_LIMIT, || {
        status_in(&server.call_with("POST", "/api/v1/spaces/me/lists", &server.eve, &key, &one)?, &[422])
    });
    report.attack("the same key by another user", DEFAULT_TIME_LIMIT, || {
        let own = server.call_with("POST", NOTES, &server.eve, &key, &one)?.expect(201)?;
        let others = server.call_with("POST", NOTES, &server.ben, &key, &one)?.expect(201)?;
        ensure!(own["id"] != others["id"], "another user's response was returned");
        Ok("an item of their own".to_owned())
    });
    for (name, value) in [("an empty key", String::new()), ("a key of 10,000 letters", "k".repeat(10_000))] {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let response =
                server.call_with("POST", NOTES, &server.eve, &[("idempotency-key", &value)], &one)?;
            status_in(&response, &[400, 422, 431])
        });
    }
    report.attack("two keys", DEFAULT_TIME_LIMIT, || {
        let keys = [("idempotency-key", "attack-0002"), ("idempotency-key", "attack-0003")];
        status_in(&server.call_with("POST", NOTES, &server.eve, &keys, &one)?, &[400, 422])
    });
}

fn cursors(server: &AttackedServer, report: &mut AttackReport) {
    report.group("cursors and limits");
    let own = |by| -> Result<String> {
        for n in 0..3 {
            server.post(by, NOTES, &json!({ "data": { "n": n } }))?.expect(201)?;
        }
        text(&server.get(by, &format!("{NOTES}?limit=1"))?.expect(200)?["next_cursor"])
    };
    report.attack("a cursor of another user's list", DEFAULT_TIME_LIMIT, || {
        let cursor = own(&server.ada)?;
        let response = server.get(&server.eve, &format!("{NOTES}?limit=100&cursor={cursor}"))?;
        if response.status == 400 {
            return Ok(format_response(&response));
        }
        let page = response.expect(200)?;
        let items = page["items"].as_array().into_iter().flatten();
        let foreign = items.filter(|item| item["created_by"] != server.eve.id.as_str()).count();
        ensure!(foreign == 0, "{foreign} items of another user were returned");
        Ok("200, own items only".to_owned())
    });
    report.attack("a cursor of another list", DEFAULT_TIME_LIMIT, || {
        let cursor = own(&server.eve)?;
        let path = format!("/api/v1/partners/requests?direction=incoming&cursor={cursor}");
        status_in(&server.get(&server.eve, &path)?, &[400])
    });
    report.attack("a cursor with a letter changed", DEFAULT_TIME_LIMIT, || {
        let mut cursor = own(&server.eve)?;
        let middle = cursor.len() / 2;
        let letter = if cursor.as_bytes()[middle] == b'A' { "B" } else { "A" };
        cursor.replace_range(middle..=middle, letter);
        let response = server.get(&server.eve, &format!("{NOTES}?cursor={cursor}"))?;
        status_in(&response, &[200, 400])
    });
    for value in ["x", "AAAA", "%00", "%FF%FE", "../../etc/passwd", "'%20OR%201=1", "e30", "null"] {
        report.attack(&format!("the cursor {value}"), DEFAULT_TIME_LIMIT, || {
            status_in(&server.get(&server.eve, &format!("{NOTES}?cursor={value}"))?, &[400])
        });
    }
    report.attack("a cursor of 6,000 letters", DEFAULT_TIME_LIMIT, || {
        let cursor = "A".repeat(6_000);
        status_in(&server.get(&server.eve, &format!("{NOTES}?cursor={cursor}"))?, &[400, 414, 431])
    });
    for value in ["0", "-1", "9223372036854775808", "1e2", "abc", "", "1&limit=2"] {
        report.attack(&format!("limit={value}"), DEFAULT_TIME_LIMIT, || {
            status_in(&server.get(&server.eve, &format!("{NOTES}?limit={value}"))?, &[400])
        });
    }
    report.attack("limit=4294967297", DEFAULT_TIME_LIMIT, || {
        // A limit above 100 is clamped to 100.
        let page = server.get(&server.eve, &format!("{NOTES}?limit=4294967297"))?.expect(200)?;
        let shown = page["items"].as_array().map_or(0, Vec::len);
        ensure!(shown <= 100, "{shown} items on a page");
        Ok(format!("200, {shown} items"))
    });
    report.attack("an unknown parameter", DEFAULT_TIME_LIMIT, || {
        status_in(&server.get(&server.eve, &format!("{NOTES}?admin=true"))?, &[400])
    });
}

/// Sends line breaks in values that the server may copy into response headers. A value must not end a header
/// line of the response (response splitting).
fn line_ends(server: &AttackedServer, report: &mut AttackReport) {
    report.group("line ends in values");
    let eve = Some(server.eve.token.as_str());
    let injected = "%0d%0aset-cookie:%20injected=1";
    let paths = [
        format!("/docs/{injected}"),
        format!("/api/v1/spaces/me/notes/{injected}"),
        format!("/api/v1/partners/invites/{injected}"),
        format!("/api/v1/spaces/me/notes?cursor={injected}"),
        format!("/api-docs?x={injected}"),
        format!("/{injected}"),
    ];
    for path in paths {
        report.attack(&format!("GET {path}"), DEFAULT_TIME_LIMIT, || {
            let response = send(server.address(), &request("GET", &path, eve, &[], None))?;
            check_no_injected_header(&response)?;
            ensure!((300..500).contains(&response.status), "returned {}", format_response(&response));
            Ok(format_response(&response))
        });
    }
    for name in
        ["x-request-id", "origin", "idempotency-key", "accept-encoding", "if-none-match", "user-agent"]
    {
        report.attack(&format!("a bare CR in {name}"), DEFAULT_TIME_LIMIT, || {
            let response = server.call_with(
                "GET",
                "/api/v1/me",
                &server.eve,
                &[(name, "a\rset-cookie: b=1")],
                &Value::Null,
            )?;
            check_no_injected_header(&response)?;
            status_in(&response, &[200, 400])
        });
    }
    report.attack("a request id that is markup", DEFAULT_TIME_LIMIT, || {
        let more = [("x-request-id", "<script>alert(1)</script>")];
        let response = server.call_with("GET", "/api/v1/me", &server.eve, &more, &Value::Null)?;
        let id = response.header("x-request-id").unwrap_or_default().to_owned();
        ensure!(!id.contains('<'), "the request id was returned: {id}");
        status_in(&response, &[200])
    });
}

fn check_no_injected_header(response: &RawResponse) -> Result<()> {
    if response.headers.iter().any(|(name, _)| name == "set-cookie") {
        bail!("a header was injected: {:?}", response.headers);
    }
    Ok(())
}
