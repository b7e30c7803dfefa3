//! Attacks on authorization: every operation of the OpenAPI document, sent by callers without permission.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::AttackedServer;
use super::report::{AttackReport, format_response};

const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];
/// Id that identifies no resource, used for every path parameter.
const NO_ID: &str = "01900000-0000-7000-8000-000000000000";
const WHOLE_MATRIX: Duration = Duration::from_secs(60);

/// Operation of the OpenAPI document.
struct Operation {
    method: String,
    path: String,
    /// Permissions that a signed-in user needs. `None` if user tokens are not accepted.
    bearer: Option<Vec<String>>,
    /// Scopes that an API key needs. `None` if API keys are not accepted.
    api_key: Option<Vec<String>>,
}

impl Operation {
    /// Returns the path with [`NO_ID`] in place of each parameter.
    fn path_with_unknown_ids(&self) -> String {
        let parts = self.path.split('/').map(|part| if part.starts_with('{') { NO_ID } else { part });
        parts.collect::<Vec<_>>().join("/")
    }

    fn body(&self) -> Value {
        if matches!(self.method.as_str(), "GET" | "DELETE") { Value::Null } else { json!({}) }
    }
}

fn operations(document: &Value) -> Result<Vec<Operation>> {
    let paths = document["paths"].as_object().context("a document without paths")?;
    let mut all = Vec::new();
    for (path, item) in paths {
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let ways = operation["security"].as_array().cloned().unwrap_or_default();
            let scopes = |name: &str| {
                let scopes = ways.iter().find_map(|way| way.get(name))?.as_array()?;
                Some(scopes.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect::<Vec<_>>())
            };
            all.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                bearer: scopes("bearer"),
                api_key: scopes("api_key"),
            });
        }
    }
    Ok(all)
}

/// Sends every operation as each kind of caller and fails if one without permission is accepted.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("operations by callers who may not");
    let document =
        server.call("GET", "/openapi.json", None, &Value::Null).and_then(|found| found.expect(200));
    let all = match document.and_then(|document| operations(&document)) {
        Ok(all) => all,
        Err(error) => return report.attack("the OpenAPI document", WHOLE_MATRIX, || Err(error)),
    };
    let closed = all.iter().filter(|one| one.bearer.is_some());
    let guarded = all.iter().filter(|one| one.bearer.as_ref().is_some_and(|scopes| !scopes.is_empty()));
    report.attack("an anonymous caller", WHOLE_MATRIX, || refuse(server, None, closed.clone(), 401));
    report.attack("a malformed token", WHOLE_MATRIX, || refuse(server, Some("x.y.z"), closed.clone(), 401));
    let eve = server.eve.token.as_str();
    report.attack("a user, where a permission is needed", WHOLE_MATRIX, || {
        refuse(server, Some(eve), guarded.clone(), 403)
    });
    let scopes: BTreeSet<_> = all.iter().filter_map(|one| one.api_key.as_ref()).flatten().collect();
    for scope in scopes {
        report.attack(&format!("an API key of {scope} alone"), WHOLE_MATRIX, || {
            let key = server.api_key(&format!("only {scope}"), &[scope])?;
            let others =
                closed.clone().filter(|one| !one.api_key.as_ref().is_some_and(|own| own.contains(scope)));
            refuse(server, Some(&key), others, 403)
        });
    }
}

fn refuse<'a>(
    server: &AttackedServer,
    token: Option<&str>,
    operations: impl Iterator<Item = &'a Operation>,
    status: u16,
) -> Result<String> {
    let mut path_with_unknown_ids = 0;
    for operation in operations {
        let response =
            server.call(&operation.method, &operation.path_with_unknown_ids(), token, &operation.body())?;
        let Operation { method, path, .. } = operation;
        ensure!(response.status == status, "{method} {path} returned {}", format_response(&response));
        path_with_unknown_ids += 1;
    }
    ensure!(path_with_unknown_ids > 0, "the document has no such operation");
    Ok(format!("{status} from all {path_with_unknown_ids} operations"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_access_is_read_from_openapi_document() {
        let document = json!({ "paths": { "/a/{id}": {
            "get": { "security": [{ "bearer": ["a.read"] }, { "api_key": ["a.read"] }] },
            "post": { "security": [{ "bearer": [] }] },
            "summary": "not an operation",
        }, "/b": { "get": { "security": [] } } } });
        let all = operations(&document).unwrap();
        let found: Vec<_> =
            all.iter().map(|one| (one.method.as_str(), one.path_with_unknown_ids())).collect();
        let id = format!("/a/{NO_ID}");
        assert_eq!(found, [("GET", id.clone()), ("POST", id), ("GET", "/b".to_owned())]);
        assert_eq!(all[0].api_key, Some(vec!["a.read".to_owned()]));
        assert!(all[1].bearer.as_ref().is_some_and(Vec::is_empty) && all[2].bearer.is_none());
    }
}
