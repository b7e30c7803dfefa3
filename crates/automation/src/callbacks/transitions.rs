//! State changes that commands and deliveries share. The caller must have locked the callback or endpoint.

use kith_kernel::Ctx;
use kith_platform::App;
use kith_store::{Error, Tx};

use super::events;
use super::model::{Callback, CallbackFailureReason, CallbackState, DisabledReason, StoredEndpoint};

/// Lock namespace of this module. The keys are callback IDs, endpoint IDs, and URLs of endpoints to be
/// created.
pub const LOCK: &str = "callback";

/// Disables an endpoint in memory and notifies the administrators. The caller must have locked the endpoint
/// and must store it.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn disable_endpoint(
    app: &App,
    tx: &Tx<'_>,
    ctx: &Ctx,
    endpoint: &mut StoredEndpoint,
    reason: DisabledReason,
) -> Result<(), Error> {
    endpoint.disabled = Some((ctx.now, reason));
    tx.audit(ctx, events::DISABLED, endpoint.id);
    let administrators = app.list_admins(tx)?;
    let reason = Some(reason.as_str());
    tx.emit(
        ctx,
        events::endpoint_event(events::DISABLED, endpoint.id, &endpoint.url, reason, administrators),
    );
    Ok(())
}

/// Sets a final state of a callback in memory and emits its event. The caller must store the callback.
pub fn finish(
    tx: &Tx<'_>,
    ctx: &Ctx,
    callback: &mut Callback,
    state: CallbackState,
    reason: Option<CallbackFailureReason>,
) {
    (callback.state, callback.reason) = (state, reason);
    (callback.next_attempt_at, callback.finished_at) = (None, Some(ctx.now));
    let kind = if state == CallbackState::Delivered { events::DELIVERED } else { events::FAILED };
    tx.audit(ctx, kind, callback.id);
    tx.emit(ctx, events::callback_event(kind, callback));
}
