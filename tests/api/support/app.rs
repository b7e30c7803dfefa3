//! In-process servers with their own database and clock, and the accounts that use them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use kith::{Running, TestOverrides};
use kith_accounts::accounts::first_admin;
use kith_automation::jobs::QueueSettings;
use kith_bonds::bonds::BondSettings;
use kith_kernel::{Clock as _, ManualClock, Sources, SystemRandom, TimeOrderedIds, Timestamp};
use kith_platform::App;
use kith_platform::config::{Config, Limits, Secret, Settings};
use kith_store::Store;
use kith_store::testing::TestDatabase;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, Engine, TestResponse, latency_bound};

/// 2026-01-01T00:00:00Z: the time at which every scenario starts.
const SCENARIO_START: Timestamp = Timestamp::from_millis(1_767_225_600_000);
/// Password of all test accounts.
pub const PASSWORD: &str = "correct horse";

/// One or two servers on one database, with a shared manual clock.
pub struct TestApp {
    client: Client,
    clock: Arc<ManualClock>,
    nodes: Vec<Running>,
    // Declared after the nodes that use it, so that it is dropped after them.
    database: TestDatabase,
    /// Data folder for servers on PostgreSQL.
    _folder: TempDir,
}

impl TestApp {
    /// Runs a scenario on `engine`, if it is available, with a configuration modified by `change`, then stops
    /// the servers.
    pub async fn run(engine: Engine, change: impl Fn(&mut Config), scenario: impl AsyncFnOnce(&Self)) {
        if !engine.is_chosen() {
            eprintln!("skipped: this run does not use PostgreSQL");
            return;
        }
        let app = Self::start_with(engine, engine.database().await, change).await;
        scenario(&app).await;
        app.check_event_kinds().await;
        app.stop().await;
    }

    /// Starts the servers of `engine` on `database`.
    pub async fn start(engine: Engine, database: TestDatabase) -> Self {
        Self::start_with(engine, database, |_| {}).await
    }

    /// Starts the servers of `engine` on `database`, with a configuration modified by `change`.
    pub async fn start_with(engine: Engine, database: TestDatabase, change: impl Fn(&mut Config)) -> Self {
        let clock = Arc::new(ManualClock::at(SCENARIO_START));
        let mut nodes = Vec::new();
        let folder = tempfile::tempdir().expect("a folder");
        for _ in 0..if engine == Engine::Pair { 2 } else { 1 } {
            let sources = Sources {
                clock: clock.clone(),
                ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
                random: Arc::new(SystemRandom),
            };
            let overrides =
                TestOverrides { sources: Some(sources), runs_twice: true, ..TestOverrides::default() };
            let mut config = config(&database, folder.path());
            change(&mut config);
            nodes.push(kith::start(config, overrides).await.expect("a server"));
        }
        let client = Client::new(nodes.iter().map(|node| node.addr).collect::<Vec<_>>());
        Self { client, clock, nodes, database, _folder: folder }
    }

    /// Stops the servers and starts new ones on the same database. The manual clock continues from its
    /// current time.
    pub async fn restart(self, engine: Engine) -> Self {
        let now = self.now();
        let again = Self::start(engine, self.stop().await).await;
        again.advance(now.since(SCENARIO_START));
        again
    }

    /// Stops the servers and returns their database.
    pub async fn stop(self) -> TestDatabase {
        for node in self.nodes {
            node.stop().await;
        }
        self.database
    }

    /// Returns a client that is not signed in.
    pub fn anonymous(&self) -> &Client {
        &self.client
    }

    /// Registers `name` with the address `name@example.org`.
    pub async fn user(&self, name: &str) -> TestUser {
        let email = format!("{name}@example.org");
        let body = json!({ "email": email, "password": PASSWORD, "display_name": name });
        let response = self.client.post("/api/v1/auth/register", body).await.expect(201);
        self.test_user(name, email, &response)
    }

    /// Verifies an account's address, so that others can find the user by it.
    pub async fn verify_address(&self, user: &TestUser) {
        let body = json!({ "email": user.email });
        self.client.post("/dev/verify-email", body).await.expect(200);
    }

    /// Creates an administrator with the address `name@example.org`, as `kith admin create` does, and logs
    /// in.
    pub async fn admin(&self, name: &str) -> TestUser {
        let email = format!("{name}@example.org");
        let made = first_admin::create_admin(&self.nodes[0].app, &email, name, PASSWORD).await;
        made.expect("an administrator");
        self.sign_in(name).await
    }

    /// Signs in `name` with the address `name@example.org`.
    pub async fn sign_in(&self, name: &str) -> TestUser {
        let email = format!("{name}@example.org");
        let body = json!({ "email": email, "password": PASSWORD });
        let response = self.client.post("/api/v1/auth/login", body).await.expect(200);
        self.test_user(name, email, &response)
    }

    /// Registers `name` and lets `admin` assign a role.
    pub async fn user_with_role(&self, name: &str, role: &str, admin: &TestUser) -> TestUser {
        let user = self.user(name).await;
        let path = format!("/api/v1/admin/users/{}/role", user.id);
        admin.put(&path, json!({ "role": role })).await.expect(200);
        user
    }

    fn test_user(&self, name: &str, email: String, sign_in: &Value) -> TestUser {
        TestUser {
            id: sign_in["user"]["id"].as_str().expect("an id").to_owned(),
            name: name.to_owned(),
            email,
            session: Mutex::new(Session::new(sign_in, self.clock.now())),
            client: self.client.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Waits until `holds` returns true on every node. Kith propagates changes between nodes within two
    /// seconds, so this panics after two seconds of real time. Without `KITH_TEST_LATENCY` the limit is
    /// higher.
    #[expect(clippy::disallowed_methods, reason = "the age of events is measured in real time")]
    pub async fn wait_until_on_all_nodes(&self, holds: impl AsyncFn() -> bool) {
        let (began, bound) = (Instant::now(), latency_bound(Duration::from_secs(2)));
        let mut in_a_row = 0;
        while in_a_row < self.nodes.len() {
            // The client alternates between the nodes, so this many successes in a row include each node.
            in_a_row = if holds().await { in_a_row + 1 } else { 0 };
            assert!(
                began.elapsed() < bound,
                "the condition does not hold on all nodes after {:?}",
                began.elapsed()
            );
            tokio::task::yield_now().await;
        }
    }

    /// Runs all maintenance tasks on every node, even those that are not due.
    pub async fn run_maintenance(&self) {
        for node in &self.nodes {
            node.app.run_maintenance().await.expect("maintenance");
        }
    }

    /// Runs the due schedules, jobs and event consumers on every node.
    pub async fn run_due(&self) {
        for node in &self.nodes {
            node.app.run_due().await.expect("the due work runs");
        }
    }

    /// Returns the address of the first node.
    pub fn addr(&self) -> SocketAddr {
        self.nodes[0].addr
    }

    /// Returns the number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the components of each node.
    pub fn all_parts(&self) -> impl Iterator<Item = &App> {
        self.nodes.iter().map(|node| &node.app)
    }

    /// Returns the components of the first node.
    pub fn parts(&self) -> &App {
        &self.nodes[0].app
    }

    /// Registers `count` accounts: `name0`, `name1`, and so on.
    pub async fn register_users(&self, name: &str, count: usize) -> Vec<TestUser> {
        let mut users = Vec::with_capacity(count);
        for n in 0..count {
            users.push(self.user(&format!("{name}{n}")).await);
        }
        users
    }

    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Moves the wall clock by `ms` milliseconds in either direction, while no monotonic time passes.
    pub fn jump_wall_clock(&self, ms: i64) {
        self.clock.jump(ms);
    }

    /// Returns a new id.
    pub fn new_id(&self) -> String {
        let sources = &self.nodes[0].app.sources;
        sources.ids.next(sources.clock.now()).to_string()
    }

    /// Returns the current time of the manual clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the sum of a metric over all nodes. `series` is the name of the metric with its labels. A node
    /// that does not report the series counts as 0.
    pub async fn metric(&self, series: &str) -> f64 {
        let mut counted = Vec::new();
        // The client alternates between the nodes.
        for _ in &self.nodes {
            let text = self.client.get("/api/metrics").await.expect(200);
            let mut lines = text.as_str().expect("text").lines();
            let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            counted.extend(value.map(|value| value.parse::<f64>().expect("a number")));
        }
        assert!(!counted.is_empty(), "no node reports {series}");
        counted.iter().sum()
    }

    /// Returns the database.
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// Returns the store of the first node.
    pub fn db(&self) -> &Store {
        &self.nodes[0].app.db
    }
}

/// Restores the default rate limits, which the servers of the tests do not have.
pub fn restore_limits(config: &mut Config) {
    config.limits = Config::default().limits;
    config.change_section(|partners: &mut BondSettings| *partners = default_section());
    config.change_section(|queues: &mut QueueSettings| *queues = default_section());
}

fn default_section<S: Settings>() -> S {
    S::clone(&Config::default().section())
}

fn config(database: &TestDatabase, folder: &Path) -> Config {
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.drain_ms = 0;
    // All test clients share one address.
    config.limits = Limits {
        requests_per_minute: 0,
        auth_per_minute: 0,
        exports_per_day: 0,
        idempotency_bytes_per_day: 0,
    };
    config.change_section(|partners: &mut BondSettings| partners.lists_per_minute = 0);
    config.change_section(|queues: &mut QueueSettings| queues.requests_per_minute = 0);
    // Internal targets are rejected, as in production mode. Scenarios with a receiver on this machine allow
    // loopback.
    config.outbound.allowed_networks.clear();
    config.database.url = Secret::new(database.url());
    // A few threads suffice, because most scenarios are sequential, and each thread needs a PostgreSQL
    // process.
    config.database.write_threads = 4;
    config.database.read_threads = 2;
    config.data.folder = database.folder().unwrap_or(folder).to_owned();
    // Scenarios advance the clock by years and read events afterwards.
    config.data.event_retention_days = u16::MAX;
    config.auth.password_memory_kib = 8;
    config.auth.password_iterations = 1;
    config.auth.jwt_secret = Secret::new("the secret of all scenarios together");
    config.auth.jwt_refresh_secret = Secret::new("the refresh secret of all scenarios");
    config
}

/// Configures servers for scenarios with many concurrent writes.
pub fn race(config: &mut Config) {
    config.server.disable_limits = true;
    config.database.write_threads = 8;
    config.database.read_threads = 4;
}

/// Account with a session.
pub struct TestUser {
    /// User id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// E-mail address.
    pub email: String,
    session: Mutex<Session>,
    client: Client,
    clock: Arc<ManualClock>,
}

struct Session {
    access_token: String,
    started: Timestamp,
    lasts: Duration,
}

impl Session {
    fn new(sign_in: &Value, now: Timestamp) -> Self {
        let access_token = sign_in["access_token"].as_str().expect("a token").to_owned();
        let lasts = Duration::from_secs(sign_in["expires_in"].as_u64().expect("seconds"));
        Self { access_token, started: now, lasts }
    }
}

impl TestUser {
    /// Sends a GET request as this user.
    pub async fn get(&self, path: &str) -> TestResponse {
        self.signed_in().await.get(path).await
    }

    /// Sends a POST request with a JSON body as this user. `Null` sends an empty body.
    pub async fn post(&self, path: &str, body: Value) -> TestResponse {
        self.signed_in().await.post(path, body).await
    }

    /// Sends a PUT request with a JSON body as this user. `Null` sends an empty body.
    pub async fn put(&self, path: &str, body: Value) -> TestResponse {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.signed_in().await.send(Method::PUT, path, body).await
    }

    /// Sends a DELETE request as this user. `Null` sends an empty body.
    pub async fn delete(&self, path: &str, body: Value) -> TestResponse {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.signed_in().await.send(Method::DELETE, path, body).await
    }

    /// Sends a request as this user.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> TestResponse {
        self.signed_in().await.send(method, path, body).await
    }

    /// Returns the JSON object that represents this user in responses to other users.
    pub fn public_view(&self) -> Value {
        json!({ "id": self.id, "display_name": self.name })
    }

    /// Returns a client with a valid token. Logs in again if the token has expired.
    pub async fn signed_in(&self) -> Client {
        let now = self.clock.now();
        let expired = {
            let session = self.session.lock().expect("no thread panicked while it held the lock");
            now.since(session.started) >= session.lasts
        };
        if expired {
            let body = json!({ "email": self.email, "password": PASSWORD });
            let response = self.client.post("/api/v1/auth/login", body).await.expect(200);
            *self.session.lock().expect("no thread panicked while it held the lock") =
                Session::new(&response, now);
        }
        let session = self.session.lock().expect("no thread panicked while it held the lock");
        self.client.with_token(&session.access_token)
    }
}
