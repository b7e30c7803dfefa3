//! What becomes of what somebody kept when they leave for good: their own space goes with them; what they shared stays for
//! the other and no longer names them.

use kith_kernel::UserId;
use kith_platform::PersonalData;
use kith_store::{Error, Query, Tx};
use serde_json::{Value, json};

use super::model::Space;
use super::{queries, rows};

/// What this module keeps about people.
pub const PERSONAL: PersonalData = PersonalData {
    // The bond ends, and with it the space freezes; their own is held with the account.
    leave: |_, _, _| Ok(()),
    export,
    count: |q, user| {
        let own = rows::count_items(q, Space::Me(user))?;
        Ok(vec![("items", own.items), ("shared_items", rows::count_authored(q, user)?)])
    },
    purge,
};

fn export(q: &Query<'_>, user: UserId) -> Result<Value, Error> {
    let own = queries::export_items(q, Space::Me(user))?;
    let bonds = queries::export_bonds(q, user, None)?;
    Ok(json!({ "me": own, "bonds": bonds }))
}

fn purge(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::delete_space(tx, Space::Me(user))?;
    rows::forget_author(tx, user)
}
