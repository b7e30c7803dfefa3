//! Reports facts about bonds to administrators: consistency of the partner slots, and delay of archiving.

use kith_kernel::Ctx;
use kith_platform::Fact;
use kith_store::{Error, Query};
use serde_json::{Value, json};

use super::maintenance::ended_before;
use super::rows;

/// Facts that this module reports to administrators.
pub const FACTS: &[Fact] =
    &[Fact { name: "bonds.slots", read: slots }, Fact { name: "bonds.archive", read: archive }];

fn slots(q: &Query<'_>, _: &Ctx) -> Result<Value, Error> {
    Ok(json!({
        "users_with_several_bonds": rows::count_users_with_several_bonds(q)?,
        "bonds_without_both_slots": rows::count_bonds_without_both_slots(q)?,
        "slots_of_ended_bonds": rows::count_slots_of_ended_bonds(q)?,
        "unique_key": q.has_unique_key("bond_slots", "user_id")?,
    }))
}

/// Returns the number of seconds for which the oldest bond has been due for archiving; 0 if none is due.
fn archive(q: &Query<'_>, ctx: &Ctx) -> Result<Value, Error> {
    let limit = ended_before(ctx.now);
    let overdue =
        rows::find_oldest_archivable(q, limit)?.map_or(0, |ended_at| limit.since(ended_at).as_secs());
    Ok(json!({ "overdue_s": overdue, "archived": rows::count_archived(q)? }))
}
