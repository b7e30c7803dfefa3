//! Reads of spaces.

use kith_kernel::{Cursor, InvalidCursor, Page, PageLimit, Timestamp, UserId};
use kith_store::{Error, Query};
use serde::Serialize;
use utoipa::ToSchema;

use super::commands::Asked;
use super::declarations::{Declaration, Rules};
use super::list::{self, ListRequest};
use super::model::{CollectionName, Item, ItemId, SharedSpace, Space, SpaceError, SpaceName};
use super::rows;
use crate::bonds::{self, BondId, Living};

/// Items read at once for an export.
const EXPORT_PAGE: i64 = 500;

/// All that two people kept together, for one of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct BondExport {
    /// Whose it is.
    #[schema(value_type = String, format = Uuid)]
    pub bond_id: BondId,
    /// When it could no longer come back.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
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
pub fn list_items(q: &Query<'_>, asked: &Asked, request: &ListRequest) -> Result<Page<Item>, SpaceError> {
    let shared = find_space(q, asked.user, asked.space)?;
    let rules = Rules::of(q, &asked.collection)?;
    let plan = list::plan(&rules.fields, request).map_err(SpaceError::BadQuery)?;
    let by_fields = plan.by.is_some() || !plan.others.is_empty();
    if by_fields && rows::has_stale(q, &asked.collection, rules.revision)? {
        return Err(SpaceError::Indexing);
    }
    let items = rows::list_items(q, shared.space, &asked.collection, &plan, request.limit.rows())?;
    let page = Page::from_rows(items, request.limit, |(item, value)| (value.clone(), item.id));
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
    Ok(Page::from_rows(declarations, list.limit, |declaration| declaration.name.clone()))
}

/// What is declared of one collection.
///
/// # Errors
/// [`SpaceError::DeclarationNotFound`].
pub fn get_declaration(q: &Query<'_>, name: &CollectionName) -> Result<Declaration, SpaceError> {
    let kept = rows::find_declaration(q, name)?.filter(|kept| kept.declared);
    kept.map(|kept| kept.declaration).ok_or(SpaceError::DeclarationNotFound)
}

/// The space of a bond of `user`, whether it is alive, ended or archived; who has blocked whom does not matter.
///
/// # Errors
/// [`SpaceError::SpaceNotFound`], also once it was purged.
pub fn export_bond(q: &Query<'_>, user: UserId, bond: BondId) -> Result<BondExport, SpaceError> {
    let export = export_bonds(q, user, Some(bond))?.pop();
    export.ok_or(SpaceError::SpaceNotFound)
}

/// The spaces of all bonds of `user`, or of one.
///
/// # Errors
/// The database's.
pub fn export_bonds(q: &Query<'_>, user: UserId, bond: Option<BondId>) -> Result<Vec<BondExport>, Error> {
    let bonds = rows::list_bond_spaces(q, user, bond)?;
    let export = |(bond_id, archived_at)| {
        let items = export_items(q, Space::Bond(bond_id))?;
        Ok(BondExport { bond_id, archived_at, items })
    };
    bonds.into_iter().map(export).collect()
}

/// All items of a space, wherever they are.
///
/// # Errors
/// The database's.
pub fn export_items(q: &Query<'_>, space: Space) -> Result<Vec<Item>, Error> {
    let mut all: Vec<Item> = Vec::new();
    loop {
        let page = rows::list_all_items(q, space, all.last(), EXPORT_PAGE)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
