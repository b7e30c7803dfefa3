//! Types of spaces and items, without database access.

use std::fmt;
use std::str::FromStr;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, FieldError, StoredJson, Timestamp, UserId, count_values, id_type};
use kith_platform::StateMismatch;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use utoipa::ToSchema;

use crate::bonds::BondId;
use kith_json_schema::NotValidated;

/// Maximum nesting depth of objects and arrays in data and in schemas.
const MAX_DEPTH: usize = 32;
/// Maximum number of values in data and in schemas, including field names. Each value takes up to about a
/// hundred bytes of memory when parsed.
const MAX_VALUES: usize = 10_000;
const MAX_NAME_BYTES: usize = 40;

id_type! {
    /// Item ID.
    ItemId
}

/// Space as named in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpaceName {
    /// The caller's own space.
    Me,
    /// The space of the caller's active bond.
    Bond,
}

/// Space, identified by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Own space of a user.
    Me(UserId),
    /// Shared space of a bond.
    Bond(BondId),
}

impl Space {
    /// Returns the name used in the API: `me` or `bond`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Me(_) => "me",
            Self::Bond(_) => "bond",
        }
    }

    /// Returns the ID of the user or bond that owns the space. It is the subject of the space's events.
    pub fn id(self) -> Uuid {
        match self {
            Self::Me(user) => user.0,
            Self::Bond(bond) => bond.0,
        }
    }

    /// Returns the key used in the database: `me:` or `bond:` followed by the ID.
    pub fn key(self) -> String {
        format!("{}:{}", self.name(), self.id())
    }

    /// Parses a key that [`Space::key`] returns.
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

/// Space with the users who can read and write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceWithMembers {
    /// Space.
    pub space: Space,
    /// Users, ordered by ID.
    pub members: Vec<UserId>,
}

/// Collection name: 1 to 40 characters of `a` to `z`, `0` to `9`, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CollectionName(String);

kith_kernel::scalar_schema! { CollectionName => "CollectionName", String }

impl CollectionName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CollectionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 to 40 of a to z, 0 to 9, - and _")
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

/// Item of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Item {
    /// Item ID.
    pub id: ItemId,
    /// Name of the collection.
    pub collection: CollectionName,
    /// Content of the item: a JSON object.
    #[schema(value_type = Object)]
    pub data: StoredJson,
    /// Version, 1 for a new item. It increases by one with each change.
    pub version: i64,
    /// Time at which the item was created.
    pub created_at: Timestamp,
    /// ID of the user who created the item; `null` after their account was purged.
    #[schema(required = true)]
    pub created_by: Option<UserId>,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// ID of the user who last changed the item; `null` after their account was purged.
    #[schema(required = true)]
    pub updated_by: Option<UserId>,
}

impl Item {
    /// Creates an item with version 1.
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

    /// Returns the next version of the item, with `data` as its data.
    pub fn changed(&self, ctx: &Ctx, user: UserId, data: StoredJson) -> Self {
        Self { data, version: self.version + 1, updated_at: ctx.now, updated_by: Some(user), ..self.clone() }
    }
}

/// Number and size of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceUsage {
    /// Number of items.
    pub items: i64,
    /// Total size of the items' data in bytes.
    pub bytes: i64,
}

/// Checks the size and field names of `value`: at most [`MAX_DEPTH`] levels, at most [`MAX_VALUES`] values,
/// and no U+0000 in field names. Text values are checked when they are parsed. `pointer` is the JSON Pointer
/// of the value, for the error.
///
/// # Errors
/// Returns a [`FieldError`] with the code `too_deep`, `too_many_values` or `forbidden_character`.
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
        None => Err(FieldError::new(pointer, "forbidden_character", "Field names must not contain U+0000.")),
        Some(depth) if depth > MAX_DEPTH => {
            let detail = format!("Expected at most {MAX_DEPTH} nested objects and arrays.");
            Err(FieldError::new(pointer, "too_deep", detail))
        }
        Some(_) if count_values(value) > MAX_VALUES => {
            let detail = format!("Expected at most {MAX_VALUES} values, including field names.");
            Err(FieldError::new(pointer, "too_many_values", detail))
        }
        Some(_) => Ok(()),
    }
}

/// Error of a command or query about spaces. If it is returned, nothing was changed.
#[derive(Debug, Error)]
pub enum SpaceError {
    /// The user has no active bond.
    #[error("the user has no active bond")]
    NotBonded,
    /// The data has not been validated against the current schema.
    #[error(transparent)]
    Unvalidated(#[from] NotValidated),
    /// The item does not exist in this collection.
    #[error("item not found")]
    ItemNotFound,
    /// The bond does not exist, the caller is not one of its users, or its space was purged.
    #[error("space not found")]
    SpaceNotFound,
    /// The collection is not declared.
    #[error("the collection is not declared")]
    DeclarationNotFound,
    /// The collection is built in and cannot be declared.
    #[error("this collection is built in")]
    BuiltIn,
    /// The data is invalid.
    #[error("invalid input")]
    Invalid(Vec<FieldError>),
    /// The query parameters of a list are invalid.
    #[error("invalid query")]
    BadQuery(Vec<FieldError>),
    /// Some items are not yet indexed by the current fields of the collection.
    #[error("the collection is being indexed")]
    Indexing,
    /// The data exceeds the maximum size.
    #[error("the item is larger than {limit} bytes")]
    ItemTooLarge {
        /// Maximum size in bytes.
        limit: u32,
    },
    /// The space has reached a limit.
    #[error("a space can contain {limit} {unit}")]
    SpaceFull {
        /// Limit that was reached.
        limit: u32,
        /// Unit of the limit: `items`, `collections` or `bytes`.
        unit: &'static str,
    },
    /// The resource has changed since the caller read it.
    #[error(transparent)]
    Changed(#[from] StateMismatch),
    /// The database operation failed.
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
    use serde_json::json;

    use super::*;

    #[test]
    fn space_key_round_trips() {
        let id = Uuid::from_u128(7);
        for space in [Space::Me(UserId(id)), Space::Bond(BondId(id))] {
            assert_eq!(Space::parse(&space.key()), Some(space));
        }
        for foreign in ["", "me", "me:", "you:00000000-0000-0000-0000-000000000007"] {
            assert_eq!(Space::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn collection_name_is_validated() {
        for name in ["a", "shopping-list", "a_1", &"x".repeat(40)] {
            assert_eq!(name.parse::<CollectionName>().unwrap().as_str(), name);
        }
        for name in ["", "A", "ä", "a b", "a/b", "a.b", &"x".repeat(41)] {
            assert!(name.parse::<CollectionName>().is_err(), "{name}");
        }
    }

    #[test]
    fn deep_data_and_nul_in_field_names_are_rejected() {
        let nested = |depth| (1..depth).fold(json!({}), |inner, _| json!([inner]));
        assert!(check_shape(&nested(MAX_DEPTH), "/data").is_ok());
        assert_eq!(check_shape(&nested(MAX_DEPTH + 1), "/data").unwrap_err().code, "too_deep");
        let nul = json!({ "a": [{ "b\0": 1 }] });
        assert_eq!(check_shape(&nul, "/data").unwrap_err().code, "forbidden_character");
    }
}
