//! What becomes of bonds and requests when one of two leaves for good.

use kith_kernel::{Ctx, Timestamp, UserId};
use kith_platform::PersonalData;
use kith_store::{Error, Query, Tx};
use serde_json::{Value, json};

use super::model::{PartnerRequestId, RequestDirection};
use super::{events, rows};

/// What this module keeps about people.
pub const PERSONAL: PersonalData = PersonalData {
    leave,
    export,
    count: |q, user| Ok(vec![("messages", rows::count_messages(q, user)?)]),
    purge: rows::forget_messages,
};

/// Requests read at once for an export.
const EXPORT_PAGE: i64 = 500;

/// Ends bond and requests at once, for both.
fn leave(tx: &Tx<'_>, ctx: &Ctx, user: UserId) -> Result<(), Error> {
    let people = |bond: &Option<(_, [UserId; 2])>| bond.map_or(vec![user], |(_, users)| users.to_vec());
    let seen = rows::find_bond_to_end(tx, user)?;
    tx.lock("user", people(&seen))?;
    let bond = rows::find_bond_to_end(tx, user)?;
    if bond != seen {
        // Somebody was faster with accepting. Should the two now wait for each other, the store runs this again.
        tx.lock("user", people(&bond))?;
    }
    if let Some((id, users)) = bond {
        rows::end_bond(tx, id, ctx.now)?;
        tx.audit(ctx, "bond.ended", id);
        tx.emit(ctx, events::bond_ended(id, users));
    }
    for parties in rows::end_pending(tx, user, ctx.now)? {
        if parties.from == user {
            tx.audit(ctx, "partner_request.cancelled", parties.request);
            tx.emit(ctx, events::request_cancelled(parties));
        } else {
            tx.audit(ctx, "partner_request.superseded", parties.request);
            tx.emit(ctx, events::request_closed(parties));
        }
    }
    Ok(())
}

fn export(q: &Query<'_>, user: UserId) -> Result<Value, Error> {
    let bonds = rows::list_bonds_of(q, user)?.into_iter().map(|(bond, ended_at)| {
        json!({ "id": bond.id, "partner": bond.partner, "since": bond.since, "ended_at": ended_at,
                "restored_at": bond.restored_at, "restorations": bond.restorations })
    });
    let bonds: Vec<_> = bonds.collect();
    let received = export_requests(q, user, RequestDirection::Incoming)?;
    let sent = export_requests(q, user, RequestDirection::Outgoing)?;
    Ok(json!({ "bonds": bonds, "requests_received": received, "requests_sent": sent }))
}

fn export_requests(q: &Query<'_>, user: UserId, direction: RequestDirection) -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    let mut before = PartnerRequestId(kith_kernel::uuid::Uuid::max());
    loop {
        // As they are kept: nothing has expired at the beginning of time.
        let page = rows::list_requests(q, user, direction, None, before, EXPORT_PAGE, Timestamp::EPOCH)?;
        let Some(last) = page.last() else { return Ok(all) };
        before = last.id;
        all.extend(page.iter().map(|request| json!(request)));
    }
}
