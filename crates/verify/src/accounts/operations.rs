//! The operations of the OpenAPI document that a deployment serves, as checks walk them.

use http::Method;
use kith_readiness::{Answer, Client, Run, Shortfall};
use serde_json::{Value, json};

/// An id that nobody and nothing has.
pub(super) const NOBODY: &str = "01900000-0000-7000-8000-000000000000";
/// No collection is called so.
const NO_COLLECTION: &str = "kith-verify-nothing";

/// An operation, as the document has it.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// Its `operationId`.
    pub name: String,
    pub method: Method,
    /// With the names of its parameters in braces.
    pub path: String,
    /// What a caller needs; none if it is open to everybody.
    pub permissions: Option<Vec<String>>,
    /// Whether it takes a body.
    pub takes_body: bool,
    /// The statuses that it declares.
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

    /// Its name, or the name of the one that it is under an old path.
    pub fn by_new_path(&self) -> &str {
        self.name.strip_suffix("ByOldPath").unwrap_or(&self.name)
    }

    /// Its path, with `given` in place of its parameters, one after the other.
    pub fn path_with(&self, given: &[&str]) -> String {
        let mut parts = self.path.split('{');
        let mut path = parts.next().unwrap_or_default().to_owned();
        for (part, value) in parts.zip(given) {
            path += value;
            path += part.split_once('}').map_or("", |(_, rest)| rest);
        }
        path
    }

    /// Its path about nothing that there is.
    pub fn path_to_nothing(&self) -> String {
        let given: Vec<_> =
            self.path.split('{').skip(1).map(|part| nothing(part.split('}').next())).collect();
        self.path_with(&given)
    }

    /// Asks for it about nothing that there is, with a body that it cannot accept, so that nothing changes.
    pub async fn try_it(&self, client: &Client) -> Result<Answer, Shortfall> {
        let body = if self.takes_body { json!({ "kith-verify": 1 }).to_string() } else { String::new() };
        Ok(client.send(self.method.clone(), &self.path_to_nothing(), body.into()).await?)
    }

    /// Whether it is there for developers only.
    pub fn is_for_development(&self) -> bool {
        self.path.starts_with("/dev/") || self.path.starts_with("/demo")
    }
}

fn nothing(parameter: Option<&str>) -> &'static str {
    match parameter.unwrap_or_default() {
        "space" => "me",
        "collection" | "name" => NO_COLLECTION,
        // Of a form that no invite's code has: nobody is held to be guessing.
        "code" | "file" => "nothing",
        // No queue and no kind of jobs can be called so: nothing is paused.
        "queue" | "kind" => "~",
        _ => NOBODY,
    }
}

/// All of them.
pub(super) async fn operations(run: &Run) -> Result<Vec<Operation>, Shortfall> {
    let document = run.document().await?;
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (path, method, operation))
    });
    let read = all.map(|(path, method, operation)| {
        Operation::read(path, method, operation).ok_or_else(|| {
            Shortfall::fails(format!("the OpenAPI document does not say what {method} {path} needs"))
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
    fn an_operation_is_asked_about_nothing_and_needs_what_the_document_says() {
        let read = |path, operation: Value| Operation::read(path, "put", &operation);
        let responses = json!({ "200": {}, "404": {} });
        let role = read(
            "/users/{id}/role",
            json!({ "operationId": "setRole", "security": [{ "bearer": ["users.set_role"] }], "requestBody": {},
                    "responses": responses }),
        );
        let role = role.unwrap();
        assert_eq!(role.path_to_nothing(), format!("/users/{NOBODY}/role"));
        assert_eq!((role.permissions, role.takes_body), (Some(vec!["users.set_role".to_owned()]), true));
        assert_eq!(role.statuses, [200, 404]);
        let item = read("/spaces/{space}/{collection}/{id}", json!({ "operationId": "x", "responses": {} }))
            .unwrap();
        assert_eq!(item.path_to_nothing(), format!("/spaces/me/{NO_COLLECTION}/{NOBODY}"));
        assert_eq!(item.path_with(&["bond", "notes", "7"]), "/spaces/bond/notes/7");
        assert_eq!((item.permissions, item.takes_body), (None, false));
        assert!(read("/x", json!({})).is_none());
    }
}
