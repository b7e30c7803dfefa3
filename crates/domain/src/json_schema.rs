//! JSON Schemas (draft 2020-12) of declared collections and of jobs' payloads. None may refer to anything outside itself, and patterns take time
//! in proportion to the text.

use std::sync::{Arc, LazyLock};

use jsonschema::{PatternOptions, Validator, draft202012};
use kith_kernel::FieldError;
use quick_cache::sync::Cache;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What `$schema` may say.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Longest schema, as JSON without white space.
const LONGEST: usize = 32 << 10;
/// Faults of one item that are told.
const MOST_FAULTS: usize = 10;

/// By a hash of the text, of which each is a pure function.
static COMPILED: LazyLock<Cache<[u8; 32], Arc<Validator>>> = LazyLock::new(|| Cache::new(200));

/// Whether `text` is a schema that can be asked.
///
/// # Errors
/// What is wrong with it, at `/schema`.
pub fn check_schema(text: &str) -> Result<(), FieldError> {
    if text.len() > LONGEST {
        let detail = format!("At most {LONGEST} bytes.");
        return Err(FieldError::new("/schema", "too_long", detail));
    }
    compile(text).map(|_| ())
}

/// Whether `data`, which stands at `at`, is as the schema has it.
///
/// # Errors
/// The first faults, at `at` and below.
pub fn check(schema: &str, data: &Value, at: &str) -> Result<(), Vec<FieldError>> {
    let validator = compile(schema).map_err(|fault| vec![fault])?;
    let faults = validator.iter_errors(data).take(MOST_FAULTS).map(|error| {
        let detail = error.masked_with("It").to_string();
        FieldError::new(format!("{at}{}", error.instance_path()), "not_as_declared", detail)
    });
    let faults: Vec<_> = faults.collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn compile(text: &str) -> Result<Arc<Validator>, FieldError> {
    let key = Sha256::digest(text).into();
    if let Some(known) = COMPILED.get(&key) {
        return Ok(known);
    }
    let fault = |detail: String| FieldError::new("/schema", "not_a_schema", detail);
    let schema: Value = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
    if schema.get("$schema").is_some_and(|draft| draft != DRAFT) {
        return Err(fault(format!("`$schema` can only be {DRAFT}.")));
    }
    let options = draft202012::options().with_pattern_options(PatternOptions::regex()).offline();
    let compiled = Arc::new(options.build(&schema).map_err(|error| fault(error.masked().to_string()))?);
    COMPILED.insert(key, Arc::clone(&compiled));
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(schema: Value) -> &'static str {
        check_schema(&schema.to_string()).map_or_else(|fault| fault.code, |()| "taken")
    }

    #[test]
    fn what_does_not_compile_or_reaches_outside_is_refused() {
        assert_eq!(refusal(json!({ "type": "object" })), "taken");
        assert_eq!(refusal(json!({ "$schema": DRAFT, "$ref": "#/$defs/a", "$defs": { "a": {} } })), "taken");
        for schema in [
            json!({ "type": "objekt" }),
            json!({ "$ref": "https://example.org/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "$schema": "http://json-schema.org/draft-07/schema#" }),
            json!({ "properties": { "a": { "pattern": "(" } } }),
            // Only a pattern that looks back could take for ever.
            json!({ "properties": { "a": { "pattern": "(a+)\\1" } } }),
        ] {
            assert_eq!(refusal(schema.clone()), "not_a_schema", "{schema}");
        }
        assert_eq!(refusal(json!({ "description": "x".repeat(LONGEST) })), "too_long");
    }

    #[test]
    fn faults_have_a_place_and_do_not_repeat_what_was_sent() {
        let schema = json!({
            "properties": { "a/b": { "type": "number" }, "list": { "items": { "maxLength": 3 } } },
            "required": ["c"],
        });
        let data = json!({ "a/b": "secret", "list": ["ok", "secret"], "c": 1 });
        let mut faults = check(&schema.to_string(), &data, "/data").unwrap_err();
        faults.sort_by_key(|fault| fault.pointer.clone());
        let pointers: Vec<_> = faults.iter().map(|fault| &*fault.pointer).collect();
        assert_eq!(pointers, ["/data/a~1b", "/data/list/1"]);
        assert!(faults.iter().all(|fault| !fault.detail.contains("secret")), "{faults:?}");
        let nothing = check(&schema.to_string(), &json!({}), "/data").unwrap_err();
        assert_eq!((&*nothing[0].pointer, nothing.len()), ("/data", 1));
    }

    #[test]
    fn what_refers_to_itself_comes_to_an_end() {
        let tree = json!({ "type": "object", "properties": { "children": { "items": { "$ref": "#" } } } });
        let faults =
            check(&tree.to_string(), &json!({ "children": [{ "children": [5] }] }), "/data").unwrap_err();
        assert_eq!(faults[0].pointer, "/data/children/0/children/0");
        let around = json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" });
        for round in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "$ref": "#" }] }),
            json!({ "$dynamicRef": "#" }),
            around,
        ] {
            assert!(check(&round.to_string(), &json!({ "a": 1 }), "/data").is_ok(), "{round}");
        }
    }
}
