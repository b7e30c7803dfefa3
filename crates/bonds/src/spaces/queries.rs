//! Reads of spaces.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, InvalidCursor, MAX_PAGE_BYTES, Page, PageLimit, StoredJson, Timestamp, UserId};
use kith_platform::export::{ExportPiece, ExportSection};
use kith_store::{Error, Query};
use serde::Serialize;
use utoipa::ToSchema;

use super::commands::Asked;
use super::declarations::{Declaration, Rules};
use super::list::{self, ListRequest};
use super::model::{CollectionName, Item, ItemId, SharedSpace, Space, SpaceError, SpaceName};
use super::rows;
use crate::bonds::{self, BondId, Living};

/// Items read at once for an export: a megabyte at most.
const EXPORT_PAGE: i64 = 16;

/// All that two people kept together, for one of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct BondExport {
    /// Whose it is.
    pub bond_id: BondId,
    /// When it could no longer come back.
    #[schema(required = true)]
    pub archived_at: Option<Timestamp>,
    /// One collection after the other.
    pub items: Vec<Item>,
}

/// The space that `user` means.
///
/// # Errors
/// [`SpaceError::NotBonded`].
pub fn find_space(q: &Query<'_>, user: UserId, name: SpaceName) -> Result<SharedSpace, SpaceError> {
    match name {
        SpaceName::Me => Ok(SharedSpace { space: Space::Me(user), people: vec![user] }),
        SpaceName::Bond => {
            let Living { id, users } = bonds::find_living(q, user)?.ok_or(SpaceError::NotBonded)?;
            Ok(SharedSpace { space: Space::Bond(id), people: users.into() })
        }
    }
}

/// One item.
///
/// # Errors
/// [`SpaceError::NotBonded`], [`SpaceError::ItemNotFound`].
pub fn get_item(q: &Query<'_>, asked: &Asked, id: ItemId) -> Result<Item, SpaceError> {
    let shared = find_space(q, asked.user, asked.space)?;
    let found = rows::find_item(q, shared.space, &asked.collection, id)?;
    found.map(|(item, _)| item).ok_or(SpaceError::ItemNotFound)
}

/// The items of a collection.
///
/// # Errors
/// [`SpaceError::NotBonded`], [`SpaceError::BadQuery`], [`SpaceError::Indexing`].
pub fn list_items(
    q: &Query<'_>,
    asked: &Asked,
    request: &ListRequest,
    max_item_bytes: i64,
) -> Result<Page<Item>, SpaceError> {
    let shared = find_space(q, asked.user, asked.space)?;
    let rules = Rules::of(q, &asked.collection)?;
    let plan = list::plan(&rules.fields, request).map_err(SpaceError::BadQuery)?;
    let by_fields = plan.by.is_some() || !plan.others.is_empty();
    if by_fields && rows::has_stale(q, &asked.collection, rules.revision)? {
        return Err(SpaceError::Indexing);
    }
    let limit = request.limit.rows_of(max_item_bytes);
    let items = rows::list_items(q, shared.space, &asked.collection, &plan, limit)?;
    let bytes = |(item, _): &(Item, Option<String>)| item.data.bytes();
    let key = |(item, value): &(Item, Option<String>)| (value.clone(), item.id);
    let page = Page::from_rows_within(items, request.limit, limit, MAX_PAGE_BYTES, bytes, key);
    Ok(page.map(|(item, _)| item))
}

/// What is declared, by name.
#[derive(Clone, Debug)]
pub struct DeclarationList {
    behind: String,
    limit: PageLimit,
}

impl DeclarationList {
    /// From `cursor` on.
    ///
    /// # Errors
    /// [`InvalidCursor`] if the cursor is not one that such a list handed out.
    pub fn new(cursor: Option<&Cursor>, limit: PageLimit) -> Result<Self, InvalidCursor> {
        let behind = cursor.map(Cursor::key::<CollectionName>).transpose()?;
        Ok(Self { behind: behind.map_or(String::new(), |name| name.to_string()), limit })
    }
}

/// What is declared.
///
/// # Errors
/// The database's.
pub fn list_declarations(q: &Query<'_>, list: &DeclarationList) -> Result<Page<Declaration>, SpaceError> {
    let declarations = rows::list_declarations(q, &list.behind, list.limit.rows())?;
    let bytes = |declaration: &Declaration| declaration.schema.as_ref().map_or(0, StoredJson::bytes);
    let key = |declaration: &Declaration| declaration.name.clone();
    Ok(Page::from_rows_within(declarations, list.limit, list.limit.rows(), MAX_PAGE_BYTES, bytes, key))
}

/// What is declared of one collection.
///
/// # Errors
/// [`SpaceError::DeclarationNotFound`].
pub fn get_declaration(q: &Query<'_>, name: &CollectionName) -> Result<Declaration, SpaceError> {
    let kept = rows::find_declaration(q, name)?.filter(|kept| kept.declared);
    kept.map(|kept| kept.declaration).ok_or(SpaceError::DeclarationNotFound)
}

/// The space of a bond of `user`, whether it is alive, ended or archived, as sections of an export; who has blocked whom does not
/// matter.
///
/// # Errors
/// [`SpaceError::SpaceNotFound`], also once it was purged.
pub fn export_bond(q: &Query<'_>, user: UserId, bond: BondId) -> Result<Vec<ExportSection>, SpaceError> {
    let found = rows::list_bond_spaces(q, user, bond, 1)?.pop().filter(|(id, _)| *id == bond);
    let (bond_id, archived_at) = found.ok_or(SpaceError::SpaceNotFound)?;
    Ok(vec![
        ExportSection::Text(head_of_bond(bond_id, archived_at)),
        ExportSection::Pieces(Box::new(move |q, after| export_items(q, Space::Bond(bond_id), after))),
        ExportSection::Text(END_OF_BOND.to_owned()),
    ])
}

fn head_of_bond(bond_id: BondId, archived_at: Option<Timestamp>) -> String {
    let whole = BondExport { bond_id, archived_at, items: Vec::new() };
    let whole = serde_json::to_string(&whole).expect("plain data");
    whole.strip_suffix(END_OF_BOND).expect("it ends so").to_owned()
}

/// Ends what [`head_of_bond`] began.
const END_OF_BOND: &str = "]}";

/// The spaces of all bonds of `user`, as items of an array. A piece goes on in a bond, at `bond/collection/item`, or with the next
/// bond, at `bond`.
///
/// # Errors
/// The database's.
pub fn export_bonds(q: &Query<'_>, user: UserId, after: Option<&str>) -> Result<ExportPiece, Error> {
    let (bond, behind) = after.map_or(("", None), |after| match after.split_once('/') {
        Some((bond, behind)) => (bond, Some(behind)),
        None => (after, None),
    });
    // This one and the next.
    let first = BondId(bond.parse().unwrap_or(Uuid::nil()));
    let mut spaces = rows::list_bond_spaces(q, user, first, 2)?.into_iter();
    let found = spaces.next();
    let mut json = String::new();
    let behind = behind.filter(|_| found.is_some_and(|(id, _)| id.to_string() == bond));
    if after.is_some_and(|after| after.contains('/')) && behind.is_none() {
        // Its bond is gone since the piece before.
        json.push_str(END_OF_BOND);
    }
    let Some((bond_id, archived_at)) = found else { return Ok(ExportPiece { json, next: None }) };
    if behind.is_none() {
        json.push_str(if after.is_some() { "," } else { "" });
        json.push_str(&head_of_bond(bond_id, archived_at));
    }
    let items = export_items(q, Space::Bond(bond_id), behind)?;
    json.push_str(&items.json);
    let next = match items.next {
        Some(next) => Some(format!("{bond_id}/{next}")),
        None => {
            json.push_str(END_OF_BOND);
            spaces.next().map(|(next, _)| next.to_string())
        }
    };
    Ok(ExportPiece { json, next })
}

/// Items of a space, wherever they are; a piece begins behind `collection/item`.
///
/// # Errors
/// The database's.
pub fn export_items(q: &Query<'_>, space: Space, after: Option<&str>) -> Result<ExportPiece, Error> {
    let behind = after.and_then(|after| after.split_once('/'));
    let (collection, id) = behind.unwrap_or_default();
    let id = ItemId(id.parse().unwrap_or(Uuid::nil()));
    let items = rows::list_all_items(q, space, collection, id, EXPORT_PAGE)?;
    let next = items.last().map(|item| format!("{}/{}", item.collection, item.id));
    Ok(ExportPiece::of_items(&items, after, next))
}
