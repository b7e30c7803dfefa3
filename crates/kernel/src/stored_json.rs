//! JSON that stays text between the database and the network connection. A parsed tree can need up to a
//! hundred times the memory of the text.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// JSON value stored as text. Two values are equal if their texts are equal. Kith writes texts in canonical
/// form, from a [`Value`].
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct StoredJson(Box<RawValue>);

crate::scalar_schema! { StoredJson => "Json" }

impl StoredJson {
    /// Wraps a text after checking that it is valid JSON.
    ///
    /// # Errors
    /// Returns the error of `serde_json` if `text` is not valid JSON.
    pub fn from_text(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// Serializes a value.
    ///
    /// # Panics
    /// Never: a [`Value`] can always be serialized.
    pub fn of(value: &Value) -> Self {
        Self(to_raw_value(value).expect("a value is plain data"))
    }

    /// Returns the JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Returns the length of the text in bytes.
    pub fn bytes(&self) -> usize {
        self.as_str().len()
    }

    /// Deserializes the text into `T`.
    ///
    /// # Errors
    /// Returns the error of `serde_json` if the JSON does not have the shape of `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    /// Parses the text into a tree. Returns `null` if the JSON is nested more deeply than the recursion limit
    /// of `serde_json`.
    pub fn to_value(&self) -> Value {
        self.read().unwrap_or_default()
    }
}

impl Default for StoredJson {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for StoredJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for StoredJson {}

impl<'de> Deserialize<'de> for StoredJson {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        to_raw_value(&value).map(Self).map_err(D::Error::custom)
    }
}

/// Counts the values in a JSON value, including the value itself. Each name of an object field counts as one
/// more value. The memory of the parsed tree is proportional to the count.
pub fn count_values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count_values).sum(),
        Value::Object(fields) => fields.values().map(|value| 1 + count_values(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Random as _, SeededRandom};

    #[test]
    fn stored_text_is_unchanged_and_parses_back() {
        let text = r#"{"b": 1.50, "a": [ ] }"#;
        let stored = StoredJson::from_text(text.to_owned()).unwrap();
        assert_eq!(serde_json::to_string(&json!({ "x": 1 })).unwrap(), r#"{"x":1}"#);
        assert_eq!(serde_json::to_string(&[&stored]).unwrap(), format!("[{text}]"));
        assert_eq!(stored.to_value(), json!({ "a": [], "b": 1.5 }));
        assert!(StoredJson::from_text("{".to_owned()).is_err());
        assert_eq!(StoredJson::of(&json!({ "b": 1, "a": 2 })).as_str(), r#"{"a":2,"b":1}"#);
        assert_eq!(serde_json::from_str::<StoredJson>(text).unwrap().as_str(), r#"{"a":[],"b":1.5}"#);
        assert_eq!(StoredJson::default().as_str(), "null");
    }

    /// Fails if the feature `float_roundtrip` of `serde_json` is disabled. Without the feature, about one in
    /// ten such numbers changes to a neighbouring value.
    #[test]
    fn floats_round_trip() {
        let random = SeededRandom::new(1);
        for text in
            ["48.208176", "16.373819", "-0.1", "179.99999999999997", "5e-324", "1.7976931348623157e308"]
        {
            assert_eq!(serde_json::from_str::<f64>(text).unwrap(), text.parse::<f64>().unwrap(), "{text}");
        }
        for _ in 0..100_000 {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            let degrees = f64::from_bits(u64::from_le_bytes(bytes) >> 12 | 1023 << 52) * 360.0 - 540.0;
            let read = StoredJson::from_text(degrees.to_string()).unwrap().to_value();
            assert_eq!(read.as_f64().map(f64::to_bits), Some(degrees.to_bits()), "{degrees}");
        }
    }

    #[test]
    fn count_values_includes_field_names() {
        assert_eq!(count_values(&json!(1)), 1);
        assert_eq!(count_values(&json!([{ "": 0 }, { "": 0 }])), 7);
    }
}
