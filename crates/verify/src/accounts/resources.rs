//! Checks that every kind of resource can be created, read, changed and deleted, and that every list can be
//! read.

use kith_readiness::{Check, CheckResponse, Client, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use super::operations::operations;
use crate::synthetic_accounts::{REQUESTS, break_up, decide, ensure, send_request, unbonded_account};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-12",
    description: "calls every documented GET operation without path parameters, and creates, reads, changes and \
           deletes one resource of each kind",
    remediation: DEFAULT_REMEDIATION,
    runs_last: false,
    run: |run| Box::pin(work(run)),
}];

async fn work(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 3).await?, unbonded_account(run, 5).await?);
    let read = read_all(run, &ada).await?;
    let mut table = ActionTable { run, rows: Vec::new() };
    space(&mut table, &ada, "me").await?;
    check_put_get_delete(
        &mut table,
        &ada,
        "nickname",
        &format!("/api/v1/nicknames/{}", ben.id),
        json!({ "nickname": "Bear" }),
    )
    .await?;
    check_put_get_delete(&mut table, &ada, "block", &format!("/api/v1/blocks/{}", ben.id), Value::Null)
        .await?;
    check_patch(&mut table, &ada, "profile", "/api/v1/me", "theme", json!("dark")).await?;
    check_patch(&mut table, &ada, "partner settings", "/api/v1/partners/settings", "discreet", json!(true))
        .await?;
    invite(&mut table, &ada, &ben).await?;
    partners(&mut table, &ada, &ben).await?;
    let steps: usize = table.rows.iter().map(|(_, verbs)| verbs.len()).sum();
    let kinds = table.rows.len();
    table.summary();
    run.record("reads", read);
    Ok(format!("{read} reads returned 2xx or 3xx; {kinds} kinds of resources passed {steps} steps"))
}

/// Sends every GET operation that has no path parameters. Fails on any status outside 200 to 399. Returns the
/// number of operations.
async fn read_all(run: &Run, ada: &SyntheticAccount) -> Result<usize, Shortfall> {
    let operations = operations(run).await?;
    let open = |operation: &&super::operations::Operation| {
        let needs = operation.permissions.as_ref().is_none_or(Vec::is_empty);
        needs && operation.method == "GET" && !operation.path.contains('{') && !operation.is_for_development()
    };
    let mut read = 0;
    for operation in operations.iter().filter(open) {
        let client = if operation.permissions.is_some() { ada.client.clone() } else { run.anonymous() };
        let response = client.get(&operation.path).await?;
        ensure((200..400).contains(&response.status), || {
            format!("{} returned {}", response.request, response.status)
        })?;
        read += 1;
    }
    Ok(read)
}

/// Record of the actions that were performed on each kind of resource.
struct ActionTable<'r> {
    run: &'r Run,
    rows: Vec<(String, Vec<&'static str>)>,
}

impl ActionTable<'_> {
    fn row(&mut self, kind: &str, verbs: &[&'static str]) {
        self.rows.push((kind.to_owned(), verbs.to_vec()));
    }

    fn summary(&self) {
        let rows: serde_json::Map<_, _> =
            self.rows.iter().map(|(kind, verbs)| (kind.clone(), json!(verbs))).collect();
        self.run.record("resources", rows);
    }
}

/// Returns the JSON body of the response. Fails if its status differs from `status`.
fn expect_json(response: CheckResponse, status: u16) -> Result<Value, Shortfall> {
    Ok(response.expect(status)?.json())
}

async fn space(table: &mut ActionTable<'_>, by: &SyntheticAccount, space: &str) -> Result<(), Shortfall> {
    let collection = format!("/api/v1/spaces/{space}/notes");
    let created = expect_json(by.client.post(&collection, json!({ "data": { "n": 1 } })).await?, 201)?;
    let item = format!("{collection}/{}", created["id"].as_str().unwrap_or_default());
    let reads = async |client: &Client, n: i64| {
        let read = expect_json(client.get(&item).await?, 200)?;
        ensure(read["data"]["n"] == n, || format!("an item of {space} reads {} instead of {n}", read["data"]))
    };
    reads(&by.client, 1).await?;
    let listed = expect_json(by.client.get(&collection).await?, 200)?;
    ensure(
        listed["items"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == created["id"])),
        || format!("an item of {space} is not in its list"),
    )?;
    expect_json(by.client.put(&item, json!({ "data": { "n": 2 } })).await?, 200)?;
    reads(&by.client, 2).await?;
    expect_json(by.client.patch(&item, json!({ "data": { "n": 3 } })).await?, 200)?;
    reads(&by.client, 3).await?;
    by.client.delete(&item, Value::Null).await?.expect(204)?;
    by.client.get(&item).await?.expect(404)?;
    table.row(&format!("space of {space}"), &["create", "read", "list", "replace", "patch", "delete"]);
    Ok(())
}

/// Creates a resource by PUT, reads it by GET, and deletes it by DELETE.
async fn check_put_get_delete(
    table: &mut ActionTable<'_>,
    by: &SyntheticAccount,
    kind: &str,
    path: &str,
    body: Value,
) -> Result<(), Shortfall> {
    by.client.put(path, body).await?.expect(200)?;
    by.client.get(path).await?.expect(200)?;
    by.client.delete(path, Value::Null).await?.expect(204)?;
    by.client.get(path).await?.expect(404)?;
    table.row(kind, &["create", "read", "delete"]);
    Ok(())
}

/// Changes a field of a resource that cannot be deleted, and restores its previous value.
async fn check_patch(
    table: &mut ActionTable<'_>,
    by: &SyntheticAccount,
    kind: &str,
    path: &str,
    field: &str,
    value: Value,
) -> Result<(), Shortfall> {
    let before = expect_json(by.client.get(path).await?, 200)?[field].take();
    for wanted in [value, before] {
        expect_json(by.client.patch(path, json!({ field: wanted })).await?, 200)?;
        let now = expect_json(by.client.get(path).await?, 200)?;
        ensure(now[field] == wanted, || {
            format!("{field} of {kind} reads {} instead of {wanted}", now[field])
        })?;
    }
    table.row(kind, &["read", "change"]);
    Ok(())
}

async fn invite(
    table: &mut ActionTable<'_>,
    by: &SyntheticAccount,
    other: &SyntheticAccount,
) -> Result<(), Shortfall> {
    let created = by.client.post("/api/v1/partners/invites", Value::Null).await?.expect(201)?;
    let path = format!("/api/v1/partners/invites/{}", created.text_at("/code")?);
    other.client.get(&path).await?.expect(200)?;
    by.client.delete(&path, Value::Null).await?.expect(204)?;
    other.client.get(&path).await?.expect(404)?;
    table.row("invite", &["create", "read", "delete"]);
    Ok(())
}

async fn partners(
    table: &mut ActionTable<'_>,
    ada: &SyntheticAccount,
    ben: &SyntheticAccount,
) -> Result<(), Shortfall> {
    let request = send_request(ada, ben).await?;
    ben.client.get(&format!("{REQUESTS}/{request}")).await?.expect(200)?;
    let bond = decide(ben, &request, "accept").await?.expect(200)?.text_at("/bond/id")?;
    table.row("partner request", &["create", "read", "accept"]);
    let now = expect_json(ada.client.get("/api/v1/partners/current").await?, 200)?;
    ensure(now["bond"]["id"] == *bond, || format!("the bond reads {} instead of {bond}", now["bond"]["id"]))?;
    space(table, ben, "bond").await?;
    break_up(ada).await?;
    ada.client.get(&format!("/api/v1/spaces/bonds/{bond}/export")).await?.expect(200)?;
    let history = expect_json(ben.client.get("/api/v1/partners/history").await?, 200)?;
    ensure(history["items"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == *bond)), || {
        "an ended bond is missing from the history".to_owned()
    })?;
    table.row("bond", &["create", "read", "end", "history", "export"]);
    Ok(())
}
