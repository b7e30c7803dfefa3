//! Operations of an OpenAPI document: their paths, parameters, bodies and declared statuses.

use http::Method;
use serde_json::{Map, Value, json};

/// Number that identifies no resource.
const UNKNOWN_NUMBER: &str = "999999999999999";
/// Id that identifies no resource.
pub const NO_ID: &str = "00000000-0000-7000-8000-000000000000";
/// Name that identifies no resource.
const UNKNOWN_NAME: &str = "kith-verify";
const METHODS: [(&str, Method); 5] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("patch", Method::PATCH),
];

/// Operation of an OpenAPI document.
#[derive(Clone, Debug)]
pub struct Operation<'d> {
    /// Path template, such as `/api/v1/blocks/{user_id}`.
    pub path: &'d str,
    /// Method: GET, PUT, POST, DELETE or PATCH.
    pub method: Method,
    own: &'d Value,
    document: &'d Value,
}

/// Parameter of an operation.
#[derive(Clone, Debug)]
pub struct Parameter<'d> {
    /// Name of the parameter.
    pub name: &'d str,
    /// Location: `path`, `query` or `header`.
    pub location: &'d str,
    /// Schema of the value.
    pub schema: &'d Value,
}

impl<'d> Operation<'d> {
    /// Returns all operations of `document`.
    pub fn all(document: &'d Value) -> Vec<Self> {
        let paths = document["paths"].as_object().into_iter().flatten();
        let of_path = |(path, item): (&'d String, &'d Value)| {
            METHODS.into_iter().filter_map(move |(name, method)| {
                let own = item.get(name)?;
                Some(Self { path, method, own, document })
            })
        };
        paths.flat_map(of_path).collect()
    }

    /// Returns the method and the path template, such as `GET /api/v1/me`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Returns the operation object of the document.
    pub fn json(&self) -> &'d Value {
        self.own
    }

    /// Returns the declared response statuses.
    pub fn statuses(&self) -> Vec<u16> {
        let declared = self.own["responses"].as_object().into_iter().flatten();
        declared.filter_map(|(status, _)| status.parse().ok()).collect()
    }

    /// Returns true if the operation requires a token.
    pub fn requires_token(&self) -> bool {
        self.own["security"].as_array().is_some_and(|schemes| !schemes.is_empty())
    }

    /// Returns the permission that a signed-in user needs, if any.
    pub fn permission(&self) -> Option<&'d str> {
        self.own["security"][0]["bearer"][0].as_str()
    }

    /// Returns true if the operation exists in development mode only.
    pub fn is_for_development(&self) -> bool {
        self.path.starts_with("/dev/") || matches!(self.own["tags"][0].as_str(), Some("Development" | "Demo"))
    }

    /// Returns true if the operation returns pages of a list.
    pub fn is_list(&self) -> bool {
        self.method == Method::GET && self.parameters("query").any(|parameter| parameter.name == "cursor")
    }

    /// Returns the parameters in `location`, which is `path`, `query` or `header`.
    pub fn parameters(&self, location: &'static str) -> impl Iterator<Item = Parameter<'d>> {
        let document = self.document;
        let all = self.own["parameters"].as_array().into_iter().flatten();
        all.filter(move |parameter| parameter["in"] == location).filter_map(move |parameter| {
            let schema = resolved(document, &parameter["schema"]);
            Some(Parameter { name: parameter["name"].as_str()?, location, schema })
        })
    }

    /// Returns the path. Each parameter is replaced by the result of `fill`.
    pub fn path_with(&self, fill: impl Fn(&Parameter<'d>) -> String) -> String {
        self.parameters("path").fold(self.path.to_owned(), |path, parameter| {
            path.replace(&format!("{{{}}}", parameter.name), &fill(&parameter))
        })
    }

    /// Returns the path with values that identify no resource in place of the parameters.
    pub fn sample_path(&self) -> String {
        self.path_with(Parameter::placeholder)
    }

    /// Returns true if `path` matches the path template.
    pub fn is_at(&self, path: &str) -> bool {
        let (own, other) = (self.path.split('/'), path.split('/'));
        own.clone().count() == other.clone().count()
            && own.zip(other).all(|(own, other)| own.starts_with('{') || own == other)
    }

    /// Returns the schema of the JSON body, if the operation takes one.
    pub fn body(&self) -> Option<&'d Value> {
        let content = self.own.pointer("/requestBody/content")?;
        let schema = resolved(self.document, content.get("application/json")?.get("schema")?);
        // The schema of an optional body is `oneOf` with the actual schema and null.
        let one_of = schema["oneOf"].as_array().into_iter().flatten();
        let given = one_of.map(|one| resolved(self.document, one)).find(|one| one["type"] != "null");
        Some(given.unwrap_or(schema))
    }

    /// Returns the schema that `schema` refers to, or `schema` itself if it is not a reference.
    pub fn resolved(&self, schema: &'d Value) -> &'d Value {
        resolved(self.document, schema)
    }

    /// Returns a minimal value that matches `schema`.
    pub fn sample(&self, schema: &'d Value) -> Value {
        sample(self.document, schema)
    }
}

impl Parameter<'_> {
    /// Returns a value that is valid for the parameter and identifies no resource.
    pub fn placeholder(&self) -> String {
        match (self.schema["enum"][0].as_str(), self.schema["format"].as_str()) {
            (Some(first), _) => first.to_owned(),
            (None, Some("uuid")) => NO_ID.to_owned(),
            (None, Some("int64")) => UNKNOWN_NUMBER.to_owned(),
            (None, _) => UNKNOWN_NAME.to_owned(),
        }
    }
}

/// Time that is earlier than any data of a deployment.
const PAST_TIME: &str = "2001-02-03T04:05:06Z";

fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

fn sample(document: &Value, schema: &Value) -> Value {
    let schema = resolved(document, schema);
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let field = |name: &str| (name.to_owned(), sample(document, &schema["properties"][name]));
            Value::Object(required.map(field).collect::<Map<_, _>>())
        }
        "array" => json!([]),
        "boolean" => json!(true),
        "integer" | "number" => json!(1),
        _ if schema["format"] == "uuid" => json!(NO_ID),
        _ if schema["format"] == "date-time" => json!(PAST_TIME),
        _ => json!(UNKNOWN_NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({
            "paths": { "/things/{kind}/{id}": { "put": {
                "security": [{ "bearer": ["things.write"] }],
                "parameters": [
                    { "in": "path", "name": "kind", "schema": { "enum": ["red", "blue"] } },
                    { "in": "path", "name": "id", "schema": { "type": "string", "format": "uuid" } },
                    { "in": "query", "name": "cursor", "schema": { "type": "string" } },
                ],
                "requestBody": { "content": { "application/json": {
                    "schema": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Thing" }] },
                } } },
                "responses": { "200": {}, "404": {} },
            } } },
            "components": { "schemas": { "Thing": {
                "type": "object", "required": ["name", "parts"],
                "properties": {
                    "name": { "type": ["string", "null"] },
                    "parts": { "type": "array", "items": {} },
                    "more": { "type": "boolean" },
                },
            } } },
        })
    }

    #[test]
    fn operation_is_parsed_from_document() {
        let document = document();
        let all = Operation::all(&document);
        let [put] = &all[..] else { panic!("{all:?}") };
        assert_eq!(put.name(), "PUT /things/{kind}/{id}");
        assert_eq!(put.sample_path(), format!("/things/red/{NO_ID}"));
        assert_eq!((put.statuses(), put.permission()), (vec![200, 404], Some("things.write")));
        assert_eq!(put.sample(put.body().unwrap()), json!({ "name": UNKNOWN_NAME, "parts": [] }));
        assert!(put.requires_token() && !put.is_list(), "only a GET operation can be a list");
        assert!(put.is_at("/things/any/thing") && !put.is_at("/things/any") && !put.is_at("/other/a/b"));
    }
}
