//! Authorization matrix: every operation of the OpenAPI document, called by every kind of caller.
//!
//! The expected responses are derived from the document and from the table of roles and permissions, not from
//! a server.

use std::fmt;

use hyper::header::AUTHORIZATION;
use kith_kernel::minutes;
use kith_platform::auth::{PERMISSIONS, Role};
use serde_json::{Value, json};

use crate::support::{
    API_KEYS, Access, ApiKey, Client, Operation, PASSWORD, Request, TestApp, TestResponse, TestUser,
    note_trials, on_every_engine,
};

on_every_engine! {
    authorization_matrix_matches_document,
}

/// Kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallerKind {
    /// Caller without a valid access token.
    Unauthenticated(InvalidToken),
    /// User with this role who is not involved in the resource of the request.
    UserWithRole(Role),
    /// Owner of the resource in the request.
    Owner,
    /// Program with an API key.
    Program(ApiKeyKind),
}

/// API key of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApiKeyKind {
    /// The key has those permissions required by the operation that a key can have.
    WithScopes,
    /// The key has all permissions that a key can have, except those required by the operation.
    WithoutScopes,
    Expired,
    Revoked,
    Malformed,
}

/// Reason for which a token is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InvalidToken {
    Missing,
    Malformed,
    Expired,
    Tampered,
}

const CALLERS: [CallerKind; 14] = [
    CallerKind::Unauthenticated(InvalidToken::Missing),
    CallerKind::Unauthenticated(InvalidToken::Malformed),
    CallerKind::Unauthenticated(InvalidToken::Expired),
    CallerKind::Unauthenticated(InvalidToken::Tampered),
    CallerKind::UserWithRole(Role::User),
    CallerKind::UserWithRole(Role::Business),
    CallerKind::UserWithRole(Role::Moderator),
    CallerKind::UserWithRole(Role::Admin),
    CallerKind::Program(ApiKeyKind::WithScopes),
    CallerKind::Program(ApiKeyKind::WithoutScopes),
    CallerKind::Program(ApiKeyKind::Expired),
    CallerKind::Program(ApiKeyKind::Revoked),
    CallerKind::Program(ApiKeyKind::Malformed),
    CallerKind::Owner,
];

/// Expected response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Success,
    Problem(u16, &'static str),
}

fn expected(operation: &Operation, owned: bool, caller_kind: CallerKind) -> Expected {
    let unauthenticated = Expected::Problem(401, "unauthenticated");
    match (&operation.access, caller_kind) {
        // The first administrator exists, so the link has been used.
        (Access::Public, _) if operation.name == "acceptFirstAdmin" => Expected::Problem(403, "invalid_link"),
        (Access::Public, _) => Expected::Success,
        (_, CallerKind::Unauthenticated(_)) => unauthenticated,
        (access, CallerKind::Program(key)) => match (access, key) {
            (_, ApiKeyKind::Expired | ApiKeyKind::Revoked | ApiKeyKind::Malformed) => unauthenticated,
            (Access::Allowed(permissions), _) if permissions.iter().any(|one| is_for_users_only(one)) => {
                Expected::Problem(403, "api_key_not_accepted")
            }
            (Access::Allowed(_), ApiKeyKind::WithScopes) => Expected::Success,
            (Access::Allowed(_), ApiKeyKind::WithoutScopes) => Expected::Problem(403, "forbidden"),
            (Access::SignedIn | Access::Public, _) => Expected::Problem(403, "api_key_not_accepted"),
        },
        (Access::Allowed(permissions), CallerKind::UserWithRole(role)) => {
            if permissions.iter().all(|permission| role.has(permission)) {
                Expected::Success
            } else {
                Expected::Problem(403, "forbidden")
            }
        }
        // Only a bonded user can break up.
        (Access::SignedIn, CallerKind::UserWithRole(_))
            if operation.canonical_operation_id() == "breakUp" =>
        {
            Expected::Problem(409, "not_bonded")
        }
        // Every role gets 404 for another user's resource.
        (Access::SignedIn, CallerKind::UserWithRole(_)) if owned => Expected::Problem(404, "not_found"),
        (Access::SignedIn, _) | (Access::Allowed(_), CallerKind::Owner) => Expected::Success,
    }
}

/// Permissions that a key cannot have, because with them it could escalate its privileges: managing accounts
/// or keys.
fn is_for_users_only(permission: &str) -> bool {
    ["users.set_role", "users.suspend", "users.verify", "api_keys.write"].contains(&permission)
}

/// Callers, with their tokens and keys.
struct Callers<'a> {
    app: &'a TestApp,
    admin: TestUser,
    expired: String,
    tampered: String,
    expired_key: ApiKey,
    revoked_key: ApiKey,
}

impl<'a> Callers<'a> {
    async fn new(app: &'a TestApp) -> Self {
        let admin = first_admin(app).await;
        let expired = token_of(app, &app.user("expired").await).await;
        let all: Vec<_> = scopes(|_| true);
        let expired_key = app.api_key_until(&admin, &all, Some(app.now() + minutes(15))).await;
        let revoked_key = app.api_key(&admin, &all).await;
        admin.delete(&format!("{API_KEYS}/{}", revoked_key.id), Value::Null).await.expect(204);
        let is_out = async || revoked_key.client.get("/api/v1/me").await.status == 401;
        app.wait_until_on_all_nodes(is_out).await;
        app.advance(minutes(15));
        let tampered = tampered(&token_of(app, &admin).await);
        Self { app, admin, expired, tampered, expired_key, revoked_key }
    }

    /// Returns a new client of this kind of caller.
    async fn client(
        &self,
        caller_kind: CallerKind,
        operation: &Operation,
        request: &Request,
        name: &str,
    ) -> Client {
        let bad = |token: &str| self.app.anonymous().with_header(AUTHORIZATION, &format!("Bearer {token}"));
        match caller_kind {
            CallerKind::Unauthenticated(InvalidToken::Missing) => self.app.anonymous().clone(),
            CallerKind::Unauthenticated(InvalidToken::Malformed) => bad("x.y.z"),
            CallerKind::Unauthenticated(InvalidToken::Expired) => bad(&self.expired),
            CallerKind::Unauthenticated(InvalidToken::Tampered) => bad(&self.tampered),
            CallerKind::UserWithRole(Role::User) => self.app.user(name).await.signed_in().await,
            CallerKind::UserWithRole(role) => {
                let user = self.app.user_with_role(name, role.as_str(), &self.admin).await;
                user.signed_in().await
            }
            CallerKind::Owner => request.by.signed_in().await,
            CallerKind::Program(ApiKeyKind::Expired) => self.expired_key.client.clone(),
            CallerKind::Program(ApiKeyKind::Revoked) => self.revoked_key.client.clone(),
            CallerKind::Program(ApiKeyKind::Malformed) => bad(&self.revoked_key.text[1..]),
            CallerKind::Program(key) => {
                let needed = |scope: &str| match &operation.access {
                    Access::Allowed(permissions) => permissions.iter().any(|one| one == scope),
                    _ => false,
                };
                let fitting = scopes(needed);
                let wanted = if key == ApiKeyKind::WithScopes && !fitting.is_empty() {
                    fitting
                } else {
                    scopes(|one| !needed(one))
                };
                self.app.api_key(&self.admin, &wanted).await.client
            }
        }
    }
}

/// Returns the permissions that a key can have and that satisfy `wanted`.
fn scopes(wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let all = PERMISSIONS.iter().map(|(name, _)| *name);
    all.filter(|name| !is_for_users_only(name) && wanted(name)).collect()
}

/// Uses the first-administrator link, which works once and needs no sign-in. Returns a second administrator.
async fn first_admin(app: &TestApp) -> TestUser {
    let secret = app.first_admin_secret().await;
    let body = json!({
        "secret": secret, "email": "first@example.org", "password": PASSWORD, "display_name": "First",
    });
    app.anonymous().post("/api/v1/auth/first-admin", body).await.expect(201);
    app.admin("second").await
}

async fn token_of(app: &TestApp, user: &TestUser) -> String {
    let body = json!({ "email": user.email, "password": PASSWORD });
    let session = app.anonymous().post("/api/v1/auth/login", body).await.expect(200);
    session["access_token"].as_str().expect("a token").to_owned()
}

/// Returns the token with a changed signature.
fn tampered(token: &str) -> String {
    let (text, signature) = token.rsplit_once('.').expect("a signature");
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    format!("{text}.{flipped}{}", &signature[1..])
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("a success"),
            Self::Problem(status, code) => write!(f, "{status} {code}"),
        }
    }
}

/// Returns the faults of a response.
fn faults(
    request: &Request,
    operation: &Operation,
    expected: Expected,
    response: &TestResponse,
) -> Vec<String> {
    let right = match expected {
        Expected::Success => {
            return error_unless(operation.successes.contains(&response.status), expected, response);
        }
        Expected::Problem(status, code) => response.status == status && is_code(&response.body["code"], code),
    };
    let mut faults = error_unless(right, expected, response);
    let body = response.body.to_string();
    if body.contains(&request.by.email) || body.contains(&request.by.name) {
        faults.push("the response contains the name or e-mail address of the user".to_owned());
    }
    faults
}

fn error_unless(right: bool, expected: Expected, response: &TestResponse) -> Vec<String> {
    if right {
        vec![]
    } else {
        vec![format!("expected {expected}, received {} {}", response.status, response.body["code"])]
    }
}

/// Returns true if the problem code is `code`. For `not_found`, codes that end with `_not_found` are accepted
/// too, because modules use them for their own resources.
fn is_code(value: &Value, code: &str) -> bool {
    value.as_str().is_some_and(|value| value == code || code == "not_found" && value.ends_with("_not_found"))
}

/// ACC-03, ACC-09, ACC-10, ACC-13: every kind of caller gets the declared status from every operation. A
/// rejection changes nothing and reveals no data.
async fn authorization_matrix_matches_document(app: &TestApp) {
    let callers = Callers::new(app).await;
    let operations = app.operations().await;
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for operation in &operations {
        for caller_kind in CALLERS {
            let name = format!("{}-{cells}", operation.name.replace('_', "-"));
            let request = request_for(app, operation, &name).await;
            if caller_kind == CallerKind::Owner && !request.owned {
                continue;
            }
            let client = callers.client(caller_kind, operation, &request, &name).await;
            let before = app.footprint().await;
            let path = request.path(operation);
            let response = client.send(operation.method.clone(), &path, request.bytes()).await;
            let expected = expected(operation, request.owned, caller_kind);
            let mut found = faults(&request, operation, expected, &response);
            if expected != Expected::Success && app.footprint().await != before {
                found.push("a rejected request wrote an audit entry or event".to_owned());
            }
            wrong.extend(
                found.into_iter().map(|fault| format!("{} by {caller_kind:?}: {fault}", operation.name)),
            );
            cells += 1;
        }
    }
    assert!(wrong.is_empty(), "wrong responses in {cells} cells: {wrong:#?}");
    note_trials(
        "ACC-09",
        "every operation by every role, on own and other users' objects, answers as documented",
        cells,
    );
    println!("{} operations, {cells} cells, all responses as documented", operations.len());
}

/// Returns a request that succeeds. For the first-administrator link, which is already used, any well-formed
/// secret suffices.
async fn request_for(app: &TestApp, operation: &Operation, name: &str) -> Request {
    if operation.name != "acceptFirstAdmin" {
        return app.request_for(operation, name).await;
    }
    let by = app.user(&format!("{name}-by")).await;
    let body = json!({
        "secret": "A".repeat(43), "email": format!("{name}@example.com"), "password": PASSWORD, "display_name": name,
    });
    Request { by, owned: false, parameter: String::new(), query: "", body }
}
