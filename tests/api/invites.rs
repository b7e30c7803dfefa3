//! Tests of requests by invite and by address, which must not reveal other users.

use hyper::Method;
use hyper::body::Bytes;
use kith_kernel::{days, minutes};
use serde_json::{Value, json};

use crate::support::{PASSWORD, REQUESTS, TestApp, TestUser, on_every_engine};

const INVITES: &str = "/api/v1/partners/invites";

on_every_engine! {
    redeemed_invite_creates_request,
    unblocked_user_can_send_request,
    unusable_invites_are_indistinguishable,
    sixth_open_invite_is_rejected,
    wrong_codes_are_limited_per_minute,
    concurrent_redemptions_succeed_once,
    invite_overrides_request_policy,
    request_by_address_does_not_reveal_account,
    discoverable_user_receives_request_by_address,
}

async fn invite(who: &TestUser) -> (String, String) {
    let made = who.post(INVITES, Value::Null).await.expect(201);
    let text = |key: &str| made[key].as_str().expect("text").to_owned();
    (text("code"), text("id"))
}

fn by_code(code: &str) -> Value {
    json!({ "to": { "invite_code": code } })
}

fn by_address(email: &str) -> Value {
    json!({ "to": { "email": email }, "message": "It is me." })
}

async fn set(who: &TestUser, patch: Value) {
    let body = Bytes::from(patch.to_string());
    who.send(Method::PATCH, "/api/v1/partners/settings", body).await.expect(200);
}

async fn redeemed_invite_creates_request(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let made = ada.post(INVITES, Value::Null).await.expect(201);
    let code = made["code"].as_str().expect("a code");
    assert_eq!(code.len(), 10);
    assert_eq!(made["link"], format!("/api/v1/partners/invites/{code}"));
    assert_eq!(made["expires_at"], json!(app.now() + days(7)));
    let listed = ada.get(INVITES).await.expect(200);
    assert_eq!(listed["items"][0]["id"], made["id"]);
    assert!(!listed.to_string().contains(code), "the code is returned only once");

    let typed = format!("{}-{}", &code[..5], &code[5..]).to_lowercase();
    let before = app.footprint().await;
    let preview = ben.get(&format!("{INVITES}/{typed}")).await.expect(200);
    assert_eq!(preview, json!({ "display_name": "ada", "expires_at": made["expires_at"] }));
    assert_eq!(app.footprint().await, before, "a preview does not use the code");

    ada.post(REQUESTS, by_code(code)).await.expect_faults();
    let request = ben.post(REQUESTS, by_code(&typed)).await.expect(201);
    assert_eq!((&request["status"], &request["to"]), (&json!("pending"), &ada.public_view()));
    let before = app.footprint().await;
    let again = ben.post(REQUESTS, by_code(code)).await.expect(200);
    assert_eq!(again["id"], request["id"], "a repeated use of the code returns the pending request");
    let other_words = json!({ "to": { "invite_code": code }, "message": "Please?" });
    ben.post(REQUESTS, other_words).await.expect_problem(404, "not_found");
    assert_eq!(app.footprint().await, before, "repeated requests change nothing");
    assert_eq!(ada.get(INVITES).await.expect(200)["items"], json!([]));
    let path = format!("{REQUESTS}/{}/accept", request["id"].as_str().expect("an id"));
    ada.post(&path, Value::Null).await.expect(200);
    let text = app.dump().await.join("\n");
    assert!(!text.contains(code), "the code is not stored in plain text");
}

/// An invite that is unknown, used, expired or revoked, or whose inviter was deleted or has blocked the user,
/// always returns the same 404.
async fn unusable_invites_are_indistinguishable(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let expired = invite(&ada).await.0;
    app.advance(days(7));
    let (spent, revoked, by_id, shut) =
        (invite(&ada).await, invite(&ada).await, invite(&ada).await, invite(&ada).await);
    ben.post(REQUESTS, by_code(&spent.0)).await.expect(201);
    eve.delete(&format!("{INVITES}/{}", revoked.0), Value::Null).await.expect_problem(404, "not_found");
    ada.delete(&format!("{INVITES}/{}", revoked.0), Value::Null).await.expect(204);
    ada.delete(&format!("{INVITES}/{}", by_id.1), Value::Null).await.expect(204);
    ada.delete(&format!("{INVITES}/{}", by_id.1), Value::Null).await.expect_problem(404, "not_found");
    ada.put(&format!("/api/v1/blocks/{}", eve.id), Value::Null).await.expect(200);
    let gone = app.user("gone").await;
    let left = invite(&gone).await.0;
    gone.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    let mut bodies = Vec::new();
    for code in ["0000000000", &*expired, &*spent.0, &*revoked.0, &*by_id.0, &*shut.0, &*left] {
        app.advance(minutes(1));
        let mut previewed = eve.get(&format!("{INVITES}/{code}")).await.expect_problem(404, "not_found");
        let mut sent = eve.post(REQUESTS, by_code(code)).await.expect_problem(404, "not_found");
        for body in [&mut previewed, &mut sent] {
            body.as_object_mut().expect("a problem").remove("request_id");
        }
        bodies.extend([previewed, sent]);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
}

/// Regression: a user who was blocked and unblocked could not send a new request.
async fn unblocked_user_can_send_request(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let withheld = ben.post(REQUESTS, json!({ "to": { "user_id": ada.id } })).await.expect(201);
    let block = format!("/api/v1/blocks/{}", ben.id);
    ada.put(&block, Value::Null).await.expect(200);
    let path = format!("{REQUESTS}/{}", withheld["id"].as_str().expect("an id"));
    assert_eq!(ben.get(&path).await.expect(200)["status"], "pending");
    ada.delete(&block, Value::Null).await.expect(204);
    assert_eq!(ben.get(&path).await.expect(200)["status"], "expired");
    let (code, _) = invite(&ada).await;
    let request = ben.post(REQUESTS, by_code(&code)).await.expect(201);
    assert_ne!(request["id"], withheld["id"]);
    let incoming = ada.get(&format!("{REQUESTS}?status=pending")).await.expect(200);
    assert_eq!(incoming["items"][0]["id"], request["id"]);
}

async fn sixth_open_invite_is_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    for _ in 0..5 {
        invite(&ada).await;
    }
    ada.post(INVITES, Value::Null).await.expect_problem(409, "too_many_invites");
    app.advance(days(7));
    invite(&ada).await;
}

/// Ten wrong codes per minute, counted per user and client address. Valid codes do not count.
async fn wrong_codes_are_limited_per_minute(app: &TestApp) {
    let (ada, eve) = (app.user("ada").await, app.user("eve").await);
    let good = invite(&ada).await.0;
    for n in 0..10 {
        eve.get(&format!("{INVITES}/{good}")).await.expect(200);
        if n % 2 == 0 {
            eve.get(&format!("{INVITES}/000000000{n}")).await.expect_problem(404, "not_found");
        } else {
            eve.post(REQUESTS, by_code(&format!("000000000{n}"))).await.expect_problem(404, "not_found");
        }
    }
    let refused = eve.get(&format!("{INVITES}/{good}")).await;
    assert_eq!(refused.header("retry-after"), Some("60"));
    refused.expect_problem(429, "rate_limited");
    eve.post(REQUESTS, by_code(&good)).await.expect_problem(429, "rate_limited");
    app.advance(minutes(1));
    eve.get(&format!("{INVITES}/{good}")).await.expect(200);
}

async fn concurrent_redemptions_succeed_once(app: &TestApp) {
    let ada = app.user("ada").await;
    let others = app.register_users("other", 6).await;
    for _ in 0..5 {
        let code = invite(&ada).await.0;
        let uses =
            futures_util::future::join_all(others.iter().map(|one| one.post(REQUESTS, by_code(&code))));
        let mut statuses: Vec<_> = uses.await.iter().map(|response| response.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 404, 404, 404, 404, 404]);
        for one in &others {
            let pending = one.get(&format!("{REQUESTS}?status=pending")).await.expect(200);
            for request in pending["items"].as_array().expect("items") {
                let path = format!("{REQUESTS}/{}/reject", request["id"].as_str().expect("an id"));
                ada.post(&path, Value::Null).await.expect(200);
            }
        }
        app.advance(minutes(2));
    }
}

/// An invite overrides cooldowns and the policy `invited`, but not the policy that accepts no requests.
async fn invite_overrides_request_policy(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    set(&ada, json!({ "accepts_requests_from": "invited" })).await;
    for _ in 0..2 {
        let request = ben.post(REQUESTS, by_code(&invite(&ada).await.0)).await.expect(201);
        let path = format!("{REQUESTS}/{}/reject", request["id"].as_str().expect("an id"));
        ada.post(&path, Value::Null).await.expect(200);
    }
    set(&ada, json!({ "accepts_requests_from": "nobody" })).await;
    ben.post(REQUESTS, by_code(&invite(&ada).await.0)).await.expect_problem(404, "not_found");
}

/// Until it expires, a request by address always looks the same to its sender. The address may be unknown,
/// unverified or undiscoverable, or its user may be blocked, deleted, accept no requests, or have refused the
/// sender.
async fn request_by_address_does_not_reveal_account(app: &TestApp) {
    let ada = app.user("ada").await;
    let found = json!({ "discoverable_by_email": true });
    let unproven = app.user("unproven").await;
    set(&unproven, found.clone()).await;
    let hidden = app.user("hidden").await;
    let shut = app.user("shut").await;
    set(&shut, found.clone()).await;
    shut.put(&format!("/api/v1/blocks/{}", ada.id), Value::Null).await.expect(200);
    let closed = app.user("closed").await;
    set(&closed, json!({ "discoverable_by_email": true, "accepts_requests_from": "invited" })).await;
    let left = app.user("left").await;
    set(&left, found.clone()).await;
    left.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    let real = app.user("real").await;
    set(&real, found).await;
    for proven in [&hidden, &shut, &closed, &real] {
        app.verify_address(proven).await;
    }
    let mut sent = Vec::new();
    let others = [&unproven, &hidden, &shut, &closed, &left, &real].map(|user| &*user.email);
    for email in ["nobody@example.org"].into_iter().chain(others) {
        app.advance(minutes(15));
        let request = ada.post(REQUESTS, by_address(email)).await.expect(201);
        let expected = json!({
            "id": request["id"], "from": ada.public_view(), "to": { "email": email }, "status": "pending",
            "message": "It is me.", "created_at": app.now(), "expires_at": app.now() + days(14),
            "restorable_until": null,
        });
        assert_eq!(request, expected);
        assert_eq!(ada.post(REQUESTS, by_address(email)).await.expect(200), request);
        let other_words = json!({ "to": { "email": email } });
        ada.post(REQUESTS, other_words).await.expect_problem(409, "request_pending");
        sent.push(request);
    }
    for who in [&unproven, &hidden, &shut, &closed] {
        assert_eq!(who.get(REQUESTS).await.expect(200)["items"], json!([]), "{}", who.name);
    }
    let received = real.get(REQUESTS).await.expect(200)["items"][0].clone();
    assert_eq!((&received["from"], &received["to"]), (&ada.public_view(), &real.public_view()));
    let reject = format!("{REQUESTS}/{}/reject", received["id"].as_str().expect("an id"));
    assert_eq!(real.post(&reject, Value::Null).await.expect(200)["status"], "rejected");
    let seen = async |status: &str| {
        let page = ada.get(&format!("{REQUESTS}?direction=outgoing&status={status}")).await.expect(200);
        page["items"].as_array().expect("items").len()
    };
    assert_eq!(
        (seen("pending").await, seen("rejected").await),
        (7, 0),
        "a rejection is not visible to the sender"
    );
    assert_eq!(ada.get(&reject.replace("/reject", "")).await.expect(200)["status"], "pending");
    let events = app.events().await.into_iter().map(|sequenced| sequenced.event);
    let events = events.filter(|event| event.kind == "partner_request.rejected");
    let recipients: Vec<_> = events.flat_map(|event| event.recipients).map(|one| one.to_string()).collect();
    assert_eq!(recipients, std::slice::from_ref(&real.id));
    app.advance(days(14));
    assert_eq!((seen("pending").await, seen("expired").await), (0, 7));
    app.advance(days(1));
    app.run_maintenance().await;
    assert_eq!((seen("pending").await, seen("expired").await), (0, 7));
    assert_eq!(
        real.get(&format!("{REQUESTS}?status=rejected")).await.expect(200)["items"][0]["id"],
        received["id"]
    );
}

async fn discoverable_user_receives_request_by_address(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    for user in [&ada, &ben] {
        app.verify_address(user).await;
    }
    set(&ben, json!({ "discoverable_by_email": true })).await;
    let request = ada.post(REQUESTS, by_address("BEN@Example.org")).await.expect(201);
    assert_eq!(
        request["to"],
        json!({ "email": "BEN@Example.org" }),
        "the response contains the address as it was sent"
    );
    let accept = format!("{REQUESTS}/{}/accept", request["id"].as_str().expect("an id"));
    ben.post(&accept, Value::Null).await.expect(200);
    let seen = ada.get(accept.trim_end_matches("/accept")).await.expect(200);
    assert_eq!((&seen["status"], &seen["to"]), (&json!("accepted"), &ben.public_view()));
    assert_eq!(seen["bond"]["partner"], ben.public_view());
    assert_eq!(ada.post(REQUESTS, by_address("ben@example.org")).await.expect(200)["id"], request["id"]);
    ada.post("/api/v1/partners/breakup", Value::Null).await.expect(200);
    ada.post(REQUESTS, json!({ "to": { "user_id": ben.id } })).await.expect(201);
    let crossed = ben.post(REQUESTS, by_address(&ada.email)).await.expect(201);
    assert_eq!(crossed["status"], "pending", "a request to an undiscoverable address matches no user");
    set(&ada, json!({ "discoverable_by_email": true })).await;
    let id = crossed["id"].as_str().expect("an id");
    ben.post(&format!("{REQUESTS}/{id}/cancel"), Value::Null).await.expect(200);
    let crossed = ben.post(REQUESTS, by_address(&ada.email)).await.expect(201);
    assert_eq!((&crossed["status"], &crossed["bond"]["restorations"]), (&json!("accepted"), &json!(1)));
    assert_eq!(crossed["to"], ada.public_view());
}
