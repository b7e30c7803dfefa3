//! Exports and purges a user's data in this module. A purge deletes the user's own space. Items in shared
//! spaces stay for the partner, without the user's ID.

use kith_kernel::UserId;
use kith_platform::{ExportPart, PersonalData};
use kith_store::{Error, Tx};

use super::model::Space;
use super::{queries, rows};

/// Personal data that this module stores.
pub const PERSONAL: PersonalData = PersonalData {
    // Nothing to do: the module `bonds` ends the bond, which freezes its space. The user's own space is
    // deleted when the account is purged.
    on_account_deletion: |_, _, _| Ok(()),
    export: EXPORT,
    count: |q, user| {
        let own = rows::count_items(q, Space::Me(user))?;
        Ok(vec![("items", own.items), ("shared_items", rows::count_authored(q, user)?)])
    },
    purge,
};

const EXPORT: &[ExportPart] = &[
    ExportPart::Text(r#"{"me":["#),
    ExportPart::Pieces(|q, user, after| queries::export_items(q, Space::Me(user), after)),
    ExportPart::Text(r#"],"bonds":["#),
    ExportPart::Pieces(queries::export_bonds),
    ExportPart::Text("]}"),
];

fn purge(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::delete_space(tx, Space::Me(user))?;
    rows::clear_author(tx, user)
}
