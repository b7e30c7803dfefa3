//! Declarations of collections. A declaration contains a schema for items, and the fields by which lists are
//! sorted and filtered.
//!
//! Each item stores the revision of the fields with which it was indexed. After a change of the fields, a
//! maintenance job indexes the other items in batches. Until it has finished, lists that use fields are
//! rejected.

use kith_kernel::{Ctx, FieldError, StoredJson};
use kith_platform::{App, MaintenanceError, Preconditions};
use kith_store::{Error, Query, Tx};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::declaration::{Declaration, StoredDeclaration};
use super::model::{CollectionName, Item, Space, SpaceError, check_shape};
use super::{dates, events, order, rows};
use kith_json_schema::SchemaText;

const MAX_FIELDS: usize = 4;
const MAX_FIELD_BYTES: usize = 100;
/// Number of items indexed in one transaction.
const BATCH_SIZE: i64 = 200;

/// Declaration of a collection.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclarationBody {
    /// JSON Schema (draft 2020-12) for the items, at most 32 KiB, without external references. Patterns must
    /// not use look-around or back-references; each may need at most 2 MiB of memory when compiled. At most
    /// 128 nested schemas may apply to one value. Existing items are not validated until they are next
    /// written. An item whose validation takes too much work is rejected with `schema_too_costly`.
    #[schema(value_type = Option<Object>)]
    schema: Option<Map<String, Value>>,
    /// Fields by which lists can be sorted and filtered, at most 4. Each is the name of a top-level field or
    /// a JSON Pointer, 1 to 100 bytes.
    #[serde(default)]
    fields: Vec<String>,
}

/// Schema and indexed fields that apply to a collection.
#[derive(Debug, Default)]
pub struct CollectionRules {
    /// Revision of the fields; 0 if the collection was never declared.
    pub revision: i64,
    /// Fields by which lists can be sorted and filtered.
    pub fields: Vec<String>,
    /// Schema as stored; `None` if there is none.
    pub schema: Option<SchemaText>,
}

impl CollectionRules {
    /// Reads the rules of `collection`. They are empty if the collection was never declared.
    ///
    /// # Errors
    /// Returns the store's error if the query fails.
    pub fn of(q: &Query<'_>, collection: &CollectionName) -> Result<Self, Error> {
        if dates::is_dates(collection) {
            return Ok(Self { revision: 1, fields: vec![dates::DATE_FIELD.to_owned()], schema: None });
        }
        Ok(rows::find_rules(q, collection)?.unwrap_or_default())
    }

    /// Announces [`CollectionRules::of`], which reads nothing for the collection of dates.
    ///
    /// # Errors
    /// Returns the store's error if a statement fails.
    pub fn prefetch(tx: &Tx<'_>, collection: &CollectionName) -> Result<(), Error> {
        if dates::is_dates(collection) { Ok(()) } else { rows::prefetch_rules(tx, collection) }
    }

    /// Adds the index entries of a new item with the content `data`.
    ///
    /// # Errors
    /// Returns the store's error if a statement fails.
    pub fn index(&self, tx: &Tx<'_>, space: Space, item: &Item, data: &Value) -> Result<(), Error> {
        self.fields.iter().try_for_each(|field| {
            rows::insert_field(tx, space, item, field, &order::encode(field_value(data, field)))
        })
    }

    /// Replaces the index entries of an item by those that these rules require.
    ///
    /// # Errors
    /// Returns the store's error if a statement fails.
    pub fn reindex(&self, tx: &Tx<'_>, space: Space, item: &Item, data: &Value) -> Result<(), Error> {
        if self.revision > 0 {
            rows::delete_fields(tx, item.id)?;
        }
        self.index(tx, space, item, data)
    }
}

/// Returns the value of a declared field in `data`; `None` if it is missing.
fn field_value<'d>(data: &'d Value, field: &str) -> Option<&'d Value> {
    if field.starts_with('/') { data.pointer(field) } else { data.get(field) }
}

/// Declares a collection, or changes its declaration. The caller must have compiled the schema successfully.
///
/// # Errors
/// Returns [`SpaceError::Changed`] if a precondition fails.
pub fn declare(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &CollectionName,
    checked: &CheckedDeclaration,
    preconditions: &Preconditions,
) -> Result<Declaration, SpaceError> {
    let CheckedDeclaration { schema, fields } = checked.clone();
    tx.lock("collection", [name])?;
    let present = rows::find_declaration(tx, name)?;
    let declaration = Declaration { name: name.clone(), schema, fields, updated_at: ctx.now };
    let Some(present) = present else {
        preconditions.check_absent()?;
        let id = ctx.new_id(|id| id);
        let stored = StoredDeclaration { id, revision: 1, declared: true, declaration };
        return store_declaration(tx, ctx, stored);
    };
    let (old, new) = (&present.declaration, &declaration);
    if present.declared {
        preconditions.check(old)?;
        if (&old.schema, &old.fields) == (&new.schema, &new.fields) {
            return Ok(present.declaration);
        }
    } else {
        preconditions.check_absent()?;
    }
    let revision = present.revision + i64::from(old.fields != new.fields);
    store_declaration(tx, ctx, StoredDeclaration { declared: true, revision, declaration, ..present })
}

/// Withdraws a declaration. From then on, the collection accepts any item, and its lists cannot use fields.
///
/// # Errors
/// Returns [`SpaceError::BuiltIn`] for `dates`, [`SpaceError::DeclarationNotFound`] if the collection is not
/// declared, and [`SpaceError::Changed`] if a precondition fails.
pub fn withdraw(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &CollectionName,
    preconditions: &Preconditions,
) -> Result<(), SpaceError> {
    if dates::is_dates(name) {
        return Err(SpaceError::BuiltIn);
    }
    tx.lock("collection", [name])?;
    let Some(present) = rows::find_declaration(tx, name)?.filter(|stored| stored.declared) else {
        preconditions.check_absent()?;
        return Err(SpaceError::DeclarationNotFound);
    };
    preconditions.check(&present.declaration)?;
    let revision = present.revision + i64::from(!present.declaration.fields.is_empty());
    let declaration =
        Declaration { name: name.clone(), schema: None, fields: Vec::new(), updated_at: ctx.now };
    store_declaration(tx, ctx, StoredDeclaration { id: present.id, declared: false, revision, declaration })
        .map(|_| ())
}

fn store_declaration(tx: &Tx<'_>, ctx: &Ctx, stored: StoredDeclaration) -> Result<Declaration, SpaceError> {
    rows::upsert_declaration(tx, &stored)?;
    let action = if stored.declared { "collection.declared" } else { "collection.withdrawn" };
    tx.audit(ctx, action, &stored.declaration.name);
    tx.emit(ctx, events::declared(&stored));
    Ok(stored.declaration)
}

/// Declaration that was checked, except whether its schema compiles.
#[derive(Clone, Debug)]
pub struct CheckedDeclaration {
    /// Schema, which the caller must compile before the transaction; `None` if there is none.
    pub schema: Option<StoredJson>,
    fields: Vec<String>,
}

/// Checks a declaration, except whether its schema compiles.
///
/// # Errors
/// Returns [`SpaceError::BuiltIn`] for `dates`, [`SpaceError::Invalid`] for invalid input.
pub fn check(name: &CollectionName, body: DeclarationBody) -> Result<CheckedDeclaration, SpaceError> {
    if dates::is_dates(name) {
        return Err(SpaceError::BuiltIn);
    }
    let schema = body.schema.map(Value::Object);
    if let Some(schema) = &schema {
        check_shape(schema, "/schema")?;
    }
    let schema = schema.as_ref().map(StoredJson::of);
    if body.fields.len() > MAX_FIELDS {
        return Err(
            FieldError::new("/fields", "too_many", format!("Expected at most {MAX_FIELDS} fields.")).into()
        );
    }
    let fault = |n: usize, code, detail| FieldError::new(format!("/fields/{n}"), code, detail);
    for (n, field) in body.fields.iter().enumerate() {
        if field.is_empty() || field.len() > MAX_FIELD_BYTES {
            return Err(fault(n, "invalid", "Expected 1 to 100 bytes.").into());
        }
        if body.fields[..n].contains(field) {
            return Err(fault(n, "duplicate", "This field is listed twice.").into());
        }
        // In the query parameter `order`, a leading `-` means descending order.
        if field.starts_with('-') {
            return Err(
                fault(n, "invalid", "Write a field whose name begins with - as a JSON Pointer.").into()
            );
        }
    }
    Ok(CheckedDeclaration { schema, fields: body.fields })
}

/// Indexes items that are not indexed with the current revision of their collection's fields.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn index_stale(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    while app.write(&ctx, |tx, _| index_batch(tx)).await? == BATCH_SIZE {}
    Ok(())
}

fn index_batch(tx: &Tx<'_>) -> Result<i64, Error> {
    tx.lock("ticker", ["space_item_fields"])?;
    let stale = rows::list_stale(tx, BATCH_SIZE)?;
    for (space, item, rules) in &stale {
        // If the item has changed meanwhile, that change has already indexed it.
        if rows::set_indexed(tx, item, rules.revision)? {
            rules.reindex(tx, *space, item, &item.data.to_value())?;
        }
    }
    Ok(stale.len() as i64)
}
