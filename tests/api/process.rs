//! Tests of the binary: start, rejected starts, and stops under load.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kith_store::testing::TestDatabase;
use serde_json::json;

use crate::support::{
    Client, Engine, Kith, MAX_WAIT, PASSWORD, SERVE, failing_stderr, kith, kith_on, latency_bound,
};

/// Maximum duration of a stop under load.
const STOP_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn server_starts_with_one_command() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let kith = Kith::start(kith(folder, SERVE));
    let client = Client::new([kith.addr]);
    client.get("/readyz").await.expect(200);
    let body = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    let response = client.post("/api/v1/auth/register", body).await.expect(201);

    kith.terminate();
    assert!(kith.wait().await.success());

    // Acknowledged writes exist after a restart.
    let kith = Kith::start(self::kith(folder, SERVE));
    let body = json!({ "email": "ada@example.org", "password": PASSWORD });
    let again = Client::new([kith.addr]).post("/api/v1/auth/login", body).await.expect(200);
    assert_eq!(again["user"], response["user"]);
}

/// Registers accounts until a response closes the connection, and returns the number of responses. Panics on
/// a missing or incomplete response.
async fn load(client: Client, worker: usize) -> usize {
    let mut responses = 0;
    loop {
        let email = format!("w{worker}n{responses}@example.org");
        let body = json!({ "email": email, "password": PASSWORD, "display_name": "Somebody" });
        let response = client.post("/api/v1/auth/register", body).await;
        let last = response.header("connection") == Some("close");
        response.expect(201);
        responses += 1;
        if last {
            return responses;
        }
    }
}

/// Every request that the server has read gets a response.
#[expect(clippy::disallowed_methods, reason = "measures how long the stop takes")]
async fn stops_under_load(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let database = engine.database().await;
    let elsewhere = TestDatabase::sqlite();
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let kith = Kith::start(kith_on(&database, folder, SERVE));

    let clients = join_all((0..16).map(async |_| {
        let client = Client::new([kith.addr]);
        client.get("/livez").await.expect(200);
        client
    }));
    let clients = clients.await.into_iter().enumerate();
    let loads: Vec<_> = clients.map(|(worker, client)| tokio::spawn(load(client, worker))).collect();
    // Stops the server in the middle of the load. When this client has fifty responses, the other clients
    // have received responses too.
    let client = Client::new([kith.addr]);
    for _ in 0..50 {
        let body = json!({ "email": "w0n0@example.org", "password": PASSWORD });
        assert!([200, 401].contains(&client.post("/api/v1/auth/login", body).await.status));
    }
    let started = Instant::now();
    kith.terminate();
    let responses =
        tokio::time::timeout(MAX_WAIT, join_all(loads)).await.expect("every connection is closed");
    let responses: usize = responses.into_iter().map(|load| load.expect("only complete responses")).sum();
    assert!(kith.wait().await.success());
    let took = started.elapsed();
    assert!(took < latency_bound(STOP_WITHIN), "the shutdown took {took:?}");
    assert!(responses > 16, "only {responses} responses");
    println!("stopped in {took:.1?} after {responses} responses, all complete");
}

#[tokio::test]
async fn shutdown_under_load_completes_requests_on_sqlite() {
    stops_under_load(Engine::Sqlite).await;
}

#[tokio::test]
async fn shutdown_under_load_completes_requests_on_postgres() {
    stops_under_load(Engine::Postgres).await;
}

#[test]
fn data_folder_in_use_is_reported_with_process_id() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let first = Kith::start(kith(folder, SERVE));
    let output = failing_stderr(kith(folder, SERVE));
    assert!(output.contains("in use by") && output.contains(&first.pid().to_string()), "{output}");
}

#[test]
fn port_in_use_is_reported() {
    let database = TestDatabase::sqlite();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").to_string();
    let output = failing_stderr(kith(database.folder().expect("a folder"), &["serve", "--listen", &taken]));
    assert!(output.contains(&taken), "{output}");
}

#[test]
fn unknown_configuration_key_is_rejected() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let mut command = kith(folder, SERVE);
    command.env("KITH__SERVER__LISTENN", "127.0.0.1:0");
    let output = failing_stderr(command);
    assert!(output.contains("KITH__SERVER__LISTENN"), "{output}");

    std::fs::write(folder.join("kith.toml"), "[server]\nlisten_on = \"127.0.0.1:0\"\n").expect("a file");
    let output = failing_stderr(kith(folder, SERVE));
    assert!(output.contains("server.listen_on") && output.contains("kith.toml"), "{output}");
}
