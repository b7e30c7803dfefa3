//! What becomes of what this module keeps about people when one of them leaves for good.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_platform::PersonalData;
use kith_store::{Error, Query, Tx};
use serde_json::{Value, json};

use super::model::{BondId, History, PartnerRequestId, RequestDirection};
use super::{commands, queries, rows};
use crate::accounts;

/// What this module keeps about people.
pub const PERSONAL: PersonalData = PersonalData {
    leave: commands::end_all_of,
    export,
    count: |q, user| {
        Ok(vec![("messages", rows::count_messages(q, user)?), ("reasons", rows::count_reasons(q, user)?)])
    },
    purge,
};

/// Rows read at once for an export.
const EXPORT_PAGE: i64 = 500;

fn purge(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::forget_words(tx, user, accounts::GONE)?;
    rows::forget_reasons_and_names(tx, user)?;
    rows::delete_settings(tx, user)?;
    rows::delete_invites(tx, user)
}

fn export(q: &Query<'_>, user: UserId) -> Result<Value, Error> {
    let mut bonds = Vec::new();
    let mut before = BondId(Uuid::max());
    // As they are kept: nothing has expired at the beginning of time.
    let now = Timestamp::EPOCH;
    loop {
        let mut page = rows::list_bonds(q, user, before, EXPORT_PAGE, now)?;
        let Some(last) = page.last() else { break };
        before = last.bond.id;
        queries::add_breakups(q, user, &mut page)?;
        bonds.extend(page.into_iter().map(|history| History { restorable_until: None, ..history }));
    }
    Ok(json!({
        "bonds": bonds,
        "requests_received": export_requests(q, user, RequestDirection::Incoming)?,
        "requests_sent": export_requests(q, user, RequestDirection::Outgoing)?,
        "invites": rows::list_live_invites(q, user, now)?,
        "settings": rows::find_settings(q, user)?,
    }))
}

fn export_requests(q: &Query<'_>, user: UserId, direction: RequestDirection) -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    let mut before = PartnerRequestId(Uuid::max());
    loop {
        let page = rows::list_requests(q, user, direction, None, before, EXPORT_PAGE, Timestamp::EPOCH)?;
        let Some(last) = page.last() else { return Ok(all) };
        before = last.id;
        all.extend(page.iter().map(|request| json!(request)));
    }
}
