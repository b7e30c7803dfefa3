//! JSON Merge Patch (RFC 7396).

use serde_json::{Map, Value};

/// Applies the JSON Merge Patch (RFC 7396) `patch` to `target`.
pub fn merge(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut fields = if let Value::Object(fields) = target { fields } else { Map::new() };
    for (name, change) in patch {
        if change.is_null() {
            fields.remove(&name);
        } else {
            let present = fields.remove(&name).unwrap_or(Value::Null);
            fields.insert(name, merge(present, change));
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Examples of RFC 7396, appendix A.
    #[test]
    fn merge_patch_matches_rfc_7396_examples() {
        for (target, patch, result) in [
            (json!({ "a": "b" }), json!({ "a": "c" }), json!({ "a": "c" })),
            (json!({ "a": "b" }), json!({ "b": "c" }), json!({ "a": "b", "b": "c" })),
            (json!({ "a": "b" }), json!({ "a": null }), json!({})),
            (json!({ "a": "b", "b": "c" }), json!({ "a": null }), json!({ "b": "c" })),
            (json!({ "a": ["b"] }), json!({ "a": "c" }), json!({ "a": "c" })),
            (json!({ "a": "c" }), json!({ "a": ["b"] }), json!({ "a": ["b"] })),
            (
                json!({ "a": { "b": "c" } }),
                json!({ "a": { "b": "d", "c": null } }),
                json!({ "a": { "b": "d" } }),
            ),
            (json!({ "a": [{ "b": "c" }] }), json!({ "a": [1] }), json!({ "a": [1] })),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({ "a": "b" }), json!(["c"]), json!(["c"])),
            (json!({ "a": "foo" }), Value::Null, Value::Null),
            (json!({ "a": "foo" }), json!("bar"), json!("bar")),
            (json!({ "e": null }), json!({ "a": 1 }), json!({ "e": null, "a": 1 })),
            (json!([1, 2]), json!({ "a": "b", "c": null }), json!({ "a": "b" })),
            (json!({}), json!({ "a": { "bb": { "ccc": null } } }), json!({ "a": { "bb": {} } })),
        ] {
            assert_eq!(merge(target.clone(), patch.clone()), result, "{target} patched with {patch}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn has_null_field(value: &Value) -> bool {
        let Value::Object(fields) = value else { return false };
        fields.values().any(|value| value.is_null() || has_null_field(value))
    }

    proptest! {
        #[test]
        fn merge_is_idempotent(target in value(), patch in value()) {
            let once = merge(target, patch.clone());
            prop_assert_eq!(merge(once.clone(), patch), once);
        }

        #[test]
        fn patch_without_null_merged_into_null_is_unchanged(patch in value()) {
            let merged = merge(Value::Null, patch.clone());
            prop_assert!(!has_null_field(&merged));
            if !has_null_field(&patch) {
                prop_assert_eq!(merged, patch);
            }
        }

        #[test]
        fn merge_keeps_fields_that_patch_does_not_contain(target in value(), patch in value()) {
            let merged = merge(target.clone(), patch.clone());
            if let (Value::Object(target), Value::Object(patch)) = (&target, &patch) {
                for (name, kept) in target.iter().filter(|(name, _)| !patch.contains_key(*name)) {
                    prop_assert_eq!(&merged[name], kept);
                }
                for name in patch.iter().filter(|(_, change)| change.is_null()).map(|(name, _)| name) {
                    prop_assert_eq!(merged.get(name), None);
                }
            }
        }
    }
}
