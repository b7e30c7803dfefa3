//! Tests of sending and listing requests, and of their expiry.

use std::time::Duration;

use kith_kernel::days;
use serde_json::{Value, json};

use crate::support::{REQUESTS, TestApp, TestUser, on_every_engine};

on_every_engine! {
    request_is_visible_to_participants_only,
    repeated_request_is_idempotent,
    invalid_requests_are_rejected,
    crossing_requests_form_bond,
    bonded_user_cannot_send_request,
    receiver_bond_is_not_revealed,
    request_expires_after_14_days,
    expired_request_allows_new_request,
    lists_are_paginated,
    invalid_list_parameters_are_rejected,
}

const MILLISECOND: Duration = Duration::from_millis(1);

async fn list(of: &TestUser, query: &str) -> Vec<Value> {
    let page = of.get(&format!("{REQUESTS}?{query}")).await.expect(200);
    page["items"].as_array().expect("items").clone()
}

/// Proves the readiness requirement PRT-01.
async fn request_is_visible_to_participants_only(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let body = json!({ "to": { "user_id": ben.id }, "message": "  Will you?\nI would.  " });
    let sent = ada.post(REQUESTS, body).await.expect(201);
    assert_eq!(
        sent,
        json!({
            "id": sent["id"], "from": ada.public_view(), "to": ben.public_view(), "status": "pending",
            "message": "Will you?\nI would.", "created_at": app.now(), "expires_at": app.now() + days(14),
            "restorable_until": null,
        })
    );
    for (who, incoming, outgoing) in [(&ada, false, true), (&ben, true, false), (&eve, false, false)] {
        let there = |is: bool| if is { vec![sent.clone()] } else { vec![] };
        assert_eq!(list(who, "direction=incoming").await, there(incoming), "{}", who.name);
        assert_eq!(list(who, "direction=outgoing").await, there(outgoing), "{}", who.name);
        assert_eq!(list(who, "").await, there(incoming || outgoing), "{}", who.name);
        assert_eq!(list(who, "status=pending").await, there(incoming || outgoing), "{}", who.name);
        assert_eq!(list(who, "status=accepted").await, there(false), "{}", who.name);
    }
}

async fn repeated_request_is_idempotent(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let body = json!({ "to": { "user_id": ben.id }, "message": "hello" });
    let sent = ada.post(REQUESTS, body.clone()).await.expect(201);
    let before = app.footprint().await;
    assert_eq!(ada.post(REQUESTS, body).await.expect(200), sent);
    for other in [json!("other words"), json!(null)] {
        let body = json!({ "to": { "user_id": ben.id }, "message": other });
        ada.post(REQUESTS, body).await.expect_problem(409, "request_pending");
    }
    assert_eq!(list(&ben, "").await, [sent]);
    assert_eq!(app.footprint().await, before);
}

/// Proves the readiness requirements PRT-02, API-08.
async fn invalid_requests_are_rejected(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let before = app.footprint().await;
    let unknown = "01900000-0000-7000-8000-000000000000";
    ada.post(REQUESTS, json!({ "to": { "user_id": unknown } })).await.expect_problem(404, "not_found");
    let table = [
        (json!({ "to": { "user_id": ada.id } }), "/to", "self"),
        (json!({ "to": { "user_id": "somebody" } }), "/to/user_id", "invalid"),
        (json!({ "to": { "user_id": 5 } }), "/to/user_id", "wrong_type"),
        (json!({ "to": [ben.id] }), "/to", "wrong_type"),
        (json!({ "to": {} }), "/to", "not_exactly_one"),
        (json!({ "to": { "user_id": ben.id, "email": "ben@example.org" } }), "/to", "not_exactly_one"),
        (json!({ "to": { "email": "ben" } }), "/to/email", "not_an_email"),
        (json!({ "to": { "email": ada.email } }), "/to", "self"),
        (json!({ "to": { "invite_code": "short" } }), "/to/invite_code", "not_a_code"),
        (json!({}), "/to", "missing"),
        (json!({ "to": { "user_id": ben.id, "nickname": "b" } }), "/to/nickname", "unknown_field"),
        (json!({ "to": { "user_id": ben.id }, "status": "accepted" }), "/status", "unknown_field"),
        (json!({ "to": { "user_id": ben.id }, "message": "x".repeat(501) }), "/message", "too_long"),
        (json!({ "to": { "user_id": ben.id }, "message": "a\u{0}b" }), "/message", "forbidden_character"),
        (json!({ "to": { "user_id": ben.id }, "message": 5 }), "/message", "wrong_type"),
    ];
    for (body, pointer, code) in table {
        let faults = ada.post(REQUESTS, body.clone()).await.expect_faults();
        assert_eq!(faults, [(pointer.to_owned(), code.to_owned())], "{body}");
    }
    app.anonymous()
        .post(REQUESTS, json!({ "to": { "user_id": ben.id } }))
        .await
        .expect_problem(401, "unauthenticated");
    assert_eq!(list(&ben, "").await, [] as [Value; 0]);
    assert_eq!(app.footprint().await, before);
}

async fn crossing_requests_form_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let first = ada.partners().ask(&ben).await;
    app.advance(MILLISECOND);
    let body = json!({ "to": { "user_id": ada.id }, "message": "me too" });
    let crossed = ben.post(REQUESTS, body.clone()).await.expect(201);
    let bond = crossed["bond"].clone();
    assert_eq!(
        bond,
        json!({
            "id": bond["id"], "partner": ada.public_view(), "since": app.now(), "restored_at": null, "restorations": 0,
        })
    );
    assert_eq!(
        crossed,
        json!({
            "id": crossed["id"], "from": ben.public_view(), "to": ada.public_view(), "status": "accepted", "message": "me too",
            "created_at": app.now(), "expires_at": app.now() + days(14), "restorable_until": null, "bond": bond,
        })
    );
    let current =
        async |who: &TestUser| who.get("/api/v1/partners/current").await.expect(200)["bond"].clone();
    assert_eq!(current(&ben).await, bond);
    assert_eq!(current(&ada).await["id"], bond["id"]);
    assert_eq!(current(&ada).await["partner"], ben.public_view());

    let accepted = list(&ada, "status=accepted").await;
    let ids: Vec<_> = accepted.iter().map(|request| &request["id"]).collect();
    assert_eq!(ids, [&crossed["id"], &first["id"]]);

    // Repeating either request returns its earlier response, because both led to the bond.
    let before = app.footprint().await;
    assert_eq!(ben.post(REQUESTS, body).await.expect(200), crossed);
    let again = ada.post(REQUESTS, json!({ "to": { "user_id": ben.id } })).await.expect(200);
    assert_eq!((&again["id"], &again["bond"]["id"]), (&first["id"], &bond["id"]));
    assert_eq!(app.footprint().await, before);
}

/// Proves the readiness requirement PRT-05.
async fn bonded_user_cannot_send_request(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    ada.partners().ask(&ben).await;
    ben.partners().ask(&ada).await;
    let before = app.footprint().await;
    for sender in [&ada, &ben] {
        let body = json!({ "to": { "user_id": eve.id } });
        sender.post(REQUESTS, body).await.expect_problem(409, "slot_occupied");
    }
    // A request to the current partner with a new message is rejected too.
    let body = json!({ "to": { "user_id": ben.id }, "message": "once more" });
    ada.post(REQUESTS, body).await.expect_problem(409, "slot_occupied");
    assert_eq!(app.footprint().await, before);
}

/// Proves the readiness requirement PRT-05.
async fn receiver_bond_is_not_revealed(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    ada.partners().ask(&ben).await;
    ben.partners().ask(&ada).await;
    let request = eve.partners().ask(&ben).await;
    assert_eq!(request["status"], "pending");
    let before = app.footprint().await;
    let accept = format!("{REQUESTS}/{}/accept", request["id"].as_str().expect("an id"));
    ben.post(&accept, Value::Null).await.expect_problem(409, "slot_occupied");
    assert_eq!(list(&ben, "direction=incoming&status=pending").await, [request]);
    assert_eq!(app.footprint().await, before);
}

async fn request_expires_after_14_days(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let to_ben = ada.partners().ask(&ben).await;
    let accept = |request: &Value| format!("{REQUESTS}/{}/accept", request["id"].as_str().expect("an id"));
    app.advance(days(14) - MILLISECOND);
    let to_eve = ada.partners().ask(&eve).await;
    assert_eq!(list(&ada, "status=pending").await, [to_eve.clone(), to_ben.clone()]);
    assert_eq!(list(&ada, "status=expired").await, [] as [Value; 0]);

    app.advance(MILLISECOND);
    let mut expired = to_ben.clone();
    expired["status"] = json!("expired");
    for user in [&ada, &ben] {
        user.signed_in().await;
    }
    let before = app.footprint().await;
    assert_eq!(list(&ada, "status=pending").await, std::slice::from_ref(&to_eve));
    assert_eq!(list(&ada, "status=expired").await, [expired.clone()]);
    assert_eq!(list(&ben, "").await, [expired]);
    ben.post(&accept(&to_ben), Value::Null).await.expect_problem(409, "request_not_pending");
    assert_eq!(app.footprint().await, before);

    // The other request can still be accepted in its last millisecond.
    app.advance(days(14) - MILLISECOND - MILLISECOND);
    eve.post(&accept(&to_eve), Value::Null).await.expect(200);
}

async fn expired_request_allows_new_request(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let first = ada.partners().ask(&ben).await;
    app.advance(days(14));
    // The requests do not cross, because the first one has expired.
    let second = ben.partners().ask(&ada).await;
    assert_eq!((&second["status"], &second["bond"]), (&json!("pending"), &Value::Null));
    app.advance(days(14));
    let third = ben.partners().ask(&ada).await;
    let statuses: Vec<_> = list(&ada, "")
        .await
        .iter()
        .map(|request| (request["id"].clone(), request["status"].clone()))
        .collect();
    let expected = [(&third, "pending"), (&second, "expired"), (&first, "expired")];
    assert_eq!(statuses, expected.map(|(request, status)| (request["id"].clone(), json!(status))));
    assert_eq!(list(&ada, "status=expired").await.len(), 2);
}

/// Proves the readiness requirement API-04.
async fn lists_are_paginated(app: &TestApp) {
    let ada = app.user("ada").await;
    let mut newest_first = Vec::new();
    for (n, other) in app.register_users("other", 7).await.iter().enumerate() {
        // Ids of the same millisecond are unordered between two nodes.
        app.advance(MILLISECOND);
        newest_first.insert(
            0,
            if n % 2 == 0 { ada.partners().ask(other).await } else { other.partners().ask(&ada).await },
        );
    }
    let side = |user: &str| -> Vec<Value> {
        newest_first.iter().filter(|request| request[user]["id"] == ada.id).cloned().collect()
    };
    for (filter, expected) in [
        ("", newest_first.clone()),
        ("&direction=incoming", side("to")),
        ("&direction=outgoing", side("from")),
        ("&direction=outgoing&status=pending", side("from")),
    ] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let response = ada.get(&format!("{REQUESTS}?limit=2{filter}{cursor}")).await;
            let link = response.header("link").map(str::to_owned);
            let page = response.expect(200);
            let next = page["next_cursor"].as_str();
            let next = next.map(|at| format!("<{REQUESTS}?limit=2{filter}&cursor={at}>; rel=\"next\""));
            assert_eq!(link, next);
            let items = page["items"].as_array().expect("items").clone();
            let last = page["next_cursor"].is_null();
            assert!(if last { items.len() <= 2 } else { items.len() == 2 }, "{page:#}");
            seen.extend(items);
            if last {
                break;
            }
            cursor = format!("&cursor={}", page["next_cursor"].as_str().expect("a cursor"));
        }
        assert_eq!(seen, expected, "{filter}");
    }
    assert_eq!(list(&ada, "limit=100000").await, newest_first);
}

/// Proves the readiness requirement API-04.
async fn invalid_list_parameters_are_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    for (query, pointer) in [
        ("limit=0", "?limit"),
        ("limit=-1", "?limit"),
        ("limit=many", "?limit"),
        ("cursor=nonsense", "?cursor"),
        ("cursor=IjEi", "?cursor"),
        ("direction=sideways", "?direction"),
        ("status=PENDING", "?status"),
        ("status=%27%20OR%201%3D1--", "?status"),
        ("sort=created_at", "?sort"),
        ("limit=1&limit=2", "?limit"),
    ] {
        let response = ada.get(&format!("{REQUESTS}?{query}")).await;
        let problem = response.expect_problem(400, "malformed_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}: {problem:#}");
    }
}
