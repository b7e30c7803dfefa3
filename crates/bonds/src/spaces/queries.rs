//! Read operations of spaces.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, InvalidCursor, MAX_PAGE_BYTES, Page, PageLimit, StoredJson, Timestamp, UserId};
use kith_platform::export::{ExportPiece, ExportSection};
use kith_store::{Error, Query};
use serde::Serialize;
use utoipa::ToSchema;

use super::declaration::Declaration;
use super::declarations::CollectionRules;
use super::list::{self, ItemListParams};
use super::model::{CollectionName, Item, ItemId, Space, SpaceError, SpaceName, SpaceWithMembers};
use super::rows;
use crate::bonds::{self, ActiveBond, BondId};

/// Collection that a request refers to.
#[derive(Clone, Debug)]
pub struct CollectionRequest {
    /// Caller.
    pub user: UserId,
    /// Space of the caller.
    pub space: SpaceName,
    /// Collection in this space.
    pub collection: CollectionName,
}

/// Number of items read at once for an export. Together they have at most about one megabyte.
const EXPORT_PAGE_SIZE: i64 = 16;

/// Content of a bond's space.
#[derive(Debug, Serialize, ToSchema)]
pub struct BondExport {
    /// Bond ID.
    pub bond_id: BondId,
    /// Time at which the bond was archived; `null` if it is not archived.
    #[schema(required = true)]
    pub archived_at: Option<Timestamp>,
    /// Items, ordered by collection and item ID.
    pub items: Vec<Item>,
}

/// Returns the space that `name` means for `user`.
///
/// # Errors
/// Returns [`SpaceError::NotBonded`] for `bond` if the user has no active bond.
pub fn find_space(q: &Query<'_>, user: UserId, name: SpaceName) -> Result<SpaceWithMembers, SpaceError> {
    match name {
        SpaceName::Me => Ok(SpaceWithMembers { space: Space::Me(user), members: vec![user] }),
        SpaceName::Bond => {
            let ActiveBond { id, users } = bonds::find_active_bond(q, user)?.ok_or(SpaceError::NotBonded)?;
            Ok(SpaceWithMembers { space: Space::Bond(id), members: users.into() })
        }
    }
}

/// Returns one item.
///
/// # Errors
/// Returns [`SpaceError::NotBonded`] or [`SpaceError::ItemNotFound`].
pub fn get_item(q: &Query<'_>, request: &CollectionRequest, id: ItemId) -> Result<Item, SpaceError> {
    let shared = find_space(q, request.user, request.space)?;
    let found = rows::find_item(q, shared.space, &request.collection, id)?;
    found.map(|(item, _)| item).ok_or(SpaceError::ItemNotFound)
}

/// Returns a page of items of a collection.
///
/// # Errors
/// Returns [`SpaceError::NotBonded`], [`SpaceError::BadQuery`] for invalid query parameters, and
/// [`SpaceError::Indexing`] if the list uses fields and not all items are indexed yet.
pub fn list_items(
    q: &Query<'_>,
    request: &CollectionRequest,
    params: &ItemListParams,
    max_item_bytes: i64,
) -> Result<Page<Item>, SpaceError> {
    let shared = find_space(q, request.user, request.space)?;
    let rules = CollectionRules::of(q, &request.collection)?;
    let plan = list::plan_list(&rules.fields, params).map_err(SpaceError::BadQuery)?;
    let by_fields = plan.by.is_some() || !plan.further_conditions.is_empty();
    if by_fields && rows::has_stale(q, &request.collection, rules.revision)? {
        return Err(SpaceError::Indexing);
    }
    let limit = params.limit.rows_to_fetch_within(max_item_bytes);
    let items = rows::list_items(q, shared.space, &request.collection, &plan, limit)?;
    let bytes = |(item, _): &(Item, Option<String>)| item.data.bytes();
    let key = |(item, value): &(Item, Option<String>)| (value.clone(), item.id);
    let page = Page::from_rows_within(items, params.limit, limit, MAX_PAGE_BYTES, bytes, key);
    Ok(page.map(|(item, _)| item))
}

/// Page parameters of a list of declarations, ordered by collection name.
#[derive(Clone, Debug)]
pub struct DeclarationFilter {
    after: String,
    limit: PageLimit,
}

impl DeclarationFilter {
    /// Creates the parameters of the page after `cursor`.
    ///
    /// # Errors
    /// Returns [`InvalidCursor`] if the cursor does not come from this list.
    pub fn new(cursor: Option<&Cursor>, limit: PageLimit) -> Result<Self, InvalidCursor> {
        let after = cursor.map(Cursor::key::<CollectionName>).transpose()?;
        Ok(Self { after: after.map_or(String::new(), |name| name.to_string()), limit })
    }
}

/// Returns a page of declarations, ordered by collection name.
///
/// # Errors
/// Returns [`SpaceError::Store`] if the query fails.
pub fn list_declarations(q: &Query<'_>, filter: &DeclarationFilter) -> Result<Page<Declaration>, SpaceError> {
    let declarations = rows::list_declarations(q, &filter.after, filter.limit.rows())?;
    let bytes = |declaration: &Declaration| declaration.schema.as_ref().map_or(0, StoredJson::bytes);
    let key = |declaration: &Declaration| declaration.name.clone();
    Ok(Page::from_rows_within(declarations, filter.limit, filter.limit.rows(), MAX_PAGE_BYTES, bytes, key))
}

/// Returns the declaration of a collection.
///
/// # Errors
/// Returns [`SpaceError::DeclarationNotFound`] if the collection is not declared.
pub fn get_declaration(q: &Query<'_>, name: &CollectionName) -> Result<Declaration, SpaceError> {
    let stored = rows::find_declaration(q, name)?.filter(|stored| stored.declared);
    stored.map(|stored| stored.declaration).ok_or(SpaceError::DeclarationNotFound)
}

/// Returns the sections of an export of a bond's space. The bond may be active, ended or archived. The
/// export is possible even if one of the users has blocked the other.
///
/// # Errors
/// Returns [`SpaceError::SpaceNotFound`] if the user never had this bond, or its space was purged.
pub fn export_bond(q: &Query<'_>, user: UserId, bond: BondId) -> Result<Vec<ExportSection>, SpaceError> {
    let found = rows::list_bond_spaces(q, user, bond, 1)?.pop().filter(|(id, _)| *id == bond);
    let (bond_id, archived_at) = found.ok_or(SpaceError::SpaceNotFound)?;
    Ok(vec![
        ExportSection::Text(bond_export_head(bond_id, archived_at)),
        ExportSection::Pieces(Box::new(move |q, after| export_items(q, Space::Bond(bond_id), after))),
        ExportSection::Text(BOND_EXPORT_TAIL.to_owned()),
    ])
}

fn bond_export_head(bond_id: BondId, archived_at: Option<Timestamp>) -> String {
    let whole = BondExport { bond_id, archived_at, items: Vec::new() };
    let whole = serde_json::to_string(&whole).expect("plain data");
    whole.strip_suffix(BOND_EXPORT_TAIL).expect("the text has this suffix").to_owned()
}

/// End of the JSON text of one bond. [`bond_export_head`] returns its beginning.
const BOND_EXPORT_TAIL: &str = "]}";

/// Returns a piece of the export of all bonds' spaces of `user`, as elements of a JSON array. `after` is the
/// end of the previous piece: `bond/collection/item` within a bond, or `bond` for the start of the next
/// bond.
///
/// # Errors
/// Returns the store's error if a query fails.
pub fn export_bonds(q: &Query<'_>, user: UserId, after: Option<&str>) -> Result<ExportPiece, Error> {
    let (bond, position) = after.map_or(("", None), |after| match after.split_once('/') {
        Some((bond, position)) => (bond, Some(position)),
        None => (after, None),
    });
    // Reads this bond and the next one, whose ID is needed for the next piece.
    let first = BondId(bond.parse().unwrap_or(Uuid::nil()));
    let mut spaces = rows::list_bond_spaces(q, user, first, 2)?.into_iter();
    let found = spaces.next();
    let mut json = String::new();
    let position = position.filter(|_| found.is_some_and(|(id, _)| id.to_string() == bond));
    if after.is_some_and(|after| after.contains('/')) && position.is_none() {
        // The bond was purged after the previous piece, so its JSON text is closed here.
        json.push_str(BOND_EXPORT_TAIL);
    }
    let Some((bond_id, archived_at)) = found else { return Ok(ExportPiece { json, next: None }) };
    if position.is_none() {
        json.push_str(if after.is_some() { "," } else { "" });
        json.push_str(&bond_export_head(bond_id, archived_at));
    }
    let items = export_items(q, Space::Bond(bond_id), position)?;
    json.push_str(&items.json);
    let next = match items.next {
        Some(next) => Some(format!("{bond_id}/{next}")),
        None => {
            json.push_str(BOND_EXPORT_TAIL);
            spaces.next().map(|(next, _)| next.to_string())
        }
    };
    Ok(ExportPiece { json, next })
}

/// Returns a piece of the export of a space, live or archived. The piece begins after the item `after`, in
/// the form `collection/item`.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn export_items(q: &Query<'_>, space: Space, after: Option<&str>) -> Result<ExportPiece, Error> {
    let position = after.and_then(|after| after.split_once('/'));
    let (collection, id) = position.unwrap_or_default();
    let id = ItemId(id.parse().unwrap_or(Uuid::nil()));
    let items = rows::list_all_items(q, space, collection, id, EXPORT_PAGE_SIZE)?;
    let next = items.last().map(|item| format!("{}/{}", item.collection, item.id));
    Ok(ExportPiece::of_items(&items, after, next))
}
