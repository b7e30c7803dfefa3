//! Declaration of a collection, as stored and as returned by the API.

use kith_kernel::uuid::Uuid;
use kith_kernel::{StoredJson, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::model::CollectionName;

/// Declaration of a collection. It applies to this collection in all spaces.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Declaration {
    /// Name of the collection.
    pub name: CollectionName,
    /// JSON Schema (draft 2020-12) for the items; `null` if there is none.
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<StoredJson>,
    /// Fields by which lists can be sorted and filtered.
    pub fields: Vec<String>,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// Declaration as stored. A withdrawn declaration stays stored.
pub struct StoredDeclaration {
    /// Declaration ID, the subject of its events.
    pub id: Uuid,
    /// Revision of the fields. It increases by one with each change of the fields.
    pub revision: i64,
    /// `true` unless the declaration was withdrawn.
    pub declared: bool,
    /// Last content of the declaration.
    pub declaration: Declaration,
}
