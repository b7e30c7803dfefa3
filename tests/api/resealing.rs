//! Tests of `kith keys reseal`: moving data from development mode to production, and changing a leaked
//! JWT_SECRET at runtime.

use std::io::Write as _;
use std::process::{Command, Stdio};

use hyper::Method;
use hyper::body::Bytes;
use kith_platform::idempotency::IDEMPOTENCY_KEY;
use kith_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{
    Client, Engine, Kith, PASSWORD, SERVE, failing_stderr, kith, kith_on, successful_stdout,
};

const OLD: [&str; 2] = ["the secret of all processes together", "the refresh secret of all processes"];
const NEW: [&str; 2] = ["K7wq2Zp9xVb4Tn8mRc3yLs6dHg1fJa5e", "e5aJf1gHd6sLy3cRm8nTb4xVp9zQ2wK7"];

fn with_secrets(mut command: Command, [jwt, refresh]: [&str; 2], previous: Option<[&str; 2]>) -> Command {
    command.env("JWT_SECRET", jwt).env("JWT_REFRESH_SECRET", refresh);
    if let Some([jwt, refresh]) = previous {
        command.env("JWT_SECRET_PREVIOUS", jwt).env("JWT_REFRESH_SECRET_PREVIOUS", refresh);
    }
    command
}

async fn register(client: &Client) -> Value {
    let body = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    client.post("/api/v1/auth/register", body).await.expect(201)
}

async fn refresh(client: &Client, tokens: &Value) -> crate::support::TestResponse {
    client.post("/api/v1/auth/refresh", json!({ "refresh_token": tokens["refresh_token"] })).await
}

async fn as_admin(client: &Client) -> Client {
    let body = json!({ "email": "admin@example.org", "password": PASSWORD });
    let tokens = client.post("/api/v1/auth/login", body).await.expect(200);
    client.with_token(tokens["access_token"].as_str().expect("a token"))
}

/// Creates a callback whose secret and headers are stored encrypted.
async fn callback(client: &Client) -> Value {
    let admin = as_admin(client).await;
    let body = json!({
        "url": "https://api.example.org/hook", "headers": { "x-key": "planted" }, "body": 1, "run_at": "2030-01-01T00:00:00Z",
    });
    admin.post("/api/v1/callbacks", body).await.expect(201)
}

fn create_admin(mut command: Command) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("a process");
    writeln!(child.stdin.take().expect("standard input"), "{PASSWORD}").expect("a reader");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn development_data_moves_to_production() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let production = |args: &[&str], previous| {
        let mut command = with_secrets(kith(folder, args), NEW, previous);
        command.env("KITH__SERVER__MODE", "production");
        command.env("KITH__AUTH__PASSWORD_MEMORY_KIB", "19456").env("KITH__AUTH__PASSWORD_ITERATIONS", "2");
        command
    };
    create_admin(kith(folder, &["admin", "create", "--email", "admin@example.org"]));
    let server = Kith::start(kith(folder, SERVE));
    let client = Client::new([server.addr]);
    let ada = register(&client).await;
    callback(&client).await;
    server.terminate();
    assert!(server.wait().await.success());

    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let refused = failing_stderr(production(&serve, None));
    assert!(refused.contains("kith keys reseal") && refused.contains("development mode"), "{refused}");
    let output = successful_stdout(production(&["keys", "reseal"], None));
    for line in [
        "signing_keys.sealed: 1 re-encrypted",
        "audit_keys.sealed: 1 re-encrypted",
        "callback_endpoints.secret: 1 re-encrypted",
        "callbacks.headers: 1 re-encrypted",
    ] {
        assert!(output.contains(line), "{line} is missing in {output}");
    }
    let again = successful_stdout(production(&["keys", "reseal"], None));
    assert!(again.contains("signing_keys.sealed: 0 re-encrypted"), "{again}");

    // Access tokens stay valid, because the signing key is unchanged. Sessions stay valid if the old refresh
    // secret is configured.
    let server = Kith::start(production(&serve, None));
    let client = Client::new([server.addr]);
    client.with_token(ada["access_token"].as_str().expect("a token")).get("/api/v1/me").await.expect(200);
    let body = json!({ "email": "ada@example.org", "password": PASSWORD });
    client.post("/api/v1/auth/login", body).await.expect(200);
    server.terminate();
    assert!(server.wait().await.success());
}

#[tokio::test]
async fn leaked_secret_is_replaced_on_sqlite() {
    leaked_secret_is_replaced(Engine::Sqlite).await;
}

#[tokio::test]
async fn leaked_secret_is_replaced_on_postgres() {
    leaked_secret_is_replaced(Engine::Postgres).await;
}

async fn leaked_secret_is_replaced(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let kith =
        |args: &[&str], secrets, previous| with_secrets(kith_on(&database, folder, args), secrets, previous);
    successful_stdout(kith(&["migrate", "up"], OLD, None));
    create_admin(kith(&["admin", "create", "--email", "admin@example.org"], OLD, None));
    let server = Kith::start(kith(SERVE, OLD, None));
    let client = Client::new([server.addr]);
    let ada = register(&client).await;
    callback(&client).await;
    let as_ada = |client: &Client| client.with_token(ada["access_token"].as_str().expect("a token"));
    let item = json!({ "data": { "n": 1 } });
    let keyed = as_ada(&client).with_header(IDEMPOTENCY_KEY, "once");
    let made = keyed.post("/api/v1/spaces/me/notes", item.clone()).await.expect(201);
    let invite = as_ada(&client).post("/api/v1/partners/invites", Value::Null).await.expect(201);
    let invite = format!("/api/v1/partners/invites/{}", invite["code"].as_str().expect("a code"));
    server.terminate();
    assert!(server.wait().await.success());

    let server = Kith::start(kith(SERVE, NEW, Some(OLD)));
    let client = Client::new([server.addr]);
    let output = successful_stdout(kith(&["keys", "reseal"], NEW, Some(OLD)));
    assert!(output.contains("signing_keys.sealed: 1 re-encrypted"), "{output}");
    assert!(output.contains("callbacks.headers: 1 re-encrypted"), "{output}");
    assert!(output.contains("audit_keys.sealed: 1 re-encrypted"), "{output}");
    let renewed = refresh(&client, &ada).await.expect(200);
    let keyed = as_ada(&client).with_header(IDEMPOTENCY_KEY, "once");
    let replayed = keyed.post("/api/v1/spaces/me/notes", item).await;
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(replayed.expect(201)["id"], made["id"]);
    as_admin(&client).await.get(&invite).await.expect(200);
    as_ada(&client).send(Method::DELETE, &invite, Bytes::new()).await.expect(204);
    server.terminate();
    assert!(server.wait().await.success());

    // The old secret can no longer decrypt anything.
    let refused = failing_stderr(kith(SERVE, OLD, None));
    assert!(refused.contains("another secret"), "{refused}");
    let server = Kith::start(kith(SERVE, NEW, None));
    let client = Client::new([server.addr]);
    refresh(&client, &ada).await.expect_problem(401, "invalid_refresh_token");
    refresh(&client, &renewed).await.expect(200);
    successful_stdout(kith(&["audit", "verify"], NEW, None));
    server.terminate();
    assert!(server.wait().await.success());
}

#[tokio::test]
async fn undecryptable_value_is_reported_and_kept() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let kith = |args: &[&str], secrets| with_secrets(kith_on(&database, folder, args), secrets, None);
    create_admin(kith(&["admin", "create", "--email", "admin@example.org"], OLD));
    let refused = failing_stderr(kith(&["keys", "reseal"], NEW));
    assert!(refused.contains("another secret"), "{refused}");
    successful_stdout(kith(&["keys", "reseal"], OLD));
}
