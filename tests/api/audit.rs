//! Tests of the audit log: access over HTTP, and verification of the chain with the binary, with and without
//! a running server.

use std::path::Path;
use std::process::Output;

use kith_store::testing::TestDatabase;
use kith_store::{Error, Store};
use serde_json::{Value, json};

use crate::support::{
    Client, Engine, Kith, PASSWORD, SERVE, TestApp, TestUser, X_REQUEST_ID, failing_stderr, kith_on,
    on_every_engine, successful_stdout,
};

on_every_engine! {
    administrator_filters_audit_log,
    other_roles_cannot_read_audit_log,
    users_read_own_activity,
    log_level_change_is_audited,
}

const AUDIT: &str = "/api/v1/audit";
const LOG_LEVEL: &str = "/api/v1/admin/log-level";

/// Returns the value of `key` of all items in a page.
fn all<'p>(page: &'p Value, key: &str) -> Vec<&'p str> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item[key].as_str().expect("text")).collect()
}

/// Proves the readiness requirement API-06.
async fn administrator_filters_audit_log(app: &TestApp) {
    let admin = app.admin("root").await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    app.advance(kith_kernel::hours(1));
    let request = json!({ "to": { "user_id": bob.id } });
    let sender = ada.signed_in().await.with_header(X_REQUEST_ID, "a-request-of-ada");
    let request = sender.post("/api/v1/partners/requests", request).await.expect(201);
    let read = async |query: &str| admin.get(&format!("{AUDIT}?{query}")).await.expect(200);

    let by_request = read("request_id=a-request-of-ada").await;
    let [entry] = &by_request["items"].as_array().expect("items")[..] else { panic!("{by_request:#}") };
    for (key, value) in [
        ("actor", json!(format!("user:{}", ada.id))),
        ("action", json!("partner_request.created")),
        ("object", request["id"].clone()),
        ("request_id", json!("a-request-of-ada")),
        ("at", json!(app.now())),
        ("details", Value::Null),
    ] {
        assert_eq!(entry[key], value, "{key}");
    }
    let id = request["id"].as_str().expect("an id");
    assert_eq!(read(&format!("object={id}")).await, by_request);
    assert_eq!(read("action=partner_request.created").await, by_request);
    let actors = read(&format!("actor=user:{}", ada.id)).await;
    assert!(all(&actors, "actor").iter().all(|actor| actor.ends_with(&ada.id)), "{actors:#}");
    assert!(all(&actors, "action").contains(&"partner_request.created"), "{actors:#}");

    let earlier = read(&format!("until={}", app.now())).await;
    assert!(!all(&earlier, "action").contains(&"partner_request.created"), "{earlier:#}");
    let later = read(&format!("since={}", app.now())).await;
    assert!(all(&later, "action").contains(&"partner_request.created"), "{later:#}");
    assert!(!all(&later, "action").contains(&"account.registered"), "{later:#}");
    // Personal details of a sign-in are stored beside the entry.
    let sign_ins = read("action=session.started").await;
    assert!(sign_ins["items"][0]["details"].is_object(), "{sign_ins:#}");

    let whole = read("limit=100").await;
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{AUDIT}?limit=2{cursor}")).await;
        let link = page.header("link").map(str::to_owned);
        let page = page.expect(200);
        pages.extend(page["items"].as_array().expect("items").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert!(link.is_some_and(|link| link.contains(next)), "the Link header contains the cursor");
        cursor = format!("&cursor={next}");
    }
    assert_eq!(json!(pages), whole["items"]);
    let ids = all(&whole, "id");
    assert!(ids.is_sorted_by(|one, next| one > next), "entries are listed newest first");

    for (query, pointer) in [
        ("since=yesterday", "?since"),
        ("actor=%00", "?actor"),
        (&format!("object={}", "x".repeat(201)), "?object"),
        ("limit=0", "?limit"),
        ("cursor=x", "?cursor"),
        ("subject=x", "?subject"),
    ] {
        let problem = admin.get(&format!("{AUDIT}?{query}")).await.expect_problem(400, "malformed_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer);
    }
}

async fn other_roles_cannot_read_audit_log(app: &TestApp) {
    let admin = app.admin("root").await;
    let moderator = app.user_with_role("mod", "moderator", &admin).await;
    let ada = app.user("ada").await;
    for path in [AUDIT, LOG_LEVEL] {
        app.anonymous().get(path).await.expect_problem(401, "unauthenticated");
        for user in [&ada, &moderator] {
            user.get(path).await.expect_problem(403, "forbidden");
        }
        admin.get(path).await.expect(200);
    }
    ada.put(LOG_LEVEL, json!({ "level": "trace" })).await.expect_problem(403, "forbidden");
    app.anonymous().get("/api/v1/me/activity").await.expect_problem(401, "unauthenticated");
}

async fn users_read_own_activity(app: &TestApp) {
    let admin = app.admin("root").await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    ada.post("/api/v1/partners/requests", json!({ "to": { "user_id": bob.id } })).await.expect(201);
    let role = format!("/api/v1/admin/users/{}/role", ada.id);
    admin.put(&role, json!({ "role": "business" })).await.expect(200);

    let activity = async |user: &TestUser| user.get("/api/v1/me/activity?limit=100").await.expect(200);
    let of_ada = activity(&ada).await;
    let by = |action: &str| {
        let items = of_ada["items"].as_array().expect("items");
        items.iter().find(|item| item["action"] == action).map(|item| item["by"].clone())
    };
    assert_eq!(by("partner_request.created"), Some(json!("you")));
    assert_eq!(by("account.role_changed"), Some(json!("other")));
    assert!(by("session.started").is_some(), "{of_ada:#}");
    // The activity list reveals neither other users nor personal details.
    let text = of_ada.to_string();
    for kept in [&admin.id, &bob.id, &ada.id, "127.0.0.1", "details", "actor"] {
        assert!(!text.contains(kept), "{kept} appears in {of_ada:#}");
    }
    assert!(!all(&activity(&bob).await, "action").contains(&"partner_request.created"));
    assert_eq!(all(&of_ada, "id").len(), of_ada["items"].as_array().expect("items").len());

    let first = ada.get("/api/v1/me/activity?limit=1").await.expect(200);
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let second = ada.get(&format!("/api/v1/me/activity?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!(
        json!([first["items"][0], second["items"][0]]),
        json!(of_ada["items"].as_array().expect("items")[..2])
    );
}

/// Proves the readiness requirement OBS-01.
async fn log_level_change_is_audited(app: &TestApp) {
    let admin = app.admin("root").await;
    assert_eq!(admin.get(LOG_LEVEL).await.expect(200), json!({ "level": "info" }));
    let changed = json!({ "level": "warn,kith_store=debug" });
    assert_eq!(admin.put(LOG_LEVEL, changed.clone()).await.expect(200), changed);
    // Reads twice, because requests alternate between the nodes of a pair. The other node keeps its level.
    let levels = [admin.get(LOG_LEVEL).await.expect(200), admin.get(LOG_LEVEL).await.expect(200)];
    assert!(levels.contains(&changed), "{levels:?}");
    let entries = app.audit().await;
    let entry = entries.iter().find(|entry| entry.action == "log_level.changed").expect("an entry");
    assert_eq!((&*entry.actor, &*entry.object), (&*format!("user:{}", admin.id), "warn,kith_store=debug"));

    let before = app.footprint().await;
    for bad in ["", "loud", "inof", "info,", "=info", &"x".repeat(201)] {
        let faults = admin.put(LOG_LEVEL, json!({ "level": bad })).await.expect_faults();
        assert_eq!(faults, [("/level".into(), "invalid".into())], "{bad:?}");
    }
    assert_eq!(app.footprint().await, before);
}

#[tokio::test]
async fn audit_verify_checks_chain_on_sqlite() {
    audit_verify_checks_chain(Engine::Sqlite).await;
}

#[tokio::test]
async fn audit_verify_checks_chain_on_postgres() {
    audit_verify_checks_chain(Engine::Postgres).await;
}

async fn audit_verify_checks_chain(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    assert!(failing_stderr(kith_on(&database, folder, VERIFY)).contains("lacks migration store/0001_store"));

    let server = Kith::start(kith_on(&database, folder, SERVE));
    // A new database already contains entries for the schedules that modules declare.
    let (declared, _) = verify(&database, folder);
    let body = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    Client::new([server.addr]).post("/api/v1/auth/register", body).await.expect(201);
    let running = loop {
        let chain = verify(&database, folder);
        // On PostgreSQL, entries are appended to the chain a few milliseconds after their commit.
        if chain.0 > declared {
            break chain;
        }
    };
    let (links, hash) = running.1.split_once(':').expect("a number of links and a hash");
    assert_eq!(links, running.0.to_string());
    assert!(hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()));
    server.terminate();
    assert!(server.wait().await.success());
    let stopped = verify(&database, folder);
    assert!(stopped == running || stopped.0 > running.0, "{stopped:?}");

    change(
        &database,
        &["UPDATE audit_entries SET action = 'nothing' WHERE id = (SELECT entry_id FROM audit_seals WHERE n = 1)"],
    )
    .await;
    let Output { status, stderr, .. } = kith_on(&database, folder, VERIFY).output().expect("a process");
    let output = String::from_utf8(stderr).expect("text");
    assert!(status.code() == Some(1) && output.contains("breaks at link 1\n"), "{status} {output}");
    // A running server reports the same chain.
    let server = Kith::start(kith_on(&database, folder, SERVE));
    assert!(failing_stderr(kith_on(&database, folder, VERIFY)).contains("breaks at link 1"));
    drop(server);
}

/// Regression: a truncated or emptied log was not detected.
#[tokio::test]
async fn truncated_or_restored_chain_requires_acceptance_on_sqlite() {
    truncated_or_restored_chain_requires_acceptance(Engine::Sqlite).await;
}

#[tokio::test]
async fn truncated_or_restored_chain_requires_acceptance_on_postgres() {
    truncated_or_restored_chain_requires_acceptance(Engine::Postgres).await;
}

async fn truncated_or_restored_chain_requires_acceptance(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let served = async || {
        let server = Kith::start(kith_on(&database, folder, SERVE));
        let health = Client::new([server.addr]).get("/api/health").await.expect(200);
        server.terminate();
        assert!(server.wait().await.success());
        health["checks"]["audit:head"][0].clone()
    };
    assert_eq!(served().await["status"], "pass");
    let (links, head) = verify(&database, folder);
    assert!(links > 2, "the first start writes audit entries");
    let expecting = |head: &str| kith_on(&database, folder, &["audit", "verify", "--expect-head", head]);
    assert_eq!(successful_stdout(expecting(&head)), successful_stdout(kith_on(&database, folder, VERIFY)));
    let (_, hash) = head.split_once(':').expect("a number of links and a hash");
    let early = format!("2:{hash}");
    assert!(
        failing_stderr(expecting(&early))
            .contains("link 2 of the audit chain differs from the expected head")
    );

    let last = format!("n > {}", links - 2);
    change(
        &database,
        &[
            format!(
                "DELETE FROM audit_details WHERE entry_id IN (SELECT entry_id FROM audit_seals WHERE {last})"
            )
            .leak(),
            format!("DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE {last})")
                .leak(),
            format!("DELETE FROM audit_seals WHERE {last}").leak(),
        ],
    )
    .await;
    let shorter = format!("the audit chain has {} links, but the expected head has {links}", links - 2);
    assert!(failing_stderr(kith_on(&database, folder, VERIFY)).contains(&shorter));
    assert!(failing_stderr(expecting(&head)).contains(&shorter));
    // The server continues to serve and reports the fault. The stored head of the chain is unchanged.
    let logged = served().await;
    assert_eq!(logged["status"], "warn", "{logged}");
    assert!(logged["output"].as_str().expect("text").contains("kith audit verify"), "{logged}");
    let refused = failing_stderr(kith_on(&database, folder, VERIFY));
    assert!(refused.contains("expected head"), "{refused}");

    let accepted = successful_stdout(kith_on(&database, folder, &["audit", "accept-head"]));
    assert!(accepted.starts_with("Accepted head "), "{accepted}");
    assert_eq!(served().await["status"], "pass");
    verify(&database, folder);
    // The restore is still detected by comparing the chain with a head that was recorded elsewhere.
    assert!(failing_stderr(expecting(&head)).contains("expected head"));

    change(
        &database,
        &[
            "DELETE FROM audit_details",
            "DELETE FROM audit_entries",
            "DELETE FROM audit_seals",
            "DELETE FROM audit_keys",
        ],
    )
    .await;
    assert!(failing_stderr(kith_on(&database, folder, VERIFY)).contains("the audit chain has 0 links"));
    assert_eq!(served().await["status"], "warn");
}

#[tokio::test]
async fn old_entries_are_archived_on_sqlite() {
    old_entries_are_archived(Engine::Sqlite).await;
}

#[tokio::test]
async fn old_entries_are_archived_on_postgres() {
    old_entries_are_archived(Engine::Postgres).await;
}

/// Archives old entries while a server runs.
async fn old_entries_are_archived(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let server = Kith::start(kith_on(&database, folder, SERVE));
    let file = elsewhere.folder().expect("a folder").join("audit-archive.jsonl");
    let file = file.to_str().expect("text");
    let archive = || kith_on(&database, folder, &["audit", "archive", "--older-than-days", "400", file]);
    assert!(failing_stderr(archive()).contains("no audit entry is older than the given time"));
    assert!(!Path::new(file).exists());
    let client = Client::new([server.addr]);
    let ada = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    let ada = client.post("/api/v1/auth/register", ada).await.expect(201);
    let client = client.with_token(ada["access_token"].as_str().expect("a token"));
    client.post("/dev/clock", json!({ "advance": "500d" })).await.expect(200);
    let (links, head) = verify(&database, folder);

    let archived = successful_stdout(archive());
    assert!(archived.starts_with("Moved ") && archived.contains("after head 0:0000"), "{archived}");
    assert!(failing_stderr(archive()).contains(file), "an existing archive file is not replaced");
    let output = successful_stdout(kith_on(&database, folder, VERIFY));
    assert!(output.contains("links are in archives"), "{output}");
    let (links_then, _) = verify(&database, folder);
    assert!(links_then > links, "archiving adds an audit entry: {links_then}, {links}");
    let of_archive = || kith_on(&database, folder, &["audit", "verify", "--archive", file]);
    let held = successful_stdout(of_archive());
    let last = held.trim_end().rsplit_once("up to head ").expect("a head").1;
    assert!(archived.contains(last), "{held} {archived}");
    let refused = failing_stderr(kith_on(&database, folder, &["audit", "verify", "--expect-head", "1:0"]));
    assert!(refused.contains("64 hexadecimal digits"), "{refused}");
    let early = format!("1{}", &head[head.find(':').expect("a colon")..]);
    let refused = failing_stderr(kith_on(&database, folder, &["audit", "verify", "--expect-head", &early]));
    assert!(refused.contains("link 1 was archived"), "{refused}");

    // The database keeps the newest entries. The file contains the others without personal details.
    let store = Store::open(database.options()).await;
    if let Ok(store) = store {
        let kept: Result<Option<i64>, Error> =
            store.read(|q| q.one("SELECT MIN(n) FROM audit_seals", &[], |row| row.get(0))).await;
        let first = kept.expect("an answer").expect("a link");
        assert!(last.starts_with(&format!("{}:", first - 1)), "{first} {last}");
        store.close().await;
    }
    let text = std::fs::read_to_string(file).expect("the archive");
    assert!(text.lines().count() > 2 && !text.contains("ada@example.org"), "{text}");
    std::fs::write(file, text.replacen("system:", "system;", 1)).expect("the archive");
    assert!(failing_stderr(of_archive()).contains("the archive breaks at link"));
    drop(server);
    verify(&database, folder);
}

/// Executes SQL statements directly, as an attacker with access to the database only could do.
async fn change(database: &TestDatabase, statements: &[&'static str]) {
    let store = Store::open(database.options()).await.expect("a database");
    for &statement in statements {
        let changed: Result<u64, Error> = store.write(move |tx| tx.exec(statement, &[])).await;
        changed.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    store.close().await;
}

const VERIFY: &[&str] = &["audit", "verify"];

/// Verifies the chain with `kith audit verify`. Returns the number of links and the head.
fn verify(database: &TestDatabase, folder: &Path) -> (i64, String) {
    let output = successful_stdout(kith_on(database, folder, VERIFY));
    let chain = output
        .strip_prefix("The audit chain is valid: ")
        .and_then(|rest| rest.lines().next()?.split_once(" links, head "));
    let (links, head) = chain.unwrap_or_else(|| panic!("{output:?}"));
    (links.parse().expect("a number"), head.to_owned())
}
