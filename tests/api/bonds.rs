//! Tests of accepting a request, of the resulting bond, and of invalid transitions of requests.

use hyper::Method;
use hyper::body::Bytes;
use kith_kernel::days;
use serde_json::{Value, json};

use crate::support::{REQUESTS, TestApp, TestUser, on_every_engine};

on_every_engine! {
    accepted_request_forms_bond,
    repeated_accept_is_idempotent,
    accepting_request_supersedes_other_requests,
    invalid_request_transitions_change_nothing,
}

fn accept_path(request: &Value) -> String {
    format!("{REQUESTS}/{}/accept", request["id"].as_str().expect("an id"))
}

async fn accept(who: &TestUser, request: &Value) -> Value {
    who.post(&accept_path(request), Value::Null).await.expect(200)
}

async fn status(who: &TestUser, request: &Value) -> Value {
    let page = who.get(&format!("{REQUESTS}?limit=100")).await.expect(200);
    let items = page["items"].as_array().expect("items");
    items.iter().find(|item| item["id"] == request["id"]).expect("the request")["status"].clone()
}

/// PRT-01: the whole flow from request to bond.
async fn accepted_request_forms_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    assert_eq!(ada.partners().current().await, Value::Null);
    let request = ada.partners().ask(&ben).await;
    assert_eq!(ada.partners().current().await, Value::Null);
    app.advance(days(1));

    let accepted = accept(&ben, &request).await;
    let bond = accepted["bond"].clone();
    let bond_with = |partner: &TestUser| {
        json!({
            "id": bond["id"], "partner": partner.public_view(), "since": app.now(), "restored_at": null, "restorations": 0,
        })
    };
    let mut expected = request.clone();
    expected["status"] = json!("accepted");
    expected["bond"] = bond_with(&ada);
    assert_eq!(accepted, expected);
    for (who, partner) in [(&ada, &ben), (&ben, &ada)] {
        assert_eq!(who.partners().current().await, bond_with(partner));
        assert_eq!(status(who, &request).await, "accepted");
    }
}

async fn repeated_accept_is_idempotent(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let body = json!({ "to": { "user_id": ben.id }, "message": "hello" });
    let request = ada.post(REQUESTS, body.clone()).await.expect(201);
    let accepted = accept(&ben, &request).await;
    let before = app.footprint().await;
    assert_eq!(accept(&ben, &request).await, accepted);
    // The sender did not receive the response and sends the request again. The response shows the current
    // state.
    let again = ada.post(REQUESTS, body).await.expect(200);
    assert_eq!((&again["id"], &again["status"]), (&request["id"], &json!("accepted")));
    assert_eq!(again["bond"], ada.partners().current().await);
    assert_eq!(app.footprint().await, before);
}

/// PRT-05: accepting a request supersedes all other pending requests that the two users have sent or
/// received. Requests between other users are unchanged.
async fn accepting_request_supersedes_other_requests(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let (eve, dan) = (app.user("eve").await, app.user("dan").await);
    let winner = ada.partners().ask(&ben).await;
    let losers = [
        (eve.partners().ask(&ada).await, &eve),
        (ada.partners().ask(&dan).await, &ada),
        (eve.partners().ask(&ben).await, &eve),
        (ben.partners().ask(&dan).await, &ben),
    ];
    let apart = eve.partners().ask(&dan).await;
    accept(&ben, &winner).await;

    for (loser, sender) in &losers {
        assert_eq!(status(sender, loser).await, "superseded");
        let receiver = [&ada, &ben, &dan].into_iter().find(|user| loser["to"] == user.public_view());
        let receiver = receiver.expect("one of the recipients");
        assert_eq!(status(receiver, loser).await, "superseded");
        receiver.post(&accept_path(loser), Value::Null).await.expect_problem(409, "request_not_pending");
    }
    assert_eq!(status(&dan, &apart).await, "pending");
    accept(&dan, &apart).await;
    assert_eq!(dan.partners().current().await["partner"], eve.public_view());

    let closed: Vec<_> = app
        .events()
        .await
        .into_iter()
        .filter(|event| event.event.kind == "partner_request.closed")
        .map(|event| event.event.subject)
        .collect();
    let mut expected: Vec<_> = losers.iter().map(|(loser, _)| loser["id"].as_str().expect("an id")).collect();
    let mut kinds: Vec<_> = closed.iter().map(String::as_str).collect();
    expected.sort_unstable();
    kinds.sort_unstable();
    assert_eq!(kinds, expected);
}

/// PRT-02, ACC-10: tries every invalid transition, for each state of a request and each user.
async fn invalid_request_transitions_change_nothing(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let (fay, gus) = (app.user("fay").await, app.user("gus").await);
    let expired = ada.partners().ask(&ben).await;
    app.advance(days(14));
    let accepted = ada.partners().ask(&ben).await;
    let superseded = gus.partners().ask(&ben).await;
    accept(&ben, &accepted).await;
    let occupied = gus.partners().ask(&ben).await;
    let pending = gus.partners().ask(&fay).await;
    for user in [&ada, &ben, &eve, &fay, &gus] {
        user.signed_in().await;
    }
    let before = app.footprint().await;
    const STRANGER: (u16, &str) = (404, "not_found");
    const SENDER: (u16, &str) = (403, "forbidden");
    const DECIDED: (u16, &str) = (409, "request_not_pending");
    const OCCUPIED: (u16, &str) = (409, "slot_occupied");
    for (request, state, who, (http_status, code)) in [
        (&pending, "pending", &gus, SENDER),
        (&pending, "pending", &eve, STRANGER),
        (&occupied, "pending", &ben, OCCUPIED),
        (&occupied, "pending", &gus, SENDER),
        (&occupied, "pending", &ada, STRANGER),
        (&accepted, "accepted", &ada, SENDER),
        (&accepted, "accepted", &eve, STRANGER),
        (&expired, "expired", &ben, DECIDED),
        (&expired, "expired", &ada, SENDER),
        (&expired, "expired", &eve, STRANGER),
        (&superseded, "superseded", &ben, DECIDED),
        (&superseded, "superseded", &gus, SENDER),
        (&superseded, "superseded", &ada, STRANGER),
    ] {
        let response = who.post(&accept_path(request), Value::Null).await;
        response.expect_problem(http_status, code);
        let sender = if request["from"] == ada.public_view() { &ada } else { &gus };
        assert_eq!(status(sender, request).await, state, "status after {} tried to decide", who.name);
    }
    let nothing = "01900000-0000-7000-8000-000000000000";
    for id in [nothing, "nonsense", "%00", "..%2f.."] {
        let response = ben.post(&format!("{REQUESTS}/{id}/accept"), Value::Null).await;
        response.expect_problem(404, "not_found");
    }
    app.anonymous().post(&accept_path(&pending), Value::Null).await.expect_problem(401, "unauthenticated");
    let deleted = fay.send(Method::DELETE, &accept_path(&pending), Bytes::new()).await;
    deleted.expect_problem(405, "method_not_allowed");
    assert_eq!(app.footprint().await, before);
}
