//! Operations of the OpenAPI document of a deployment, prepared for the account checks.

use http::Method;
use kith_readiness::{CheckResponse, Client, Run, Shortfall};
use serde_json::{Value, json};

/// Id that identifies no user and no resource.
pub(super) const UNKNOWN_USER: &str = "01900000-0000-7000-8000-000000000000";
/// Name of a collection that does not exist.
const UNKNOWN_COLLECTION: &str = "kith-verify-nothing";

/// Operation of the OpenAPI document.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// `operationId` in the document.
    pub name: String,
    pub method: Method,
    /// Path template with parameter names in braces.
    pub path: String,
    /// Required permissions. `None` if the operation is public.
    pub permissions: Option<Vec<String>>,
    /// True if the operation has a request body.
    pub takes_body: bool,
    /// Response statuses that the document declares.
    pub statuses: Vec<u16>,
}

impl Operation {
    fn read(path: &str, method: &str, operation: &Value) -> Option<Self> {
        let permissions = operation["security"].as_array().and_then(|schemes| schemes.first());
        let permissions = permissions.map(|scheme| serde_json::from_value(scheme["bearer"].clone()));
        Some(Self {
            name: operation["operationId"].as_str()?.to_owned(),
            method: method.to_uppercase().parse().ok()?,
            path: path.to_owned(),
            permissions: permissions.transpose().ok()?,
            takes_body: !operation["requestBody"].is_null(),
            statuses: operation["responses"]
                .as_object()?
                .keys()
                .filter_map(|status| status.parse().ok())
                .collect(),
        })
    }

    /// Returns the operation id without the suffix `ByOldPath`, which marks an old path of the same
    /// operation.
    pub fn canonical_operation_id(&self) -> &str {
        self.name.strip_suffix("ByOldPath").unwrap_or(&self.name)
    }

    /// Returns the path with its parameters replaced by `given`, in order.
    pub fn path_with(&self, given: &[&str]) -> String {
        let mut parts = self.path.split('{');
        let mut path = parts.next().unwrap_or_default().to_owned();
        for (part, value) in parts.zip(given) {
            path += value;
            path += part.split_once('}').map_or("", |(_, rest)| rest);
        }
        path
    }

    /// Returns the path with parameter values that identify no existing resource.
    pub fn unknown_resource_path(&self) -> String {
        let given: Vec<_> =
            self.path.split('{').skip(1).map(|part| unknown_value(part.split('}').next())).collect();
        self.path_with(&given)
    }

    /// Sends the operation with an invalid body for a resource that does not exist, so that nothing changes.
    pub async fn send_invalid(&self, client: &Client) -> Result<CheckResponse, Shortfall> {
        let body = if self.takes_body { json!({ "kith-verify": 1 }).to_string() } else { String::new() };
        Ok(client.send(self.method.clone(), &self.unknown_resource_path(), body.into()).await?)
    }

    /// Returns true if the operation exists in development mode only.
    pub fn is_for_development(&self) -> bool {
        self.path.starts_with("/dev/") || self.path.starts_with("/demo")
    }
}

fn unknown_value(parameter: Option<&str>) -> &'static str {
    match parameter.unwrap_or_default() {
        "space" => "me",
        "collection" | "name" => UNKNOWN_COLLECTION,
        // This value does not have the format of an invite code, so it does not count as a failed attempt.
        "code" | "file" => "nothing",
        // This value is no valid queue or job kind, so no queue is paused.
        "queue" | "kind" => "~",
        _ => UNKNOWN_USER,
    }
}

/// Returns all operations of the deployment's document.
pub(super) async fn operations(run: &Run) -> Result<Vec<Operation>, Shortfall> {
    let document = run.document().await?;
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (path, method, operation))
    });
    let read = all.map(|(path, method, operation)| {
        Operation::read(path, method, operation).ok_or_else(|| {
            Shortfall::fails(format!(
                "the OpenAPI document does not state the permissions of {method} {path}"
            ))
        })
    });
    let operations: Vec<_> = read.collect::<Result<_, _>>()?;
    if operations.is_empty() {
        return Err(Shortfall::fails("the OpenAPI document has no operations"));
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_permissions_are_read_from_document() {
        let read = |path, operation: Value| Operation::read(path, "put", &operation);
        let responses = json!({ "200": {}, "404": {} });
        let role = read(
            "/users/{id}/role",
            json!({ "operationId": "setRole", "security": [{ "bearer": ["users.set_role"] }], "requestBody": {},
                    "responses": responses }),
        );
        let role = role.unwrap();
        assert_eq!(role.unknown_resource_path(), format!("/users/{UNKNOWN_USER}/role"));
        assert_eq!((role.permissions, role.takes_body), (Some(vec!["users.set_role".to_owned()]), true));
        assert_eq!(role.statuses, [200, 404]);
        let item = read("/spaces/{space}/{collection}/{id}", json!({ "operationId": "x", "responses": {} }))
            .unwrap();
        assert_eq!(item.unknown_resource_path(), format!("/spaces/me/{UNKNOWN_COLLECTION}/{UNKNOWN_USER}"));
        assert_eq!(item.path_with(&["bond", "notes", "7"]), "/spaces/bond/notes/7");
        assert_eq!((item.permissions, item.takes_body), (None, false));
        assert!(read("/x", json!({})).is_none());
    }
}
