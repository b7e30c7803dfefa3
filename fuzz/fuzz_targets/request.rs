//! Sends inputs of libFuzzer to a server in this process: request line, headers, an empty line, body.
//!
//! `authorization: ada` becomes an access token of Ada, `{ada}` her id. The same applies to ben and to root,
//! an administrator.

#![no_main]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt;
use kith::{Running, TestOverrides, start};
use kith_accounts::accounts::first_admin::create_admin;
use kith_platform::App;
use kith_platform::config::{Config, Flag, Inputs};
use kith_platform::http::InProcess;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const PASSWORD: &str = "a password of the fuzz targets";
/// Number of requests after which the accounts are replaced, because requests delete accounts and end
/// sessions.
const ACCOUNT_LIFETIME_REQUESTS: u32 = 500;

/// Running server with its accounts.
struct FuzzServer {
    runtime: Runtime,
    client: InProcess,
    app: App,
    accounts: Mutex<Vec<FuzzAccount>>,
    request_count: AtomicU32,
    _running: Running,
}

#[derive(Clone)]
struct FuzzAccount {
    name: &'static str,
    id: String,
    token: String,
}

static SERVER: OnceLock<FuzzServer> = OnceLock::new();

impl FuzzServer {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder").keep();
        let set = |key, value: toml::Value| Flag { name: "the fuzz target", key, value };
        let flags = vec![
            set("server.listen", "127.0.0.1:0".into()),
            set("server.disable_limits", true.into()),
            set("data.folder", folder.display().to_string().into()),
            set("database.synchronous", "off".into()),
            set("auth.password_memory_kib", 8.into()),
            set("auth.password_iterations", 1.into()),
        ];
        let config =
            Config::load(&Inputs { file: Some("".into()), env: Vec::new(), flags }, &[]).expect("a configuration");
        let running = runtime.block_on(start(config, TestOverrides::default())).expect("a server");
        let app = running.app.clone();
        let client = InProcess::new(&app);
        let server = Self {
            runtime,
            client,
            app,
            accounts: Mutex::default(),
            request_count: AtomicU32::default(),
            _running: running,
        };
        server.replace_accounts(0);
        server
    }

    fn replace_accounts(&self, round: u32) {
        let accounts = ["ada", "ben", "root"].map(|name| {
            let email = format!("{name}{round}@example.org");
            if name == "root" {
                let created = create_admin(&self.app, &email, name, PASSWORD);
                self.runtime.block_on(created).expect("an administrator");
            } else {
                self.post(
                    "/api/v1/auth/register",
                    json!({ "email": email, "password": PASSWORD, "display_name": name }),
                );
            }
            let pair = self.post("/api/v1/auth/login", json!({ "email": email, "password": PASSWORD }));
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            FuzzAccount { name, id: text(&pair["user"]["id"]), token: text(&pair["access_token"]) }
        });
        *self.accounts.lock().expect("unpoisoned") = accounts.into();
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let request = Request::post(path).header("content-type", "application/json");
        let (status, _, body) = self.send(request.body(Body::from(body.to_string())).expect("a request"));
        assert!((200..300).contains(&status), "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    fn send(&self, request: Request) -> (u16, axum::http::HeaderMap, Vec<u8>) {
        self.runtime.block_on(async {
            let (parts, body) = self.client.answer(request).await.into_parts();
            let body = body.collect().await.expect("a whole answer").to_bytes();
            (parts.status.as_u16(), parts.headers, body.to_vec())
        })
    }

    /// Parses `data` as a request. Returns `None` if it is none.
    fn parse_request(&self, data: &[u8]) -> Option<Request> {
        let accounts = self.accounts.lock().expect("unpoisoned").clone();
        let mut text = String::from_utf8_lossy(data).into_owned();
        for account in &accounts {
            text = text.replace(&format!("{{{}}}", account.name), &account.id);
        }
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let (method, target) = lines.next()?.split_once(' ')?;
        // Paths for development would move the clock of the server.
        if !target.starts_with('/') || target.starts_with("/dev") {
            return None;
        }
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let caller = accounts
                .iter()
                .find(|account| name.eq_ignore_ascii_case("authorization") && account.name == value);
            let value = caller.map_or(value.to_owned(), |account| format!("Bearer {}", account.token));
            request = request.header(name, value);
        }
        request.body(Body::from(body.to_owned())).ok()
    }
}

fuzz_target!(|data: &[u8]| {
    let server = SERVER.get_or_init(FuzzServer::new);
    let request_count = server.request_count.fetch_add(1, Ordering::Relaxed);
    if request_count % ACCOUNT_LIFETIME_REQUESTS == ACCOUNT_LIFETIME_REQUESTS - 1 {
        server.replace_accounts(request_count);
    }
    let Some(request) = server.parse_request(data) else { return };
    let is_head = request.method() == "HEAD";
    let (status, headers, body) = server.send(request);
    assert!(status < 500, "{status}: {}", String::from_utf8_lossy(&body));
    assert!(headers.contains_key("x-request-id") && headers["x-content-type-options"] == "nosniff");
    if status >= 400 && !is_head {
        assert_eq!(headers["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!(problem["status"], status);
        assert!(problem["code"].is_string() && problem["title"].is_string(), "{problem}");
    }
});
