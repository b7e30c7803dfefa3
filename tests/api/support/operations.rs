//! Operations of the OpenAPI document, each with a request that succeeds, for tests that walk all of them.

use hyper::Method;
use hyper::body::Bytes;
use kith_accounts::accounts::first_admin;
use kith_kernel::minutes;
use serde_json::{Value, json};

use super::{PASSWORD, Person, REQUESTS, TestApp, item};

const LOGIN: &str = "/api/v1/auth/login";
/// Callback target that is never called: the jobs wait for a worker that no scenario has.
const ENDPOINT: &str = "https://hooks.example.org/kith";
const ENDPOINTS: &str = "/api/v1/callback-endpoints";
const RECURRING: &str = "/api/v1/recurring-callbacks";
const FAR_AHEAD: &str = "2027-01-01T00:00:00Z";
const SESSIONS: &str = "/api/v1/auth/sessions";

/// Operation of the OpenAPI document.
#[derive(Clone, Debug)]
pub struct Operation {
    /// `operationId`.
    pub name: String,
    /// HTTP method.
    pub method: Method,
    /// Path template with parameter names in braces.
    pub path: String,
    /// Access requirement.
    pub access: Access,
    /// Declared statuses of success, including redirections.
    pub successes: Vec<u16>,
}

/// Access requirement of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// No authentication.
    Public,
    /// A signed-in user.
    SignedIn,
    /// A signed-in user with these permissions.
    Allowed(Vec<String>),
}

/// Request that succeeds once.
pub struct Request {
    /// User who sends it.
    pub by: Person,
    /// True if it succeeds for `by` only, who owns its resource.
    pub owned: bool,
    /// Values of the path parameters, separated by slashes.
    pub parameter: String,
    /// Query string appended to the path.
    pub query: &'static str,
    /// Body. `Null` sends none.
    pub body: Value,
}

impl Request {
    /// Returns the path of `operation` with the parameters of this request.
    pub fn path(&self, operation: &Operation) -> String {
        let mut parts = operation.path.split('{');
        let mut path = parts.next().unwrap_or_default().to_owned();
        for (part, parameter) in parts.zip(self.parameter.split('/')) {
            let (_, after) = part.split_once('}').expect("a closed brace");
            path += parameter;
            path += after;
        }
        path + self.query
    }

    /// Returns the body as bytes.
    pub fn bytes(&self) -> Bytes {
        if self.body.is_null() { Bytes::new() } else { Bytes::from(self.body.to_string()) }
    }
}

impl Operation {
    /// Returns the operation id without the suffix `_by_old_path`, which marks an old path of the same
    /// operation.
    pub fn by_new_path(&self) -> &str {
        self.name.strip_suffix("_by_old_path").unwrap_or(&self.name)
    }

    fn new(path: &str, method: &str, operation: &Value) -> Self {
        let schemes = operation["security"].as_array().into_iter().flatten();
        let permissions: Option<Vec<_>> =
            schemes.map(|scheme| scheme["bearer"].as_array()).next().map(|list| {
                let names = list.expect("what a bearer needs").iter();
                names.map(|name| name.as_str().expect("a permission").to_owned()).collect()
            });
        let access = match permissions {
            None => Access::Public,
            Some(none) if none.is_empty() => Access::SignedIn,
            Some(permissions) => Access::Allowed(permissions),
        };
        let statuses = operation["responses"].as_object().expect("responses").keys();
        let statuses = statuses.map(|status| status.parse().expect("a status"));
        Self {
            name: operation["operationId"].as_str().expect("a name").to_owned(),
            method: method.to_uppercase().parse().expect("a method"),
            path: path.to_owned(),
            access,
            successes: statuses.filter(|status| (200..400).contains(status) && *status != 304).collect(),
        }
    }
}

impl TestApp {
    /// Returns all operations of the served document.
    pub async fn operations(&self) -> Vec<Operation> {
        let document = self.anonymous().get("/openapi.json").await.expect(200);
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations").iter();
            methods.map(move |(method, operation)| Operation::new(path, method, operation))
        });
        operations.collect()
    }

    /// Returns the secret of the first-administrator link.
    pub async fn first_admin_secret(&self) -> String {
        let offer = first_admin::offer(self.parts(), "http://localhost").await.expect("a link");
        let link = offer.expect("no administrator yet").link;
        link.rsplit('#').next().expect("a fragment").to_owned()
    }

    /// Returns a request that succeeds, sent by a user with the required permissions. `name` must be new each
    /// time.
    ///
    /// # Panics
    /// Panics if the operation is unknown.
    pub async fn request_for(&self, operation: &Operation, name: &str) -> Request {
        let by = match operation.access {
            Access::Allowed(_) => self.admin(&format!("{name}-by")).await,
            _ => self.user(&format!("{name}-by")).await,
        };
        let other = self.user(&format!("{name}-other")).await;
        let (owned, parameter, body) = match operation.by_new_path() {
            "list_signing_keys"
            | "old_api_docs"
            | "health"
            | "metrics"
            | "ping"
            | "docs"
            | "first_admin_page"
            | "first_admin_script"
            | "live"
            | "openapi"
            | "ready"
            | "old_swagger"
            | "get_clock"
            | "get_limits"
            | "get_facts"
            | "get_log_level"
            | "list_api_keys"
            | "list_jobs"
            | "list_job_kinds"
            | "list_queues"
            | "list_accounts"
            | "list_audit_entries"
            | "list_sessions"
            | "end_sessions"
            | "get_me"
            | "list_my_activity"
            | "export_me"
            | "get_current_bond"
            | "get_partner_settings"
            | "create_invite"
            | "list_blocks"
            | "list_callback_endpoints"
            | "list_callbacks"
            | "list_collections"
            | "list_schedules"
            | "preview_schedule"
            | "list_invites"
            | "list_nicknames"
            | "list_outbox"
            | "start"
            | "list_partner_history"
            | "list_recurring_callbacks"
            | "list_partner_requests" => (false, String::new(), Value::Null),
            "docs_file" => (false, self.docs_file().await, Value::Null),
            "set_limits" => (false, String::new(), json!({ "lifted": false })),
            "verify_email_in_development" => (false, String::new(), json!({ "email": other.email })),
            "advance_clock" => (false, String::new(), json!({ "advance": "1ms" })),
            "put_clock_back" => (false, String::new(), Value::Null),
            "register" => (false, String::new(), self.newcomer(name)),
            "log_in" => (false, String::new(), credentials(&other)),
            "refresh_session" | "log_out" => {
                let session = self.anonymous().post(LOGIN, credentials(&other)).await.expect(200);
                (false, String::new(), json!({ "refresh_token": session["refresh_token"] }))
            }
            "restore_account" => {
                other.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
                (false, String::new(), credentials(&other))
            }
            "accept_first_admin" => {
                let mut body = self.newcomer(name);
                body["secret"] = self.first_admin_secret().await.into();
                (false, String::new(), body)
            }
            "end_session" => (true, a_session(&by).await, Value::Null),
            "delete_me" => (false, String::new(), json!({ "password": PASSWORD })),
            "update_me" => (false, String::new(), json!({ "nickname": "Countess" })),
            "change_password" => {
                let body = json!({ "current_password": PASSWORD, "new_password": "another horse" });
                (false, String::new(), body)
            }
            "send_partner_request" if operation.path.ends_with("/request") => {
                (false, String::new(), json!({ "partnerId": other.id }))
            }
            "send_partner_request" => (false, String::new(), json!({ "to": { "user_id": other.id } })),
            "accept_partner_request" | "reject_partner_request" | "get_partner_request" => {
                (true, ask(&other, &by).await, Value::Null)
            }
            "cancel_partner_request" => (true, ask(&by, &other).await, Value::Null),
            "report_partner_request" => (true, ask(&other, &by).await, json!({ "reason": "spam" })),
            "break_up" => {
                ask(&other, &by).await;
                ask(&by, &other).await;
                (false, String::new(), json!({ "reason": "we grew apart" }))
            }
            "change_partner_settings" => (false, String::new(), json!({ "who_may_ask": "invited" })),
            "preview_invite" => (false, an_invite(&other).await, Value::Null),
            "revoke_invite" => (true, an_invite(&by).await, Value::Null),
            "block_user" | "unblock_user" => (false, other.id, Value::Null),
            "get_block" => {
                by.put(&format!("/api/v1/blocks/{}", other.id), Value::Null).await.expect(200);
                (true, other.id, Value::Null)
            }
            "set_nickname" => (false, other.id, json!({ "nickname": "bear" })),
            "remove_nickname" => (false, other.id, Value::Null),
            "get_nickname" => {
                by.put(&format!("/api/v1/nicknames/{}", other.id), json!({ "nickname": "bear" }))
                    .await
                    .expect(200);
                (true, other.id, Value::Null)
            }
            "enqueue_job" => (false, String::new(), json!({ "kind": "test", "queue": name })),
            "enqueue_jobs" => (false, String::new(), json!({ "jobs": [{ "kind": "test", "queue": name }] })),
            "get_job" | "cancel_job" => (false, a_job(&by, name).await.to_string(), Value::Null),
            "watch_job" => {
                let id = a_job(&by, name).await;
                by.post(&format!("/api/v1/jobs/{id}/cancel"), Value::Null).await.expect(200);
                (false, id.to_string(), Value::Null)
            }
            "retry_job" => {
                let body = json!({ "kind": "test", "queue": name, "delay_ms": 60_000 });
                let job = by.post("/api/v1/jobs", body).await.expect(201);
                (false, job["id"].to_string(), Value::Null)
            }
            "redrive_jobs" | "discard_jobs" => (false, String::new(), json!({ "queue": name })),
            "claim_jobs" => (false, name.to_owned(), json!({})),
            "heartbeat_job" | "complete_job" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token }))
            }
            "report_progress" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token, "progress": 50 }))
            }
            "log_line" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token, "line": "half done" }))
            }
            "fail_job" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token, "error": "oh" }))
            }
            "get_queue" | "pause_queue" | "resume_queue" | "drain_queue" => {
                (false, name.to_owned(), Value::Null)
            }
            "limit_queue" => (false, name.to_owned(), json!({ "concurrency": 3 })),
            "declare_job_kind" => (false, name.to_owned(), json!({ "queue": "mail" })),
            "get_job_kind" | "withdraw_job_kind" => {
                by.put(&format!("/api/v1/job-kinds/{name}"), json!({})).await.expect(200);
                (false, name.to_owned(), Value::Null)
            }
            "create_api_key" => (false, String::new(), json!({ "name": name, "scopes": ["jobs.read"] })),
            "get_api_key" | "revoke_api_key" => {
                (false, self.api_key(&by, &["jobs.read"]).await.id, Value::Null)
            }
            "set_log_level" => (false, String::new(), json!({ "level": "info" })),
            "get_account" => (false, other.id, Value::Null),
            "set_role" => (false, other.id, json!({ "role": "business" })),
            "verify_email" | "release_email" => (false, other.id, Value::Null),
            "suspend_account" => (false, other.id, json!({ "reason": "rude" })),
            "reinstate_account" => {
                let suspend = format!("/api/v1/admin/users/{}/suspension", other.id);
                by.put(&suspend, json!({})).await.expect(200);
                (false, other.id, Value::Null)
            }
            "create_item" => (false, "me/notes".into(), json!({ "data": { "n": 1 } })),
            "list_items" => (false, "me/notes".into(), Value::Null),
            "get_item" | "delete_item" => (true, an_item(&by).await, Value::Null),
            "replace_item" | "patch_item" => (true, an_item(&by).await, json!({ "data": { "n": 2 } })),
            "export_bond_space" => (true, by.partners().bond_with(&other).await, Value::Null),
            "create_callback" => (
                false,
                String::new(),
                json!({ "url": ENDPOINT, "body": { "type": "x" }, "run_at": FAR_AHEAD }),
            ),
            "create_callback_endpoint" => (false, String::new(), json!({ "url": ENDPOINT })),
            "get_callback" | "cancel_callback" => (false, a_callback(&by).await, Value::Null),
            "retry_callback" => {
                let id = a_callback(&by).await;
                by.post(&format!("/api/v1/callbacks/{id}/cancel"), Value::Null).await.expect(200);
                (false, id, Value::Null)
            }
            "create_recurring_callback" => (false, String::new(), every_hour()),
            "get_recurring_callback" | "delete_recurring_callback" => {
                an_endpoint(&by).await;
                let made = by.post(RECURRING, every_hour()).await.expect(201);
                (false, made["id"].as_str().expect("an id").to_owned(), Value::Null)
            }
            "rotate_callback_secret" => (false, an_endpoint(&by).await, json!({ "overlap_hours": 1 })),
            "get_callback_endpoint"
            | "disable_callback_endpoint"
            | "enable_callback_endpoint"
            | "ping_callback_endpoint" => (false, an_endpoint(&by).await, Value::Null),
            "set_schedule" => (false, name.to_owned(), schedule()),
            "get_schedule" | "delete_schedule" | "list_schedule_runs" | "pause_schedule"
            | "resume_schedule" | "run_schedule" => {
                by.put(&format!("/api/v1/schedules/{name}"), schedule()).await.expect(201);
                (false, name.to_owned(), Value::Null)
            }
            "backfill_schedule" => {
                by.put(&format!("/api/v1/schedules/{name}"), schedule()).await.expect(201);
                let past = self.now() - minutes(1);
                (false, name.to_owned(), json!({ "from": past, "to": past }))
            }
            "declare_collection" => (false, name.to_owned(), json!({ "fields": ["n"] })),
            "get_collection" | "withdraw_collection" => {
                by.put(&format!("/api/v1/admin/collections/{name}"), json!({})).await.expect(200);
                (false, name.to_owned(), Value::Null)
            }
            new => panic!("the operation {new} is new: say here how it succeeds"),
        };
        let query = if operation.name == "preview_schedule" { "?schedule=@daily" } else { "" };
        Request { by, owned, parameter, query, body }
    }

    fn newcomer(&self, name: &str) -> Value {
        json!({ "email": format!("{name}-new@example.org"), "password": PASSWORD, "display_name": name })
    }

    async fn docs_file(&self) -> String {
        let page = self.anonymous().get("/docs").await.expect(200);
        let (_, rest) = page.as_str().expect("HTML").split_once("/docs/").expect("a file of the page's");
        rest.split('"').next().expect("its name").to_owned()
    }
}

/// Returns a valid schedule.
fn schedule() -> Value {
    json!({ "queue": "reports", "kind": "reports.write", "schedule": "@daily" })
}

fn credentials(person: &Person) -> Value {
    json!({ "email": person.email, "password": PASSWORD })
}

async fn ask(by: &Person, of: &Person) -> String {
    let body = json!({ "to": { "user_id": of.id }, "message": "Shall we?" });
    let request = by.post(REQUESTS, body).await.expect(201);
    request["id"].as_str().expect("an id").to_owned()
}

async fn an_invite(by: &Person) -> String {
    let invite = by.post("/api/v1/partners/invites", Value::Null).await.expect(201);
    invite["code"].as_str().expect("a code").to_owned()
}

fn every_hour() -> Value {
    json!({ "request": { "url": ENDPOINT }, "schedule": "@hourly" })
}

/// Creates an enabled callback endpoint and returns its id.
async fn an_endpoint(by: &Person) -> String {
    let made = by.post(ENDPOINTS, json!({ "url": ENDPOINT })).await.expect(201);
    let id = made["id"].as_str().expect("an id").to_owned();
    by.post(&format!("{ENDPOINTS}/{id}/enable"), Value::Null).await.expect(200);
    id
}

/// Creates a callback that is due in the far future and returns its id.
async fn a_callback(by: &Person) -> String {
    an_endpoint(by).await;
    let body = json!({ "url": ENDPOINT, "run_at": FAR_AHEAD });
    let made = by.post("/api/v1/callbacks", body).await.expect(201);
    made["id"].as_str().expect("an id").to_owned()
}

/// Creates an item in the user's own space and returns its path parameters.
async fn an_item(by: &Person) -> String {
    let path = item(by, "/api/v1/spaces/me/notes", json!({ "n": 1 })).await;
    path.trim_start_matches("/api/v1/spaces/").to_owned()
}

async fn a_session(by: &Person) -> String {
    let sessions = by.get(SESSIONS).await.expect(200);
    sessions["items"][0]["id"].as_str().expect("an id").to_owned()
}

/// Enqueues a job and returns its id.
async fn a_job(by: &Person, queue: &str) -> i64 {
    let job = by.post("/api/v1/jobs", json!({ "kind": "test", "queue": queue })).await.expect(201);
    job["id"].as_i64().expect("an id")
}

/// Enqueues and claims a job. Returns its id and lease token.
async fn a_claimed_job(by: &Person, queue: &str) -> (String, Value) {
    let id = a_job(by, queue).await;
    let claimed = by.post(&format!("/api/v1/queues/{queue}/claim"), json!({})).await.expect(200);
    assert_eq!(claimed["jobs"][0]["id"], id, "{claimed:#}");
    (id.to_string(), claimed["jobs"][0]["lease_token"].clone())
}
