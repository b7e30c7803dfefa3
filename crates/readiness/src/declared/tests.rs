//! Tests of declared checks against a minimal HTTP server. Also tests how attestations and waivers change the
//! results of rows.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use kith_kernel::{ManualClock, days};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::{Artefacts, Deployment, Plan, ReadinessReport, Target, verify};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// Starts a server that answers each request with `respond(request_line)` and returns its base URL.
async fn serve(respond: fn(&str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let _ = stream.write_all(respond(head.lines().next().unwrap_or_default()).as_bytes()).await;
        }
    });
    base
}

fn shop(line: &str) -> String {
    let (status, headers, body) = match line.split(' ').nth(1).unwrap_or_default() {
        "/health" => ("200 OK", "X-Frame-Options: DENY\r\n", r#"{"status":"ok"}"#),
        "/encoded" => ("200 OK", "Content-Encoding: br\r\n", "no word of it"),
        "/old" => ("301 Moved", "Location: /new\r\n", ""),
        path if path.starts_with("/api/v1/query?query=up+%3E+0") => (
            "200 OK",
            "",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"0.98"]},{"value":[1,"1"]}]}}"#,
        ),
        path if path.starts_with("/api/v1/query?query=nothing") => {
            ("200 OK", "", r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#)
        }
        path if path.starts_with("/api/v1/query") => {
            ("400 Bad", "", r#"{"status":"error","error":"parse error"}"#)
        }
        _ => ("404 Not Found", "", ""),
    };
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

async fn judge(text: &str, target: &str) -> ReadinessReport {
    let (mut catalogue, mut declared) = (Catalogue::default(), Declared::default());
    declared.add(text, &mut catalogue).unwrap();
    let plan = Plan {
        catalogue,
        checks: vec![],
        artefacts: Artefacts::default(),
        declared,
        only: vec![],
        gate: Gate::Beta,
    };
    let target = Target { url: target.to_owned(), ..Target::default() };
    let seen = Mutex::new(0);
    let count = |_: crate::Progress<'_>| *seen.lock().unwrap() += 1;
    let report = verify(
        &plan,
        Deployment::new(target).unwrap(),
        &ManualClock::at(NOW),
        &count,
        &AtomicBool::new(false),
    )
    .await;
    assert_eq!(*seen.lock().unwrap(), report.rows.len() * 2 + 1);
    report
}

fn check(id: &str, rest: &str) -> String {
    format!("[[check]]\nid = \"{id}\"\nrequirement = \"\"\ngate = \"beta\"\n{rest}\n")
}

#[tokio::test]
async fn each_check_kind_passes_fails_or_is_unmeasured() {
    use RowOutcome::{Fail, Pass, Unknown};
    let base = serve(shop).await;
    let promql = |rest: &str| format!("kind = \"promql\"\nurl = \"{base}\"\n{rest}");
    let cases = [
        (
            "kind = \"http\"\npath = \"/health\"\nmust_contain = \"ok\"\nmax_duration_ms = 30000",
            Pass,
            "returned 200",
        ),
        ("kind = \"http\"\npath = \"/health\"\nmust_contain = \"well\"", Fail, "does not contain `well`"),
        ("kind = \"http\"\npath = \"/health\"\nmust_not_contain = \"status\"", Fail, "contains `status`"),
        ("kind = \"http\"\npath = \"/absent\"", Fail, "404 instead of 200"),
        ("kind = \"http\"\npath = \"/old\"\nstatus = 301", Pass, "301"),
        (
            "kind = \"header\"\npath = \"/health\"\nname = \"x-frame-options\"\nmust_contain = \"DENY\"",
            Pass,
            "DENY",
        ),
        (
            "kind = \"header\"\npath = \"/health\"\nname = \"x-frame-options\"\nmust_contain = \"SAME\"",
            Fail,
            "without `SAME`",
        ),
        ("kind = \"header\"\npath = \"/health\"\nname = \"server\"", Fail, "returns no server"),
        (
            "kind = \"header\"\npath = \"/health\"\nname = \"server\"\nabsent = true",
            Pass,
            "returns no server",
        ),
        (
            "kind = \"header\"\npath = \"/health\"\nname = \"x-frame-options\"\nabsent = true",
            Fail,
            "returns x-frame",
        ),
        ("kind = \"tls\"", Fail, "presents no certificate"),
        ("kind = \"tls\"\nhost = \"127.0.0.1:1\"", Unknown, "GET /"),
        (&promql("query = \"up > 0\"\nat_least = 0.9"), Pass, "2 series, from 0.98 to 1"),
        (&promql("query = \"up > 0\"\nat_least = 0.99"), Fail, "0.98 is less than 0.99"),
        (&promql("query = \"up > 0\"\nat_most = 0.99"), Fail, "1 is more than 0.99"),
        (&promql("query = \"up > 0\""), Unknown, "which values are good"),
        (&promql("query = \"nothing\"\nat_least = 1"), Unknown, "no data"),
        (&promql("query = \"(\"\nat_least = 1"), Unknown, "parse error"),
        ("kind = \"command\"\nargv = [\"sh\", \"-c\", \"echo all well\"]", Pass, "all well"),
        ("kind = \"command\"\nargv = [\"sh\", \"-c\", \"echo not well; exit 1\"]", Fail, "not well"),
        ("kind = \"command\"\nargv = [\"sh\", \"-c\", \"exit 2\"]", Unknown, "could not measure"),
        ("kind = \"command\"\nargv = [\"no-such-program\"]", Unknown, "no-such-program"),
        ("kind = \"command\"\nargv = [\"cat\", \"/dev/zero\"]\ntimeout_s = 1", Unknown, "longer than 1 s"),
    ];
    let text: String =
        cases.iter().enumerate().map(|(n, (rest, ..))| check(&format!("SHOP-{n:02}"), rest)).collect();
    let report = judge(&text, &base).await;
    for (row, (rest, outcome, reason)) in report.rows.iter().zip(cases) {
        assert_eq!(row.result, outcome, "{rest}: {}", row.reason);
        assert!(row.reason.contains(reason), "{rest}: {}", row.reason);
        assert_eq!(row.evidence.len(), 1, "{rest}");
    }
    assert_eq!(report.gate.exit_code, 1);
}

#[tokio::test]
async fn attestations_and_waivers_expire() {
    let word = |until: Timestamp| {
        format!("kind = \"attestation\"\nstatement = \"s\"\nowner = \"Ada\"\nuntil = \"{until}\"")
    };
    let waiver = |id: &str, until: Timestamp| {
        format!("[[waiver]]\nrow = \"{id}\"\nreason = \"r\"\nowner = \"Ben\"\nuntil = \"{until}\"\n")
    };
    let fails = "kind = \"command\"\nargv = [\"false\"]";
    let text = [
        check("OPS-01", &word(NOW)),
        check("OPS-02", &word(NOW - days(1))),
        check("OPS-03", fails),
        check("OPS-04", fails),
        check("OPS-05", "kind = \"command\"\nargv = [\"true\"]"),
        check("OPS-06", &word(NOW + days(400))),
        waiver("OPS-03", NOW),
        waiver("OPS-04", NOW - days(1)),
        waiver("OPS-05", NOW),
    ];
    let report = judge(&text.concat(), "http://127.0.0.1:1").await;
    let results: Vec<_> = report.rows.iter().map(|row| row.result).collect();
    assert_eq!(
        results,
        [
            RowOutcome::Attested,
            RowOutcome::Stale,
            RowOutcome::Waived,
            RowOutcome::Fail,
            RowOutcome::Pass,
            RowOutcome::Stale
        ]
    );
    assert!(report.rows[0].reason.starts_with("Ada attests until 2026"), "{}", report.rows[0].reason);
    assert!(report.rows[2].reason.contains("it was fail"), "{}", report.rows[2].reason);
    assert!(report.rows[3].reason.contains("the waiver of Ben ended"), "{}", report.rows[3].reason);
    assert_eq!(report.gate.closed_by, ["OPS-04", "OPS-02", "OPS-06"]);
}

#[test]
fn invalid_declarations_are_rejected() {
    let refused = |text: &str| {
        let error = Declared::default().add(text, &mut Catalogue::built_in()).unwrap_err();
        error.to_string()
    };
    let http = "kind = \"http\"\npath = \"/\"";
    let word = "kind = \"attestation\"\nstatement = \"\"\nowner = \"\"\nuntil = \"2027-01-01T00:00:00Z\"";
    for (text, reason) in [
        (check("SHOP-01", "kind = \"guess\""), "guess"),
        (check("SHOP-01", "kind = \"http\""), "path"),
        (check("SHOP-01", &format!("{http}\nstaus = 200")), "staus"),
        (check("SHOP", http), "it needs an `id`"),
        (check("SHOP-01", http) + &check("SHOP-01", http), "two checks"),
        (format!("[[check]]\nid = \"SHOP-01\"\n{http}"), "needs `requirement` and `gate`"),
        (check("SEC-05", http), "a declared check cannot replace"),
        (check("TST-01", http), "a declared check cannot replace"),
        (check("GAT-04", http), "a declared check cannot replace"),
        (check("SEC-05", &word.replace("\"\"", "\"Ada\"")), "must be measured"),
        // Regression test: an attestation with empty texts opened the gate.
        (check("OPS-01", word), "a statement and an owner"),
        (check("OPS-01", &word.replace("owner = \"\"", "owner = \"Ada\"")), "a statement and an owner"),
        (check("OPS-01", &word.replace("\"\"", "\" \"")), "a statement and an owner"),
        // Regression test: these paths led to another host.
        (check("SHOP-01", "kind = \"http\"\npath = \"http://other.example/\""), "begin with one slash"),
        (check("SHOP-01", "kind = \"http\"\npath = \"@other.example/\""), "begin with one slash"),
        (check("SHOP-01", "kind = \"http\"\npath = \"//other.example/\""), "begin with one slash"),
        (
            check("SHOP-01", "kind = \"header\"\nname = \"a\"\npath = \".other.example/\""),
            "begin with one slash",
        ),
        (check("SHOP-01", "kind = \"header\"\nname = \"a\"\npath = \"/\\\\other\""), "begin with one slash"),
        (check("SHOP-01", "kind = \"command\"\nargv = []"), "must name a program"),
        (
            "[[waiver]]\nrow = \"SHOP-01\"\nreason = \"r\"\nowner = \"o\"\nuntil = \"2027-01-01T00:00:00Z\""
                .into(),
            "no such row",
        ),
        (
            "[[waiver]]\nrow = \"SEC-05\"\nreason = \"\"\nowner = \"o\"\nuntil = \"2027-01-01T00:00:00Z\""
                .into(),
            "a reason and an owner",
        ),
        ("[[waiver]]\nrow = \"SEC-05\"\nreason = \"r\"\nowner = \"o\"".into(), "until"),
        ("[[chekc]]".into(), "chekc"),
    ] {
        let message = refused(&text);
        assert!(message.contains(reason), "{text}: {message}");
    }
    let mut catalogue = Catalogue::built_in();
    let word = word.replace("\"\"", "\"Ada\"");
    let allowed = format!("[[check]]\nid = \"OPS-01\"\n{word}");
    Declared::default().add(&allowed, &mut catalogue).unwrap();
    assert_eq!(catalogue.rows.len(), Catalogue::built_in().rows.len());
    // A declared check replaces an attestation, and also implements a row that is not implemented yet.
    for id in ["OBS-07", "BCK-01"] {
        let text = format!("[[check]]\nid = \"{id}\"\n{http}");
        Declared::default().add(&text, &mut catalogue).unwrap();
        let row = catalogue.find(id).unwrap();
        assert_eq!((&row.proved_by[..], &row.awaits), (&[ProofMethod::Live][..], &None), "{id}");
    }
}

/// Regression test: `must_not_contain` passed on a body that could not be decoded.
#[tokio::test]
async fn undecodable_body_is_unmeasured() {
    let base = serve(shop).await;
    let text =
        |word: &str| check("SHOP-01", &format!("kind = \"http\"\npath = \"/encoded\"\n{word} = \"error\""));
    for word in ["must_not_contain", "must_contain"] {
        let report = judge(&text(word), &base).await;
        assert_eq!(report.rows[0].result, RowOutcome::Unknown, "{word}: {}", report.rows[0].reason);
        assert!(report.rows[0].reason.contains("cannot be read"), "{}", report.rows[0].reason);
    }
}
