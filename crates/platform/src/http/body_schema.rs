//! Finds all errors in an invalid request body, with the JSON Schema of the OpenAPI document. serde reports
//! only the first error.

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use http::Method;
use kith_json_schema::{Validator, Violation, ViolationKind, Work};
use kith_kernel::FieldError;
use serde_json::{Value, json};

use super::json::escape;

/// Maximum number of errors in one response.
const MAX_FAULTS: usize = 20;
/// Maximum size in bytes of a body that is checked with its schema. For larger bodies, only the first error
/// is reported, because the memory needed grows with the number of errors.
const MAX_BYTES: usize = 64 * 1024;
const JSON: &str = "application/json";

/// Schemas of request bodies in an OpenAPI 3.1 document. The document is parsed on first use, and each schema
/// is compiled on first use.
pub(crate) struct BodySchemas {
    document: Bytes,
    parsed: OnceLock<Parsed>,
}

/// Schemas of request bodies, by method and path template.
struct Parsed {
    components: Value,
    by_operation: HashMap<(Method, String), LazySchema>,
}

/// Schema of a body. Its validator is compiled on first use.
struct LazySchema {
    schema: Value,
    validator: OnceLock<Option<Validator>>,
}

impl BodySchemas {
    /// Creates the schemas of the OpenAPI document `document`.
    pub const fn new(document: Bytes) -> Self {
        Self { document, parsed: OnceLock::new() }
    }

    fn parse(&self) -> Parsed {
        let document: Value = serde_json::from_slice(&self.document).unwrap_or_default();
        let mut by_operation = HashMap::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let schema = &operation["requestBody"]["content"][JSON]["schema"];
                if let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes())
                    && schema.is_object()
                {
                    let lazy = LazySchema { schema: schema.clone(), validator: OnceLock::new() };
                    by_operation.insert((method, path.clone()), lazy);
                }
            }
        }
        Parsed { components: json!({ "schemas": document["components"]["schemas"] }), by_operation }
    }

    /// Returns the errors of a body that could not be deserialized, at most 20, sorted by pointer. `first` is
    /// the error that deserialization found; it is included. Each pointer has at most one error.
    pub fn all_faults(&self, method: &Method, path: &str, body: &[u8], first: FieldError) -> Vec<FieldError> {
        let found = (body.len() <= MAX_BYTES).then(|| self.find(method, path, body)).flatten();
        let mut faults = vec![first];
        for fault in found.unwrap_or_default() {
            let is_known = |known: &FieldError| known.pointer == fault.pointer;
            if faults.len() < MAX_FAULTS && !faults.iter().any(is_known) {
                faults.push(fault);
            }
        }
        faults.sort_by(|one, other| one.pointer.cmp(&other.pointer));
        faults
    }

    fn find(&self, method: &Method, path: &str, body: &[u8]) -> Option<Vec<FieldError>> {
        let parsed = self.parsed.get_or_init(|| self.parse());
        let lazy = parsed.by_operation.get(&(method.clone(), path.to_owned()))?;
        let validator = lazy.validator.get_or_init(|| parsed.compile(&lazy.schema)).as_ref()?;
        let body: Value = serde_json::from_slice(body).ok()?;
        let violations = validator.violations(&body, MAX_FAULTS, &mut Work::for_request()).ok()?;
        Some(violations.into_iter().map(field_error).collect())
    }
}

impl Parsed {
    fn compile(&self, schema: &Value) -> Option<Validator> {
        let root = json!({ "allOf": [schema], "components": self.components });
        Validator::compile(&root)
            .inspect_err(|error| tracing::error!(%error, "a schema of the OpenAPI document is not valid"))
            .ok()
    }
}

/// Converts a violation to a field error of this API. The error does not contain values, because they can be
/// secrets.
fn field_error(violation: Violation) -> FieldError {
    let Violation { pointer, kind, detail } = violation;
    let (pointer, code, detail) = match kind {
        ViolationKind::MissingField(name) => {
            let pointer = format!("{pointer}/{}", escape(&name));
            (pointer, "missing", "This field is required.".into())
        }
        ViolationKind::UnknownField => (pointer, "unknown_field", "This field does not exist.".into()),
        ViolationKind::WrongType => (pointer, "wrong_type", detail),
        ViolationKind::OutOfRange => (pointer, "out_of_range", detail),
        ViolationKind::TooShort => (pointer, "too_short", detail),
        ViolationKind::TooLong => (pointer, "too_long", detail),
        ViolationKind::TooFew => (pointer, "too_few", detail),
        ViolationKind::TooMany => (pointer, "too_many", detail),
        ViolationKind::Combination => (pointer, "invalid", "The value is not valid for this field.".into()),
        ViolationKind::Other => (pointer, "invalid", detail),
    };
    FieldError::new(pointer, code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas() -> BodySchemas {
        let document = json!({
            "paths": { "/people": { "post": { "requestBody": { "content": { JSON: {
                "schema": { "$ref": "#/components/schemas/Person" },
            } } } } } },
            "components": { "schemas": { "Person": {
                "type": "object",
                "properties": {
                    "name": { "type": "string", "minLength": 1 },
                    "age": { "type": ["integer", "null"], "minimum": 0 },
                    "colour": { "type": "string", "enum": ["red", "blue"] },
                    "friends": { "type": "array", "items": { "$ref": "#/components/schemas/Person" } },
                },
                "required": ["name", "colour"],
                "additionalProperties": false,
            } } },
        });
        BodySchemas::new(document.to_string().into())
    }

    fn faults(body: &str) -> Vec<(String, &'static str)> {
        let first = FieldError::new("/name", "wrong_type", "Expected a string.");
        let faults = schemas().all_faults(&Method::POST, "/people", body.as_bytes(), first);
        assert!(faults.iter().all(|fault| !fault.detail.contains("secret")), "{faults:?}");
        faults.into_iter().map(|fault| (fault.pointer.into_owned(), fault.code)).collect()
    }

    #[test]
    fn each_body_fault_is_reported_once() {
        let body =
            r#"{"name": 5, "age": -1, "nick/name": "secret", "friends": [{"name": "", "colour": "secret"}]}"#;
        assert_eq!(
            faults(body),
            [
                ("/age".to_owned(), "out_of_range"),
                ("/colour".to_owned(), "missing"),
                ("/friends/0/colour".to_owned(), "invalid"),
                ("/friends/0/name".to_owned(), "too_short"),
                ("/name".to_owned(), "wrong_type"),
                ("/nick~1name".to_owned(), "unknown_field"),
            ]
        );
    }

    #[test]
    fn number_of_faults_and_size_of_bodies_are_bounded() {
        let friends = vec!["5"; 1_000].join(",");
        assert_eq!(faults(&format!(r#"{{"name": 5, "friends": [{friends}]}}"#)).len(), MAX_FAULTS);
        let long = " ".repeat(MAX_BYTES);
        assert_eq!(faults(&format!(r#"{{"name": 5{long}}}"#)), [("/name".to_owned(), "wrong_type")]);
    }

    #[test]
    fn operation_without_schema_reports_first_fault() {
        let first = FieldError::new("/a", "invalid", "No.");
        assert_eq!(schemas().all_faults(&Method::PUT, "/people", b"{}", first.clone()), [first]);
    }
}
