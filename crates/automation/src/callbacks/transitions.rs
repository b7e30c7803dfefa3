//! Changes of state that commands and deliveries share. What they change is locked.

use kith_kernel::Ctx;
use kith_platform::App;
use kith_store::{Error, Tx};

use super::events;
use super::model::{Callback, CallbackState, DisabledBecause, KeptEndpoint, Reason};

/// Lock namespace of this module. Keys are callback IDs, endpoint IDs, and URLs of endpoints to be created.
pub const LOCK: &str = "callback";

/// Disables a locked endpoint and notifies the administrators. The caller writes the row.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn disable_it(
    app: &App,
    tx: &Tx<'_>,
    ctx: &Ctx,
    endpoint: &mut KeptEndpoint,
    because: DisabledBecause,
) -> Result<(), Error> {
    endpoint.disabled = Some((ctx.now, because));
    tx.audit(ctx, events::DISABLED, endpoint.id);
    let told = app.list_admins(tx)?;
    let because = Some(because.as_str());
    tx.emit(ctx, events::of_endpoint(events::DISABLED, endpoint.id, &endpoint.url, because, told));
    Ok(())
}

/// Ends a callback; the caller writes the row.
pub fn finish(tx: &Tx<'_>, ctx: &Ctx, shown: &mut Callback, state: CallbackState, reason: Option<Reason>) {
    (shown.state, shown.reason) = (state, reason);
    (shown.next_attempt_at, shown.finished_at) = (None, Some(ctx.now));
    let kind = if state == CallbackState::Delivered { events::DELIVERED } else { events::FAILED };
    tx.audit(ctx, kind, shown.id);
    tx.emit(ctx, events::of_callback(kind, shown));
}
