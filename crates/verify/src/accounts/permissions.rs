//! Checks of authorization: requests without a valid token are rejected, and each role has exactly its
//! permissions.

use kith_readiness::{Check, CheckResponse, Client, RolePermissions, Run, Shortfall, SyntheticAccount};
use serde_json::json;

use super::operations::{Operation, operations};
use super::sign_in::read;
use crate::synthetic_accounts::{ensure, log_in, signed_in};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "ACC-03",
        description: "calls every operation that the OpenAPI document marks as secured, without a token and with four invalid tokens",
        remediation: "put the operation behind `SignedIn` or `Allowed`",
        runs_last: false,
        run: |run| Box::pin(check_authentication(run)),
    },
    Check {
        row: "ACC-09",
        description: "calls every operation without a token and in each of the four roles, with ids that do not \
               exist and invalid bodies, so that nothing changes",
        remediation: "put the operation behind `Allowed` with its permission; see which roles have it in `auth/roles.rs`",
        runs_last: false,
        run: |run| Box::pin(check_role_permissions(run)),
    },
];

/// Name of the administrator role in the API.
const ADMIN: &str = "admin";

/// Returns clients without a valid token, each with a description of its fault.
async fn bad_tokens(run: &Run) -> Result<Vec<(&'static str, Client)>, Shortfall> {
    let ada = signed_in(run).await?;
    let session = log_in(run, &ada).await?;
    let ended = session.text_at("/access_token")?;
    let token = json!({ "refresh_token": session.text_at("/refresh_token")? });
    run.anonymous().with_base_url(run.node()).post("/api/v1/auth/logout", token).await?.expect(204)?;
    let anonymous = run.anonymous().with_base_url(run.node());
    let with = |token: &str| anonymous.with_token(token);
    Ok(vec![
        ("no token", anonymous.clone()),
        ("a malformed token", with("x.y.z")),
        ("an expired token", with(&expired(&ada)?)),
        ("a token with an invalid signature", with(&tampered(&ada.access_token))),
        ("the token of an ended session", with(&ended)),
    ])
}

/// Returns an expired token. Its signature is invalid too, because only the server can sign a token. The
/// server's own tests cover validly signed tokens.
fn expired(ada: &SyntheticAccount) -> Result<String, Shortfall> {
    use base64::Engine as _;
    let mut claims = read(&ada.access_token, 1)?;
    for name in ["iat", "nbf", "exp"] {
        claims[name] = (claims[name].as_i64().unwrap_or_default() - 86_400).into();
    }
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    let mut parts: Vec<_> = ada.access_token.split('.').collect();
    parts[1] = &text;
    Ok(parts.join("."))
}

/// Returns the token with a different first character in its signature.
fn tampered(token: &str) -> String {
    let (text, signature) = token.rsplit_once('.').unwrap_or((token, "A"));
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    format!("{text}.{flipped}{}", signature.get(1..).unwrap_or_default())
}

async fn check_authentication(run: &Run) -> Result<String, Shortfall> {
    let operations = operations(run).await?;
    let secured: Vec<_> = operations.iter().filter(|one| one.permissions.is_some()).collect();
    let callers = bad_tokens(run).await?;
    let mut cells = 0;
    for operation in &secured {
        for (what, client) in &callers {
            let response = operation.send_invalid(client).await?;
            ensure(
                response.status == 401 && response.code().is_some_and(|code| code == "unauthenticated"),
                || format!("{} with {what} returned {} instead of 401", response.request, response.status),
            )?;
            cells += 1;
        }
    }
    run.record("operations", secured.len());
    run.record("tokens", callers.iter().map(|(what, _)| *what).collect::<Vec<_>>());
    run.record("cells", cells);
    ensure(cells > 0, || "the OpenAPI document marks no operation as secured".to_owned())?;
    Ok(format!(
        "{cells} of {cells} calls returned 401: {} operations, {} kinds of tokens",
        secured.len(),
        callers.len()
    ))
}

/// Returns a client that is signed in as a user with this role.
async fn client_with_role(run: &Run, role: &str) -> Result<Client, Shortfall> {
    let client = match role {
        ADMIN => run.admin().await?,
        "user" => signed_in(run).await?.client,
        role => {
            let account = run.account(&format!("is-{role}")).await?;
            let path = format!("/api/v1/admin/users/{}/role", account.id);
            let admin = run.admin().await?.with_base_url(run.node());
            admin.put(&path, json!({ "role": role })).await?.expect(200)?;
            account.client
        }
    };
    let client = client.with_base_url(run.node());
    let has = client.get("/api/v1/me").await?.expect(200)?.text_at("/role")?;
    ensure(has == role, || format!("an account with the role {role} reads the role {has}"))?;
    Ok(client)
}

async fn check_role_permissions(run: &Run) -> Result<String, Shortfall> {
    // Only an administrator can set roles.
    run.facts().await?;
    let Some(own) = &run.deployment().target().own_build else {
        return Err(Shortfall::unmeasured(
            "the expected permissions of the roles are not available",
            "run `kith verify` of the build that is deployed",
        ));
    };
    let operations = operations(run).await?;
    let mut matrix = Matrix::default();
    let anonymous = run.anonymous().with_base_url(run.node());
    for operation in &operations {
        matrix.send(operation, None, &anonymous).await?;
    }
    for role in &own.roles {
        let client = client_with_role(run, role.name).await?;
        for operation in &operations {
            matrix.send(operation, Some(role), &client).await?;
        }
    }
    let Matrix { cells, left_out } = matrix;
    run.record("operations", operations.len());
    run.record("cells", cells);
    run.record("cells_left_out", left_out);
    Ok(format!(
        "{cells} of {cells} calls match the document and the permissions of the roles; {left_out} left out: \
         development operations, those that end the caller's session, and those that change the \
         administrator's own data"
    ))
}

#[derive(Default)]
struct Matrix {
    cells: usize,
    left_out: usize,
}

impl Matrix {
    async fn send(
        &mut self,
        operation: &Operation,
        role: Option<&RolePermissions>,
        client: &Client,
    ) -> Result<(), Shortfall> {
        if is_left_out(operation, role) {
            self.left_out += 1;
            return Ok(());
        }
        let response = operation.send_invalid(client).await?;
        let may = match (&operation.permissions, role) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(permissions), Some(role)) => {
                permissions.iter().all(|permission| role.permissions.contains(&&**permission))
            }
        };
        let role_name = role.map_or("anonymous", |role| role.name);
        let request = format!("{} {}", operation.method, operation.path);
        let found = || {
            format!(
                "{request} as {role_name} returned {} ({})",
                response.status,
                response.code().unwrap_or_default()
            )
        };
        ensure(operation.statuses.contains(&response.status), || {
            format!("{}, a status that is not declared", found())
        })?;
        let wanted = if role.is_none() { 401 } else { 403 };
        ensure(is_refused(&response) != may && (may || response.status == wanted), || {
            let wanted = if may { "a result for a permitted caller".to_owned() } else { wanted.to_string() };
            format!("{} instead of {wanted}", found())
        })?;
        self.cells += 1;
        Ok(())
    }
}

/// Returns true if the response rejects the caller because of its permissions, and not the content of the
/// request.
fn is_refused(response: &CheckResponse) -> bool {
    response
        .code()
        .is_some_and(|code| ["unauthenticated", "forbidden", "address_not_listed"].contains(&&*code))
}

fn is_left_out(operation: &Operation, role: Option<&RolePermissions>) -> bool {
    let is_open_write = operation.permissions.as_ref().is_none_or(Vec::is_empty) && operation.method != "GET";
    operation.is_for_development()
        || (operation.name == "endSessions" && role.is_some())
        || (role.is_some_and(|role| role.name == ADMIN) && is_open_write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tampered_token_differs_and_keeps_length() {
        for token in ["a.b.Axyz", "a.b.xyz"] {
            let other = tampered(token);
            assert!(other != token && other.len() == token.len() && other.starts_with("a.b."), "{other}");
        }
    }
}
