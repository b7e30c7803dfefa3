//! What a space holds and whose it is. Nothing here reaches a database.

use std::fmt;
use std::str::FromStr;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, FieldError, StoredJson, Timestamp, UserId, count_values, id_type};
use kith_platform::Changed;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use utoipa::ToSchema;

use crate::bonds::BondId;
use kith_json_schema::AwaitsValidation;

/// Objects and arrays within each other, in data and in schemas.
const DEEPEST: usize = 32;
/// Values in data and in schemas, with the names of fields: as a tree each takes up to some hundred bytes.
const MAX_VALUES: usize = 10_000;
const LONGEST_NAME: usize = 40;

id_type! {
    /// Something that is kept in a space.
    ItemId
}

/// How somebody names a space that they may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpaceName {
    /// Their own.
    Me,
    /// The one that they share with their present partner.
    Bond,
}

/// A space, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Somebody's own.
    Me(UserId),
    /// What two people share.
    Bond(BondId),
}

impl Space {
    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Me(_) => "me",
            Self::Bond(_) => "bond",
        }
    }

    /// The id of whose it is, which is the subject of its events.
    pub fn id(self) -> Uuid {
        match self {
            Self::Me(user) => user.0,
            Self::Bond(bond) => bond.0,
        }
    }

    /// As the database names it.
    pub fn key(self) -> String {
        format!("{}:{}", self.name(), self.id())
    }

    /// Reads what [`Space::key`] wrote.
    pub fn parse(key: &str) -> Option<Self> {
        let (name, id) = key.split_once(':')?;
        let id = id.parse().ok()?;
        match name {
            "me" => Some(Self::Me(UserId(id))),
            "bond" => Some(Self::Bond(BondId(id))),
            _ => None,
        }
    }
}

/// A space, and everybody whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSpace {
    /// The space.
    pub space: Space,
    /// In the order of their ids.
    pub people: Vec<UserId>,
}

/// What a collection is called: `a` to `z`, `0` to `9`, `-`, `_`, at most 40.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CollectionName(String);

kith_kernel::scalar_schema! { CollectionName => "CollectionName", String }

impl CollectionName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CollectionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a name is made of a to z, 0 to 9, - and _, at most 40 of them")
        }
    }
}

impl TryFrom<String> for CollectionName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that is kept in a collection of a space.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Item {
    /// Of this item.
    pub id: ItemId,
    /// What it is one of.
    pub collection: CollectionName,
    /// What the app keeps: an object.
    #[schema(value_type = Object)]
    pub data: StoredJson,
    /// 1, and one more with each change.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom; null once they are gone.
    #[schema(required = true)]
    pub created_by: Option<UserId>,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// By whom; null once they are gone.
    #[schema(required = true)]
    pub updated_by: Option<UserId>,
}

impl Item {
    /// A new one.
    pub fn new(ctx: &Ctx, user: UserId, collection: CollectionName, data: StoredJson) -> Self {
        Self {
            id: ctx.new_id(ItemId),
            collection,
            data,
            version: 1,
            created_at: ctx.now,
            created_by: Some(user),
            updated_at: ctx.now,
            updated_by: Some(user),
        }
    }

    /// What it becomes with other data.
    pub fn changed(&self, ctx: &Ctx, user: UserId, data: StoredJson) -> Self {
        Self { data, version: self.version + 1, updated_at: ctx.now, updated_by: Some(user), ..self.clone() }
    }
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Items.
    pub items: i64,
    /// Of their data.
    pub bytes: i64,
}

/// Whether `value`, which stands at `pointer`, can be kept: not nested too deep, not of too many values, and no U+0000 in the
/// names of its fields. The values of texts were looked at when they were read.
///
/// # Errors
/// `too_deep`, `too_many_values`, `forbidden_character`.
pub fn check_shape(value: &Value, pointer: &'static str) -> Result<(), FieldError> {
    fn depth(value: &Value) -> Option<usize> {
        let inner: Vec<_> = match value {
            Value::Object(fields) => {
                let named = |(name, value): (&String, _)| (!name.contains('\0')).then(|| depth(value))?;
                fields.iter().map(named).collect::<Option<_>>()?
            }
            Value::Array(items) => items.iter().map(depth).collect::<Option<_>>()?,
            _ => return Some(0),
        };
        Some(1 + inner.into_iter().max().unwrap_or(0))
    }
    match depth(value) {
        None => Err(FieldError::new(pointer, "forbidden_character", "Names must not contain U+0000.")),
        Some(depth) if depth > DEEPEST => {
            let detail = format!("At most {DEEPEST} objects and arrays within each other.");
            Err(FieldError::new(pointer, "too_deep", detail))
        }
        Some(_) if count_values(value) > MAX_VALUES => {
            let detail = format!("At most {MAX_VALUES} values, names of fields included.");
            Err(FieldError::new(pointer, "too_many_values", detail))
        }
        Some(_) => Ok(()),
    }
}

/// JSON Merge Patch (RFC 7396): what `target` becomes by `patch`.
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

/// Why something about a space was refused. Nothing was changed.
#[derive(Debug, Error)]
pub enum SpaceError {
    /// There is no bond whose space it could be.
    #[error("nobody is bonded to this person")]
    NotBonded,
    /// The data has not been validated against the schema that holds.
    #[error(transparent)]
    Unvalidated(#[from] AwaitsValidation),
    /// It does not exist, or not here.
    #[error("there is no such item")]
    ItemNotFound,
    /// There is no such bond, not of this person, or its space was purged.
    #[error("there is no such space")]
    SpaceNotFound,
    /// It was not declared.
    #[error("there is no such declaration")]
    DeclarationNotFound,
    /// Kith declares it itself.
    #[error("this collection is built in")]
    BuiltIn,
    /// The data is not as it has to be.
    #[error("the input has faults")]
    Invalid(Vec<FieldError>),
    /// The list cannot be had in this way.
    #[error("the query has faults")]
    BadQuery(Vec<FieldError>),
    /// The fields by which the list is wanted are not known of all items yet.
    #[error("the collection is being indexed")]
    Indexing,
    /// The data is too long.
    #[error("the item is larger than {most} bytes")]
    ItemTooLarge {
        /// Bytes that it may have.
        most: u32,
    },
    /// The space holds as much as it may.
    #[error("the space may hold {most} {what}")]
    SpaceFull {
        /// Of that.
        most: u32,
        /// Items, collections or bytes.
        what: &'static str,
    },
    /// It is meant for another state.
    #[error(transparent)]
    Changed(#[from] Changed),
    /// The database's own.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}

impl From<FieldError> for SpaceError {
    fn from(fault: FieldError) -> Self {
        Self::Invalid(vec![fault])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_space_reads_back() {
        let id = Uuid::from_u128(7);
        for space in [Space::Me(UserId(id)), Space::Bond(BondId(id))] {
            assert_eq!(Space::parse(&space.key()), Some(space));
        }
        for foreign in ["", "me", "me:", "you:00000000-0000-0000-0000-000000000007"] {
            assert_eq!(Space::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn names_are_plain_and_short() {
        for name in ["a", "shopping-list", "a_1", &"x".repeat(40)] {
            assert_eq!(name.parse::<CollectionName>().unwrap().as_str(), name);
        }
        for name in ["", "A", "ä", "a b", "a/b", "a.b", &"x".repeat(41)] {
            assert!(name.parse::<CollectionName>().is_err(), "{name}");
        }
    }

    #[test]
    fn data_is_bounded_in_depth_and_has_no_nul_in_names() {
        let nested = |depth| (1..depth).fold(json!({}), |inner, _| json!([inner]));
        assert!(check_shape(&nested(DEEPEST), "/data").is_ok());
        assert_eq!(check_shape(&nested(DEEPEST + 1), "/data").unwrap_err().code, "too_deep");
        let nul = json!({ "a": [{ "b\0": 1 }] });
        assert_eq!(check_shape(&nul, "/data").unwrap_err().code, "forbidden_character");
    }

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn patches_are_merged_as_the_standard_shows() {
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
            assert_eq!(merge(target.clone(), patch.clone()), result, "{target} by {patch}");
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
        fn merging_again_changes_nothing(target in value(), patch in value()) {
            let once = merge(target, patch.clone());
            prop_assert_eq!(merge(once.clone(), patch), once);
        }

        #[test]
        fn a_patch_without_null_is_all_that_becomes_of_nothing(patch in value()) {
            let merged = merge(Value::Null, patch.clone());
            prop_assert!(!has_null_field(&merged));
            if !has_null_field(&patch) {
                prop_assert_eq!(merged, patch);
            }
        }

        #[test]
        fn what_a_patch_does_not_name_stays(target in value(), patch in value()) {
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
