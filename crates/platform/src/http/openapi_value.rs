//! The OpenAPI document as JSON, with what utoipa does not say: that a free-form object takes any field, that an operation
//! needs no token, and by which headers a write is conditional. Generators of clients go by these.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// The document as it is served.
pub(super) fn to_value(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("the document is plain data");
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
            "ETag of the state that the change is meant for. Another state, or none, is answered with 412.",
        ));
        parameters.push(header(
            "If-None-Match",
            "`*`, or ETags of states that must not be present. One that is present is answered with 412.",
        ));
    }
}

fn complete_schemas(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(complete_schemas),
        Value::Object(fields) => {
            // First, as long as nothing is added to what utoipa wrote.
            merge_description(fields);
            fields.values_mut().for_each(complete_schemas);
            open_free_form(fields);
        }
        _ => {}
    }
}

/// utoipa writes an inlined schema with a description of its own as `allOf` of the schema and an object: nothing but an
/// object fits that.
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

/// An object of which nothing is said takes any field; generators need to be told.
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
    fn free_form_object_takes_any_field() {
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
