//! Operations of the OpenAPI document, each with a request that succeeds, for tests that cover every
//! operation.

use hyper::Method;
use hyper::body::Bytes;
use kith_accounts::accounts::first_admin;
use kith_kernel::minutes;
use serde_json::{Value, json};

use super::{PASSWORD, REQUESTS, TestApp, TestUser, item};

const LOGIN: &str = "/api/v1/auth/login";
/// Callback target that is never called, because no worker runs the callback jobs in these scenarios.
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
    pub by: TestUser,
    /// True if the request succeeds only for `by`, who owns the resource.
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
    pub fn canonical_operation_id(&self) -> &str {
        self.name.strip_suffix("ByOldPath").unwrap_or(&self.name)
    }

    fn new(path: &str, method: &str, operation: &Value) -> Self {
        let schemes = operation["security"].as_array().into_iter().flatten();
        let permissions: Option<Vec<_>> =
            schemes.map(|scheme| scheme["bearer"].as_array()).next().map(|list| {
                let names = list.expect("the permissions of the bearer scheme").iter();
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
        let offer = first_admin::create_link(self.parts(), "http://localhost").await.expect("a link");
        let link = offer.expect("no administrator exists yet").link;
        link.rsplit('#').next().expect("a fragment").to_owned()
    }

    /// Returns a request that succeeds, sent by a user with the required permissions. `name` must be
    /// different in each call.
    ///
    /// # Panics
    /// Panics if the operation is unknown.
    pub async fn request_for(&self, operation: &Operation, name: &str) -> Request {
        // Names of collections and queues must not contain capital letters.
        let name = &*name.to_ascii_lowercase();
        let by = match operation.access {
            Access::Allowed(_) => self.admin(&format!("{name}-by")).await,
            _ => self.user(&format!("{name}-by")).await,
        };
        let other = self.user(&format!("{name}-other")).await;
        let (owned, parameter, body) = match operation.canonical_operation_id() {
            "listSigningKeys"
            | "oldApiDocs"
            | "health"
            | "metrics"
            | "ping"
            | "docs"
            | "firstAdminPage"
            | "firstAdminScript"
            | "live"
            | "openapi"
            | "ready"
            | "oldSwagger"
            | "getClock"
            | "getLimits"
            | "getFacts"
            | "getLogLevel"
            | "listApiKeys"
            | "listJobs"
            | "listJobKinds"
            | "listQueues"
            | "listAccounts"
            | "listAuditEntries"
            | "listSessions"
            | "endSessions"
            | "getMe"
            | "listMyActivity"
            | "exportMe"
            | "getCurrentBond"
            | "getPartnerSettings"
            | "createInvite"
            | "listBlocks"
            | "listCallbackEndpoints"
            | "listCallbacks"
            | "listCollections"
            | "listSchedules"
            | "previewSchedule"
            | "listInvites"
            | "listNicknames"
            | "listOutbox"
            | "start"
            | "listPartnerHistory"
            | "listRecurringCallbacks"
            | "listPartnerRequests" => (false, String::new(), Value::Null),
            "docsFile" => (false, self.docs_file().await, Value::Null),
            "setLimits" => (false, String::new(), json!({ "disabled": false })),
            "verifyEmailInDevelopment" => (false, String::new(), json!({ "email": other.email })),
            "advanceClock" => (false, String::new(), json!({ "advance": "1ms" })),
            "putClockBack" => (false, String::new(), Value::Null),
            "register" => (false, String::new(), self.newcomer(name)),
            "logIn" => (false, String::new(), credentials(&other)),
            "refreshSession" | "logOut" => {
                let session = self.anonymous().post(LOGIN, credentials(&other)).await.expect(200);
                (false, String::new(), json!({ "refresh_token": session["refresh_token"] }))
            }
            "restoreAccount" => {
                other.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
                (false, String::new(), credentials(&other))
            }
            "acceptFirstAdmin" => {
                let mut body = self.newcomer(name);
                body["secret"] = self.first_admin_secret().await.into();
                (false, String::new(), body)
            }
            "endSession" => (true, a_session(&by).await, Value::Null),
            "deleteMe" => (false, String::new(), json!({ "password": PASSWORD })),
            "updateMe" => (false, String::new(), json!({ "nickname": "Countess" })),
            "changePassword" => {
                let body = json!({ "current_password": PASSWORD, "new_password": "another horse" });
                (false, String::new(), body)
            }
            "sendPartnerRequest" if operation.path.ends_with("/request") => {
                (false, String::new(), json!({ "partnerId": other.id }))
            }
            "sendPartnerRequest" => (false, String::new(), json!({ "to": { "user_id": other.id } })),
            "acceptPartnerRequest" | "rejectPartnerRequest" | "getPartnerRequest" => {
                (true, ask(&other, &by).await, Value::Null)
            }
            "cancelPartnerRequest" => (true, ask(&by, &other).await, Value::Null),
            "reportPartnerRequest" => (true, ask(&other, &by).await, json!({ "reason": "spam" })),
            "breakUp" => {
                ask(&other, &by).await;
                ask(&by, &other).await;
                (false, String::new(), json!({ "reason": "we grew apart" }))
            }
            "changePartnerSettings" => (false, String::new(), json!({ "accepts_requests_from": "invited" })),
            "previewInvite" => (false, an_invite(&other).await, Value::Null),
            "revokeInvite" => (true, an_invite(&by).await, Value::Null),
            "blockUser" | "unblockUser" => (false, other.id, Value::Null),
            "getBlock" => {
                by.put(&format!("/api/v1/blocks/{}", other.id), Value::Null).await.expect(200);
                (true, other.id, Value::Null)
            }
            "setNickname" => (false, other.id, json!({ "nickname": "bear" })),
            "removeNickname" => (false, other.id, Value::Null),
            "getNickname" => {
                by.put(&format!("/api/v1/nicknames/{}", other.id), json!({ "nickname": "bear" }))
                    .await
                    .expect(200);
                (true, other.id, Value::Null)
            }
            "enqueueJob" => (false, String::new(), json!({ "kind": "test", "queue": name })),
            "enqueueJobs" => (false, String::new(), json!({ "jobs": [{ "kind": "test", "queue": name }] })),
            "getJob" | "cancelJob" => (false, a_job(&by, name).await.to_string(), Value::Null),
            "watchJob" => {
                let id = a_job(&by, name).await;
                by.post(&format!("/api/v1/jobs/{id}/cancel"), Value::Null).await.expect(200);
                (false, id.to_string(), Value::Null)
            }
            "retryJob" => {
                let body = json!({ "kind": "test", "queue": name, "delay_ms": 60_000 });
                let job = by.post("/api/v1/jobs", body).await.expect(201);
                (false, job["id"].to_string(), Value::Null)
            }
            "redriveJobs" | "discardJobs" => (false, String::new(), json!({ "queue": name })),
            "claimJobs" => (false, name.to_owned(), json!({})),
            "heartbeatJob" | "completeJob" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token }))
            }
            "reportProgress" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token, "progress": 50 }))
            }
            "logLine" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token, "line": "half done" }))
            }
            "failJob" => {
                let (id, token) = a_claimed_job(&by, name).await;
                (false, id, json!({ "lease_token": token, "error": "oh" }))
            }
            "getQueue" | "pauseQueue" | "resumeQueue" | "drainQueue" => (false, name.to_owned(), Value::Null),
            "limitQueue" => (false, name.to_owned(), json!({ "concurrency": 3 })),
            "declareJobKind" => (false, name.to_owned(), json!({ "queue": "mail" })),
            "getJobKind" | "withdrawJobKind" => {
                by.put(&format!("/api/v1/job-kinds/{name}"), json!({})).await.expect(200);
                (false, name.to_owned(), Value::Null)
            }
            "createApiKey" => (false, String::new(), json!({ "name": name, "scopes": ["jobs.read"] })),
            "getApiKey" | "revokeApiKey" => (false, self.api_key(&by, &["jobs.read"]).await.id, Value::Null),
            "setLogLevel" => (false, String::new(), json!({ "level": "info" })),
            "getAccount" => (false, other.id, Value::Null),
            "setRole" => (false, other.id, json!({ "role": "business" })),
            "verifyEmail" | "releaseEmail" => (false, other.id, Value::Null),
            "suspendAccount" => (false, other.id, json!({ "reason": "rude" })),
            "reinstateAccount" => {
                let suspend = format!("/api/v1/admin/users/{}/suspension", other.id);
                by.put(&suspend, json!({})).await.expect(200);
                (false, other.id, Value::Null)
            }
            "createItem" => (false, "me/notes".into(), json!({ "data": { "n": 1 } })),
            "listItems" => (false, "me/notes".into(), Value::Null),
            "getItem" | "deleteItem" => (true, an_item(&by).await, Value::Null),
            "replaceItem" | "patchItem" => (true, an_item(&by).await, json!({ "data": { "n": 2 } })),
            "exportBondSpace" => (true, by.partners().bond_with(&other).await, Value::Null),
            "createCallback" => (
                false,
                String::new(),
                json!({ "url": ENDPOINT, "body": { "type": "x" }, "run_at": FAR_AHEAD }),
            ),
            "createCallbackEndpoint" => (false, String::new(), json!({ "url": ENDPOINT })),
            "getCallback" | "cancelCallback" => (false, a_callback(&by).await, Value::Null),
            "retryCallback" => {
                let id = a_callback(&by).await;
                by.post(&format!("/api/v1/callbacks/{id}/cancel"), Value::Null).await.expect(200);
                (false, id, Value::Null)
            }
            "createRecurringCallback" => (false, String::new(), every_hour()),
            "getRecurringCallback" | "deleteRecurringCallback" => {
                an_endpoint(&by).await;
                let made = by.post(RECURRING, every_hour()).await.expect(201);
                (false, made["id"].as_str().expect("an id").to_owned(), Value::Null)
            }
            "rotateCallbackSecret" => (false, an_endpoint(&by).await, json!({ "overlap_hours": 1 })),
            "getCallbackEndpoint"
            | "disableCallbackEndpoint"
            | "enableCallbackEndpoint"
            | "pingCallbackEndpoint" => (false, an_endpoint(&by).await, Value::Null),
            "setSchedule" => (false, name.to_owned(), schedule()),
            "getSchedule" | "deleteSchedule" | "listScheduleRuns" | "pauseSchedule" | "resumeSchedule"
            | "runSchedule" => {
                by.put(&format!("/api/v1/schedules/{name}"), schedule()).await.expect(201);
                (false, name.to_owned(), Value::Null)
            }
            "backfillSchedule" => {
                by.put(&format!("/api/v1/schedules/{name}"), schedule()).await.expect(201);
                let past = self.now() - minutes(1);
                (false, name.to_owned(), json!({ "from": past, "to": past }))
            }
            "declareCollection" => (false, name.to_owned(), json!({ "fields": ["n"] })),
            "getCollection" | "withdrawCollection" => {
                by.put(&format!("/api/v1/admin/collections/{name}"), json!({})).await.expect(200);
                (false, name.to_owned(), Value::Null)
            }
            new => panic!("the operation {new} is not listed: state here how it succeeds"),
        };
        let query = if operation.name == "previewSchedule" { "?schedule=@daily" } else { "" };
        Request { by, owned, parameter, query, body }
    }

    fn newcomer(&self, name: &str) -> Value {
        json!({ "email": format!("{name}-new@example.org"), "password": PASSWORD, "display_name": name })
    }

    async fn docs_file(&self) -> String {
        let page = self.anonymous().get("/docs").await.expect(200);
        let (_, rest) = page.as_str().expect("HTML").split_once("/docs/").expect("the page refers to a file");
        rest.split('"').next().expect("the name of the file").to_owned()
    }
}

/// Returns a valid schedule.
fn schedule() -> Value {
    json!({ "queue": "reports", "kind": "reports.write", "schedule": "@daily" })
}

fn credentials(user: &TestUser) -> Value {
    json!({ "email": user.email, "password": PASSWORD })
}

async fn ask(by: &TestUser, of: &TestUser) -> String {
    let body = json!({ "to": { "user_id": of.id }, "message": "Shall we?" });
    let request = by.post(REQUESTS, body).await.expect(201);
    request["id"].as_str().expect("an id").to_owned()
}

async fn an_invite(by: &TestUser) -> String {
    let invite = by.post("/api/v1/partners/invites", Value::Null).await.expect(201);
    invite["code"].as_str().expect("a code").to_owned()
}

fn every_hour() -> Value {
    json!({ "request": { "url": ENDPOINT }, "schedule": "@hourly" })
}

/// Creates an enabled callback endpoint and returns its id.
async fn an_endpoint(by: &TestUser) -> String {
    let made = by.post(ENDPOINTS, json!({ "url": ENDPOINT })).await.expect(201);
    let id = made["id"].as_str().expect("an id").to_owned();
    by.post(&format!("{ENDPOINTS}/{id}/enable"), Value::Null).await.expect(200);
    id
}

/// Creates a callback that is due in the far future and returns its id.
async fn a_callback(by: &TestUser) -> String {
    an_endpoint(by).await;
    let body = json!({ "url": ENDPOINT, "run_at": FAR_AHEAD });
    let made = by.post("/api/v1/callbacks", body).await.expect(201);
    made["id"].as_str().expect("an id").to_owned()
}

/// Creates an item in the user's own space and returns its path parameters.
async fn an_item(by: &TestUser) -> String {
    let path = item(by, "/api/v1/spaces/me/notes", json!({ "n": 1 })).await;
    path.trim_start_matches("/api/v1/spaces/").to_owned()
}

async fn a_session(by: &TestUser) -> String {
    let sessions = by.get(SESSIONS).await.expect(200);
    sessions["items"][0]["id"].as_str().expect("an id").to_owned()
}

/// Enqueues a job and returns its id.
async fn a_job(by: &TestUser, queue: &str) -> i64 {
    let job = by.post("/api/v1/jobs", json!({ "kind": "test", "queue": queue })).await.expect(201);
    job["id"].as_i64().expect("an id")
}

/// Enqueues and claims a job. Returns its id and lease token.
async fn a_claimed_job(by: &TestUser, queue: &str) -> (String, Value) {
    let id = a_job(by, queue).await;
    let claimed = by.post(&format!("/api/v1/queues/{queue}/claim"), json!({})).await.expect(200);
    assert_eq!(claimed["jobs"][0]["id"], id, "{claimed:#}");
    (id.to_string(), claimed["jobs"][0]["lease_token"].clone())
}
