//! Exports and purges a user's data in this module.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_platform::export::ExportPiece;
use kith_platform::{ExportPart, PersonalData};
use kith_store::{Error, Query, Tx};
use serde_json::json;

use super::model::{BondHistoryEntry, BondId, PartnerRequestId, RequestDirection};
use super::{commands, queries, rows};
use kith_accounts::accounts;

/// Personal data that this module stores.
pub const PERSONAL: PersonalData = PersonalData {
    on_account_deletion: commands::end_all_for_user,
    export: EXPORT,
    count: |q, user| {
        Ok(vec![("messages", rows::count_messages(q, user)?), ("reasons", rows::count_reasons(q, user)?)])
    },
    purge,
};

/// Number of rows read at once for an export.
const EXPORT_PAGE_SIZE: i64 = 100;

fn purge(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::delete_messages(tx, user, accounts::DELETED_ACCOUNT_NAME)?;
    rows::delete_reasons_and_names(tx, user)?;
    rows::delete_settings(tx, user)?;
    rows::delete_invites(tx, user)
}

/// Time passed to queries for exports. No request has expired at this time, so the data is exported as
/// stored.
const EXPORT_TIME: Timestamp = Timestamp::EPOCH;

const EXPORT: &[ExportPart] = &[
    ExportPart::Text(r#"{"bonds":["#),
    ExportPart::Pieces(export_bonds),
    ExportPart::Text(r#"],"requests_received":["#),
    ExportPart::Pieces(|q, user, after| export_requests(q, user, RequestDirection::Incoming, after)),
    ExportPart::Text(r#"],"requests_sent":["#),
    ExportPart::Pieces(|q, user, after| export_requests(q, user, RequestDirection::Outgoing, after)),
    ExportPart::Text(r#"],"invites":"#),
    ExportPart::Value(|q, user| Ok(json!(rows::list_usable_invites(q, user, EXPORT_TIME)?))),
    ExportPart::Text(r#","settings":"#),
    ExportPart::Value(|q, user| Ok(json!(rows::find_settings(q, user)?))),
    ExportPart::Text("}"),
];

/// Parses the ID of the last exported row. Without one, returns the largest ID, because exports begin with
/// the newest.
fn start_after(after: Option<&str>) -> Uuid {
    after.and_then(|after| after.parse().ok()).unwrap_or(Uuid::max())
}

fn export_bonds(q: &Query<'_>, user: UserId, after: Option<&str>) -> Result<ExportPiece, Error> {
    let mut page = rows::list_bonds(q, user, BondId(start_after(after)), EXPORT_PAGE_SIZE, EXPORT_TIME)?;
    queries::add_breakups(q, user, &mut page)?;
    let next = page.last().map(|last| last.bond.id.to_string());
    let page: Vec<_> =
        page.into_iter().map(|history| BondHistoryEntry { restorable_until: None, ..history }).collect();
    Ok(ExportPiece::of_items(&page, after, next))
}

fn export_requests(
    q: &Query<'_>,
    user: UserId,
    direction: RequestDirection,
    after: Option<&str>,
) -> Result<ExportPiece, Error> {
    let before = PartnerRequestId(start_after(after));
    let page = rows::list_requests(q, user, direction, None, before, EXPORT_PAGE_SIZE, EXPORT_TIME)?;
    Ok(ExportPiece::of_items(&page, after, page.last().map(|last| last.id.to_string())))
}
