//! SQL statements for collection declarations.

use kith_kernel::StoredJson;
use kith_store::{Columns, Error, FromRow as _, Query, Tx, params, row_columns};

use super::super::declaration::{Declaration, StoredDeclaration};
use super::super::declarations::CollectionRules;
use super::super::model::{CollectionName, Item, Space};
use kith_json_schema::SchemaText;

row_columns! {
    declaration_columns => Declaration (fields: String = "fields") {
        name = "name",
        schema = "schema",
        updated_at = "updated_at";
        fields = read_fields(&fields)
    }
}

row_columns! {
    stored_columns => StoredDeclaration {
        declaration = declaration_columns!(),
        id = "id",
        revision = "revision",
        declared = "declared"
    }
}

row_columns! {
    rules_columns => CollectionRules (fields: String = "fields", schema: Option<String> = "schema") {
        revision = "revision";
        fields = read_fields(&fields);
        schema = schema.map(SchemaText::from)
    }
}

static RULES: &str = concat!("SELECT ", rules_columns!(), " FROM collection_declarations WHERE name = $1");

/// Prefetches the row that [`find_rules`] reads.
pub fn prefetch_rules(tx: &Tx<'_>, name: &CollectionName) -> Result<(), Error> {
    tx.prefetch(RULES, params![name.as_str()])
}

/// Returns the rules of a collection, even if its declaration was withdrawn. `None` if it was never
/// declared.
pub fn find_rules(q: &Query<'_>, name: &CollectionName) -> Result<Option<CollectionRules>, Error> {
    q.one(RULES, params![name.as_str()], CollectionRules::read_row)
}

pub fn find_declaration(q: &Query<'_>, name: &CollectionName) -> Result<Option<StoredDeclaration>, Error> {
    q.one(
        concat!("SELECT ", stored_columns!(), " FROM collection_declarations WHERE name = $1"),
        params![name.as_str()],
        StoredDeclaration::read_row,
    )
}

/// Returns up to `limit` declarations that are not withdrawn, with a name above `after`, ordered by name.
pub fn list_declarations(q: &Query<'_>, after: &str, limit: i64) -> Result<Vec<Declaration>, Error> {
    q.all(
        concat!(
            "SELECT ",
            declaration_columns!(),
            " FROM collection_declarations WHERE name > $1 AND declared ORDER BY name LIMIT $2"
        ),
        params![after, limit],
        Declaration::read_row,
    )
}

pub fn upsert_declaration(tx: &Tx<'_>, stored: &StoredDeclaration) -> Result<(), Error> {
    let StoredDeclaration { id, revision, declared, declaration } = stored;
    let schema = declaration.schema.as_ref().map(StoredJson::as_str);
    let fields = serde_json::to_string(&declaration.fields).expect("plain texts");
    tx.exec_deferred(
        "INSERT INTO collection_declarations (name, id, revision, declared, schema, fields, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (name) DO UPDATE
         SET revision = excluded.revision, declared = excluded.declared, schema = excluded.schema,
             fields = excluded.fields, updated_at = excluded.updated_at",
        params![declaration.name.as_str(), id, revision, declared, schema, fields, declaration.updated_at],
    )?;
    Ok(())
}

/// Selects items indexed with an older revision. CROSS JOIN makes SQLite join the tables in this order;
/// otherwise it would scan all items.
pub(super) const STALE: &str = concat!(
    "SELECT ",
    item_columns!(),
    ", i.space, d.revision, d.fields
     FROM collection_declarations d CROSS JOIN space_items i
     WHERE i.collection = d.name AND i.indexed_revision < d.revision LIMIT $1"
);

/// Returns up to `limit` items indexed with an older revision, with the current rules of their collection.
pub fn list_stale(q: &Query<'_>, limit: i64) -> Result<Vec<(Space, Item, CollectionRules)>, Error> {
    q.all(STALE, params![limit], |row| {
        let columns = &mut Columns::of(row);
        let (item, space, revision) = (columns.read()?, columns.read()?, columns.read()?);
        let fields = read_fields(&columns.read::<String>()?);
        Ok((space, item, CollectionRules { revision, fields, schema: None }))
    })
}

/// Records that an item is indexed with `revision`. Returns `false` if the item has changed since it was
/// read.
pub fn set_indexed(tx: &Tx<'_>, item: &Item, revision: i64) -> Result<bool, Error> {
    let sql = "UPDATE space_items SET indexed_revision = $3 WHERE id = $1 AND version = $2 AND indexed_revision < $3";
    Ok(tx.exec(sql, params![item.id, item.version, revision])? == 1)
}

fn read_fields(json: &str) -> Vec<String> {
    serde_json::from_str(json).expect("only lists of texts are written")
}
