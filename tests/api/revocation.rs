//! Tests of revocation: immediate on the node that executes it, within a second on the others.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kith_kernel::seconds;
use kith_store::Store;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    Client, Engine, PASSWORD, TestApp, TestUser, hold_transaction, latency_bound, on_every_engine,
};

const ME: &str = "/api/v1/me";
const LOGIN: &str = "/api/v1/auth/login";
const LOGOUT: &str = "/api/v1/auth/logout";
const SESSIONS: &str = "/api/v1/auth/sessions";
const USERS: &str = "/api/v1/admin/users";
/// Maximum time until all nodes apply a revocation.
const PROPAGATION_LIMIT: Duration = Duration::from_secs(1);
/// Maximum age of cached data on a node that receives no events, plus a second to detect that.
const MAX_CACHE_AGE: Duration = Duration::from_secs(4);
const ROUNDS: usize = 20;

on_every_engine! {
    revocation_applies_on_all_nodes,
    cache_refill_does_not_revive_session,
    session_revocation_rejects_request_whose_body_arrives_later,
}

/// Way in which access ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RevocationWay {
    LogOut,
    EndSession,
    EndSessions,
    EndOtherSessions,
    Suspend,
    TakeRole,
    ChangePassword,
    DeleteAccount,
    ReuseRefreshToken,
}

const WAYS: [RevocationWay; 9] = [
    RevocationWay::LogOut,
    RevocationWay::EndSession,
    RevocationWay::EndSessions,
    RevocationWay::EndOtherSessions,
    RevocationWay::Suspend,
    RevocationWay::TakeRole,
    RevocationWay::ChangePassword,
    RevocationWay::DeleteAccount,
    RevocationWay::ReuseRefreshToken,
];

/// User with two sessions, of which the first is revoked.
struct RevokedUser {
    user: TestUser,
    lost: Client,
    refresh_token: Value,
    kept: Client,
    /// Path that the first session can read until it is revoked.
    path: &'static str,
    /// Status after the revocation.
    refused: u16,
}

impl RevokedUser {
    async fn new(app: &TestApp, admin: &TestUser, revocation: RevocationWay, name: &str) -> Self {
        let user = app.user_with_role(name, "moderator", admin).await;
        let (first, second) = (sign_in(app, &user).await, sign_in(app, &user).await);
        let client =
            |session: &Value| app.anonymous().with_token(session["access_token"].as_str().expect("a token"));
        let (path, refused) = if revocation == RevocationWay::TakeRole { (USERS, 403) } else { (ME, 401) };
        let refresh_token = first["refresh_token"].clone();
        Self { user, lost: client(&first), refresh_token, kept: client(&second), path, refused }
    }

    /// Returns true if the first session still has access.
    async fn is_in(&self, node: usize) -> bool {
        let status = self.lost.at(node).get(self.path).await.status;
        assert!(status == 200 || status == self.refused, "{status}");
        status == 200
    }

    /// Revokes the access through `node`.
    async fn end(&self, app: &TestApp, admin: &TestUser, revocation: RevocationWay, node: usize) {
        let (lost, kept) = (self.lost.at(node), self.kept.at(node));
        let admin = admin.signed_in().await.at(node);
        let user = format!("{USERS}/{}", self.user.id);
        let put = async |path: String, body: Value| {
            admin.send(hyper::Method::PUT, &path, body.to_string().into()).await.expect(200);
        };
        let delete = async |client: &Client, path: &str, body: Value| {
            let body = if body.is_null() { Default::default() } else { body.to_string().into() };
            client.send(hyper::Method::DELETE, path, body).await
        };
        let refresh = json!({ "refresh_token": self.refresh_token });
        match revocation {
            RevocationWay::LogOut => drop(lost.post(LOGOUT, refresh).await.expect(204)),
            RevocationWay::EndSession => {
                let path = format!("{SESSIONS}/{}", session_of(&lost).await);
                delete(&kept, &path, Value::Null).await.expect(204);
            }
            RevocationWay::EndSessions => drop(delete(&lost, SESSIONS, Value::Null).await.expect(204)),
            RevocationWay::EndOtherSessions => {
                let path = format!("{SESSIONS}?keep_current=true");
                delete(&kept, &path, Value::Null).await.expect(204);
                kept.get(ME).await.expect(200);
            }
            RevocationWay::Suspend => put(format!("{user}/suspension"), json!({})).await,
            RevocationWay::TakeRole => put(format!("{user}/role"), json!({ "role": "user" })).await,
            RevocationWay::ChangePassword => {
                let body = json!({ "current_password": PASSWORD, "new_password": "another horse" });
                kept.post("/api/v1/me/password", body).await.expect(204);
                kept.get(ME).await.expect(200);
            }
            RevocationWay::DeleteAccount => {
                delete(&kept, ME, json!({ "password": PASSWORD })).await.expect(202);
            }
            RevocationWay::ReuseRefreshToken => {
                let path = "/api/v1/auth/refresh";
                lost.post(path, refresh.clone()).await.expect(200);
                app.advance(seconds(16));
                lost.post(path, refresh).await.expect_problem(401, "invalid_refresh_token");
            }
        }
    }
}

async fn sign_in(app: &TestApp, user: &TestUser) -> Value {
    let body = json!({ "email": user.email, "password": PASSWORD });
    app.anonymous().post(LOGIN, body).await.expect(200)
}

async fn session_of(client: &Client) -> String {
    let sessions = client.get(SESSIONS).await.expect(200);
    let current = sessions["items"].as_array().expect("sessions").iter().find(|one| one["current"] == true);
    current.expect("the current session is in the list")["id"].as_str().expect("an id").to_owned()
}

#[expect(clippy::disallowed_methods, reason = "revoking is about real time")]
fn real_now() -> Instant {
    Instant::now()
}

/// Sends requests until one is rejected, and returns the time since `since`.
async fn wait_until_rejected(
    revoked: &RevokedUser,
    node: usize,
    since: Instant,
    at_most: Duration,
) -> Duration {
    loop {
        let sent_at = real_now();
        if !revoked.is_in(node).await {
            return sent_at.duration_since(since);
        }
        assert!(
            sent_at.duration_since(since) < at_most,
            "the token is still accepted after {:?}",
            sent_at.duration_since(since)
        );
        tokio::task::yield_now().await;
    }
}

/// ACC-08: each way of revoking access works on each node and takes effect on all nodes.
async fn revocation_applies_on_all_nodes(app: &TestApp) {
    let admin = app.admin("admin").await;
    let mut longest = Duration::ZERO;
    for revocation in WAYS {
        for here in 0..app.node_count() {
            let revoked = RevokedUser::new(app, &admin, revocation, &format!("{revocation:?}{here}")).await;
            for node in (0..app.node_count()).chain(0..app.node_count()) {
                assert!(revoked.is_in(node).await, "{revocation:?}");
            }
            revoked.end(app, &admin, revocation, here).await;
            let ended = real_now();
            assert!(!revoked.is_in(here).await, "{revocation:?}: still accepted on the node that revoked it");
            for there in (0..app.node_count()).filter(|node| *node != here) {
                longest = longest
                    .max(wait_until_rejected(&revoked, there, ended, latency_bound(PROPAGATION_LIMIT)).await);
            }
            for node in (0..app.node_count()).chain(0..app.node_count()) {
                assert!(!revoked.is_in(node).await, "{revocation:?}: accepted again");
            }
        }
    }
    println!("{} ways; other nodes rejected the token after at most {longest:?}", WAYS.len());
}

/// Time at which a request was sent, and whether it was accepted.
type ObservedRequest = (Instant, bool);

/// Sends requests to `node` until several have been rejected.
async fn watch(revoked: &RevokedUser, node: usize) -> Vec<ObservedRequest> {
    let mut seen = Vec::new();
    let mut refused = 0;
    while refused < 20 {
        let sent_at = real_now();
        let is_in = revoked.is_in(node).await;
        seen.push((sent_at, is_in));
        refused += usize::from(!is_in);
        let first = seen[0].0;
        assert!(
            sent_at.duration_since(first) < latency_bound(20 * PROPAGATION_LIMIT),
            "never rejected on node {node}"
        );
    }
    seen
}

/// CAC-03: the session is revoked while readers fill the caches and sign-ins empty them. Requests sent after
/// the revocation's response are rejected on the same node, and a second later on all.
async fn cache_refill_does_not_revive_session(app: &TestApp) {
    let admin = app.admin("admin").await;
    let (mut requests, mut longest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let here = round % app.node_count();
        let revoked =
            RevokedUser::new(app, &admin, RevocationWay::EndSession, &format!("victim{round}")).await;
        let readers = (0..4).map(|n| watch(&revoked, n % app.node_count()));
        let emptying = join_all((0..2).map(async |_| {
            for _ in 0..4 {
                sign_in(app, &revoked.user).await;
            }
        }));
        let end = async {
            sign_in(app, &revoked.user).await;
            revoked.end(app, &admin, RevocationWay::EndSession, here).await;
            real_now()
        };
        let (seen, _, ended) = tokio::join!(join_all(readers), emptying, end);
        for (n, seen) in seen.iter().enumerate() {
            let is_here = n % app.node_count() == here;
            let last = seen
                .iter()
                .filter(|(_, is_in)| *is_in)
                .map(|(sent_at, _)| sent_at.saturating_duration_since(ended));
            let last = last.max().unwrap_or_default();
            let allowed = if is_here { Duration::ZERO } else { latency_bound(PROPAGATION_LIMIT) };
            assert!(
                last <= allowed,
                "round {round}: accepted {last:?} after revocation, on the same node: {is_here}"
            );
            longest = longest.max(last);
            requests += seen.len();
        }
    }
    println!("{ROUNDS} rounds, {requests} requests; accepted for at most {longest:?} on the other node");
}

/// CAC-03: the sequencer is blocked, so the other node receives no events. It detects that and ignores its
/// cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_events_reads_database() {
    TestApp::run(Engine::Pair, |_| {}, check_node_without_events).await;
}

async fn check_node_without_events(app: &TestApp) {
    let admin = app.admin("admin").await;
    let revoked = RevokedUser::new(app, &admin, RevocationWay::EndSession, "victim").await;
    let db = Store::open(app.database().options()).await.expect("the same database");
    app.events().await;
    let (let_go, held) =
        hold_transaction(&db, |tx| tx.exec("LOCK TABLE outbox_positions IN EXCLUSIVE MODE", &[]).map(drop));
    held.recv().expect("the transaction holds its locks");
    for node in [0, 1, 0, 1] {
        assert!(revoked.is_in(node).await);
    }
    revoked.end(app, &admin, RevocationWay::EndSession, 0).await;
    let ended = real_now();
    assert!(!revoked.is_in(0).await);
    assert!(revoked.is_in(1).await, "the other node does not know about the revocation yet");
    // Now the oldest event has waited too long for its position.
    app.advance(seconds(2));
    let took = wait_until_rejected(&revoked, 1, ended, latency_bound(MAX_CACHE_AGE)).await;
    println!("rejected without notifications after {took:?}");
    assert!(!revoked.is_in(1).await);
    drop(let_go);
    app.events().await;
    db.close().await;
}

/// A request is authorized when it is executed, not when its headers arrive.
async fn session_revocation_rejects_request_whose_body_arrives_later(app: &TestApp) {
    let (root, moderator) = (app.admin("root").await, app.admin("accomplice").await);
    let target = app.user("target").await;
    let token = access_token(app, &moderator).await;
    let body = json!({ "role": "admin" }).to_string();
    let head = format!(
        "PUT {USERS}/{}/role HTTP/1.1\r\nHost: kith\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        target.id,
        body.len()
    );
    let mut slow = TcpStream::connect(app.addr()).await.expect("a connection");
    slow.write_all(head.as_bytes()).await.expect("the head");
    // The same node has responded to another user's request, so it has read the headers of the first request.
    root.get(ME).await.expect(200);
    root.put(&format!("{USERS}/{}/suspension", moderator.id), json!({})).await.expect(200);
    app.wait_until_on_all_nodes(async || moderator_is_out(app, &token).await).await;
    slow.write_all(body.as_bytes()).await.expect("the body");
    let mut response = String::new();
    slow.read_to_string(&mut response).await.expect("an answer");
    assert!(response.starts_with("HTTP/1.1 401"), "{response}");
    let role = root.get(&format!("{USERS}/{}", target.id)).await.expect(200)["role"].clone();
    assert_eq!(role, "user");
}

async fn access_token(app: &TestApp, user: &TestUser) -> String {
    let body = json!({ "email": user.email, "password": PASSWORD });
    let session = app.anonymous().post(LOGIN, body).await.expect(200);
    session["access_token"].as_str().expect("a token").to_owned()
}

async fn moderator_is_out(app: &TestApp, token: &str) -> bool {
    app.anonymous().with_token(token).get(ME).await.status == 401
}
