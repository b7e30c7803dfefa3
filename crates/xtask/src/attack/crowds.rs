//! Denial-of-service attacks: unread responses, long polls, expensive date calculations and log-ins.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, PASSWORD};
use super::memory::expect_little_growth;
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, format_response, status_in};
use super::wire::{connect, request};

/// Numbers of connections: those whose responses are never read, and those that wait for a job.
const UNREAD: usize = 30;
const WAITING: usize = 100;
/// Number of requests that are sent on one connection without reading a response.
const PIPELINED: usize = 500;
/// Maximum duration of another user's write during an attack.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// Schedules whose next run is far in the future, never occurs, or occurs continuously.
const SCHEDULES_TO_PREVIEW: &[&str] = &[
    "0 0 30 2 *",
    "0 0 31 2,4,6,9,11 *",
    "59 59 23 29 2 MON",
    "@every 0s",
    "@every 1ns",
    "@every 9223372036854775807s",
    "* * * * * *",
    "*/0 * * * *",
    "0-4294967295 * * * *",
    "0 0 29 2 *",
];

/// Runs all denial-of-service attacks.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("crowds");
    report.attack("30 lists and exports that are never read", Duration::from_secs(60), || unread(server));
    report.attack("500 requests on one connection, unread", Duration::from_secs(20), || pipelined(server));
    report.attack("100 workers that wait for jobs", Duration::from_secs(20), || attack_long_polls(server));
    for schedule in SCHEDULES_TO_PREVIEW {
        report.attack(&format!("the next 100 times of {schedule}"), DEFAULT_TIME_LIMIT, || {
            let shown = schedule.replace(' ', "%20").replace('@', "%40");
            let path = format!("/api/v1/schedules/preview?count=100&schedule={shown}");
            status_in(&server.get(&server.admin, &path)?, &[200, 422])
        });
    }
    report.attack("wrong passwords lock a name, and say nothing of it", Duration::from_secs(30), || {
        attack_lockout(server)
    });
    report.attack("200 guessed invites", Duration::from_secs(20), || {
        for n in 0..200 {
            let path = format!("/api/v1/partners/invites/GUESS{n:05}");
            let response = server.get(&server.eve, &path)?;
            ensure!(matches!(response.status, 404 | 429), "returned {}", format_response(&response));
        }
        Ok("none is there".to_owned())
    });
    report.attack("a token of a suspended user", DEFAULT_TIME_LIMIT, || suspended(server));
}

fn max_wait_of_others(server: &AttackedServer, within: Duration) -> Result<String> {
    let response =
        server.post(&server.ada, "/api/v1/spaces/me/shopping", &json!({ "data": { "text": "milk" } }))?;
    response.expect(201)?;
    ensure!(response.took <= within, "another user's write took {:.1?}", response.took);
    Ok(format!("another user's write took {} ms", response.took.as_millis()))
}

/// Sends a request on each of `count` connections and reads no response.
fn send_without_reading(
    server: &AttackedServer,
    count: usize,
    path: &str,
    body: Option<&[u8]>,
    token: &str,
) -> Result<Vec<TcpStream>> {
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = connect(server.address())?;
        stream.write_all(&request(method, path, Some(token), &[], body))?;
        open.push(stream);
    }
    Ok(open)
}

fn unread(server: &AttackedServer) -> Result<String> {
    let account = server.register("reader")?;
    let text = "x".repeat(60_000);
    for _ in 0..50 {
        server.post(&account, "/api/v1/spaces/me/long", &json!({ "data": { "text": text } }))?.expect(201)?;
    }
    expect_little_growth(server, || {
        let lists =
            send_without_reading(server, UNREAD, "/api/v1/spaces/me/long?limit=100", None, &account.token)?;
        let exports = send_without_reading(server, UNREAD, "/api/v1/me/export", None, &account.token)?;
        // A debug build needs several seconds to produce that many pages of 1 MiB.
        let summary = max_wait_of_others(server, Duration::from_secs(20))?;
        drop((lists, exports));
        Ok(summary)
    })
}

fn pipelined(server: &AttackedServer) -> Result<String> {
    expect_little_growth(server, || {
        let mut stream = connect(server.address())?;
        stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        let head = format!(
            "GET /openapi.json HTTP/1.1\r\nhost: kith\r\nauthorization: Bearer {}\r\n\r\n",
            server.eve.token
        );
        let mut sent = 0;
        // The server stops reading requests while its responses are not read, and this write then times out.
        while sent < PIPELINED && stream.write_all(head.as_bytes()).is_ok() {
            sent += 1;
        }
        Ok(format!("{sent} sent; {}", max_wait_of_others(server, OTHERS_WITHIN)?))
    })
}

fn attack_long_polls(server: &AttackedServer) -> Result<String> {
    let key = server.api_key("waits", &["jobs.work"])?;
    let body = json!({ "limit": 1, "wait_ms": 30_000 }).to_string();
    let waiting =
        send_without_reading(server, WAITING, "/api/v1/queues/nothing/claim", Some(body.as_bytes()), &key)?;
    let summary = max_wait_of_others(server, OTHERS_WITHIN)?;
    drop(waiting);
    Ok(summary)
}

/// Checks that five failed log-ins lock an address, and that the responses are the same for an address with
/// and without an account.
fn attack_lockout(server: &AttackedServer) -> Result<String> {
    let victim = server.register("victim")?;
    let mut seen = Vec::new();
    for email in [victim.email.as_str(), "nobody-here@example.org"] {
        let mut statuses = Vec::new();
        for n in 0..8 {
            let body = json!({ "email": email, "password": format!("{PASSWORD} {n}") });
            let response = server.call("POST", "/api/v1/auth/login", None, &body)?;
            statuses.push((response.status, response.code()));
        }
        seen.push(statuses);
    }
    ensure!(
        seen[0] == seen[1],
        "known and unknown accounts can be distinguished: {:?} and {:?}",
        seen[0],
        seen[1]
    );
    ensure!(seen[0].iter().any(|(status, _)| *status == 423), "eight failures lock nothing: {:?}", seen[0]);
    let body = json!({ "email": victim.email, "password": PASSWORD });
    let right = server.call("POST", "/api/v1/auth/login", None, &body)?;
    status_in(&right, &[423])
}

fn suspended(server: &AttackedServer) -> Result<String> {
    let victim = server.register("suspended")?;
    let path = format!("/api/v1/admin/users/{}/suspension", victim.id);
    server.call("PUT", &path, Some(&server.admin.token), &json!({ "reason": "attack" }))?.expect(200)?;
    let refresh = json!({ "refresh_token": victim.refresh });
    let refreshed = server.call("POST", "/api/v1/auth/refresh", None, &refresh)?;
    ensure!(matches!(refreshed.status, 401 | 403), "refreshed with {}", format_response(&refreshed));
    status_in(&server.call("GET", "/api/v1/me", Some(&victim.token), &Value::Null)?, &[401, 403])
}
