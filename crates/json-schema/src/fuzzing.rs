//! Properties of schemas and values. A fuzz target in the folder `fuzz` checks them, and a test checks them with the seeds.
//! Never part of a release build.

use kith_kernel::fuzzing::Target;
use serde_json::Value;

use super::{MAX_WORK, Work, check, check_schema};

/// The targets of this crate.
pub const TARGETS: &[Target] = &[("schemas", schemas)];

/// A schema and a value, a line each, or a program for [`Builder`]: looks for pairs that take more work than their size explains.
pub fn schemas(data: &[u8]) {
    if let Some((schema, value)) = lines(data) {
        conforms(&schema.to_string(), &value);
    }
    let mut builder = Builder { bytes: data, defs: 1 + data.len() / 16 % 8 };
    let defs = (0..builder.defs).map(|n| (format!("d{n}"), builder.schema(3)));
    let defs: serde_json::Map<_, _> = defs.collect();
    let schema = serde_json::json!({ "$ref": "#/$defs/d0", "$defs": defs });
    let value = builder.value(24);
    conforms(&schema.to_string(), &value);
}

fn lines(data: &[u8]) -> Option<(Value, Value)> {
    let (schema, value) = str::from_utf8(data).ok()?.split_once('\n')?;
    Some((serde_json::from_str(schema).ok()?, serde_json::from_str(value.trim_end()).ok()?))
}

/// Whatever fits or not, faults have a place, and the work is in proportion to the schema times the value.
pub fn conforms(schema: &str, data: &Value) {
    if check_schema(schema).is_err() {
        return;
    }
    let mut work = Work::of_request();
    if let Err(faults) = check(schema, data, "/data", &mut work) {
        assert!((1..=10).contains(&faults.len()));
        for fault in faults {
            let place = fault.pointer.strip_prefix("/data").expect("below /data");
            assert!(data.pointer(place).is_some(), "{fault:?} of {data}");
        }
    }
    let spent = MAX_WORK - work.left;
    let is_plain = !["pattern", "uneval", "$dyn"].iter().any(|keyword| schema.contains(keyword));
    let proportional = 4 * schema.len() as u64 * (1 + data.to_string().len() as u64);
    assert!(!is_plain || spent <= proportional, "{spent} steps for {schema} and {data}");
}

/// Makes schemas that refer to each other, and values that go down with them, of any bytes.
struct Builder<'b> {
    bytes: &'b [u8],
    defs: usize,
}

impl Builder<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first)
    }

    fn schema(&mut self, depth: usize) -> Value {
        use serde_json::json;
        let reference = |n: usize, defs: usize| json!({ "$ref": format!("#/$defs/d{}", n % defs) });
        let choice = self.next();
        if depth == 0 || choice < 64 {
            return reference(choice, self.defs);
        }
        let mut two = || json!([self.schema(depth - 1), self.schema(depth - 1)]);
        match choice % 12 {
            0 => json!({ "anyOf": two() }),
            1 => json!({ "oneOf": two() }),
            2 => json!({ "allOf": two() }),
            3 => json!({ "prefixItems": two() }),
            4 => json!({ "properties": { "a": self.schema(depth - 1) } }),
            5 => json!({ "additionalProperties": self.schema(depth - 1) }),
            6 => json!({ "items": self.schema(depth - 1) }),
            7 => json!({ "not": self.schema(depth - 1) }),
            8 => {
                json!({ "if": self.schema(depth - 1), "then": self.schema(depth - 1), "else": self.schema(depth - 1) })
            }
            9 => json!({ "contains": self.schema(depth - 1) }),
            10 => json!({ "type": "null" }),
            _ => json!({ "enum": [self.next(), null_or(self.next())] }),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        let choice = self.next();
        match choice % 4 {
            _ if depth == 0 || self.bytes.is_empty() => null_or(choice),
            0 => serde_json::json!({ "a": self.value(depth - 1) }),
            1 => serde_json::json!([self.value(depth - 1)]),
            2 => serde_json::json!([null_or(choice), self.value(depth - 1)]),
            _ => serde_json::json!({ "a": self.value(depth - 1), "b": null_or(choice) }),
        }
    }
}

fn null_or(n: usize) -> Value {
    if n.is_multiple_of(2) { Value::Null } else { n.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_hold_holds_of_the_seeds() {
        kith_kernel::fuzzing::ask_of_seeds(TARGETS);
    }
}
