//! SQL statements of collection declarations.

use kith_kernel::StoredJson;
use kith_store::{Error, Query, Row, Tx, params};

use super::super::declarations::{Declaration, KeptDeclaration, Rules};
use super::super::model::{CollectionName, Item, Space};
use super::read_item;
use kith_json_schema::SchemaText;

/// Returns the rules of a collection, also after its declaration was withdrawn.
pub fn find_rules(q: &Query<'_>, name: &CollectionName) -> Result<Option<Rules>, Error> {
    q.one(
        "SELECT revision, fields, schema FROM collection_declarations WHERE name = $1",
        params![name.as_str()],
        |row| {
            Ok(Rules {
                revision: row.get(0)?,
                fields: read_fields(row, 1)?,
                schema: row.get::<Option<String>>(2)?.map(SchemaText::from),
            })
        },
    )
}

pub fn find_declaration(q: &Query<'_>, name: &CollectionName) -> Result<Option<KeptDeclaration>, Error> {
    q.one(
        "SELECT name, schema, fields, updated_at, id, revision, declared FROM collection_declarations
         WHERE name = $1",
        params![name.as_str()],
        |row| {
            Ok(KeptDeclaration {
                id: row.get(4)?,
                revision: row.get(5)?,
                declared: row.get(6)?,
                declaration: read_declaration(row)?,
            })
        },
    )
}

/// Returns up to `limit` declarations in force with a name above `behind`, ordered by name.
pub fn list_declarations(q: &Query<'_>, behind: &str, limit: i64) -> Result<Vec<Declaration>, Error> {
    q.all(
        "SELECT name, schema, fields, updated_at FROM collection_declarations
         WHERE name > $1 AND declared ORDER BY name LIMIT $2",
        params![behind, limit],
        read_declaration,
    )
}

pub fn keep_declaration(tx: &Tx<'_>, kept: &KeptDeclaration) -> Result<(), Error> {
    let KeptDeclaration { id, revision, declared, declaration } = kept;
    let schema = declaration.schema.as_ref().map(StoredJson::as_str);
    let fields = serde_json::to_string(&declaration.fields).expect("plain texts");
    tx.exec(
        "INSERT INTO collection_declarations (name, id, revision, declared, schema, fields, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (name) DO UPDATE
         SET revision = excluded.revision, declared = excluded.declared, schema = excluded.schema,
             fields = excluded.fields, updated_at = excluded.updated_at",
        params![declaration.name.as_str(), id, revision, declared, schema, fields, declaration.updated_at],
    )?;
    Ok(())
}

/// Items indexed by an older revision. SQLite joins the tables of a CROSS JOIN in this order; otherwise it
/// would scan all items.
pub(super) const STALE: &str =
    "SELECT i.id, i.collection, i.data, i.version, i.created_at, i.created_by, i.updated_at,
            i.updated_by, i.space, d.revision, d.fields
     FROM collection_declarations d CROSS JOIN space_items i
     WHERE i.collection = d.name AND i.indexed_by < d.revision LIMIT $1";

/// Returns up to `limit` items indexed by an older revision, with the present rules.
pub fn list_stale(q: &Query<'_>, limit: i64) -> Result<Vec<(Space, Item, Rules)>, Error> {
    q.all(STALE, params![limit], |row| {
        let rules = Rules { revision: row.get(9)?, fields: read_fields(row, 10)?, schema: None };
        Ok((row.get(8)?, read_item(row)?, rules))
    })
}

/// Records that an item is indexed by `revision`. Returns `false` if it was changed since it was read.
pub fn set_indexed(tx: &Tx<'_>, item: &Item, revision: i64) -> Result<bool, Error> {
    let sql = "UPDATE space_items SET indexed_by = $3 WHERE id = $1 AND version = $2 AND indexed_by < $3";
    Ok(tx.exec(sql, params![item.id, item.version, revision])? == 1)
}

fn read_declaration(row: &Row<'_>) -> Result<Declaration, Error> {
    Ok(Declaration {
        name: row.get(0)?,
        schema: row.get(1)?,
        fields: read_fields(row, 2)?,
        updated_at: row.get(3)?,
    })
}

fn read_fields(row: &Row<'_>, at: usize) -> Result<Vec<String>, Error> {
    Ok(serde_json::from_str(&row.get::<String>(at)?).expect("only lists of texts are written"))
}
