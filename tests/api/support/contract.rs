//! Validates each response against the OpenAPI document that the same server serves. Every scenario thereby
//! tests the server and its document.
//!
//! The validator implements the subset of JSON Schema that the document uses, and panics on other keywords.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use hyper::Method;
use hyper::body::Bytes;
use kith::modules::MODULES;
use kith_kernel::{Timestamp, uuid::Uuid};
use kith_platform::Module;
use serde_json::{Map, Value};

use super::TestResponse;

/// Schema keywords that are validated, or that do not constrain a response.
const KNOWN: &[&str] = &[
    "$ref",
    "additionalProperties",
    "allOf",
    "description",
    "enum",
    "example",
    "format",
    "items",
    "minimum",
    "oneOf",
    "properties",
    "propertyNames",
    "required",
    "type",
];

/// OpenAPI document of a server.
pub struct Contract {
    document: Value,
}

/// Descriptions of faults, each with its location.
type FaultList = Vec<String>;

/// Cache of contracts by document, because most servers of a test process serve the same document.
static CONTRACTS: LazyLock<Mutex<HashMap<Bytes, Arc<Contract>>>> = LazyLock::new(Mutex::default);

/// Module that serves each path template.
static MODULES_BY_PATH: LazyLock<HashMap<String, &Module>> = LazyLock::new(|| {
    let paths = |module: &&'static Module| {
        (module.routes)().into_openapi().paths.paths.into_keys().collect::<Vec<_>>()
    };
    MODULES.iter().flat_map(|module| paths(module).into_iter().map(move |path| (path, *module))).collect()
});

impl Contract {
    /// Returns the contract of a served document.
    pub fn of(document: Bytes) -> Arc<Self> {
        let mut known = CONTRACTS.lock().unwrap_or_else(PoisonError::into_inner);
        let read = known.entry(document).or_insert_with_key(|document| {
            Arc::new(Self::new(serde_json::from_slice(document).expect("JSON")))
        });
        Arc::clone(read)
    }

    /// Creates the contract of a parsed document.
    fn new(document: Value) -> Self {
        Self { document }
    }

    /// Returns the faults of a response to a request for `path`.
    pub fn faults(&self, method: &Method, path: &str, answer: &TestResponse) -> FaultList {
        let Some((template, operation)) = self.find_operation(method, path) else {
            return self.faults_of_no_operation(answer);
        };
        let mut faults = self.faults_of_response(method, &operation["responses"], answer);
        if answer.status >= 400 && !is_own_problem(template, &answer.body) {
            faults.push(format!("{} is not a problem of the operation's module", answer.body["code"]));
        }
        faults
    }

    /// Returns the faults of a response to a request that matches no operation. Only the router may send it.
    fn faults_of_no_operation(&self, answer: &TestResponse) -> FaultList {
        let mut faults = Vec::new();
        if ![404, 405, 413, 429].contains(&answer.status) {
            faults.push("no operation of the document matches the request".to_owned());
        }
        self.check(&self.document["components"]["schemas"]["ProblemBody"], &answer.body, "", &mut faults);
        faults
    }

    /// Returns the operation whose path template matches with the fewest parameters, and that template.
    fn find_operation(&self, method: &Method, path: &str) -> Option<(&str, &Value)> {
        let path = path.split('?').next().unwrap_or_default();
        let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
        let paths = self.document["paths"].as_object().expect("paths");
        let fitting = paths.iter().filter(|(template, _)| fits(template, path));
        let (template, item) = fitting.min_by_key(|(template, _)| template.matches('{').count())?;
        Some((template, item.get(method.as_str().to_lowercase())?))
    }

    fn faults_of_response(&self, method: &Method, responses: &Value, answer: &TestResponse) -> FaultList {
        let Some(response) = responses.get(answer.status.to_string()) else {
            return vec!["the status is not declared".to_owned()];
        };
        let kind = answer.header("content-type").unwrap_or_default();
        let Some(declared) = response["content"].as_object() else {
            let nothing = kind.is_empty() && answer.body.is_null();
            return if nothing { vec![] } else { vec!["no content is declared".to_owned()] };
        };
        let mut faults = Vec::new();
        match declared.get(kind) {
            Some(content) if *method != Method::HEAD => {
                self.check(&content["schema"], &answer.body, "", &mut faults);
            }
            Some(_) => {}
            None => faults.push(format!("content of type {kind:?} is not declared")),
        }
        faults
    }

    /// Validates `value` at location `at` against `schema` and adds faults.
    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut FaultList) {
        let schema = self.resolve(schema);
        let unknown =
            schema.as_object().into_iter().flatten().find(|(word, _)| !KNOWN.contains(&word.as_str()));
        assert_eq!(unknown, None, "the document uses a keyword that the contract check does not support");
        if let Some(options) = schema["oneOf"].as_array() {
            if !options.iter().any(|option| self.is(option, value)) {
                faults.push(format!("{at}: {value} matches none of the declared schemas"));
            }
            return;
        }
        check_type(schema, value, at, faults);
        check_text(schema, value, at, faults);
        // Properties of an object are collected from all parts of `allOf` and validated together.
        if !value.is_object() {
            let parts = schema["allOf"].as_array().into_iter().flatten();
            parts.for_each(|part| self.check(part, value, at, faults));
        }
        match value {
            Value::Object(object) => self.check_object(schema, object, at, faults),
            Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| {
                self.check(&schema["items"], item, &format!("{at}/{n}"), faults);
            }),
            _ => {}
        }
    }

    fn is(&self, schema: &Value, value: &Value) -> bool {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults.is_empty()
    }

    fn check_object(&self, schema: &Value, object: &Map<String, Value>, at: &str, faults: &mut FaultList) {
        let mut shape = ObjectShape::default();
        self.add_shape(schema, &mut shape);
        for name in shape.required.iter().filter(|name| !object.contains_key(**name)) {
            faults.push(format!("{at}/{name} is missing"));
        }
        let declares_nothing = shape.properties.is_empty() && shape.others.is_none();
        for (name, value) in object.iter().filter(|_| !declares_nothing) {
            match shape.properties.get(name.as_str()).copied().or(shape.others) {
                Some(schema) => self.check(schema, value, &format!("{at}/{name}"), faults),
                None => faults.push(format!("{at}/{name} is not declared")),
            }
        }
    }

    /// Collects the properties of a schema and of the parts of its `allOf`.
    fn add_shape<'s>(&'s self, schema: &'s Value, shape: &mut ObjectShape<'s>) {
        let schema = self.resolve(schema);
        let names = schema["required"].as_array().into_iter().flatten();
        shape.required.extend(names.filter_map(Value::as_str));
        let properties = schema["properties"].as_object().into_iter().flatten();
        shape.properties.extend(properties.map(|(name, schema)| (name.as_str(), schema)));
        shape.others =
            shape.others.or(schema.get("additionalProperties").filter(|others| others.is_object()));
        schema["allOf"].as_array().into_iter().flatten().for_each(|part| self.add_shape(part, shape));
    }

    fn resolve<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        reference
            .map_or(schema, |pointer| self.document.pointer(pointer).expect("the referenced schema exists"))
    }
}

/// Allowed and required properties of an object.
#[derive(Default)]
struct ObjectShape<'s> {
    properties: BTreeMap<&'s str, &'s Value>,
    required: Vec<&'s str>,
    /// Schema of additional properties.
    others: Option<&'s Value>,
}

/// Returns true if a path matches a template.
fn fits(template: &str, path: &str) -> bool {
    template.split('/').count() == path.split('/').count()
        && template.split('/').zip(path.split('/')).all(|(of_template, of_path)| {
            of_template == of_path || of_template.starts_with('{') && !of_path.is_empty()
        })
}

/// Returns true if the operation's module declares the problem, or the problem is common to all modules.
fn is_own_problem(template: &str, problem: &Value) -> bool {
    let Some(code) = problem["code"].as_str() else {
        // Health endpoints return another format. The schema has already validated it.
        return true;
    };
    let own = MODULES_BY_PATH.get(template).into_iter().chain(&MODULES[..1]);
    own.flat_map(|module| module.problems).any(|problem| problem.code == code)
}

fn check_type(schema: &Value, value: &Value, at: &str, faults: &mut FaultList) {
    let is = |kind: &Value| match kind.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        unknown => panic!("the contract check does not support the type {unknown:?}"),
    };
    let kind = &schema["type"];
    let right = match kind {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        kind => is(kind),
    };
    if !right {
        faults.push(format!("{at}: {value} is not of type {kind}"));
    }
}

fn check_text(schema: &Value, value: &Value, at: &str, faults: &mut FaultList) {
    let Some(text) = value.as_str() else { return };
    if schema["enum"].as_array().is_some_and(|listed| !listed.contains(value)) {
        faults.push(format!("{at}: {text:?} is not an allowed value"));
    }
    let right = match schema["format"].as_str() {
        None => true,
        Some("uuid") => text.parse::<Uuid>().is_ok(),
        Some("date-time") => text.parse::<Timestamp>().is_ok(),
        Some(unknown) => panic!("the contract check does not support the format {unknown:?}"),
    };
    if !right {
        faults.push(format!("{at}: {text:?} does not have the declared format"));
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use hyper::header::{CONTENT_TYPE, HeaderValue};
    use serde_json::json;

    use super::*;

    const JSON: &str = "application/json";

    fn contract() -> Contract {
        let thing = json!({
            "type": "object", "required": ["id", "other"],
            "properties": {
                "id": { "type": "string", "format": "uuid" },
                "other": { "oneOf": [{ "$ref": "#/components/schemas/Thing" }, { "type": "null" }] },
                "size": { "type": ["integer", "null"] },
                "word": { "allOf": [{ "type": "string", "enum": ["x"] }, { "description": "A word." }] },
                "tags": { "type": "array", "items": { "type": "string", "enum": ["a", "b"] } },
            },
        });
        let named = json!({
            "allOf": [
                { "$ref": "#/components/schemas/Thing" },
                { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
            ],
        });
        let answers =
            |schema: Value| json!({ "200": { "content": { JSON: { "schema": schema } } }, "204": {} });
        let things = answers(json!({ "$ref": "#/components/schemas/Named" }));
        let counts = answers(json!({ "type": "object", "additionalProperties": { "type": "integer" } }));
        Contract::new(json!({
            "paths": { "/things/{id}": { "get": { "responses": things } }, "/things/all": { "get": { "responses": counts } } },
            "components": { "schemas": { "Thing": thing, "Named": named, "ProblemBody": { "required": ["code"] } } },
        }))
    }

    fn faults(path: &str, status: u16, kind: &'static str, body: Value) -> String {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        contract().faults(&Method::GET, path, &TestResponse { status, headers, body }).join("; ")
    }

    #[test]
    fn declared_response_is_valid() {
        let id = "01900000-0000-7000-8000-000000000000";
        let inner = json!({ "id": id, "other": null });
        let body = json!({ "id": id, "other": inner, "size": 5, "tags": ["a", "b"], "name": "n" });
        assert_eq!(faults("/things/5?x=y", 200, JSON, body), "");
        assert_eq!(faults("/things/all", 200, JSON, json!({ "any": 5 })), "");
        assert_eq!(faults("/things/5", 204, "", Value::Null), "");
        assert_eq!(faults("/nothing", 404, JSON, json!({ "code": "not_found" })), "");
    }

    #[test]
    fn undeclared_response_is_reported() {
        let id = "01900000-0000-7000-8000-000000000000";
        let good = json!({ "id": id, "other": null, "name": "n" });
        let with = |key: &str, value: Value| {
            let mut body = good.clone();
            body[key] = value;
            faults("/things/5", 200, JSON, body)
        };
        assert_eq!(with("id", json!("5")), r#"/id: "5" does not have the declared format"#);
        assert_eq!(with("size", json!(1.5)), r#"/size: 1.5 is not of type ["integer","null"]"#);
        assert_eq!(with("tags", json!(["a", "c"])), r#"/tags/1: "c" is not an allowed value"#);
        assert_eq!(with("word", json!("y")), r#"/word: "y" is not an allowed value"#);
        assert_eq!(with("more", json!(1)), "/more is not declared");
        assert_eq!(
            with("other", json!({ "id": id })),
            format!(r#"/other: {{"id":"{id}"}} matches none of the declared schemas"#)
        );
        assert_eq!(faults("/things/5", 200, JSON, json!({ "id": id, "name": "n" })), "/other is missing");
        assert_eq!(
            faults("/things/all", 200, JSON, json!({ "any": "5" })),
            r#"/any: "5" is not of type "integer""#
        );
        assert_eq!(faults("/things/5", 201, JSON, good.clone()), "the status is not declared");
        assert_eq!(
            faults("/things/5", 200, "text/plain", good.clone()),
            r#"content of type "text/plain" is not declared"#
        );
        assert_eq!(faults("/things/5", 204, JSON, good), "no content is declared");
        assert_eq!(
            faults("/things", 200, JSON, json!({ "code": "x" })),
            "no operation of the document matches the request"
        );
    }
}
