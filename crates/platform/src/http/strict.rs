//! Deserializes JSON more strictly than serde. Structs are read from objects only, although serde also
//! accepts arrays with the fields in order. Text must not contain U+0000. Wraps the deserializers at every
//! depth; nothing else changes.
//!
//! Types that serde buffers can still be read from arrays: flattened structs, and untagged and internally
//! tagged enums. Request bodies do not use such types.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Beginning of the error message for a text that contains U+0000.
pub(super) const NUL: &str = "U+0000";

/// Wrapper of a deserializer, visitor, seed or access, which applies the strict rules to it.
pub(super) struct Strict<T>(pub T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    // JSON describes its own types, so most methods can call `deserialize_any`.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Strict(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Strict(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Strict(visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Strict(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Strict(visitor))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.0.visit_i64(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.0.visit_u64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.0.visit_f64(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_str(without_nul(value)?)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(without_nul(value)?)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Strict(variant))
    }
}

/// Rejects text with U+0000, which the databases cannot store.
fn without_nul<E: Error>(text: &str) -> Result<&str, E> {
    if text.contains('\0') { Err(E::custom(NUL)) } else { Ok(text) }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(seed).map(|(name, content)| (name, Strict(content)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Strict(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.newtype_variant_seed(VariantFields(visitor))
    }
}

/// Fields of an enum variant with named fields, which are read from an object.
struct VariantFields<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for VariantFields<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        from.deserialize_map(Strict(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Point {
        x: i32,
        y: f64,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named(Point);

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Shape {
        None,
        Dot(Point),
        Line(Point, Point),
        Circle { at: Point, r: u8 },
    }

    fn read<T: DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
        T::deserialize(Strict(&mut serde_json::Deserializer::from_str(json)))
    }

    /// Asserts that serde reads `array` with the same result as `object`, and that this module rejects
    /// `array`.
    fn only_serde_takes<T: DeserializeOwned + PartialEq + fmt::Debug>(object: &str, array: &str) {
        let expected: T = serde_json::from_str(object).unwrap();
        assert_eq!(serde_json::from_str::<T>(array).unwrap(), expected);
        assert_eq!(read::<T>(object).unwrap(), expected);
        let error = read::<T>(array).unwrap_err().to_string();
        assert!(error.starts_with("invalid type: sequence"), "{array}: {error}");
    }

    #[test]
    fn arrays_are_rejected_as_structs_at_any_depth() {
        const POINT: &str = r#"{"x": 1, "y": 2.5}"#;
        let around = |wrap: fn(&str) -> String| (wrap(POINT), wrap("[1, 2.5]"));
        let (object, array) = around(str::to_owned);
        only_serde_takes::<Point>(&object, &array);
        only_serde_takes::<Named>(&object, &array);
        only_serde_takes::<Option<Point>>(&object, &array);
        let (object, array) = around(|point| format!("[{point}]"));
        only_serde_takes::<Vec<Point>>(&object, &array);
        only_serde_takes::<(Option<Point>,)>(&object, &array);
        let (object, array) = around(|point| format!(r#"{{"a": [{point}]}}"#));
        only_serde_takes::<BTreeMap<String, Vec<Point>>>(&object, &array);
        for wrap in [
            |point: &str| format!(r#"{{"dot": {point}}}"#),
            |point: &str| format!(r#"{{"line": [{{"x": 1, "y": 1}}, {point}]}}"#),
            |point: &str| format!(r#"{{"circle": {{"at": {point}, "r": 1}}}}"#),
        ] {
            let (object, array) = around(wrap);
            only_serde_takes::<Shape>(&object, &array);
        }
        only_serde_takes::<Shape>(
            r#"{"circle": {"at": {"x": 1, "y": 1}, "r": 1}}"#,
            r#"{"circle": [{"x": 1, "y": 1}, 1]}"#,
        );
    }

    #[test]
    fn other_values_deserialize_unchanged() {
        let json = r#"[null, true, -1, 1, 1.5, "a\u0062", [], {"a": {"b": [1]}}]"#;
        assert_eq!(
            read::<serde_json::Value>(json).unwrap(),
            serde_json::from_str::<serde_json::Value>(json).unwrap()
        );
        assert_eq!(read::<Shape>(r#""none""#).unwrap(), Shape::None);
        assert_eq!(read::<BTreeMap<u8, char>>(r#"{"1": "a"}"#).unwrap(), [(1, 'a')].into());
        assert_eq!(read::<Option<()>>("null").unwrap(), None);
    }
}
