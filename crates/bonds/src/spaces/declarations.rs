//! What administrators declare of collections: a schema for their items, and the fields that lists go by.
//!
//! Each item knows by which revision of the fields it is indexed. After a change the upkeep takes the others in batches;
//! until it has them all, lists by fields are refused.

use kith_kernel::{Ctx, FieldError, StoredJson, Timestamp};
use kith_platform::{App, Preconditions, UpkeepError};
use kith_store::{Error, Query, Tx};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::model::{CollectionName, Item, Space, SpaceError, check_shape};
use super::{dates, events, order, rows};
use kith_json_schema::SchemaText;

const MOST_FIELDS: usize = 4;
const LONGEST_FIELD: usize = 100;
/// Items that are indexed in one transaction.
const BATCH: i64 = 200;

/// What a collection is to hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclarationBody {
    /// A JSON Schema (draft 2020-12) that refers to nothing outside itself, at most 32 KiB. Patterns have no look-around and
    /// no back references, and take at most 2 MiB compiled; at most 128 schemas apply to one value within each other.
    /// Items that are here already stay as they are until they are written again. An item that takes too much work to
    /// validate is rejected with `schema_too_costly`.
    #[schema(value_type = Option<Object>)]
    schema: Option<Map<String, Value>>,
    /// Fields by which lists can be filtered and ordered, at most 4: the name of one at the top, or a JSON Pointer.
    #[serde(default)]
    fields: Vec<String>,
}

/// What a collection holds, wherever there is one of its name.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Declaration {
    /// Of the collection.
    pub name: CollectionName,
    /// A JSON Schema (draft 2020-12).
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<StoredJson>,
    /// Fields by which lists can be filtered and ordered.
    pub fields: Vec<String>,
    /// When this was last changed.
    pub updated_at: Timestamp,
}

/// A declaration as it is kept, also after it was withdrawn.
pub struct KeptDeclaration {
    /// The subject of its events.
    pub id: kith_kernel::uuid::Uuid,
    /// One more with each change of the fields.
    pub revision: i64,
    /// Whether it holds.
    pub declared: bool,
    /// What it says.
    pub declaration: Declaration,
}

/// What a collection asks of its items, and how they are indexed.
#[derive(Debug, Default)]
pub struct Rules {
    /// Of the fields.
    pub revision: i64,
    /// By which lists go.
    pub fields: Vec<String>,
    /// As it is kept.
    pub schema: Option<SchemaText>,
}

impl Rules {
    /// Those of `collection`; there are none for one that nobody declared.
    ///
    /// # Errors
    /// The database's.
    pub fn of(q: &Query<'_>, collection: &CollectionName) -> Result<Self, Error> {
        if dates::is_dates(collection) {
            return Ok(Self { revision: 1, fields: vec![dates::DATE.to_owned()], schema: None });
        }
        Ok(rows::find_rules(q, collection)?.unwrap_or_default())
    }

    /// Indexes a new item, which holds `data`.
    ///
    /// # Errors
    /// The database's.
    pub fn index(&self, tx: &Tx<'_>, space: Space, item: &Item, data: &Value) -> Result<(), Error> {
        self.fields.iter().try_for_each(|field| {
            rows::insert_field(tx, space, item, field, &order::encode(pick(data, field)))
        })
    }

    /// Makes the index of an item what these rules want, whatever it was. Where nothing was ever declared it is nothing.
    ///
    /// # Errors
    /// The database's.
    pub fn index_again(&self, tx: &Tx<'_>, space: Space, item: &Item, data: &Value) -> Result<(), Error> {
        if self.revision > 0 {
            rows::delete_fields(tx, item.id)?;
        }
        self.index(tx, space, item, data)
    }
}

/// The value of a declared field.
fn pick<'d>(data: &'d Value, field: &str) -> Option<&'d Value> {
    if field.starts_with('/') { data.pointer(field) } else { data.get(field) }
}

/// Declares a collection, or changes what was declared. The schema has been compiled before.
///
/// # Errors
/// [`SpaceError::Changed`].
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
        let kept = KeptDeclaration { id, revision: 1, declared: true, declaration };
        return keep(tx, ctx, kept);
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
    keep(tx, ctx, KeptDeclaration { declared: true, revision, declaration, ..present })
}

/// Withdraws a declaration: from now on the collection takes anything, and its lists go by no field.
///
/// # Errors
/// [`SpaceError::BuiltIn`], [`SpaceError::DeclarationNotFound`].
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
    let Some(present) = rows::find_declaration(tx, name)?.filter(|kept| kept.declared) else {
        preconditions.check_absent()?;
        return Err(SpaceError::DeclarationNotFound);
    };
    preconditions.check(&present.declaration)?;
    let revision = present.revision + i64::from(!present.declaration.fields.is_empty());
    let declaration =
        Declaration { name: name.clone(), schema: None, fields: Vec::new(), updated_at: ctx.now };
    keep(tx, ctx, KeptDeclaration { id: present.id, declared: false, revision, declaration }).map(|_| ())
}

fn keep(tx: &Tx<'_>, ctx: &Ctx, kept: KeptDeclaration) -> Result<Declaration, SpaceError> {
    rows::keep_declaration(tx, &kept)?;
    let action = if kept.declared { "collection.declared" } else { "collection.withdrawn" };
    tx.audit(ctx, action, &kept.declaration.name);
    tx.emit(ctx, events::declared(&kept));
    Ok(kept.declaration)
}

/// A declaration without faults, but for those of the schema as a schema.
#[derive(Clone, Debug)]
pub struct CheckedDeclaration {
    /// Has to be compiled, away from any transaction.
    pub schema: Option<StoredJson>,
    fields: Vec<String>,
}

/// Checks all but whether the schema compiles.
///
/// # Errors
/// [`SpaceError::BuiltIn`], [`SpaceError::Invalid`].
pub fn check(name: &CollectionName, body: DeclarationBody) -> Result<CheckedDeclaration, SpaceError> {
    if dates::is_dates(name) {
        return Err(SpaceError::BuiltIn);
    }
    let schema = body.schema.map(Value::Object);
    if let Some(schema) = &schema {
        check_shape(schema, "/schema")?;
    }
    let schema = schema.as_ref().map(StoredJson::of);
    if body.fields.len() > MOST_FIELDS {
        return Err(FieldError::new("/fields", "too_many", format!("At most {MOST_FIELDS}.")).into());
    }
    let fault = |n: usize, code, detail| FieldError::new(format!("/fields/{n}"), code, detail);
    for (n, field) in body.fields.iter().enumerate() {
        if field.is_empty() || field.len() > LONGEST_FIELD {
            return Err(fault(n, "invalid", "1 to 100 bytes.").into());
        }
        if body.fields[..n].contains(field) {
            return Err(fault(n, "duplicate", "It stands here twice.").into());
        }
        // What a list is asked to go down by.
        if field.starts_with('-') {
            return Err(fault(n, "invalid", "A name that begins with - must be a JSON Pointer.").into());
        }
    }
    Ok(CheckedDeclaration { schema, fields: body.fields })
}

/// Indexes what is not indexed as was last declared.
///
/// # Errors
/// The database's.
pub async fn run_due(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    while app.write(&ctx, |tx, _| index_batch(tx)).await? == BATCH {}
    Ok(())
}

fn index_batch(tx: &Tx<'_>) -> Result<i64, Error> {
    tx.lock("ticker", ["space_item_fields"])?;
    let stale = rows::list_stale(tx, BATCH)?;
    for (space, item, rules) in &stale {
        // Whoever changes the item meanwhile indexes it themselves.
        if rows::set_indexed(tx, item, rules.revision)? {
            rules.index_again(tx, *space, item, &item.data.to_value())?;
        }
    }
    Ok(stale.len() as i64)
}
