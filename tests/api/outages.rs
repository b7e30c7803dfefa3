//! Tests of PostgreSQL outages, and of a database clock that differs from this machine's.

use std::path::Path;

use kith_kernel::{Clock as _, SystemClock, Timestamp, hours};
use kith_store::testing::TestDatabase;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions, StopMode};
use kith_store::{Error, Store};
use serde_json::{Value, json};

use crate::support::{Client, Engine, Kith, MAX_WAIT, PASSWORD, SERVE, kith_on, options_on};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const CHECKS: [&str; 2] = ["/readyz", "/api/health"];

fn database_check(report: &Value) -> &Value {
    &report["checks"]["database:responseTime"][0]
}

fn registration() -> Value {
    json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" })
}

async fn serve_on(database: &TestDatabase, folder: &Path) -> (Kith, Client) {
    let kith = Kith::start(kith_on(database, folder, SERVE));
    let client = Client::new([kith.addr]);
    (kith, client)
}

/// API-11, DRV: requests fail while the database restarts, but the server continues to run.
#[tokio::test]
async fn server_survives_database_outage() {
    if !Engine::Postgres.is_chosen() {
        return;
    }
    let mut server = PostgresServer::start(PostgresServerOptions::default()).expect("a server");
    let database = TestDatabase::postgres(&server.url("postgres")).await.expect("a database");
    let elsewhere = TestDatabase::sqlite();
    let (_kith, client) = serve_on(&database, elsewhere.folder().expect("a folder")).await;
    let ada = client.post(REGISTER, registration()).await.expect(201);
    let signed_in = client.with_token(ada["access_token"].as_str().expect("a token"));
    for path in CHECKS {
        let report = client.get(path).await.expect(200);
        assert_eq!(database_check(&report)["status"], "pass", "{report:#}");
        assert!(database_check(&report)["observedValue"].is_u64(), "{report:#}");
    }

    server.stop(StopMode::Fast).expect("the server stops");
    for path in CHECKS {
        let report = client.get(path).await.expect(503);
        assert_eq!((&report["status"], &database_check(&report)["status"]), (&json!("fail"), &json!("fail")));
    }
    client.get("/livez").await.expect(200);
    client.get("/api/metrics").await.expect(200);
    signed_in.get("/api/v1/me").await.expect_problem(503, "unavailable");
    let log_in = json!({ "email": "ada@example.org", "password": PASSWORD });
    client.post(LOGIN, log_in.clone()).await.expect_problem(503, "unavailable");

    server.restart().expect("the server starts");
    let back = async {
        for path in CHECKS {
            while client.get(path).await.status != 200 {}
        }
    };
    tokio::time::timeout(MAX_WAIT, back).await.expect("the server recovers automatically");
    assert_eq!(signed_in.get("/api/v1/me").await.expect(200), ada["user"]);
    assert_eq!(client.post(LOGIN, log_in).await.expect(200)["user"], ada["user"]);
}

/// Nodes use the clock of their shared database. A node whose own clock differs is not ready.
#[tokio::test]
async fn server_uses_database_clock_and_reports_own_offset() {
    if !Engine::Postgres.is_chosen() {
        return;
    }
    let (database, elsewhere) = (Engine::Postgres.database().await, TestDatabase::sqlite());
    advance_database_clock(&database).await;
    let (_kith, client) = serve_on(&database, elsewhere.folder().expect("a folder")).await;
    let within = |at: Timestamp, since: Timestamp| at >= since && at <= since + MAX_WAIT;

    let before = SystemClock.now();
    let ada = client.post(REGISTER, registration()).await.expect(201);
    let created_at = ada["user"]["created_at"].as_str().expect("a time").parse().expect("a time");
    assert!(within(created_at, before + hours(1)), "created at {created_at}, requested at {before}");
    for path in CHECKS {
        let report = client.get(path).await.expect(503);
        let skew = &report["checks"]["clock:skew"][0];
        assert_eq!((&skew["status"], &skew["observedUnit"]), (&json!("fail"), &json!("ms")), "{report:#}");
        let skew_ms = skew["observedValue"].as_i64().expect("a number");
        assert!((-3_601_000..=-3_599_000).contains(&skew_ms), "{skew_ms} ms");
        assert_eq!(database_check(&report)["status"], "pass", "{report:#}");
    }
}

/// Overrides `clock_timestamp()` in the database with a function that is one hour ahead.
async fn advance_database_clock(database: &TestDatabase) {
    let db = Store::open(options_on(database)).await.expect("a store");
    let put = db.write(|tx| {
        tx.exec("CREATE SCHEMA forward", &[])?;
        tx.exec(
            "CREATE FUNCTION forward.clock_timestamp() RETURNS timestamptz LANGUAGE sql
             AS 'SELECT pg_catalog.clock_timestamp() + interval ''1 hour'''",
            &[],
        )?;
        tx.exec(
            "DO $$ BEGIN
               EXECUTE format('ALTER DATABASE %I SET search_path = forward, pg_catalog, public', current_database());
             END $$",
            &[],
        )
    });
    put.await.map_err(|error: Error| error).expect("the clock is changed");
    db.close().await;
}
