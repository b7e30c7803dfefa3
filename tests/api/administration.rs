//! Tests of account administration: permissions, address restrictions, and the first administrator.

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName};
use kith_accounts::accounts::first_admin;
use kith_kernel::hours;
use kith_platform::config::Config;
use serde_json::{Value, json};

use crate::support::{Client, Engine, PASSWORD, TestApp, TestUser, on_every_engine};

const USERS: &str = "/api/v1/admin/users";
const ACCEPT: &str = "/api/v1/auth/first-admin";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";
const ME: &str = "/api/v1/me";

on_every_engine! {
    accounts_are_filtered_and_paginated,
    role_change_applies_immediately,
    suspension_blocks_access_until_reinstatement,
    moderators_manage_lower_roles_only,
    concurrent_revocations_leave_one_administrator,
    first_admin_link_creates_one_administrator,
    first_admin_link_expires_after_one_hour,
    development_clock_does_not_expire_first_admin_link,
    first_admin_link_is_invalid_once_administrator_exists,
    administrators_verify_or_release_addresses,
}

fn role_of(who: &TestUser) -> String {
    format!("{USERS}/{}/role", who.id)
}

fn suspension_of(who: &TestUser) -> String {
    format!("{USERS}/{}/suspension", who.id)
}

fn credentials(who: &TestUser) -> Value {
    json!({ "email": who.email, "password": PASSWORD })
}

async fn list(who: &TestUser, query: &str) -> Vec<String> {
    let page = who.get(&format!("{USERS}?{query}")).await.expect(200);
    assert_eq!(page["next_cursor"], Value::Null, "{page:#}");
    let items = page["items"].as_array().expect("items").iter();
    items.map(|item| item["display_name"].as_str().expect("a name").to_owned()).collect()
}

/// Returns actor and object of the audit entries with this action.
async fn audited(app: &TestApp, action: &str) -> Vec<(String, String)> {
    let lines = app.audit().await.into_iter().filter(|line| line.action == action);
    lines.map(|line| (line.actor, line.object)).collect()
}

/// Proves the readiness requirements API-06, ACC-10.
async fn accounts_are_filtered_and_paginated(app: &TestApp) {
    let root = app.admin("root").await;
    app.advance(std::time::Duration::from_millis(1));
    let mut users = Vec::new();
    for name in ["ada", "ben", "eve", "mod", "shop"] {
        users.push(app.user(name).await);
        app.advance(std::time::Duration::from_millis(1));
    }
    let [ada, ben, eve, moderator, shop] = &users[..] else { unreachable!() };
    root.put(&role_of(moderator), json!({ "role": "moderator" })).await.expect(200);
    root.put(&role_of(shop), json!({ "role": "business" })).await.expect(200);
    root.put(&suspension_of(ben), json!({})).await.expect(200);
    eve.delete(ME, json!({ "password": PASSWORD })).await.expect(202);

    for reader in [&root, moderator] {
        assert_eq!(list(reader, "").await, ["shop", "mod", "eve", "ben", "ada", "root"]);
        assert_eq!(list(reader, "role=user").await, ["eve", "ben", "ada"]);
        assert_eq!(list(reader, "role=admin").await, ["root"]);
        assert_eq!(list(reader, "status=active").await, ["shop", "mod", "ada", "root"]);
        assert_eq!(list(reader, "status=suspended").await, ["ben"]);
        assert_eq!(list(reader, "status=deleted&role=user").await, ["eve"]);
        assert_eq!(list(reader, "email=%20ADA@Example.ORG").await, ["ada"]);
        assert_eq!(list(reader, "email=ada@example.org&role=admin").await, [""; 0]);
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = root.get(&format!("{USERS}?limit=2{cursor}")).await;
        let link = page.header("link").map(str::to_owned);
        let page = page.expect(200);
        names
            .extend(page["items"].as_array().expect("items").iter().map(|item| item["display_name"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert!(link.is_some_and(|link| link.contains(next) && link.contains("rel=\"next\"")));
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["shop", "mod", "eve", "ben", "ada", "root"]);
    for bad in ["role=king", "status=gone", "limit=0", "cursor=x", "name=ada"] {
        root.get(&format!("{USERS}?{bad}")).await.expect_problem(400, "malformed_request");
    }

    let shown = root.get(&format!("{USERS}/{}", eve.id)).await.expect(200);
    assert_eq!((&shown["status"], &shown["email"]), (&json!("deleted"), &json!(eve.email)));
    assert!(shown["purge_at"].is_string() && shown["suspended_at"].is_null(), "{shown:#}");
    assert_eq!(list(&root, "status=deleted").await.len(), 1);
    let unknown = format!("{USERS}/01900000-0000-7000-8000-000000000000");
    root.get(&unknown).await.expect_problem(404, "not_found");
    root.get(&format!("{USERS}/x")).await.expect_problem(404, "not_found");
    ada.get(USERS).await.expect_problem(403, "forbidden");
}

/// Proves the readiness requirements ACC-09, ACC-10.
async fn role_change_applies_immediately(app: &TestApp) {
    let (root, ada) = (app.admin("root").await, app.user("ada").await);
    ada.get(USERS).await.expect_problem(403, "forbidden");
    let given = root.put(&role_of(&ada), json!({ "role": "moderator" })).await.expect(200);
    assert_eq!(given["role"], "moderator");
    app.wait_until_on_all_nodes(async || ada.get(USERS).await.status == 200).await;
    let before = app.footprint().await;
    root.put(&role_of(&ada), json!({ "role": "moderator" })).await.expect(200);
    ada.put(&role_of(&ada), json!({ "role": "admin" })).await.expect_problem(403, "forbidden");
    root.put(&role_of(&root), json!({ "role": "user" })).await.expect_problem(409, "self_not_allowed");
    assert_eq!(
        root.put(&role_of(&ada), json!({ "role": "king" })).await.expect_faults(),
        [("/role".to_owned(), "invalid".to_owned())]
    );
    assert_eq!(app.footprint().await, before);
    root.put(&role_of(&ada), json!({ "role": "user" })).await.expect(200);
    app.wait_until_on_all_nodes(async || ada.get(USERS).await.status == 403).await;
    let (root, ada) = (format!("user:{}", root.id), ada.id);
    let expected = [(root.clone(), ada.clone()), (root, ada)];
    assert_eq!(audited(app, "account.role_changed").await, expected);
}

/// ACC-10: a suspension takes effect immediately on all nodes, for existing tokens too.
async fn suspension_blocks_access_until_reinstatement(app: &TestApp) {
    let (root, ada) = (app.admin("root").await, app.user("ada").await);
    let session = app.anonymous().post(LOGIN, credentials(&ada)).await.expect(200);
    let held = app.anonymous().with_token(session["access_token"].as_str().expect("a token"));
    let refresh = json!({ "refresh_token": session["refresh_token"] });
    let reason = json!({ "reason": "Rude, again and again.\nWarned twice." });
    let suspended = root.put(&suspension_of(&ada), reason).await.expect(200);
    assert_eq!((&suspended["status"], &suspended["suspended_at"]), (&json!("suspended"), &json!(app.now())));
    app.wait_until_on_all_nodes(async || held.get(ME).await.status == 401).await;
    app.anonymous().post(REFRESH, refresh.clone()).await.expect_problem(401, "invalid_refresh_token");
    app.anonymous().post(LOGIN, credentials(&ada)).await.expect_problem(403, "account_suspended");
    // The suspension is reported only with the correct password.
    let wrong = json!({ "email": ada.email, "password": "wrong horse" });
    app.anonymous().post(LOGIN, wrong).await.expect_problem(401, "invalid_credentials");

    let before = app.footprint().await;
    let again = root.put(&suspension_of(&ada), json!({ "reason": "once more" })).await.expect(200);
    assert_eq!(again, suspended);
    let long = json!({ "reason": "x".repeat(501) });
    assert_eq!(
        root.put(&suspension_of(&ada), long).await.expect_faults(),
        [("/reason".to_owned(), "too_long".to_owned())]
    );
    assert_eq!(app.footprint().await, before);
    let log = root.get("/api/v1/audit?action=account.suspended").await.expect(200);
    assert_eq!(log["items"][0]["details"], json!({ "reason": "Rude, again and again.\nWarned twice." }));

    let back = root.delete(&suspension_of(&ada), Value::Null).await.expect(200);
    assert_eq!((&back["status"], &back["suspended_at"]), (&json!("active"), &Value::Null));
    root.delete(&suspension_of(&ada), Value::Null).await.expect(200);
    app.anonymous().post(LOGIN, credentials(&ada)).await.expect(200);
    // Ended sessions stay ended after reinstatement.
    held.get(ME).await.expect_problem(401, "unauthenticated");
    app.anonymous().post(REFRESH, refresh).await.expect_problem(401, "invalid_refresh_token");
    for action in ["account.suspended", "account.reinstated"] {
        assert_eq!(audited(app, action).await, [(format!("user:{}", root.id), ada.id.clone())], "{action}");
    }
}

/// Proves the readiness requirements ACC-09, ACC-10.
async fn moderators_manage_lower_roles_only(app: &TestApp) {
    let (root, second) = (app.admin("root").await, app.admin("second").await);
    let moderator = app.user_with_role("mod", "moderator", &root).await;
    let colleague = app.user_with_role("colleague", "moderator", &root).await;
    let shop = app.user_with_role("shop", "business", &root).await;
    let ada = app.user("ada").await;
    app.wait_until_on_all_nodes(async || moderator.get(USERS).await.status == 200).await;
    for (actor, target, status, code) in [
        (&moderator, &ada, 200, ""),
        (&moderator, &shop, 200, ""),
        (&moderator, &colleague, 403, "forbidden"),
        (&moderator, &root, 403, "forbidden"),
        (&moderator, &moderator, 409, "self_not_allowed"),
        (&ada, &shop, 401, "unauthenticated"),
        (&root, &root, 409, "self_not_allowed"),
        (&root, &colleague, 200, ""),
        (&root, &second, 200, ""),
    ] {
        let case = format!("{} suspends {}", actor.name, target.name);
        let response = actor.put(&suspension_of(target), json!({})).await;
        assert_eq!((response.status, response.body["code"].as_str().unwrap_or("")), (status, code), "{case}");
    }
    moderator.delete(&suspension_of(&colleague), Value::Null).await.expect_problem(403, "forbidden");
    moderator.put(&role_of(&ada), json!({ "role": "user" })).await.expect_problem(403, "forbidden");
    moderator.delete(&suspension_of(&ada), Value::Null).await.expect(200);
    root.delete(&suspension_of(&colleague), Value::Null).await.expect(200);
    // A suspended administrator does not count, so root is the last one.
    root.delete(ME, json!({ "password": PASSWORD })).await.expect_problem(409, "last_admin");
    root.delete(&suspension_of(&second), Value::Null).await.expect(200);
    root.delete(ME, json!({ "password": PASSWORD })).await.expect(202);
}

/// ACC-09: two administrators revoke each other's role or suspend each other at the same moment. One of them
/// stays an administrator.
async fn concurrent_revocations_leave_one_administrator(app: &TestApp) {
    for n in 0..10 {
        let (one, other) = (app.admin(&format!("one{n}")).await, app.admin(&format!("other{n}")).await);
        let strip = async |by: &TestUser, of: &TestUser| match n % 2 {
            0 => by.put(&role_of(of), json!({ "role": "user" })).await.status,
            _ => by.put(&suspension_of(of), json!({})).await.status,
        };
        let statuses = tokio::join!(strip(&one, &other), strip(&other, &one));
        // The slower one has lost the role, either before the request was authorized or before it was
        // executed.
        assert!(matches!(statuses, (200, 401 | 403 | 409) | (401 | 403 | 409, 200)), "{statuses:?}");
        let stays = if statuses.0 == 200 { &one } else { &other };
        assert_eq!(list(stays, "role=admin&status=active").await, [stays.name.as_str()]);
        make_way(app, stays).await;
    }
}

async fn make_way(app: &TestApp, admin: &TestUser) {
    let id = admin.id.clone();
    let sql = "UPDATE users SET role = 'user' WHERE id = $1";
    let done = app.db().write(move |tx| tx.exec(sql, kith_store::params![id])).await;
    assert_eq!(done.map_err(|error: kith_store::Error| error).expect("a row"), 1);
}

fn acceptance(secret: &str, name: &str) -> Value {
    let email = format!("{name}@example.org");
    json!({ "secret": secret, "email": email, "password": PASSWORD, "display_name": name })
}

/// ACC-06: the link creates only one administrator, even if several people use it at the same moment.
async fn first_admin_link_creates_one_administrator(app: &TestApp) {
    let secret = app.first_admin_secret().await;
    let taken = app.user("taken").await;
    for (body, status, code) in [
        (acceptance("", "x"), 403, "invalid_link"),
        (acceptance("AAAA", "x"), 403, "invalid_link"),
        (acceptance(&secret.replace(|c: char| c.is_ascii_digit(), "z"), "x"), 403, "invalid_link"),
        (acceptance(&secret, &taken.name), 409, "email_taken"),
    ] {
        app.anonymous().post(ACCEPT, body).await.expect_problem(status, code);
    }
    let names: Vec<_> = (0..8).map(|n| format!("root{n}")).collect();
    let all = names.iter().map(async |name| app.anonymous().post(ACCEPT, acceptance(&secret, name)).await);
    let responses = futures_util::future::join_all(all).await;
    let made: Vec<_> = responses.iter().filter(|response| response.status == 201).collect();
    let [made] = &made[..] else { panic!("{responses:#?}") };
    assert_eq!(made.body["user"]["role"], "admin");
    let token = made.body["access_token"].as_str().expect("a token");
    let admins = app.anonymous().with_token(token).get(&format!("{USERS}?role=admin")).await.expect(200);
    assert_eq!(admins["items"].as_array().map(Vec::len), Some(1));
    let refused = responses.into_iter().filter(|response| response.status != 201);
    refused.for_each(|response| drop(response.expect_problem(403, "invalid_link")));
    assert_eq!(audited(app, "account.made_admin").await.len(), 1);
    assert!(
        first_admin::create_link(app.parts(), "http://localhost")
            .await
            .expect("the database responds")
            .is_none()
    );
    assert!(!link_file(app).exists(), "the link file was not removed");
}

async fn first_admin_link_expires_after_one_hour(app: &TestApp) {
    let secret = app.first_admin_secret().await;
    app.advance(hours(1));
    app.anonymous().post(ACCEPT, acceptance(&secret, "root")).await.expect_problem(403, "invalid_link");
    let secret = app.first_admin_secret().await;
    app.advance(hours(1) - std::time::Duration::from_millis(1));
    app.run_maintenance().await;
    app.anonymous().post(ACCEPT, acceptance(&secret, "root")).await.expect(201);
}

/// The link expires in real time. Advancing the clock of development mode has no effect on it.
async fn development_clock_does_not_expire_first_admin_link(app: &TestApp) {
    let secret = app.first_admin_secret().await;
    for node in 0..app.node_count() {
        app.anonymous().at(node).post("/dev/clock", json!({ "advance": "2h" })).await.expect(200);
    }
    app.anonymous().post(ACCEPT, acceptance(&secret, "root")).await.expect(201);
}

async fn first_admin_link_is_invalid_once_administrator_exists(app: &TestApp) {
    let secret = app.first_admin_secret().await;
    app.admin("root").await;
    app.anonymous().post(ACCEPT, acceptance(&secret, "eve")).await.expect_problem(403, "invalid_link");
    assert!(!link_file(app).exists(), "the link file was not removed");
}

fn link_file(app: &TestApp) -> std::path::PathBuf {
    app.parts().config.data.folder.join("first-admin-link")
}

/// SEC-10: the page that creates the first administrator works under its Content-Security-Policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_admin_page_complies_with_csp() {
    let app = TestApp::start(Engine::Sqlite, Engine::Sqlite.database().await).await;
    let page = app.anonymous().get("/first-admin").await;
    let policy = page.header(CONTENT_SECURITY_POLICY.as_str()).expect("a policy").to_owned();
    assert_eq!(page.headers.get_all(CONTENT_SECURITY_POLICY).iter().count(), 1);
    let rules: Vec<_> = policy.split(';').map(str::trim).collect();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(rules.contains(&rule), "{rule} is not in {policy}");
    }
    let html = page.expect(200);
    let html = html.as_str().expect("text");
    assert_eq!(html.matches("<script").count(), html.matches("<script src=\"/first-admin.js\">").count());
    for forbidden in ["<style", " style=", "onclick", "onsubmit", "http://", "https://", "<img", "action="] {
        assert!(!html.contains(forbidden), "{forbidden} is in the page");
    }
    let script = app.anonymous().get("/first-admin.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(script.header("x-content-type-options"), Some("nosniff"));
    app.stop().await;
}

/// SEC-12: only client addresses in `server.admin_addresses` have access to administration. An address from
/// `X-Forwarded-For` counts only if a trusted proxy sent the header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administration_is_restricted_to_listed_addresses() {
    let network = |text: &str| text.parse().expect("a network");
    let listed = move |config: &mut Config| {
        config.server.admin_addresses = vec![network("203.0.113.0/24"), network("2001:db8::7")];
    };
    let proxied = move |config: &mut Config| {
        listed(config);
        config.server.trusted_proxies = vec![network("127.0.0.0/8")];
    };
    let direct = move |config: &mut Config| config.server.admin_addresses = vec![network("127.0.0.1")];

    let app = TestApp::start_with(Engine::Sqlite, Engine::Sqlite.database().await, listed).await;
    let root = app.admin("root").await.signed_in().await;
    expect_closed(&root, &["203.0.113.5", "2001:db8::7", "127.0.0.1", "203.0.113.5, 127.0.0.1"]).await;
    root.get(ME).await.expect(200);
    let database = app.stop().await;

    let app = TestApp::start_with(Engine::Sqlite, database, proxied).await;
    let root = app.sign_in("root").await.signed_in().await;
    let others =
        ["203.0.113.5, 198.51.100.1", "198.51.100.1", "2001:db8::8", "127.0.0.1", "203.0.113.5, x", ""];
    expect_closed(&root, &others).await;
    root.get(USERS).await.expect_problem(403, "address_not_listed");
    for admitted in ["203.0.113.5", "198.51.100.1, 203.0.113.5", "2001:db8::7", "::ffff:203.0.113.9"] {
        from(&root, admitted).get(USERS).await.expect(200);
    }
    let database = app.stop().await;

    let app = TestApp::start_with(Engine::Sqlite, database, direct).await;
    let root = app.sign_in("root").await.signed_in().await;
    root.get(USERS).await.expect(200);
    from(&root, "198.51.100.1").get(USERS).await.expect(200);
    app.stop().await;
}

fn from(client: &Client, address: &str) -> Client {
    client.with_header(HeaderName::from_static("x-forwarded-for"), address)
}

async fn expect_closed(root: &Client, addresses: &[&str]) {
    for address in addresses {
        let client = from(root, address);
        for path in [USERS, "/api/v1/audit"] {
            client.get(path).await.expect_problem(403, "address_not_listed");
        }
    }
}

/// A user registers another person's e-mail address in order to receive requests that are meant for that
/// person.
async fn administrators_verify_or_release_addresses(app: &TestApp) {
    let admin = app.admin("root").await;
    let moderator = app.user_with_role("mod", "moderator", &admin).await;
    let (squatter, ben) = (app.user("ada").await, app.user("ben").await);
    let path = |user: &TestUser, what: &str| format!("/api/v1/admin/users/{}/{what}", user.id);
    let (prove, release) = (path(&squatter, "email-verification"), path(&squatter, "email"));
    for who in [&moderator, &ben] {
        who.put(&prove, Value::Null).await.expect_problem(403, "forbidden");
        who.delete(&release, Value::Null).await.expect_problem(403, "forbidden");
    }
    let settings = Bytes::from(json!({ "discoverable_by_email": true }).to_string());
    squatter.send(Method::PATCH, "/api/v1/partners/settings", settings).await.expect(200);
    let to_ada = json!({ "to": { "email": squatter.email }, "message": "It is me." });
    ben.post("/api/v1/partners/requests", to_ada.clone()).await.expect(201);
    let received = squatter.get("/api/v1/partners/requests").await.expect(200);
    assert_eq!(received["items"], json!([]), "an unverified address receives no requests");

    let squatter_client = squatter.signed_in().await;
    let released = admin.delete(&release, Value::Null).await.expect(200);
    assert_eq!((&released["email"], &released["status"]), (&json!(""), &json!("suspended")));
    app.wait_until_on_all_nodes(async || squatter_client.get("/api/v1/me").await.status == 401).await;
    for email in [squatter.email.clone(), format!("released:{}", squatter.id)] {
        let body = json!({ "email": email, "password": PASSWORD });
        app.anonymous().post(LOGIN, body).await.expect_problem(401, "invalid_credentials");
    }
    assert_eq!(
        admin.delete(&release, Value::Null).await.expect(200),
        released,
        "a repeated release returns the same response"
    );
    admin.put(&prove, Value::Null).await.expect_problem(404, "not_found");
    let audited: Vec<_> = app.audit().await.into_iter().filter(|line| line.object == squatter.id).collect();
    let audited: Vec<_> =
        audited.iter().map(|line| &*line.action).filter(|action| action.contains("email")).collect();
    assert_eq!(audited, ["account.email_released"]);

    // The owner registers the address, and an administrator verifies it.
    let ada = app.user("ada").await;
    assert_ne!(ada.id, squatter.id);
    let prove = path(&ada, "email-verification");
    let proven = admin.put(&prove, Value::Null).await.expect(200);
    assert_eq!(proven["email_verified_at"], json!(app.now()));
    assert_eq!(admin.put(&prove, Value::Null).await.expect(200), proven);
    assert_eq!(ada.get("/api/v1/me").await.expect(200)["email_verified"], true);
    admin.delete(&path(&ada, "email"), Value::Null).await.expect_problem(409, "email_verified");
    // An administrator who was created on the command line has a verified address.
    admin.delete(&path(&admin, "email"), Value::Null).await.expect_problem(409, "self_not_allowed");
    assert_eq!(admin.get("/api/v1/me").await.expect(200)["email_verified"], true);
    let settings = Bytes::from(json!({ "discoverable_by_email": true }).to_string());
    ada.send(Method::PATCH, "/api/v1/partners/settings", settings).await.expect(200);
    let again = app.user("eve").await.post("/api/v1/partners/requests", to_ada).await.expect(201);
    assert_eq!(again["to"], json!({ "email": "ada@example.org" }));
    assert_eq!(ada.get("/api/v1/partners/requests").await.expect(200)["items"][0]["message"], "It is me.");
}
