//! Records the expiry of requests, and chooses the actor under which the end of a request is audited.

use kith_kernel::{Actor, Ctx};
use kith_store::{Error, Tx};

use super::super::model::{PartnerRequestId, RequestParties};
use super::super::{events, rows};

/// Records that a request has expired and counts the expiry as a refusal. Emits the event to the users who
/// saw the request as pending. The caller must have locked the sender.
pub fn expire(tx: &Tx<'_>, ctx: &Ctx, id: PartnerRequestId) -> Result<(), Error> {
    let Some(parties) = rows::find_parties(tx, id)? else { return Ok(()) };
    let Some(expired) = rows::expire_request(tx, id)? else { return Ok(()) };
    let parties = RequestParties { to: parties.to.filter(|_| expired.was_pending), ..parties };
    if let Some(recipient) = parties.to {
        let refusals = rows::find_refusals(tx, parties.from, recipient, parties.is_by_email)?;
        let refusals = refusals.with_expiry(expired.at);
        rows::upsert_refusals(tx, parties.from, recipient, parties.is_by_email, refusals)?;
    }
    tx.audit(ctx, "partner_request.expired", id);
    tx.emit(ctx, events::request_expired(parties));
    Ok(())
}

/// Returns the context for auditing a request. If the request was sent by e-mail address, the actor is the
/// system, because the sender's own activity must not reveal who has the address.
pub fn audit_context(ctx: &Ctx, parties: RequestParties) -> Ctx {
    if parties.is_by_email { ctx.with_actor(Actor::System("bonds")) } else { ctx.clone() }
}
