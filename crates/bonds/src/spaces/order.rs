//! Encodes JSON values as texts. Sorting the texts by bytes sorts the values: missing, null, false, true,
//! numbers, texts, others. Both databases compare these texts by bytes, so lists have the same order on
//! both.

use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

/// Number of bytes of a text by which it is sorted. A longer text is cut and its hash is appended.
const SORTED_TEXT_BYTES: usize = 256;

const MISSING: &str = "0";
const NULL: &str = "1";
const FALSE: &str = "2f";
const TRUE: &str = "2t";
const NUMBER: &str = "3";
const TEXT: &str = "4";
const OTHER: &str = "5";
/// Text that sorts after all encoded values.
const AFTER_ALL: &str = "6";
/// Smallest character that can follow in a text, because texts never contain U+0000.
const MIN_CHAR: char = '\u{1}';

/// Encodes a value; `None` stands for a missing value.
pub fn encode(value: Option<&Value>) -> String {
    match value {
        None => MISSING.to_owned(),
        Some(Value::Null) => NULL.to_owned(),
        Some(Value::Bool(false)) => FALSE.to_owned(),
        Some(Value::Bool(true)) => TRUE.to_owned(),
        Some(Value::Number(number)) => format!("{NUMBER}{}", encode_number(number)),
        Some(Value::String(text)) => format!("{TEXT}{}", encode_text(text)),
        Some(Value::Array(_) | Value::Object(_)) => OTHER.to_owned(),
    }
}

/// Encodes a number as the bits of the nearest float, in sortable order. The difference between an integer
/// and this float follows.
fn encode_number(number: &Number) -> String {
    let exact = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    // Adding 0.0 turns minus zero into zero.
    let float = number.as_f64().unwrap_or_default() + 0.0;
    let bits = float.to_bits();
    let sign = 1 << 63;
    let sorted = if bits & sign == 0 { bits | sign } else { !bits };
    let beyond = exact.map_or(0, |exact| exact - float as i128);
    format!("{sorted:016x}{:04x}", beyond + 0x8000)
}

fn encode_text(text: &str) -> String {
    if text.len() <= SORTED_TEXT_BYTES {
        return text.to_owned();
    }
    let hash: String = Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}{MIN_CHAR}{hash}", &text[..text.floor_char_boundary(SORTED_TEXT_BYTES)])
}

/// Range of encoded values, from `low` (inclusive) to `high` (exclusive).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRange {
    /// Lower bound, inclusive.
    pub low: String,
    /// Upper bound, exclusive.
    pub high: String,
}

impl ValueRange {
    /// Returns the range of all values.
    pub fn all() -> Self {
        Self { low: String::new(), high: AFTER_ALL.to_owned() }
    }

    /// Returns the range of the values equal to `value`.
    pub fn equal_to(value: &Value) -> Self {
        let low = encode(Some(value));
        Self { high: successor(&low), low }
    }

    /// Returns the range of the values for which `comparison` with `limit` is true. `limit` is a number or a
    /// text, and only values of the same type match. Returns `None` if `comparison` is not `gt`, `gte`, `lt`
    /// or `lte`, or `limit` has another type.
    pub fn compare(comparison: &str, limit: &Value) -> Option<Self> {
        let (first, last) = match limit {
            Value::Number(_) => (NUMBER, TEXT),
            Value::String(_) => (TEXT, OTHER),
            _ => return None,
        };
        let at = encode(Some(limit));
        let (low, high) = match comparison {
            "gt" => (successor(&at), last.to_owned()),
            "gte" => (at, last.to_owned()),
            "lt" => (first.to_owned(), at),
            "lte" => (first.to_owned(), successor(&at)),
            _ => return None,
        };
        Some(Self { low, high })
    }

    /// Returns the range of the values that both ranges contain.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// Returns `true` if the range contains one value only.
    pub fn is_single_value(&self) -> bool {
        self.high == successor(&self.low)
    }
}

fn successor(text: &str) -> String {
    format!("{text}{MIN_CHAR}")
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn encoded_values_sort_by_type_and_value() {
        let long = "x".repeat(SORTED_TEXT_BYTES);
        let sorted = [
            None,
            Some(json!(null)),
            Some(json!(false)),
            Some(json!(true)),
            Some(json!(f64::MIN)),
            Some(json!(i64::MIN)),
            Some(json!(-1.5)),
            Some(json!(-1)),
            Some(json!(-f64::MIN_POSITIVE)),
            Some(json!(0)),
            Some(json!(0.1)),
            Some(json!(1)),
            Some(json!(9_007_199_254_740_992_i64)),
            Some(json!(9_007_199_254_740_993_i64)),
            Some(json!(i64::MAX)),
            Some(json!(u64::MAX)),
            Some(json!(1e300)),
            Some(json!("")),
            Some(json!("A")),
            Some(json!("a")),
            Some(json!("a\u{1}")),
            Some(json!("aa")),
            Some(json!(long)),
            Some(json!(format!("{long}y"))),
            Some(json!("ä")),
            Some(json!([])),
        ];
        let texts: Vec<_> = sorted.iter().map(|value| encode(value.as_ref())).collect();
        assert!(texts.is_sorted_by(|one, other| one < other), "{texts:#?}");
        assert_eq!(encode(Some(&json!(-0.0))), encode(Some(&json!(0))));
        assert_eq!(encode(Some(&json!(1.0))), encode(Some(&json!(1))));
    }

    #[test]
    fn long_texts_have_short_distinct_encodings() {
        let (one, other) = (json!("ä".repeat(5_000)), json!("ä".repeat(5_001)));
        assert!(encode(Some(&one)).len() < 300);
        assert_ne!(encode(Some(&one)), encode(Some(&other)));
        assert!(ValueRange::equal_to(&one).is_single_value() && !ValueRange::all().is_single_value());
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            (-20_i64..20).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            "[a-c\u{1}\u{2}ß𝄞]{0,4}".prop_map(Value::from),
        ]
    }

    /// Compares texts by bytes and numbers by value. The comparison of a float with an integer is exact only
    /// up to 2^53.
    fn compare(one: &Value, other: &Value) -> Ordering {
        match (one, other) {
            (Value::String(one), Value::String(other)) => one.cmp(other),
            (Value::Number(one), Value::Number(other)) => {
                let exact = |n: &Number| n.as_i64().map(i128::from).or(n.as_u64().map(i128::from));
                match (exact(one), exact(other)) {
                    (Some(one), Some(other)) => one.cmp(&other),
                    _ => one.as_f64().partial_cmp(&other.as_f64()).unwrap(),
                }
            }
            (Value::Number(_), _) => Ordering::Less,
            _ => Ordering::Greater,
        }
    }

    fn is_in(range: &ValueRange, value: &Value) -> bool {
        let text = encode(Some(value));
        range.low <= text && text < range.high
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn encodings_sort_like_values(one in scalar(), other in scalar()) {
            let order = compare(&one, &other);
            // If an integer and a float are equal as floats, the encoding still distinguishes them.
            if order != Ordering::Equal || one == other {
                prop_assert_eq!(encode(Some(&one)).cmp(&encode(Some(&other))), order, "{} {}", one, other);
            }
        }

        #[test]
        fn comparison_ranges_contain_exactly_matching_values(one in scalar(), other in scalar()) {
            let order = compare(&one, &other);
            prop_assume!(order != Ordering::Equal || one == other);
            prop_assert_eq!(is_in(&ValueRange::equal_to(&other), &one), order == Ordering::Equal);
            let same_type = one.is_string() == other.is_string();
            for (comparison, holds) in
                [("gt", order.is_gt()), ("gte", order.is_ge()), ("lt", order.is_lt()), ("lte", order.is_le())]
            {
                let range = ValueRange::compare(comparison, &other).unwrap();
                prop_assert_eq!(is_in(&range, &one), same_type && holds, "{} {} {}", one, comparison, other);
                prop_assert!(is_in(&ValueRange::all(), &one));
            }
        }
    }
}
