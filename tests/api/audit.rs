//! The audit log: its chain verified by the binary, with a server running and without one.

use std::path::Path;
use std::process::Output;

use kith_store::testing::TestDatabase;
use kith_store::{Error, Store};
use serde_json::json;

use crate::support::{Client, Engine, Kith, PASSWORD, SERVE, kith_on, refusal, success};

#[tokio::test]
async fn the_chain_is_verified_by_a_command_on_sqlite() {
    the_chain_is_verified_by_a_command(Engine::Sqlite).await;
}

#[tokio::test]
async fn the_chain_is_verified_by_a_command_on_postgres() {
    the_chain_is_verified_by_a_command(Engine::Postgres).await;
}

async fn the_chain_is_verified_by_a_command(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    assert!(refusal(kith_on(&database, folder, VERIFY)).contains("lacks migration store/0001_trace"));

    let server = Kith::start(kith_on(&database, folder, SERVE));
    assert_eq!(verify(&database, folder).0, 0);
    let body = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    Client::new([server.addr]).post("/api/v1/auth/register", body).await.expect(201);
    let running = loop {
        let chain = verify(&database, folder);
        // On PostgreSQL entries are sealed milliseconds after their commit.
        if chain.0 > 0 {
            break chain;
        }
    };
    assert!(running.1.len() == 64 && running.1.bytes().all(|digit| digit.is_ascii_hexdigit()));
    server.terminate();
    assert!(server.wait().await.success());
    let stopped = verify(&database, folder);
    assert!(stopped == running || stopped.0 > running.0, "{stopped:?}");

    let store = Store::open(database.options()).await.expect("a database");
    let tampered: Result<u64, Error> = store
        .write(|tx| {
            let first = "UPDATE audit_entries SET action = 'nothing'
                         WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 1)";
            tx.exec(first, &[])
        })
        .await;
    assert_eq!(tampered.expect("a change"), 1);
    store.close().await;
    let Output { status, stderr, .. } = kith_on(&database, folder, VERIFY).output().expect("a process");
    let said = String::from_utf8(stderr).expect("text");
    assert!(status.code() == Some(1) && said.contains("breaks at link 1\n"), "{status} {said}");
    // A server that runs says the same.
    let server = Kith::start(kith_on(&database, folder, SERVE));
    assert!(refusal(kith_on(&database, folder, VERIFY)).contains("breaks at link 1"));
    drop(server);
}

const VERIFY: &[&str] = &["audit", "verify"];

/// How many links there are, and the last one's hash.
fn verify(database: &TestDatabase, folder: &Path) -> (i64, String) {
    let said = success(kith_on(database, folder, VERIFY));
    let chain = said
        .strip_prefix("The audit chain holds: ")
        .and_then(|rest| rest.trim_end().split_once(" links, head "));
    let (links, head) = chain.unwrap_or_else(|| panic!("{said:?}"));
    (links.parse().expect("a number"), head.to_owned())
}
