//! Collection declaration, as stored and as returned by the API.

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
    /// JSON Schema (draft 2020-12) for the items; `null` if none.
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<StoredJson>,
    /// Fields for sorting and filtering lists.
    pub fields: Vec<String>,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// Declaration as stored. It stays after it is withdrawn.
pub struct StoredDeclaration {
    /// Declaration ID, the subject of its events.
    pub id: Uuid,
    /// Revision of the fields. It increases by one with each change of the fields.
    pub revision: i64,
    /// `false` after the declaration was withdrawn.
    pub declared: bool,
    /// Declaration as last set.
    pub declaration: Declaration,
}
