//! Tests that no response needs more than 32 MiB of memory, regardless of the stored data. Memory is measured
//! in a separate process. Its database contains JSON values that need the most memory when they are parsed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use kith_store::testing::TestDatabase;
use kith_store::{Error, Store, Tx, params};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::support::{Engine, Kith, PASSWORD, SERVE, kith_on, options_on};

/// Maximum memory of a response in KiB.
const MAX_ANSWER_KIB: u64 = 32 << 10;
const MINE: &str = "/api/v1/spaces/me/notes";

/// Returns JSON of about this length, `[{"":0},…]`, which takes a hundred times as much memory when it is
/// parsed.
fn hollow_json(bytes: usize) -> String {
    let mut text = String::from("[");
    while text.len() < bytes - 16 {
        text += r#"{"":0},"#;
    }
    text + "0]"
}

/// Field of `/proc/PID/status` with the anonymous resident memory. Mapped pages of the database are not
/// counted.
const RESIDENT: &str = "RssAnon:";

/// Samples the memory of a process continuously.
struct MemorySampler {
    done: Arc<AtomicBool>,
    sampler: JoinHandle<u64>,
}

impl MemorySampler {
    fn begin(pid: u32) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let sampler = std::thread::spawn(move || {
            let mut max = 0;
            while !is_done.load(Ordering::Relaxed) {
                max = read_kib(pid, RESIDENT).max(max);
                std::thread::yield_now();
            }
            max
        });
        Self { done, sampler }
    }

    /// Stops sampling and returns the maximum.
    fn end(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.sampler.join().expect("no panic")
    }
}

fn read_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)).expect("the line exists in the status file");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Client that does not parse responses, to save memory in the test process.
struct Caller {
    base: String,
    token: String,
    http: Http<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Caller {
    fn new(kith: &Kith) -> Self {
        let http = Http::builder(TokioExecutor::new()).build_http();
        Self { base: format!("http://{}", kith.addr), token: String::new(), http }
    }

    async fn send(&self, method: Method, path: &str, body: String, coding: &str) -> (u16, Bytes) {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().expect("an address");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, "application/json".parse().expect("a header"));
        headers.insert(ACCEPT_ENCODING, coding.parse().expect("a header"));
        headers.insert(AUTHORIZATION, format!("Bearer {}", self.token).parse().expect("a header"));
        let response = self.http.request(request).await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.expect("the whole body").to_bytes())
    }

    async fn post(&self, path: &str, body: String) -> Value {
        let (status, response) = self.send(Method::POST, path, body, "identity").await;
        assert!((200..300).contains(&status), "{path}: {status} {}", start_of(&response));
        serde_json::from_slice(&response).unwrap_or_default()
    }

    async fn put(&self, path: &str, body: String) {
        let (status, response) = self.send(Method::PUT, path, body, "identity").await;
        assert!((200..300).contains(&status), "{path}: {status} {}", start_of(&response));
    }

    async fn sign_in(&mut self) {
        let body = json!({ "email": "ada@example.org", "password": PASSWORD }).to_string();
        let response = self.post("/api/v1/auth/login", body).await;
        self.token = response["access_token"].as_str().expect("a token").to_owned();
    }
}

fn start_of(response: &[u8]) -> String {
    String::from_utf8_lossy(&response[..response.len().min(300)]).into_owned()
}

/// Inserts data that only an earlier version accepted: a space of 16 MiB.
fn fill_space(tx: &Tx<'_>) -> Result<(), Error> {
    let data = format!(r#"{{"list":{}}}"#, hollow_json(65_000));
    let user =
        tx.one("SELECT id FROM users WHERE email = 'ada@example.org'", &[], |row| row.get::<String>(0))?;
    let user = user.expect("the user is registered");
    for n in 0..250_i64 {
        let id = format!("019a0000-0000-7000-8000-{n:012x}");
        let space = format!("me:{user}");
        tx.exec(
            "INSERT INTO space_items (id, space, collection, data, bytes, version, created_at, updated_at, indexed_revision)
             VALUES ($1, $2, 'notes', $3, $4, 1, 0, 0, 0)",
            params![id, space, data, data.len() as i64],
        )?;
    }
    Ok(())
}

/// Creates the largest data that the API accepts.
async fn fill(caller: &Caller) {
    let payload = hollow_json(250_000);
    let waiting = caller.post("/api/v1/jobs", r#"{"kind":"k","queue":"big","children":[]}"#.to_owned()).await;
    assert!(waiting["id"].is_i64());
    for n in 0..24 {
        caller.post("/api/v1/jobs", format!(r#"{{"kind":"k","queue":"big","payload":{payload}}}"#)).await;
        let schedule = format!(r#"{{"queue":"big","kind":"k","schedule":"@every 24h","payload":{payload}}}"#);
        if n < 20 {
            caller.put(&format!("/api/v1/schedules/s{n}"), schedule).await;
        }
    }
    let schema = format!(r#"{{"x":{}}}"#, hollow_json(30_000));
    for n in 0..40 {
        caller.put(&format!("/api/v1/job-kinds/k{n}"), format!(r#"{{"schema":{schema}}}"#)).await;
        let schema = format!(r#"{{"x":{}}}"#, hollow_json(22_000));
        let path = format!("/api/v1/admin/collections/c{n}");
        caller.put(&path, format!(r#"{{"schema":{schema}}}"#)).await;
    }
}

/// Creates jobs with large results, and a parent job that waits for them.
async fn results(caller: &Caller) -> i64 {
    let children = ["{\"kind\":\"child\",\"queue\":\"children\"}"; 12].join(",");
    let parent =
        caller.post("/api/v1/jobs", format!(r#"{{"kind":"k","queue":"p","children":[{children}]}}"#)).await;
    let claimed = caller.post("/api/v1/queues/children/claim", r#"{"limit":12}"#.to_owned()).await;
    let result = hollow_json(250_000);
    for job in claimed["jobs"].as_array().expect("jobs") {
        let path = format!("/api/v1/jobs/{}/complete", job["id"]);
        caller.post(&path, format!(r#"{{"lease_token":{},"result":{result}}}"#, job["lease_token"])).await;
    }
    parent["id"].as_i64().expect("an id")
}

async fn responses_need_at_most_32_mib(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let database = engine.database().await;
    let elsewhere = TestDatabase::sqlite();
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    make_admin(&database, folder);
    let store = Store::open(options_on(&database)).await.expect("a database");
    store.write(fill_space).await.expect("a space");
    store.close().await;

    let kith = Kith::start(kith_on(&database, folder, SERVE));
    let mut caller = Caller::new(&kith);
    caller.sign_in().await;
    fill(&caller).await;
    let parent = results(&caller).await;
    drop(kith);

    let details = format!("/api/v1/jobs/{parent}");
    let list = format!("{MINE}?limit=100");
    let (mut report, mut too_much) = (String::new(), Vec::new());
    let mut kith = Kith::start(kith_on(&database, folder, SERVE));
    let mut before = None;
    for (n, (method, path, body, coding)) in [
        (Method::GET, &*list, "", "identity"),
        (Method::GET, &*list, "", "gzip"),
        (Method::GET, "/api/v1/me/export", "", "identity"),
        (Method::GET, "/api/v1/me/export", "", "gzip"),
        (Method::GET, "/api/v1/me/export", "", "br"),
        (Method::GET, "/api/v1/jobs?limit=100", "", "identity"),
        (Method::GET, "/api/v1/jobs?state=completed&limit=100", "", "identity"),
        (Method::GET, &*details, "", "identity"),
        (Method::GET, "/api/v1/schedules?limit=100", "", "identity"),
        (Method::GET, "/api/v1/job-kinds?limit=100", "", "identity"),
        (Method::GET, "/api/v1/collections?limit=100", "", "identity"),
        (Method::GET, "/api/v1/audit?limit=100", "", "identity"),
        (Method::POST, "/api/v1/queues/big/claim", r#"{"limit":100}"#, "identity"),
    ]
    .into_iter()
    .enumerate()
    {
        if [2, 5, 8, 12].contains(&n) {
            // Restarts, because memory kept from earlier responses would hide the cost of this one.
            drop(kith);
            kith = Kith::start(kith_on(&database, folder, SERVE));
            before = None;
        }
        caller = Caller { base: format!("http://{}", kith.addr), ..caller };
        if before.is_none() {
            caller.send(Method::GET, "/api/v1/me", String::new(), "gzip").await;
        }
        // Measured relative to the memory after the first request of this process.
        let before = *before.get_or_insert_with(|| read_kib(kith.pid(), RESIDENT));
        let watch = MemorySampler::begin(kith.pid());
        let (status, response) = caller.send(method.clone(), path, body.to_owned(), coding).await;
        let cost = watch.end().saturating_sub(before);
        let _ = writeln!(report, "{cost:7} KiB for {:9} bytes of {method} {path} ({coding})", response.len());
        assert_eq!(status, 200, "{path}: {}", start_of(&response));
        if coding == "identity" {
            serde_json::from_slice::<IgnoredAny>(&response).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        if cost > MAX_ANSWER_KIB {
            too_much.push(path);
        }
    }
    println!("{report}");
    assert!(too_much.is_empty(), "{too_much:?} used too much memory:\n{report}");
}

fn make_admin(database: &TestDatabase, folder: &Path) {
    let mut command = kith_on(database, folder, &["admin", "create", "--email", "ada@example.org"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("a process");
    writeln!(child.stdin.take().expect("standard input"), "{PASSWORD}").expect("a reader");
    let done = child.wait_with_output().expect("an end");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn responses_need_at_most_32_mib_on_sqlite() {
    responses_need_at_most_32_mib(Engine::Sqlite).await;
}

#[tokio::test]
async fn responses_need_at_most_32_mib_on_postgres() {
    responses_need_at_most_32_mib(Engine::Postgres).await;
}
