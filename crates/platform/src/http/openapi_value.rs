//! Converts the OpenAPI document to JSON, and adds information that utoipa leaves out. Client generators need
//! to know which objects allow any field and which operations need no token. They also need plain schemas for
//! scalar types, and the headers that make a write conditional.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Converts the document to the JSON value that is served.
pub(super) fn to_value(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("the document is plain data");
    let scalars = take_scalars(&mut document["components"]["schemas"]);
    show_scalars(&mut document, &scalars);
    complete_schemas(&mut document);
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for item in paths {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
                operation.entry("security").or_insert_with(|| json!([]));
                if operation["responses"].get("412").is_some() {
                    declare_preconditions(operation);
                }
            }
        }
    }
    document
}

/// Removes the scalar components (`scalar_schema!`) and returns them, keyed by their `$ref`.
fn take_scalars(components: &mut Value) -> HashMap<String, Map<String, Value>> {
    let mut scalars = HashMap::new();
    let mut is_component = |name: &String, schema: &mut Value| {
        let scalar = schema.as_object().filter(|schema| is_scalar(schema));
        if let Some(scalar) = scalar {
            scalars.insert(format!("#/components/schemas/{name}"), scalar.clone());
        }
        scalar.is_none()
    };
    if let Some(components) = components.as_object_mut() {
        components.retain(&mut is_component);
    }
    scalars
}

/// Returns true if `schema` is no object or array, and has no keywords except `type`, `format` and
/// `description`.
fn is_scalar(schema: &Map<String, Value>) -> bool {
    let has_parts = matches!(schema.get("type").and_then(Value::as_str), Some("object" | "array"));
    !has_parts && schema.keys().all(|name| matches!(&**name, "type" | "format" | "description"))
}

/// Replaces each reference to a scalar schema with that schema. In generated clients, a type that also allows
/// null then becomes a nullable string. A reference would become a separate class.
fn show_scalars(value: &mut Value, scalars: &HashMap<String, Map<String, Value>>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| show_scalars(item, scalars)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| show_scalars(field, scalars));
            let scalar = fields.get("$ref").and_then(Value::as_str).and_then(|name| scalars.get(name));
            if let Some(scalar) = scalar {
                fields.remove("$ref");
                fields.extend(scalar.clone());
            } else {
                merge_null(fields);
            }
        }
        _ => {}
    }
}

/// Rewrites `oneOf` a scalar and null as one schema with both types.
fn merge_null(schema: &mut Map<String, Value>) {
    let Some([Value::Object(scalar), null]) =
        schema.get("oneOf").and_then(Value::as_array).map(Vec::as_slice)
    else {
        return;
    };
    if *null != json!({ "type": "null" }) || !is_scalar(scalar) {
        return;
    }
    let mut merged = scalar.clone();
    if let Some(kind) = merged.get_mut("type") {
        *kind = json!([kind, "null"]);
    }
    schema.remove("oneOf");
    schema.extend(merged);
}

fn declare_preconditions(operation: &mut Map<String, Value>) {
    let header = |name: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": { "type": "string" },
        })
    };
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        parameters.push(header(
            "If-Match",
            "ETags of the states that may be changed, or `*` for any existing state. Otherwise the response \
             is 412. Weak ETags never match.",
        ));
        parameters.push(header(
            "If-None-Match",
            "ETags of states that must not be changed, or `*` to require that the resource does not exist. \
             If one matches, the response is 412.",
        ));
    }
}

fn complete_schemas(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(complete_schemas),
        Value::Object(fields) => {
            // This must run before the recursion, while the schema still has the form that utoipa generates.
            merge_description(fields);
            fields.values_mut().for_each(complete_schemas);
            open_free_form(fields);
        }
        _ => {}
    }
}

/// Merges the `allOf` that utoipa generates for an inlined schema with its own description. The second part
/// of the `allOf` has the type `object`, which would exclude values of all other types.
fn merge_description(schema: &mut Map<String, Value>) {
    let Some([inlined, described]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) else {
        return;
    };
    let (Some(inlined), Some(described)) = (inlined.as_object(), described.as_object()) else { return };
    let says_nothing = |name: &String| matches!(&**name, "type" | "description" | "default" | "example");
    if described["type"] != "object"
        || !described.keys().all(says_nothing)
        || inlined.get("type") == Some(&json!("object"))
    {
        return;
    }
    let mut merged = inlined.clone();
    merged.extend(
        described
            .iter()
            .filter(|(name, _)| *name != "type")
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    schema.remove("allOf");
    schema.extend(merged);
}

/// Adds `additionalProperties` to an object schema without further constraints, because client generators
/// require it.
fn open_free_form(schema: &mut Map<String, Value>) {
    let is_object = match schema.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => false,
    };
    let says_more =
        ["properties", "additionalProperties", "allOf", "oneOf", "anyOf", "$ref", "propertyNames"];
    if is_object && !says_more.iter().any(|name| schema.contains_key(*name)) {
        schema.insert("additionalProperties".to_owned(), Value::Bool(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut schema: Value) -> Value {
        complete_schemas(&mut schema);
        schema
    }

    #[test]
    fn inlined_enum_with_a_description_is_one_schema() {
        let written = json!({ "allOf": [
            { "type": "string", "enum": ["die", "run"], "description": "Of the type." },
            { "type": "object", "description": "Of the field.", "default": "die" },
        ] });
        let expected = json!({ "type": "string", "enum": ["die", "run"], "description": "Of the field.", "default": "die" });
        assert_eq!(completed(written), expected);
        for kept in [
            json!({ "allOf": [{ "$ref": "#/a" }, { "type": "object", "properties": { "id": { "type": "string" } } }] }),
            json!({ "allOf": [{ "type": "string" }] }),
        ] {
            assert_eq!(completed(kept.clone()), kept);
        }
    }

    #[test]
    fn scalar_schema_is_inlined() {
        let mut document = json!({
            "components": { "schemas": {
                "Time": { "type": "string", "format": "date-time" },
                "Json": {},
                "Colour": { "type": "string", "enum": ["red"] },
                "Thing": { "type": "object", "properties": {
                    "at": { "$ref": "#/components/schemas/Time", "description": "When." },
                    "ended_at": { "oneOf": [{ "$ref": "#/components/schemas/Time", "description": "The end." }, { "type": "null" }] },
                    "more": { "oneOf": [{ "$ref": "#/components/schemas/Json" }, { "type": "null" }] },
                    "times": { "type": "array", "items": { "$ref": "#/components/schemas/Time" } },
                    "colour": { "oneOf": [{ "$ref": "#/components/schemas/Colour" }, { "type": "null" }] },
                } },
            } },
        });
        let scalars = take_scalars(&mut document["components"]["schemas"]);
        show_scalars(&mut document, &scalars);
        assert_eq!(
            document["components"]["schemas"],
            json!({
                "Colour": { "type": "string", "enum": ["red"] },
                "Thing": { "type": "object", "properties": {
                    "at": { "type": "string", "format": "date-time", "description": "When." },
                    "ended_at": { "type": ["string", "null"], "format": "date-time", "description": "The end." },
                    "more": {},
                    "times": { "type": "array", "items": { "type": "string", "format": "date-time" } },
                    "colour": { "oneOf": [{ "$ref": "#/components/schemas/Colour" }, { "type": "null" }] },
                } },
            })
        );
    }

    #[test]
    fn free_form_object_allows_any_field() {
        for (written, open) in [
            (json!({ "type": "object" }), Some(true)),
            (json!({ "type": ["object", "null"] }), Some(true)),
            (json!({ "type": "object", "properties": {} }), None),
            (json!({ "type": "string" }), None),
        ] {
            assert_eq!(
                completed(written.clone()).get("additionalProperties").and_then(Value::as_bool),
                open,
                "{written}"
            );
        }
        assert_eq!(
            completed(json!({ "type": "object", "additionalProperties": false }))["additionalProperties"],
            false
        );
    }
}
