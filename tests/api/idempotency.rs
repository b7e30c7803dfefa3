//! Tests of `Idempotency-Key`: a write is executed once, regardless of repetitions, time and node.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use hyper::Method;
use hyper::body::Bytes;
use kith_kernel::days;
use kith_platform::idempotency::IDEMPOTENCY_KEY;
use kith_store::testing::TestDatabase;
use kith_store::{Store, params};
use serde_json::{Value, json};

use crate::support::{
    Access, Client, Engine, Kith, PASSWORD, REQUESTS, SERVE, TestApp, TestResponse, TestUser,
    hold_transaction, kith, kith_on, on_every_engine,
};

const MILLISECOND: Duration = Duration::from_millis(1);
/// Number of concurrent duplicates, and of rounds.
const TWINS: usize = 20;
const ROUNDS: usize = 10;

on_every_engine! {
    request_with_repeated_idempotency_key_executes_once,
    idempotency_key_with_different_request_is_rejected,
    idempotency_key_is_scoped_to_user_and_operation,
    rejected_request_can_be_retried_with_same_key,
    idempotency_key_expires_after_24_hours,
    concurrent_duplicates_execute_once,
    idempotency_key_is_rejected_where_unsupported,
    signed_in_writes_accept_key,
    large_response_is_replayed_as_id,
}

async fn keyed(who: &TestUser, key: &str) -> Client {
    who.signed_in().await.with_header(IDEMPOTENCY_KEY, key)
}

fn ask(recipient: &TestUser) -> Value {
    json!({ "to": { "user_id": recipient.id } })
}

fn is_replayed(response: &TestResponse) -> bool {
    response.header("idempotency-replayed").is_some_and(|value| value == "true")
}

/// DRV-03: five requests with the same key get identical responses. They create one object and one set of
/// audit entries and events.
async fn request_with_repeated_idempotency_key_executes_once(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let ada = keyed(&ada, "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"").await;
    let first = ada.post(REQUESTS, ask(&ben)).await;
    assert!(!is_replayed(&first));
    let first = first.expect(201);
    let footprint = app.footprint().await;
    // Later changes do not affect the stored response.
    let accept = format!("{REQUESTS}/{}/accept", first["id"].as_str().expect("an id"));
    ben.post(&accept, Value::Null).await.expect(200);
    assert!(app.footprint().await > footprint);
    let footprint = app.footprint().await;
    for _ in 0..4 {
        app.advance(MILLISECOND);
        let again = ada.post(REQUESTS, ask(&ben)).await;
        assert!(is_replayed(&again));
        assert_eq!(again.header("content-type"), Some("application/json"));
        assert_eq!(again.expect(201), first);
    }
    assert_eq!(app.footprint().await, footprint);
}

async fn idempotency_key_with_different_request_is_rejected(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let to_ben = keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await.expect(201);
    let to_eve = keyed(&ada, "other").await.post(REQUESTS, ask(&eve)).await.expect(201);
    let from_ben = ben.post(REQUESTS, ask(&eve)).await.expect(201);
    let footprint = app.footprint().await;
    let key = keyed(&ada, "key").await;
    key.post(REQUESTS, ask(&eve)).await.expect_problem(422, "idempotency_key_reused");
    let query = format!("{REQUESTS}?a=1");
    key.post(&query, ask(&ben)).await.expect_problem(422, "idempotency_key_reused");
    assert_eq!(app.footprint().await, footprint);

    let accept = |request: &Value| format!("{REQUESTS}/{}/accept", request["id"].as_str().expect("an id"));
    let eve = keyed(&eve, "key").await;
    eve.post(&accept(&to_eve), Value::Null).await.expect(200);
    eve.post(&accept(&from_ben), Value::Null).await.expect_problem(422, "idempotency_key_reused");
    assert_eq!(to_ben["status"], "pending");
}

async fn idempotency_key_is_scoped_to_user_and_operation(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let by_ada = keyed(&ada, "key").await.post(REQUESTS, ask(&eve)).await.expect(201);
    let by_ben = keyed(&ben, "key").await.post(REQUESTS, ask(&eve)).await;
    assert!(!is_replayed(&by_ben));
    assert_eq!(by_ben.expect(201)["from"], ben.public_view());
    let by_eve = keyed(&eve, "key").await;
    by_eve.post(REQUESTS, ask(&ada)).await.expect(201);
    let accept = format!("{REQUESTS}/{}/accept", by_ada["id"].as_str().expect("an id"));
    let accepted = by_eve.post(&accept, Value::Null).await;
    assert!(!is_replayed(&accepted));
    assert_eq!(accepted.expect(200)["status"], "accepted");
}

async fn rejected_request_can_be_retried_with_same_key(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.post(REQUESTS, json!({ "to": { "user_id": ben.id }, "message": "in other words" })).await.expect(201);
    for _ in 0..2 {
        let refused = keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await;
        refused.expect_problem(409, "request_pending");
    }
    app.advance(days(14));
    let sent = keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await;
    assert!(!is_replayed(&sent));
    let sent = sent.expect(201);
    let again = keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await;
    assert!(is_replayed(&again));
    assert_eq!(again.expect(201), sent);
}

async fn idempotency_key_expires_after_24_hours(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let sent = keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await.expect(201);
    app.advance(days(1));
    let again = keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await;
    assert!(is_replayed(&again));
    assert_eq!(again.expect(201), sent);
    app.advance(MILLISECOND);
    // The expired key is free again, and then reserved for another day.
    keyed(&ada, "key").await.post(REQUESTS, ask(&eve)).await.expect(201);
    app.advance(days(1));
    assert!(is_replayed(&keyed(&ada, "key").await.post(REQUESTS, ask(&eve)).await));
    keyed(&ada, "key").await.post(REQUESTS, ask(&ben)).await.expect_problem(422, "idempotency_key_reused");
}

/// Each duplicate gets the same response, or 409 while the first one is in progress.
async fn concurrent_duplicates_execute_once(app: &TestApp) {
    let users = app.register_users("person", 2 * ROUNDS).await;
    let mut given = [0, 0, 0];
    for (round, pair) in users.chunks(2).enumerate() {
        let (ada, before) = (keyed(&pair[0], &format!("key {round}")).await, app.footprint().await);
        let responses = join_all((0..TWINS).map(|_| ada.post(REQUESTS, ask(&pair[1])))).await;
        let mut bodies = Vec::new();
        for response in responses {
            let replayed = is_replayed(&response);
            given[if response.status == 409 { 2 } else { usize::from(replayed) }] += 1;
            if response.status == 409 {
                response.expect_problem(409, "idempotency_in_progress");
            } else {
                bodies.push(response.expect(201));
            }
        }
        assert!(!bodies.is_empty() && bodies.iter().all(|body| *body == bodies[0]), "{bodies:#?}");
        let after = app.footprint().await;
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
    }
    assert_eq!(given[0], ROUNDS, "created, replayed, asked to wait: {given:?}");
    println!("{ROUNDS} rounds of {TWINS} equal requests: created, replayed, asked to wait: {given:?}");
}

async fn idempotency_key_is_rejected_where_unsupported(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let footprint = app.footprint().await;
    let anonymous = app.anonymous().with_header(IDEMPOTENCY_KEY, "key");
    let body = json!({ "email": "new@example.org", "password": PASSWORD, "display_name": "New" });
    anonymous.post("/api/v1/auth/register", body).await.expect_problem(400, "malformed_request");
    let body = json!({ "email": ada.email, "password": PASSWORD });
    anonymous.post("/api/v1/auth/login", body).await.expect_problem(400, "malformed_request");
    anonymous.post(REQUESTS, ask(&ben)).await.expect_problem(401, "unauthenticated");
    for malformed in ["", "\"\"", "\"open", &"k".repeat(256)] {
        let client = keyed(&ada, malformed).await;
        client.post(REQUESTS, ask(&ben)).await.expect_problem(400, "malformed_request");
        client.get(REQUESTS).await.expect(200);
        client.send(Method::HEAD, REQUESTS, Bytes::new()).await.expect(200);
    }
    assert_eq!(app.footprint().await, footprint);
}

/// Covers each write operation of signed-in users.
async fn signed_in_writes_accept_key(app: &TestApp) {
    let mut walked = 0;
    for operation in app.operations().await {
        let name = &operation.name;
        // After deleting the account, the user cannot repeat the request.
        let takes_none = operation.path.starts_with("/api/v1/auth/") || name == "deleteMe";
        if takes_none || operation.method.is_safe() || operation.access == Access::Public {
            continue;
        }
        let request = app.request_for(&operation, name).await;
        let client = keyed(&request.by, "key").await;
        let send =
            async || client.send(operation.method.clone(), &request.path(&operation), request.bytes()).await;
        let first = send().await;
        assert!((200..300).contains(&first.status) && !is_replayed(&first), "{name}: {first:#?}");
        let footprint = app.footprint().await;
        let again = send().await;
        assert!(is_replayed(&again), "{name} is not replayed: {again:#?}");
        assert_eq!((again.status, again.body), (first.status, first.body), "{name}");
        assert_eq!(app.footprint().await, footprint, "{name}");
        walked += 1;
    }
    assert!(walked >= 2, "{walked}");
}

/// Regression: storing large responses under keys would have filled the database.
async fn large_response_is_replayed_as_id(app: &TestApp) {
    let ada = keyed(&app.user("ada").await, "key").await;
    let notes = "/api/v1/spaces/me/notes";
    let data = json!({ "data": { "text": "x".repeat(60_000) } });
    let first = ada.post(notes, data.clone()).await.expect(201);
    let footprint = app.footprint().await;
    let again = ada.post(notes, data).await.expect_problem(409, "response_not_stored");
    assert_eq!(again["created_ids"], json!({ "id": first["id"] }));
    assert_eq!(app.footprint().await, footprint);
    let path = format!("{notes}/{}", first["id"].as_str().expect("an id"));
    assert_eq!(ada.get(&path).await.expect(200), first);
    let sum = app.db().read(|q| {
        q.one("SELECT CAST(SUM(octet_length(body)) AS BIGINT) FROM idempotency_keys", &[], |row| {
            row.get::<i64>(0)
        })
    });
    let sum: Result<Option<i64>, kith_store::Error> = sum.await;
    let bytes = sum.expect("a sum").expect("a response is stored");
    assert!(bytes < 200, "{bytes} bytes are stored");
}

async fn register(client: &Client, name: &str) -> (String, Client) {
    let body = json!({ "email": format!("{name}@example.org"), "password": PASSWORD, "display_name": name });
    let response = client.post("/api/v1/auth/register", body).await.expect(201);
    let id = response["user"]["id"].as_str().expect("an id").to_owned();
    (id, client.with_token(response["access_token"].as_str().expect("a token")))
}

#[tokio::test]
async fn idempotency_key_survives_server_kill() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let server = Kith::start(kith(folder, SERVE));
    let (_, ada) = register(&Client::new([server.addr]), "ada").await;
    let (ben, _) = register(&Client::new([server.addr]), "ben").await;
    let body = json!({ "to": { "user_id": ben } });
    let first = ada.with_header(IDEMPOTENCY_KEY, "key").post(REQUESTS, body.clone()).await.expect(201);
    drop(server);

    let server = Kith::start(kith(folder, SERVE));
    let log_in = json!({ "email": "ada@example.org", "password": PASSWORD });
    let client = Client::new([server.addr]);
    let session = client.post("/api/v1/auth/login", log_in).await.expect(200);
    let ada = client.with_token(session["access_token"].as_str().expect("a token"));
    let again = ada.with_header(IDEMPOTENCY_KEY, "key").post(REQUESTS, body).await;
    assert!(is_replayed(&again));
    assert_eq!(again.expect(201), first);
}

/// Sends the same request to two nodes. Other transactions hold the locks of its users and then the lock of
/// its row, for longer than a duplicate waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_waits_at_most_five_seconds() {
    if !Engine::Postgres.is_chosen() {
        return;
    }
    let (database, elsewhere) = (Engine::Postgres.database().await, TestDatabase::sqlite());
    let folder = elsewhere.folder().expect("a folder");
    let (one, other) = (folder.join("one"), folder.join("other"));
    let nodes = [&one, &other].map(|folder| {
        std::fs::create_dir(folder).expect("a folder");
        Kith::start(kith_on(&database, folder, SERVE))
    });
    let client = Client::new(nodes.iter().map(|node| node.addr).collect::<Vec<_>>());
    let (ada, asks) = register(&client, "ada").await;
    let (ben, accepts) = register(&client, "ben").await;
    let request = asks.post(REQUESTS, json!({ "to": { "user_id": ben } })).await.expect(201);
    let id = request["id"].as_str().expect("an id").to_owned();

    let db = Store::open(database.options()).await.expect("the same database");
    let users = vec![ada, ben];
    let (let_people_go, held) = hold_transaction(&db, move |tx| {
        tx.lock("user", &users)?;
        tx.one("SELECT 1", &[], |_| Ok(())).map(drop)
    });
    let row = id.clone();
    let (let_row_go, row_held) = hold_transaction(&db, move |tx| {
        tx.exec("UPDATE partner_requests SET message = message WHERE id = $1", params![row]).map(drop)
    });
    held.recv().expect("the transaction holds its locks");
    row_held.recv().expect("the transaction holds its locks");

    let accepts = accepts.with_header(IDEMPOTENCY_KEY, "key");
    let accept = format!("{REQUESTS}/{id}/accept");
    let mut twins = select_all([0, 1].map(|_| Box::pin(accepts.post(&accept, Value::Null))));
    let early = tokio::time::timeout(Duration::from_millis(2_500), &mut twins).await;
    assert!(early.is_err(), "a response arrived while the transaction held the locks");
    drop(let_people_go);
    let (timed_out, _, rest) = twins.await;
    assert_eq!(timed_out.header("retry-after"), Some("1"));
    timed_out.expect_problem(409, "idempotency_in_progress");
    drop(let_row_go);
    let made = join_all(rest).await.remove(0);
    assert!(!is_replayed(&made));
    let made = made.expect(200);
    let again = accepts.post(&accept, Value::Null).await;
    assert!(is_replayed(&again));
    assert_eq!(again.expect(200), made);
    db.close().await;
}
