//! Attacks with ids of other users' objects, and with API keys on reserved queues and schedules.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, text};
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, format_response, status_in};

/// Ids of objects that belong to `ada` and `ben`. `eve` tries to access them.
struct ForeignObjects {
    request: String,
    session: String,
    bond: String,
    item: String,
    shared: String,
    invite: String,
}

impl ForeignObjects {
    fn make(server: &AttackedServer) -> Result<Self> {
        let (ada, ben) = (&server.ada, &server.ben);
        let listed =
            server.get(ada, "/api/v1/partners/requests?direction=outgoing&status=accepted")?.expect(200)?;
        let sessions = server.get(ada, "/api/v1/auth/sessions")?.expect(200)?;
        let bond = server.get(ada, "/api/v1/partners/current")?.expect(200)?;
        let data = json!({ "data": { "text": "private" } });
        let item = server.post(ada, "/api/v1/spaces/me/notes", &data)?.expect(201)?;
        let shared = server.post(ben, "/api/v1/spaces/bond/notes", &data)?.expect(201)?;
        let host = server.register("host")?;
        let invite = server.post(&host, "/api/v1/partners/invites", &Value::Null)?.expect(201)?;
        Ok(Self {
            request: text(&listed["items"][0]["id"])?,
            session: text(&sessions["items"][0]["id"])?,
            bond: text(&bond["bond"]["id"])?,
            item: text(&item["id"])?,
            shared: text(&shared["id"])?,
            invite: text(&invite["code"])?,
        })
    }
}

/// Requests each object as `eve`, who must not have access.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("other users' objects");
    let objects = match ForeignObjects::make(server) {
        Ok(objects) => objects,
        Err(error) => return report.attack("making them", DEFAULT_TIME_LIMIT, || Err(error)),
    };
    let ForeignObjects { request, session, bond, item, shared, invite } = &objects;
    let (ada, ben) = (&server.ada.id, &server.ben.id);
    let data = json!({ "data": { "text": "eve was here" } });
    let reason = json!({ "reason": "spam" });
    let none = Value::Null;
    let cases: Vec<(&str, String, &Value)> = vec![
        ("GET", format!("/api/v1/partners/requests/{request}"), &none),
        ("POST", format!("/api/v1/partners/requests/{request}/accept"), &none),
        ("POST", format!("/api/v1/partners/requests/{request}/reject"), &none),
        ("POST", format!("/api/v1/partners/requests/{request}/cancel"), &none),
        ("POST", format!("/api/v1/partners/requests/{request}/report"), &reason),
        ("POST", format!("/api/enhanced-partners/requests/{request}/accept"), &none),
        ("POST", format!("/api/enhanced-partners/requests/{request}/reject"), &none),
        ("POST", format!("/api/enhanced-partners/requests/{request}/cancel"), &none),
        ("DELETE", format!("/api/v1/auth/sessions/{session}"), &none),
        ("GET", format!("/api/v1/spaces/bonds/{bond}/export"), &none),
        ("GET", format!("/api/v1/spaces/{bond}/notes"), &none),
        ("GET", format!("/api/v1/spaces/me/notes/{item}"), &none),
        ("PATCH", format!("/api/v1/spaces/me/notes/{item}"), &data),
        ("DELETE", format!("/api/v1/spaces/me/notes/{item}"), &none),
        ("PUT", format!("/api/v1/spaces/me/notes/{item}"), &data),
        ("GET", format!("/api/v1/spaces/me/notes/{shared}"), &none),
        ("GET", format!("/api/v1/spaces/bond/notes/{shared}"), &none),
        ("PATCH", format!("/api/v1/spaces/bond/notes/{shared}"), &data),
        ("PUT", format!("/api/v1/spaces/bond/notes/{shared}"), &data),
        ("DELETE", format!("/api/v1/spaces/bond/notes/{shared}"), &none),
        ("GET", format!("/api/v1/spaces/{ada}/notes"), &none),
        ("DELETE", format!("/api/v1/partners/invites/{invite}"), &none),
        ("GET", format!("/api/v1/nicknames/{ada}"), &none),
        ("GET", format!("/api/v1/blocks/{ben}"), &none),
        ("GET", format!("/api/v1/admin/users/{ada}"), &none),
        ("PUT", format!("/api/v1/admin/users/{}/role", server.eve.id), &data),
    ];
    for (method, path, body) in cases {
        report.attack(&format!("{method} {}", shape(&path)), DEFAULT_TIME_LIMIT, || {
            let response = server.call(method, &path, Some(&server.eve.token), body)?;
            status_in(&response, &[403, 404, 409])
        });
    }
    report.attack("other users' data is unchanged", DEFAULT_TIME_LIMIT, || {
        let own = server.get(&server.ada, &format!("/api/v1/spaces/me/notes/{item}"))?.expect(200)?;
        let both = server.get(&server.ada, &format!("/api/v1/spaces/bond/notes/{shared}"))?.expect(200)?;
        let expected = json!({ "text": "private" });
        ensure!(own["data"] == expected && both["data"] == expected, "{own} and {both}");
        server.get(&server.ada, "/api/v1/me")?.expect(200)?;
        Ok("two items and a session".to_owned())
    });
}

/// Returns the path with ids replaced by `…`.
fn shape(path: &str) -> String {
    let is_id = |part: &str| part.len() > 16 && part.chars().any(|c| c.is_ascii_digit());
    path.split('/').map(|part| if is_id(part) { "…" } else { part }).collect::<Vec<_>>().join("/")
}

/// Calls operations on reserved queues and schedules with an API key. The key has the scopes for these
/// operations, but reserved names must still be rejected.
pub fn reserved(server: &AttackedServer, report: &mut AttackReport) {
    report.group("API keys at what Kith uses for itself");
    let scopes =
        ["jobs.read", "jobs.write", "jobs.work", "queues.write", "schedules.read", "schedules.write"];
    let found = server.api_key("everything about jobs", &scopes).and_then(|key| {
        let declared = server.get(&server.admin, "/api/v1/schedules?declared=true")?.expect(200)?;
        Ok((key, text(&declared["items"][0]["name"]).context("a schedule of a module")?))
    });
    let (key, declared) = match found {
        Ok(found) => found,
        Err(error) => return report.attack("making a key", DEFAULT_TIME_LIMIT, || Err(error)),
    };
    let empty = json!({});
    let span = json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:05:00Z" });
    let cases: &[(&str, String, Value)] = &[
        ("POST", "/api/v1/queues/callbacks/claim".into(), empty.clone()),
        ("POST", "/api/v1/queues/maintenance/claim".into(), empty.clone()),
        ("POST", "/api/v1/queues/maintenance/pause".into(), Value::Null),
        ("POST", "/api/v1/queues/maintenance/resume".into(), Value::Null),
        ("POST", "/api/v1/queues/callbacks/drain".into(), Value::Null),
        ("PUT", "/api/v1/queues/callbacks".into(), json!({ "concurrency": 1 })),
        ("POST", "/api/v1/jobs".into(), json!({ "kind": "mine", "queue": "maintenance" })),
        ("POST", "/api/v1/jobs".into(), json!({ "kind": "callbacks.deliver", "queue": "mine" })),
        ("POST", "/api/v1/jobs/bulk".into(), json!({ "jobs": [{ "kind": "mine", "queue": "callbacks" }] })),
        ("PUT", "/api/v1/job-kinds/callbacks.deliver".into(), empty.clone()),
        ("DELETE", "/api/v1/job-kinds/callbacks.deliver".into(), Value::Null),
        ("POST", "/api/v1/jobs/redrive".into(), json!({ "queue": "callbacks" })),
        ("POST", "/api/v1/jobs/discard".into(), json!({ "kind": "callbacks.deliver" })),
        (
            "PUT",
            "/api/v1/schedules/mine".into(),
            json!({ "queue": "maintenance", "kind": "mine", "schedule": "@daily" }),
        ),
        ("POST", format!("/api/v1/schedules/{declared}/run"), Value::Null),
        ("POST", format!("/api/v1/schedules/{declared}/pause"), Value::Null),
        ("POST", format!("/api/v1/schedules/{declared}/backfill"), span),
    ];
    for (method, path, body) in cases {
        report.attack(&format!("{method} {path} {}", shorten(body)), DEFAULT_TIME_LIMIT, || {
            let response = server.call(method, path, Some(&key), body)?;
            ensure!(response.code() == "reserved", "returned {}", format_response(&response));
            status_in(&response, &[403])
        });
    }
    report.attack("an API key creates an API key", DEFAULT_TIME_LIMIT, || {
        let body = json!({ "name": "more", "scopes": ["users.read"] });
        status_in(&server.call("POST", "/api/v1/admin/api-keys", Some(&key), &body)?, &[403])
    });
    report.attack("a revoked key", DEFAULT_TIME_LIMIT, || {
        let body = json!({ "name": "short-lived", "scopes": ["jobs.read"] });
        let made = server.post(&server.admin, "/api/v1/admin/api-keys", &body)?.expect(201)?;
        let (key, id) = (text(&made["key"])?, text(&made["id"])?);
        server.call("GET", "/api/v1/jobs", Some(&key), &Value::Null)?.expect(200)?;
        let path = format!("/api/v1/admin/api-keys/{id}");
        server.call("DELETE", &path, Some(&server.admin.token), &Value::Null)?.expect(204)?;
        status_in(&server.call("GET", "/api/v1/jobs", Some(&key), &Value::Null)?, &[401])
    });
}

fn shorten(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}
