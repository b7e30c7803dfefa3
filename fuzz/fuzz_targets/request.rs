//! Asks a whole server, within the process, whatever libFuzzer makes up: request line, headers, an empty line, body.
//!
//! `authorization: ada` becomes a token of hers, `{ada}` her id; the same goes for ben and for root, an administrator.

#![no_main]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt;
use kith::{Running, Seams, start};
use kith_accounts::accounts::first_admin::create_admin;
use kith_platform::App;
use kith_platform::config::{Config, Flag, Inputs};
use kith_platform::http::InProcess;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const PASSWORD: &str = "a password of the fuzz targets";
/// People lose their accounts and sessions to what is asked; after so many requests there are new ones.
const RENEWED_AFTER: u32 = 500;

/// A server, and who asks it.
struct World {
    runtime: Runtime,
    door: InProcess,
    app: App,
    people: Mutex<Vec<Person>>,
    asked: AtomicU32,
    _running: Running,
}

#[derive(Clone)]
struct Person {
    name: &'static str,
    id: String,
    token: String,
}

static WORLD: OnceLock<World> = OnceLock::new();

impl World {
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
        let running = runtime.block_on(start(config, Seams::default())).expect("a server");
        let app = running.app.clone();
        let door = InProcess::new(&app);
        let world = Self {
            runtime,
            door,
            app,
            people: Mutex::default(),
            asked: AtomicU32::default(),
            _running: running,
        };
        world.renew(0);
        world
    }

    fn renew(&self, round: u32) {
        let people = ["ada", "ben", "root"].map(|name| {
            let email = format!("{name}{round}@example.org");
            if name == "root" {
                let made = create_admin(&self.app, &email, name, PASSWORD);
                self.runtime.block_on(made).expect("an administrator");
            } else {
                self.post(
                    "/api/v1/auth/register",
                    json!({ "email": email, "password": PASSWORD, "display_name": name }),
                );
            }
            let pair = self.post("/api/v1/auth/login", json!({ "email": email, "password": PASSWORD }));
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            Person { name, id: text(&pair["user"]["id"]), token: text(&pair["access_token"]) }
        });
        *self.people.lock().expect("unpoisoned") = people.into();
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let request = Request::post(path).header("content-type", "application/json");
        let (status, _, body) = self.answer(request.body(Body::from(body.to_string())).expect("a request"));
        assert!((200..300).contains(&status), "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    fn answer(&self, request: Request) -> (u16, axum::http::HeaderMap, Vec<u8>) {
        self.runtime.block_on(async {
            let (parts, body) = self.door.answer(request).await.into_parts();
            let body = body.collect().await.expect("a whole answer").to_bytes();
            (parts.status.as_u16(), parts.headers, body.to_vec())
        })
    }

    /// The request that `data` stands for, if it is one.
    fn read(&self, data: &[u8]) -> Option<Request> {
        let people = self.people.lock().expect("unpoisoned").clone();
        let mut text = String::from_utf8_lossy(data).into_owned();
        for person in &people {
            text = text.replace(&format!("{{{}}}", person.name), &person.id);
        }
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let (method, target) = lines.next()?.split_once(' ')?;
        // What is for development only moves the clock of the whole server.
        if !target.starts_with('/') || target.starts_with("/dev") {
            return None;
        }
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let known = people
                .iter()
                .find(|person| name.eq_ignore_ascii_case("authorization") && person.name == value);
            let value = known.map_or(value.to_owned(), |person| format!("Bearer {}", person.token));
            request = request.header(name, value);
        }
        request.body(Body::from(body.to_owned())).ok()
    }
}

fuzz_target!(|data: &[u8]| {
    let world = WORLD.get_or_init(World::new);
    let asked = world.asked.fetch_add(1, Ordering::Relaxed);
    if asked % RENEWED_AFTER == RENEWED_AFTER - 1 {
        world.renew(asked);
    }
    let Some(request) = world.read(data) else { return };
    let is_head = request.method() == "HEAD";
    let (status, headers, body) = world.answer(request);
    assert!(status < 500, "{status}: {}", String::from_utf8_lossy(&body));
    assert!(headers.contains_key("x-request-id") && headers["x-content-type-options"] == "nosniff");
    if status >= 400 && !is_head {
        assert_eq!(headers["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!(problem["status"], status);
        assert!(problem["code"].is_string() && problem["title"].is_string(), "{problem}");
    }
});
