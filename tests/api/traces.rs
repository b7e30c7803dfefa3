//! Tests that changes write complete audit entries and events in order, and that rejections write none.

use kith_kernel::UserId;
use serde_json::{Value, json};

use crate::support::{AuditLine, REQUESTS, TestApp, TestUser, X_REQUEST_ID, on_every_engine};

on_every_engine! {
    changes_write_audit_entries_and_events,
    crossing_writes_entries_of_both_requests,
    positions_are_dense_and_audit_chain_is_valid,
}

/// Audit entries and events of one request.
struct RequestTrace {
    /// Actor, action and object.
    audit: Vec<(String, &'static str, String)>,
    /// Kind, subject and recipients.
    events: Vec<(&'static str, String, Vec<String>)>,
}

async fn check_trace(app: &TestApp, request_id: &str, expected: RequestTrace) {
    let audit: Vec<AuditLine> =
        app.audit().await.into_iter().filter(|line| line.request_id == request_id).collect();
    let audit: Vec<_> =
        audit.iter().map(|line| (line.actor.clone(), &*line.action, line.object.clone())).collect();
    assert_eq!(audit, expected.audit, "audit of {request_id}");
    let events: Vec<_> = app.events().await.into_iter().map(|sequenced| sequenced.event).collect();
    let events: Vec<_> = events
        .iter()
        .filter(|event| event.request_id == request_id)
        .map(|event| {
            let recipients: Vec<String> = event.recipients.iter().map(UserId::to_string).collect();
            (&*event.kind, event.subject.clone(), recipients)
        })
        .collect();
    assert_eq!(events, expected.events, "events of {request_id}");
}

/// Returns two user ids in ascending order, which on two nodes may differ from the order of registration.
fn pair(one: &TestUser, other: &TestUser) -> Vec<String> {
    let mut pair = vec![one.id.clone(), other.id.clone()];
    pair.sort_unstable();
    pair
}

fn id(value: &Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

async fn post(who: &TestUser, request_id: &str, path: &str, body: Value) -> Value {
    let client = who.signed_in().await.with_header(X_REQUEST_ID, request_id);
    client.post(path, body).await.body
}

/// API-06: a change, its audit entries and its events are written in one transaction.
async fn changes_write_audit_entries_and_events(app: &TestApp) {
    let body = json!({ "email": "new@example.org", "password": "correct horse", "display_name": "New" });
    let client = app.anonymous().with_header(X_REQUEST_ID, "test-register");
    let user = id(&client.post("/api/v1/auth/register", body).await.expect(201)["user"]);
    let lines: Vec<_> = app.audit().await;
    let session =
        lines.iter().find(|line| line.action == "session.started").expect("a session").object.clone();
    let anonymous = || "anonymous".to_owned();
    check_trace(
        app,
        "test-register",
        RequestTrace {
            audit: vec![
                (anonymous(), "account.registered", user.clone()),
                (anonymous(), "session.started", session),
            ],
            events: vec![
                ("account.registered", user.clone(), vec![user.clone()]),
                ("session.started", user.clone(), vec![user]),
            ],
        },
    )
    .await;

    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let by = |user: &TestUser| format!("user:{}", user.id);
    let both = |one: &TestUser, other: &TestUser| vec![one.id.clone(), other.id.clone()];
    let sent = post(&ada, "test-send", REQUESTS, json!({ "to": { "user_id": ben.id } })).await;
    check_trace(
        app,
        "test-send",
        RequestTrace {
            audit: vec![(by(&ada), "partner_request.created", id(&sent))],
            events: vec![("partner_request.created", id(&sent), both(&ada, &ben))],
        },
    )
    .await;

    let other = post(&eve, "test-other", REQUESTS, json!({ "to": { "user_id": ada.id } })).await;
    let accept = format!("{REQUESTS}/{}/accept", id(&sent));
    let refused = post(&eve, "test-refused", &accept, Value::Null).await;
    assert_eq!(refused["code"], "not_found");
    check_trace(app, "test-refused", RequestTrace { audit: vec![], events: vec![] }).await;

    let accepted = post(&ben, "test-accept", &accept, Value::Null).await;
    let bond = id(&accepted["bond"]);
    let audit = vec![
        (by(&ben), "partner_request.accepted", id(&sent)),
        ("system:bonds".to_owned(), "partner_request.superseded", id(&other)),
        (by(&ben), "bond.created", bond.clone()),
    ];
    let events = vec![
        ("partner_request.accepted", id(&sent), both(&ada, &ben)),
        ("partner_request.closed", id(&other), both(&eve, &ada)),
        ("bond.created", bond.clone(), pair(&ada, &ben)),
    ];
    check_trace(app, "test-accept", RequestTrace { audit, events }).await;

    let kept = json!({ "data": { "song": "m4rked" } });
    let item = id(&post(&ben, "test-item", "/api/v1/spaces/bond/songs", kept).await);
    let audit = vec![(by(&ben), "space_item.created", item)];
    let events = vec![("space_item.created", bond, pair(&ada, &ben))];
    check_trace(app, "test-item", RequestTrace { audit, events }).await;
    assert_eq!(app.count("outbox", "payload LIKE $1", "%m4rked%").await, 0);
    assert_eq!(app.count("audit_details", "body LIKE $1", "%m4rked%").await, 0);
}

/// Two crossing requests write the entries of both requests and of both acceptances.
async fn crossing_writes_entries_of_both_requests(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let first = post(&ada, "test-first", REQUESTS, json!({ "to": { "user_id": ben.id } })).await;
    let crossing = post(&ben, "test-crossing", REQUESTS, json!({ "to": { "user_id": ada.id } })).await;
    let bond = id(&crossing["bond"]);
    let by_ben = || format!("user:{}", ben.id);
    let both = |one: &TestUser, other: &TestUser| vec![one.id.clone(), other.id.clone()];
    let audit = vec![
        (by_ben(), "partner_request.created", id(&crossing)),
        (by_ben(), "partner_request.accepted", id(&first)),
        (by_ben(), "bond.created", bond.clone()),
        (by_ben(), "partner_request.accepted", id(&crossing)),
    ];
    let events = vec![
        ("partner_request.created", id(&crossing), both(&ben, &ada)),
        ("partner_request.accepted", id(&first), both(&ada, &ben)),
        ("bond.created", bond, pair(&ada, &ben)),
        ("partner_request.accepted", id(&crossing), both(&ben, &ada)),
    ];
    check_trace(app, "test-crossing", RequestTrace { audit, events }).await;
}

async fn positions_are_dense_and_audit_chain_is_valid(app: &TestApp) {
    let users = app.register_users("person", 6).await;
    for (from, to) in [(0, 1), (2, 3), (4, 5), (1, 0), (3, 2)] {
        let body = json!({ "to": { "user_id": users[to].id } });
        users[from].post(REQUESTS, body).await.expect(201);
    }
    let events = app.events().await;
    let positions: Vec<_> = events.iter().map(|event| event.position).collect();
    assert_eq!(positions, (1..=events.len() as i64).collect::<Vec<_>>());
    // 6 accounts with a session each, 5 requests, and two crossings with two accepted requests and a bond
    // each.
    assert_eq!(events.len(), 2 * 6 + 5 + 2 * 3);
    let entries = app.audit().await.len() as i64;
    assert_eq!(app.db().verify_audit().await.expect("the audit chain is valid").links, entries);
}
