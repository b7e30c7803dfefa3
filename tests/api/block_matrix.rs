//! PRT-08: a block cannot be distinguished from a missing user. Sends every operation that refers to a user,
//! from both sides of a block, and compares the response with that for a missing user.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::support::{Operation, REQUESTS, TestApp, TestResponse, TestUser, on_every_engine};

const UNKNOWN_USER_ID: &str = "01900000-0000-7000-8000-000000000000";
const NO_CODE: &str = "0000000000";
const SAMPLES: usize = 100;

on_every_engine! {
    with |config: &mut kith_platform::config::Config| config.server.disable_limits = true;
    block_is_indistinguishable_from_missing_user,
    block_and_missing_user_timings_are_printed,
}

/// Side that blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockingSide {
    /// The caller blocks the other user.
    Caller,
    /// The other user blocks the caller.
    Other,
}

/// Two requests that differ only in the user they refer to: a user on the other side of a block, or a missing
/// user.
struct RequestPair {
    blocked: (String, Value),
    absent: (String, Value),
}

/// Caller, other user of the block, and an uninvolved user.
struct Users {
    me: TestUser,
    other: TestUser,
    control: TestUser,
}

impl Users {
    async fn new(app: &TestApp, name: &str) -> Self {
        let user = async |part: &str| {
            let user = app.user(&format!("{name}-{part}")).await;
            app.verify_address(&user).await;
            let body = Bytes::from(json!({ "discoverable_by_email": true }).to_string());
            user.send(hyper::Method::PATCH, "/api/v1/partners/settings", body).await.expect(200);
            user
        };
        Self { me: user("me").await, other: user("other").await, control: user("control").await }
    }

    async fn block(&self, side: BlockingSide) {
        let (blocker, blocked) =
            if side == BlockingSide::Caller { (&self.me, &self.other) } else { (&self.other, &self.me) };
        blocker.put(&format!("/api/v1/blocks/{}", blocked.id), Value::Null).await.expect(200);
    }
}

async fn ask(from: &TestUser, to: &TestUser) -> String {
    let body = json!({ "to": { "user_id": to.id }, "message": "hello" });
    from.post(REQUESTS, body).await.expect(201)["id"].as_str().expect("an id").to_owned()
}

async fn code_of(blocker: &TestUser) -> String {
    let invite = blocker.post("/api/v1/partners/invites", Value::Null).await.expect(201);
    invite["code"].as_str().expect("a code").to_owned()
}

/// Forms a bond between the two and returns its id.
async fn bond_with(me: &TestUser, other: &TestUser) -> String {
    let crossed = ask(me, other).await;
    let path = format!("{REQUESTS}/{crossed}/accept");
    other.post(&path, Value::Null).await.expect(200)["bond"]["id"].as_str().expect("an id").to_owned()
}

/// Returns the requests for an operation, after the block is in place.
///
/// # Panics
/// Panics if the operation is unknown.
async fn rows(operation: &Operation, users: &Users, side: BlockingSide) -> Vec<RequestPair> {
    let path = |parameter: &str| match operation.path.split_once('{') {
        Some((before, rest)) => {
            format!("{before}{parameter}{}", rest.split_once('}').expect("a closed brace").1)
        }
        None => operation.path.clone(),
    };
    let row = |blocked: &str, absent: &str, body: Value| RequestPair {
        blocked: (path(blocked), body.clone()),
        absent: (path(absent), body),
    };
    let sent = |blocked: Value, absent: Value| RequestPair {
        blocked: (path(""), blocked),
        absent: (path(""), absent),
    };
    let Users { me, other, control } = users;
    match operation.canonical_operation_id() {
        // The caller's own block is visible to the caller.
        "blockUser" | "getBlock" if side == BlockingSide::Caller => vec![],
        "blockUser" | "getBlock" | "unblockUser" | "getNickname" | "removeNickname" => {
            users.block(side).await;
            vec![row(&other.id, UNKNOWN_USER_ID, Value::Null)]
        }
        "setNickname" => {
            users.block(side).await;
            vec![row(&other.id, UNKNOWN_USER_ID, json!({ "nickname": "bear" }))]
        }
        "sendPartnerRequest" if operation.path.ends_with("/request") => {
            users.block(side).await;
            vec![
                sent(json!({ "partnerId": other.id }), json!({ "partnerId": UNKNOWN_USER_ID })),
                sent(json!({ "email": other.email }), json!({ "email": "nobody@example.org" })),
            ]
        }
        "sendPartnerRequest" => {
            let code = code_of(other).await;
            users.block(side).await;
            let to = |to: Value| json!({ "to": to });
            vec![
                sent(to(json!({ "user_id": other.id })), to(json!({ "user_id": UNKNOWN_USER_ID }))),
                sent(to(json!({ "email": other.email })), to(json!({ "email": "nobody@example.org" }))),
                sent(to(json!({ "invite_code": code })), to(json!({ "invite_code": NO_CODE }))),
            ]
        }
        "previewInvite" | "revokeInvite" => {
            let code = code_of(other).await;
            users.block(side).await;
            vec![row(&code, NO_CODE, Value::Null)]
        }
        // A user who has blocked may still report a request received before.
        "reportPartnerRequest" if side == BlockingSide::Caller => vec![],
        name @ ("getPartnerRequest"
        | "acceptPartnerRequest"
        | "rejectPartnerRequest"
        | "cancelPartnerRequest"
        | "reportPartnerRequest") => {
            let body = if name == "reportPartnerRequest" { json!({ "reason": "spam" }) } else { Value::Null };
            if side == BlockingSide::Caller {
                // A request from the blocked user is hidden.
                let id = ask(other, me).await;
                users.block(side).await;
                return vec![row(&id, UNKNOWN_USER_ID, body)];
            }
            // For its sender, a request to the other user stays pending, like a request that the receiver
            // ignores.
            let (id, unanswered) = (ask(me, other).await, ask(me, control).await);
            users.block(side).await;
            vec![row(&id, &unanswered, body)]
        }
        "exportBondSpace" => {
            let ended = bond_with(me, control).await;
            control.post("/api/v1/partners/breakup", json!({})).await.expect(200);
            let id = bond_with(me, other).await;
            users.block(side).await;
            vec![row(&id, &ended, Value::Null)]
        }
        _ if refers_to_no_user(operation) => vec![],
        new => panic!(
            "the operation {new} is not listed: state here how it refers to a user, or that it does not"
        ),
    }
}

/// Returns true if the operation refers to no other user, or is for administrators who see everyone.
fn refers_to_no_user(operation: &Operation) -> bool {
    let own_paths = [
        "/api/v1/auth/",
        "/api/v1/me",
        "/api/v1/admin/",
        "/api/v1/callbacks",
        "/api/v1/callback-",
        "/api/v1/job-kinds",
        "/api/v1/jobs",
        "/api/v1/queues/",
        "/api/v1/recurring-callbacks",
        "/api/v1/schedules",
        "/api/v1/spaces/{space}/",
        "/docs",
        "/dev/",
        "/demo",
    ];
    let without_words = ["breakUp", "createInvite", "changePartnerSettings"];
    own_paths.iter().any(|start| operation.path.starts_with(start))
        || without_words.contains(&operation.canonical_operation_id())
        || (operation.method == hyper::Method::GET && !operation.path.contains('{'))
}

async fn perform(me: &TestUser, operation: &Operation, (path, body): &(String, Value)) -> TestResponse {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    me.send(operation.method.clone(), path, bytes).await
}

/// Returns a body with ids, names, addresses and times masked, for comparison.
fn shape(body: &Value) -> Value {
    match body {
        Value::Object(fields) => {
            let kept = ["status", "code", "type", "title", "detail", "message", "nickname"];
            let shapes = fields.iter().map(|(key, value)| {
                let value = if kept.contains(&&**key) { value.clone() } else { shape(value) };
                (key.clone(), value)
            });
            Value::Object(shapes.collect())
        }
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => "…".into(),
        other => other.clone(),
    }
}

async fn block_is_indistinguishable_from_missing_user(app: &TestApp) {
    let (mut asked, mut named) = (0, 0);
    for (n, operation) in app.operations().await.iter().enumerate() {
        let before = asked;
        for side in [BlockingSide::Caller, BlockingSide::Other] {
            let users = Users::new(app, &format!("{n}-{side:?}").to_lowercase()).await;
            for RequestPair { blocked, absent } in rows(operation, &users, side).await {
                let what = format!("{} of {blocked:?} where {side:?} side blocks", operation.name);
                let behind_a_block = perform(&users.me, operation, &blocked).await;
                let unknown_user = perform(&users.me, operation, &absent).await;
                assert_eq!(behind_a_block.status, unknown_user.status, "{what}: {:#}", behind_a_block.body);
                assert_eq!(shape(&behind_a_block.body), shape(&unknown_user.body), "{what}");
                let names = |response: &TestResponse| {
                    let mut names: Vec<_> = response.headers.keys().map(|name| name.to_string()).collect();
                    names.sort();
                    names
                };
                assert_eq!(names(&behind_a_block), names(&unknown_user), "{what}");
                asked += 1;
            }
        }
        named += usize::from(asked > before);
    }
    println!("{named} operations refer to a user, called in {asked} ways");
    assert!(named >= 20, "fewer operations than expected refer to a user");
}

/// Prints the median durations without an assertion, because a busy machine distorts them.
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
async fn block_and_missing_user_timings_are_printed(app: &TestApp) {
    let users = Users::new(app, "timed").await;
    let code = code_of(&users.other).await;
    users.block(BlockingSide::Other).await;
    let by_id = |id: &str| json!({ "to": { "user_id": id } });
    let by_code = |code: &str| json!({ "to": { "invite_code": code } });
    for (what, blocked, absent) in [
        ("by id", by_id(&users.other.id), by_id(UNKNOWN_USER_ID)),
        ("by code", by_code(&code), by_code(NO_CODE)),
    ] {
        let mut times = [const { Vec::<Duration>::new() }; 2];
        for _ in 0..SAMPLES {
            for (side, body) in [&blocked, &absent].into_iter().enumerate() {
                let began = Instant::now();
                users.me.post(REQUESTS, body.clone()).await.expect_problem(404, "not_found");
                times[side].push(began.elapsed());
            }
        }
        let [blocked, absent] = times.map(|mut times| {
            times.sort_unstable();
            times[SAMPLES / 2]
        });
        println!("median of {SAMPLES} rejections {what}: {blocked:.0?} if blocked, {absent:.0?} if unknown");
    }
}
