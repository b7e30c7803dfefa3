//! Tests of operator commands with the binary: administrators, signing keys, API keys and jobs, with and
//! without a running server, on both databases.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kith_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{Client, Engine, Kith, PASSWORD, SERVE, failing_stderr, kith_on, successful_stdout};

const LOGIN: &str = "/api/v1/auth/login";
const KEYS: &str = "/.well-known/jwks.json";

#[tokio::test]
async fn admin_create_creates_administrators_on_sqlite() {
    admin_create_creates_administrators(Engine::Sqlite).await;
}

#[tokio::test]
async fn admin_create_creates_administrators_on_postgres() {
    admin_create_creates_administrators(Engine::Postgres).await;
}

#[tokio::test]
async fn keys_rotate_publishes_new_key_on_sqlite() {
    keys_rotate_publishes_new_key(Engine::Sqlite).await;
}

#[tokio::test]
async fn keys_rotate_publishes_new_key_on_postgres() {
    keys_rotate_publishes_new_key(Engine::Postgres).await;
}

#[tokio::test]
async fn api_key_commands_create_list_and_revoke_on_sqlite() {
    api_key_commands_create_list_and_revoke(Engine::Sqlite).await;
}

#[tokio::test]
async fn api_key_commands_create_list_and_revoke_on_postgres() {
    api_key_commands_create_list_and_revoke(Engine::Postgres).await;
}

#[tokio::test]
async fn job_commands_manage_queues_on_sqlite() {
    job_commands_manage_queues(Engine::Sqlite).await;
}

#[tokio::test]
async fn job_commands_manage_queues_on_postgres() {
    job_commands_manage_queues(Engine::Postgres).await;
}

/// Database with a data folder.
struct OperatorFolder {
    database: TestDatabase,
    elsewhere: TestDatabase,
}

impl OperatorFolder {
    async fn of(engine: Engine) -> Option<Self> {
        if !engine.is_chosen() {
            return None;
        }
        Some(Self { database: engine.empty_database().await, elsewhere: TestDatabase::sqlite() })
    }

    fn folder(&self) -> &Path {
        self.database.folder().or(self.elsewhere.folder()).expect("a folder")
    }

    fn kith(&self, args: &[&str]) -> Command {
        kith_on(&self.database, self.folder(), args)
    }

    fn create_admin(&self, email: &str, password: &str) -> Output {
        let mut command = self.kith(&["admin", "create", "--email", email]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("a process");
        let mut stdin = child.stdin.take().expect("standard input");
        writeln!(stdin, "{password}").expect("a reader");
        drop(stdin);
        child.wait_with_output().expect("an end")
    }
}

async fn role(client: &Client, email: &str) -> Value {
    let response = client.post(LOGIN, json!({ "email": email, "password": PASSWORD })).await.expect(200);
    response["user"]["role"].clone()
}

fn output(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn admin_create_creates_administrators(engine: Engine) {
    let Some(folder) = OperatorFolder::of(engine).await else { return };
    let ada = folder.create_admin("ada@example.org", PASSWORD);
    assert!(ada.status.success(), "{}", output(&ada));

    let server = Kith::start(folder.kith(SERVE));
    let client = Client::new([server.addr]);
    assert_eq!(role(&client, "ada@example.org").await, "admin");
    let ben = folder.create_admin("ben@example.org", PASSWORD);
    assert!(ben.status.success(), "{}", output(&ben));
    assert_eq!(role(&client, "ben@example.org").await, "admin");
    let body = json!({ "email": "dora@example.org", "password": PASSWORD, "display_name": "Dora" });
    client.post("/api/v1/auth/register", body).await.expect(201);
    for (email, password, why) in [
        ("dora@example.org", "not her password", "kith admin verify-email"),
        ("nobody", PASSWORD, "email: "),
        ("eve@example.org", "short", "password: "),
    ] {
        let refused = folder.create_admin(email, password);
        assert_eq!(refused.status.code(), Some(1), "{email}");
        assert!(output(&refused).contains(why), "{}", output(&refused));
        assert!(!output(&refused).contains(password), "{}", output(&refused));
    }
    assert_eq!(role(&client, "dora@example.org").await, "user");
    successful_stdout(folder.kith(&["admin", "verify-email", "dora@example.org"]));
    for email in ["Dora@example.org", "ben@example.org"] {
        let promoted = folder.create_admin(email, "");
        assert!(promoted.status.success(), "{}", output(&promoted));
        assert!(String::from_utf8_lossy(&promoted.stdout).contains("is an administrator now"));
    }
    assert_eq!(role(&client, "dora@example.org").await, "admin");
    let link = folder.folder().join("first-admin-link");
    assert!(!link.exists(), "a link exists although there is an administrator");
    verify_addresses(&folder, &client).await;
}

/// Verifies and releases addresses while a server runs.
async fn verify_addresses(folder: &OperatorFolder, client: &Client) {
    let registered =
        |email: &'static str| json!({ "email": email, "password": PASSWORD, "display_name": "X" });
    client.post("/api/v1/auth/register", registered("eve@example.org")).await.expect(201);
    client.post("/api/v1/auth/register", registered("dan@example.org")).await.expect(201);
    let proven = successful_stdout(folder.kith(&["admin", "verify-email", "EVE@example.org"]));
    assert!(proven.starts_with("EVE@example.org is verified since "), "{proven}");
    let refused = failing_stderr(folder.kith(&["admin", "release-email", "eve@example.org"]));
    assert!(refused.contains("E-mail address verified"), "{refused}");
    let released = successful_stdout(folder.kith(&["admin", "release-email", "dan@example.org"]));
    assert!(released.starts_with("dan@example.org can be registered again"), "{released}");
    client.post("/api/v1/auth/register", registered("dan@example.org")).await.expect(201);
    for command in ["verify-email", "release-email"] {
        let unknown = failing_stderr(folder.kith(&["admin", command, "nobody@example.org"]));
        assert!(unknown.contains("No account has this ID"), "{unknown}");
    }
}

/// ACC-06: the link for the first administrator is in a file with mode 0600, is printed only to a terminal,
/// and works once.
#[tokio::test]
async fn link_file_creates_first_administrator() {
    let folder = OperatorFolder::of(Engine::Sqlite).await.expect("SQLite is always chosen");
    let mut server = Kith::start(folder.kith(SERVE));
    let file = folder.folder().join("first-admin-link");
    let hint = server.line();
    assert!(hint.contains(file.to_str().expect("text")), "{hint}");
    let link = std::fs::read_to_string(&file).expect("a link");
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let (page, secret) = link.trim().split_once('#').expect("the link has a secret after #");
    assert_eq!(page, format!("http://{}/first-admin", server.addr));
    assert!(!hint.contains(secret), "{hint}");

    let client = Client::new([server.addr]);
    let body = |email: &str| json!({ "secret": secret, "email": email, "password": PASSWORD, "display_name": "Ada" });
    const ACCEPT: &str = "/api/v1/auth/first-admin";
    let made = client.post(ACCEPT, body("ada@example.org")).await.expect(201);
    assert_eq!(made["user"]["role"], "admin");
    client.post(ACCEPT, body("eve@example.org")).await.expect_problem(403, "invalid_link");
}

/// SEC-07: a new key is published, and the old key signs tokens until all verifiers have had time to fetch
/// the new one. An emergency rotation invalidates all tokens.
async fn keys_rotate_publishes_new_key(engine: Engine) {
    let Some(folder) = OperatorFolder::of(engine).await else { return };
    let server = Kith::start(folder.kith(SERVE));
    let client = Client::new([server.addr]);
    let body = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    let signed_in = client.post("/api/v1/auth/register", body).await.expect(201);
    let ada = client.with_token(signed_in["access_token"].as_str().expect("a token"));
    let published = async || client.get(KEYS).await.expect(200)["keys"].as_array().expect("keys").len();
    assert_eq!(published().await, 1);

    let first = successful_stdout(folder.kith(&["keys", "rotate"]));
    assert!(first.contains("signs from"), "{first}");
    if engine == Engine::Sqlite {
        assert_eq!(published().await, 2);
    }
    ada.get("/api/v1/me").await.expect(200);
    let again = successful_stdout(folder.kith(&["keys", "rotate"]));
    assert!(again.contains("in progress"), "{again}");

    successful_stdout(folder.kith(&["keys", "rotate", "--at-once"]));
    let mut refused = ada.get("/api/v1/me").await;
    while engine == Engine::Postgres && refused.status == 200 {
        refused = ada.get("/api/v1/me").await;
    }
    refused.expect_problem(401, "unauthenticated");
    let tokens = client.post("/api/v1/auth/refresh", json!({ "refresh_token": signed_in["refresh_token"] }));
    let token = tokens.await.expect(200);
    client.with_token(token["access_token"].as_str().expect("a token")).get("/api/v1/me").await.expect(200);
    server.terminate();
    assert!(server.wait().await.success());
    successful_stdout(folder.kith(&["keys", "rotate"]));
}

/// ACC-13: the API key commands work with and without a running server.
async fn api_key_commands_create_list_and_revoke(engine: Engine) {
    const FACTS: &str = "/api/v1/admin/facts";
    let Some(folder) = OperatorFolder::of(engine).await else { return };
    assert!(folder.create_admin("ada@example.org", PASSWORD).status.success());
    let create = |more: &[&str]| {
        let args = ["api-keys", "create", "--admin", "ada@example.org", "--name", "ci"];
        folder.kith(&[&args[..], more].concat())
    };
    let key = successful_stdout(create(&[
        "--scope",
        "facts.read",
        "--scope",
        "jobs.read",
        "--expires-in-days",
        "90",
    ]));
    let key = key.trim();
    assert!(key.starts_with("kith_") && key.len() == 90, "{key}");

    let server = Kith::start(folder.kith(SERVE));
    let client = Client::new([server.addr]).with_token(key);
    client.get(FACTS).await.expect(200);
    let listed = successful_stdout(folder.kith(&["api-keys", "list"]));
    let words: Vec<_> = listed.split_whitespace().collect();
    assert_eq!((words[2], words[3], words[7], words[8]), ("active", "expires", "facts.read,jobs.read", "ci"));
    assert!(key.starts_with(words[1]) && !listed.contains(key), "{listed}");
    for (wrong, why) in [
        (["--scope", "jobs"], "permission does not exist"),
        (["--scope", "users.set_role"], "API keys cannot have"),
    ] {
        let refused = failing_stderr(create(&wrong));
        assert!(refused.contains(why), "{refused}");
    }
    successful_stdout(folder.kith(&["api-keys", "revoke", words[0]]));
    let mut refused = client.get(FACTS).await;
    while engine == Engine::Postgres && refused.status == 200 {
        refused = client.get(FACTS).await;
    }
    refused.expect_problem(401, "unauthenticated");
    assert!(successful_stdout(folder.kith(&["api-keys", "list"])).contains(" revoked "));
    let unknown =
        failing_stderr(folder.kith(&["api-keys", "revoke", "01900000-0000-7000-8000-000000000000"]));
    assert!(unknown.contains("the API key does not exist"), "{unknown}");

    let body = json!({ "email": "ben@example.org", "password": PASSWORD, "display_name": "Ben" });
    Client::new([server.addr]).post("/api/v1/auth/register", body).await.expect(201);
    let args = ["api-keys", "create", "--admin", "ben@example.org", "--name", "ci", "--scope", "jobs.read"];
    let refused = failing_stderr(folder.kith(&args));
    assert!(refused.contains("Only administrators"), "{refused}");
}

/// Runs the job commands while a server runs.
async fn job_commands_manage_queues(engine: Engine) {
    let Some(folder) = OperatorFolder::of(engine).await else { return };
    assert!(folder.create_admin("ada@example.org", PASSWORD).status.success());
    let args = ["api-keys", "create", "--admin", "ada@example.org", "--name", "ci", "--scope"];
    let scopes = ["jobs.write", "--scope", "jobs.work"];
    let key = successful_stdout(folder.kith(&[&args[..], &scopes].concat()));
    let server = Kith::start(folder.kith(SERVE));
    let client = Client::new([server.addr]).with_token(key.trim());
    let jobs = |args: &[&str]| successful_stdout(folder.kith(&[&["jobs"], args].concat()));
    let enqueue = async |queue: &str| {
        let body = json!({ "kind": "print", "queue": queue, "delay_ms": 3_600_000 });
        client.post("/api/v1/jobs", body).await.expect(201)["id"].to_string()
    };
    let (one, two) = (enqueue("press").await, enqueue("press").await);
    let listed = jobs(&["list", "--queue", "press"]);
    let ids: Vec<_> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ids, [&*two, &*one], "{listed}");
    assert!(jobs(&["retry", &one]).contains("runs now"));
    assert!(jobs(&["pause", "press"]).contains("paused"));
    assert!(
        jobs(&["queues"]).contains("scheduled 1 running 0 blocked 0 dead 0 paused"),
        "{}",
        jobs(&["queues"])
    );
    let claim =
        async || client.post("/api/v1/queues/press/claim", json!({})).await.expect(200)["jobs"].clone();
    assert_eq!(claim().await, json!([]));
    assert!(jobs(&["resume", "press"]).contains("resumed"));
    let claimed = claim().await;
    assert_eq!(claimed[0]["id"].to_string(), one);
    let body =
        json!({ "lease_token": claimed[0]["lease_token"], "error": "out of paper", "action": "discard" });
    client.post(&format!("/api/v1/jobs/{one}/fail"), body).await.expect(200);
    let dead = jobs(&["dead"]);
    assert!(dead.starts_with(&format!("{one} press print dead ")) && dead.contains("out of paper"), "{dead}");
    assert!(jobs(&["redrive", "--kind", "print"]).contains("1 dead letters"));
    assert!(jobs(&["show", &one]).contains("queue: press"));
    assert!(jobs(&["cancel", &two]).contains("cancelled"));
    assert!(failing_stderr(folder.kith(&["jobs", "cancel", &two])).contains("ended"));
    assert!(jobs(&["drain", "press"]).contains("cancelled 1 jobs of queue press"));
    assert_eq!(jobs(&["list"]).trim(), "");
}
