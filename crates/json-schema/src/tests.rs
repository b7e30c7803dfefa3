//! Tests of the evaluator with the official test suite, against the `jsonschema` crate, and with schemas that
//! are designed to be slow.

use jsonschema::{PatternOptions, draft202012};
use proptest::prelude::*;
use serde_json::json;

use super::compile;
use super::document::DRAFT;
use super::*;

fn rejection_code(schema: &Value) -> &'static str {
    check_schema(&schema.to_string()).map_or_else(|fault| fault.code, |()| "taken")
}

/// Returns the pointers and codes of the errors, and the number of steps used.
fn check_with_steps(schema: &Value, data: &Value) -> (Vec<(String, &'static str)>, u64) {
    let mut work = Work::for_request();
    let faults = check(&schema.to_string(), data, "/data", &mut work).err().unwrap_or_default();
    (faults.into_iter().map(|fault| (fault.pointer.into_owned(), fault.code)).collect(), MAX_WORK - work.left)
}

fn fits(schema: &Value, data: &Value) -> bool {
    let (faults, _) = check_with_steps(schema, data);
    assert!(faults.iter().all(|(_, code)| *code == "not_as_declared"), "{schema} {data}: {faults:?}");
    faults.is_empty()
}

/// Runs a closure on a thread with the stack size of the compute threads.
fn on_known_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(kith_kernel::COMPUTE_STACK_BYTES);
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn invalid_or_external_schema_is_rejected() {
    assert_eq!(rejection_code(&json!({ "type": "object" })), "taken");
    assert_eq!(
        rejection_code(&json!({ "$schema": DRAFT, "$ref": "#/$defs/a", "$defs": { "a": {} } })),
        "taken"
    );
    for schema in [
        json!({ "type": "objekt" }),
        json!({ "type": [] }),
        json!({ "$ref": "https://example.org/schema.json" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "$ref": "#/$defs/missing" }),
        json!({ "$schema": "http://json-schema.org/draft-07/schema#" }),
        json!({ "properties": { "a": { "pattern": "(" } } }),
        // Back-references require backtracking, which can take exponential time.
        json!({ "properties": { "a": { "pattern": "(a+)\\1" } } }),
        json!({ "$defs": { "unused": { "minLength": -1 } } }),
        json!({ "required": ["a", "a"] }),
        json!({ "multipleOf": 0 }),
        json!({ "allOf": [] }),
        json!({ "properties": { "a": 1 } }),
        json!({ "$defs": { "a": { "$id": "x" }, "b": { "$id": "x" } } }),
        json!({ "$defs": { "a": { "$anchor": "x" }, "b": { "$anchor": "x" } } }),
    ] {
        assert_eq!(rejection_code(&schema), "not_a_schema", "{schema}");
    }
    assert_eq!(rejection_code(&json!({ "description": "x".repeat(MAX_SCHEMA_BYTES) })), "too_long");
}

#[test]
fn errors_have_pointer_and_omit_values() {
    let schema = json!({
        "properties": { "a/b": { "type": "number" }, "list": { "items": { "maxLength": 3 } } },
        "required": ["c"],
    });
    let data = json!({ "a/b": "secret", "list": ["ok", "secret"], "c": 1 });
    let mut faults = check(&schema.to_string(), &data, "/data", &mut Work::for_request()).unwrap_err();
    faults.sort_by_key(|fault| fault.pointer.clone());
    let pointers: Vec<_> = faults.iter().map(|fault| &*fault.pointer).collect();
    assert_eq!(pointers, ["/data/a~1b", "/data/list/1"]);
    assert!(faults.iter().all(|fault| !fault.detail.contains("secret")), "{faults:?}");
    assert_eq!(check_with_steps(&schema, &json!({})).0, [("/data".to_owned(), "not_as_declared")]);
    let many = json!({ "additionalProperties": { "items": false } });
    assert_eq!(
        check_with_steps(&many, &json!({ "a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6] })).0.len(),
        10
    );
}

#[test]
fn self_referencing_schema_terminates() {
    let tree = json!({ "type": "object", "properties": { "children": { "items": { "$ref": "#" } } } });
    let faults = check_with_steps(&tree, &json!({ "children": [{ "children": [5] }] })).0;
    assert_eq!(faults, [("/data/children/0/children/0".to_owned(), "not_as_declared")]);
    let around = json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" });
    for round in
        [json!({ "$ref": "#" }), json!({ "allOf": [{ "$ref": "#" }] }), json!({ "$dynamicRef": "#" }), around]
    {
        assert!(fits(&round, &json!({ "a": 1 })), "{round}");
    }
}

/// Returns the schema of a tree with two kinds of nodes. Naive evaluation needs 2^depth steps.
fn two_kinds_of_nodes() -> Value {
    let node = |kind: &str| {
        json!({ "type": "object", "required": ["kind", "child"],
            "properties": { "kind": { "type": "string", "maxLength": kind.len() }, "child": { "$ref": "#/$defs/node" } } })
    };
    json!({ "$ref": "#/$defs/node", "$defs": {
        "node": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/left" }, { "$ref": "#/$defs/right" }] },
        "left": node("left"), "right": node("right"),
    } })
}

#[test]
fn recursive_schema_with_two_branches_needs_linear_work() {
    let schema = two_kinds_of_nodes();
    let nested = |depth: usize, innermost: Value| {
        (0..depth).fold(innermost, |child, _| json!({ "kind": "left", "child": child }))
    };
    assert!(fits(&schema, &nested(30, Value::Null)));
    assert!(!fits(&schema, &nested(30, json!(5))));
    let [short, long] = [10, 30].map(|depth| check_with_steps(&schema, &nested(depth, json!(5))).1);
    assert!(long < 5 * short && long < 10_000, "{short} steps at a depth of 10, {long} steps at 30");
}

#[test]
fn doubling_references_need_linear_work() {
    let levels = 29;
    let mut defs = serde_json::Map::new();
    for n in 0..levels {
        let next = json!({ "$ref": format!("#/$defs/a{}", n + 1) });
        defs.insert(format!("a{n}"), json!({ "allOf": [next.clone(), next] }));
    }
    defs.insert(format!("a{levels}"), json!({ "type": "object" }));
    let schema = json!({ "$ref": "#/$defs/a0", "$defs": defs });
    assert_eq!(rejection_code(&schema), "taken");
    assert!(fits(&schema, &json!({})));
    let (faults, steps) = check_with_steps(&schema, &json!(5));
    assert_eq!(faults[0].1, "not_as_declared");
    assert!(steps < 20_000, "{steps} steps");
}

#[test]
fn schema_nested_too_deep_is_rejected() {
    let nested = |innermost: Value| (0..110).fold(innermost, |schema, _| json!({ "not": schema }));
    let defs = (0..20).map(|n| (format!("d{n}"), nested(json!({ "$ref": format!("#/$defs/d{}", n + 1) }))));
    let mut defs: serde_json::Map<_, _> = defs.collect();
    defs.insert("d20".to_owned(), json!({}));
    let schema = json!({ "$ref": "#/$defs/d0", "$defs": defs });
    on_known_stack(move || {
        assert_eq!(rejection_code(&schema), "not_a_schema");
        // An earlier version may have stored this schema in the database. Validation against it must then
        // fail.
        let compiled = check(&schema.to_string(), &json!({}), "/data", &mut Work::for_request());
        assert_eq!(compiled.unwrap_err()[0].code, "not_as_declared");
    });
}

#[test]
fn maximum_depth_fits_on_stack() {
    // 100 schemas are nested for each of the 120 levels of the value.
    let nested = |innermost: Value| (0..49).fold(innermost, |schema, _| json!({ "allOf": [schema] }));
    let mut nested = nested(
        json!({ "$ref": "#/$defs/half", "$defs": { "half": nested(json!({ "properties": { "a": { "$ref": "#" } } })) } }),
    );
    let half =
        nested.pointer_mut(&"/allOf/0".repeat(49)).unwrap().as_object_mut().unwrap().remove("$defs").unwrap();
    nested.as_object_mut().unwrap().insert("$defs".to_owned(), half);
    let text = nested.to_string();
    let data = (0..120).fold(json!({}), |value, _| json!({ "a": value }));
    on_known_stack(move || {
        check_schema(&text).unwrap();
        let faults = check(&text, &data, "/data", &mut Work::for_request()).unwrap_err();
        assert_eq!(faults[0].code, "schema_too_costly");
        let shallow = json!({ "a": { "a": { "a": {} } } });
        check(&text, &shallow, "/data", &mut Work::for_request()).unwrap();
    });
}

#[test]
fn pattern_memory_is_limited_per_schema() {
    let properties = |count: usize, pattern: &str| {
        let properties = (0..count).map(|n| (format!("p{n}"), json!({ "pattern": pattern })));
        json!({ "properties": properties.collect::<serde_json::Map<_, _>>() })
    };
    assert_eq!(rejection_code(&properties(40, "(?:a{500}){400}")), "not_a_schema");
    // Each pattern is within the limit, but all patterns together exceed it.
    assert_eq!(rejection_code(&properties(1, "(?:a{100}){100}")), "taken");
    assert_eq!(rejection_code(&properties(40, "(?:a{100}){100}")), "not_a_schema");
    let by_name = (0..40).map(|n| (format!("(?:a{{100}}){{100}}{n}"), json!({})));
    assert_eq!(
        rejection_code(&json!({ "patternProperties": by_name.collect::<serde_json::Map<_, _>>() })),
        "not_a_schema"
    );
    let usual = json!({ "properties": {
        "email": { "pattern": r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$" }, "name": { "pattern": r"^[\p{L} '-]{1,50}$" },
    } });
    assert!(fits(&usual, &json!({ "email": "ada@example.com", "name": "Ada Lovelace" })));
    assert!(!fits(&usual, &json!({ "email": "ada@example", "name": "Ada" })));
}

#[test]
fn cache_of_compiled_schemas_is_bounded_in_bytes() {
    for n in 0..200 {
        let schema = json!({ "title": n, "pattern": "(?:a{100}){100}" });
        check_schema(&schema.to_string()).unwrap();
    }
    assert!(COMPILED.weight() <= CACHE_BYTES, "{} bytes", COMPILED.weight());
    assert!(compile(&json!({ "pattern": "(?:a{100}){100}" }).to_string()).unwrap().bytes > 100_000);
}

#[test]
fn work_of_any_keyword_is_bounded() {
    let numbers: Vec<_> = (0..20_000).collect();
    let enums: Vec<_> = (0..300).map(|n| json!({ "enum": [[n]] })).collect();
    let text = "a".repeat(60_000);
    for (schema, data) in [
        (json!({ "items": { "anyOf": enums } }), json!(vec![numbers.clone(); 1])),
        (
            json!({ "anyOf": (0..400).map(|n| json!({ "uniqueItems": true, "minItems": 30_000 + n })).collect::<Vec<_>>() }),
            json!(numbers),
        ),
        (json!({ "pattern": "(?:a?){500}a{500}b" }), json!(text)),
        (
            json!({ "patternProperties": (0..100).map(|n| (format!("(a|a)*{n}$"), json!({}))).collect::<serde_json::Map<_, _>>() }),
            json!({ text.as_str(): 1 }),
        ),
        (
            json!({ "allOf": (0..900).map(|n| json!({ "contains": { "const": n } })).collect::<Vec<_>>() }),
            json!(numbers),
        ),
        (
            json!({ "allOf": (0..200).map(|n| json!({ "unevaluatedItems": { "minimum": -n } })).collect::<Vec<_>>() }),
            json!(numbers),
        ),
        (
            json!({ "propertyNames": { "maxLength": 70_000, "pattern": "(a|a)*$" } }),
            json!({ text.as_str(): 1 }),
        ),
    ] {
        assert_eq!(rejection_code(&schema), "taken", "{schema}");
        let (_, steps) = check_with_steps(&schema, &data);
        assert!(steps <= MAX_WORK, "{steps} steps");
    }
}

/// Returns true for groups of the official suite that load other documents, which Kith does not support.
fn loads_from_elsewhere(group: &str, schema: &Value) -> bool {
    let text = schema.to_string();
    group.starts_with("refRemote") || text.contains("http://localhost:1234/") || text.contains(DRAFT)
}

/// Runs the tests of <https://github.com/json-schema-org/JSON-Schema-Test-Suite> for draft 2020-12 (MIT,
/// copyright 2012 Julian Berman).
#[test]
fn official_test_suite_passes() {
    type Group = (String, Value, Vec<(String, Value, bool)>);
    let suite: Vec<Group> = serde_json::from_str(include_str!("suite.json")).unwrap();
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (group, schema, tests) in suite {
        if loads_from_elsewhere(&group, &schema) && rejection_code(&schema) == "not_a_schema" {
            skipped += tests.len();
            continue;
        }
        if let Err(fault) = check_schema(&schema.to_string()) {
            failed.push(format!("{group}: {}", fault.detail));
            continue;
        }
        for (test, data, is_valid) in tests {
            if fits(&schema, &data) == is_valid {
                passed += 1
            } else {
                failed.push(format!("{group}: {test}"))
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{passed} passed, {skipped} skipped, {}:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(passed > 1_200 && skipped < 100, "{passed} passed, {skipped} skipped");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4).prop_map(Value::from),
        prop_oneof![Just(1.0), Just(0.5), Just(-2.5)].prop_map(Value::from),
        "[ab]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab]{1,2}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn keyword(inner: BoxedStrategy<Value>) -> BoxedStrategy<(String, Value)> {
    let one = prop::sample::select(vec![
        "not",
        "if",
        "then",
        "else",
        "items",
        "contains",
        "propertyNames",
        "additionalProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]);
    let list = prop::sample::select(vec!["allOf", "anyOf", "oneOf", "prefixItems"]);
    let map = prop::sample::select(vec!["properties", "patternProperties", "dependentSchemas"]);
    let count = prop::sample::select(vec![
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "minContains",
        "maxContains",
    ]);
    let bound = prop::sample::select(vec!["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]);
    let named = |one: &str, value: Value| (one.to_owned(), value);
    prop_oneof![
        (one, inner.clone()).prop_map(move |(name, schema)| named(name, schema)),
        (list, prop::collection::vec(inner.clone(), 1..3))
            .prop_map(move |(name, list)| named(name, list.into())),
        (map, prop::collection::btree_map("[ab]", inner, 1..3))
            .prop_map(move |(name, map)| named(name, Value::Object(map.into_iter().collect()))),
        (count, 0..4_u32).prop_map(move |(name, count)| named(name, count.into())),
        (bound, -3..4_i32).prop_map(move |(name, bound)| named(name, bound.into())),
        prop::sample::select(compile::TYPES.to_vec()).prop_map(move |name| named("type", name.into())),
        prop::collection::vec(value(), 1..3).prop_map(move |values| named("enum", values.into())),
        value().prop_map(move |value| named("const", value)),
        "\\^?[ab]{0,2}\\$?".prop_map(move |pattern| named("pattern", pattern.into())),
        any::<bool>().prop_map(move |unique| named("uniqueItems", unique.into())),
        prop::collection::btree_set("[ab]", 0..3)
            .prop_map(move |names| named("required", names.into_iter().collect::<Vec<_>>().into())),
        prop::sample::select(vec![0.5, 1.0, 2.0]).prop_map(move |of| named("multipleOf", of.into())),
        Just(named("$ref", "#".into())),
        Just(named("$ref", "#/$defs/a".into())),
    ]
    .boxed()
}

fn schema() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![any::<bool>().prop_map(Value::from), Just(json!({}))].boxed();
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop::collection::vec(keyword(inner.boxed()), 0..4)
            .prop_map(|keywords| Value::Object(keywords.into_iter().collect()))
    })
    .boxed()
}

proptest! {
    /// Compares this crate with the `jsonschema` crate on random schemas. Skips schemas with a cycle of
    /// references that apply to the same value.
    #[test]
    fn evaluator_agrees_with_the_jsonschema_crate(root in schema(), shared in schema(), data in value()) {
        let mut root = root;
        if let Value::Object(keywords) = &mut root {
            keywords.insert("$defs".to_owned(), json!({ "a": shared }));
        }
        if check_schema(&root.to_string()).is_err() || schema::has_reference_cycle(&compile(&root.to_string()).unwrap()) {
            return Ok(());
        }
        let options = draft202012::options().with_pattern_options(PatternOptions::regex()).offline();
        let theirs = options.build(&root).unwrap().is_valid(&data);
        prop_assert_eq!(fits(&root, &data), theirs, "{} {}", root, data);
    }
}

#[test]
fn validator_depth_fits_on_small_stack() {
    let node = json!({ "type": "object", "properties": {
        "child": { "oneOf": [{ "type": "null" }, { "$ref": "#/$defs/node" }] },
        "name": { "type": "string" },
    } });
    let validator =
        Validator::compile(&json!({ "$ref": "#/$defs/node", "$defs": { "node": node } })).unwrap();
    let nested = |depth| (0..depth).fold(json!({ "name": 5 }), |child, _| json!({ "child": child }));
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    let check = move || {
        let violations = |depth| validator.violations(&nested(depth), 20, &mut Work::for_request());
        assert_eq!(violations(0).unwrap()[0].kind, ViolationKind::WrongType);
        assert_eq!(violations(10).unwrap()[0].kind, ViolationKind::Combination);
        assert_eq!(violations(120), Err(TooCostly));
    };
    thread.spawn(check).unwrap().join().unwrap();
}
