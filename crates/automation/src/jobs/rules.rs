//! Access rules for the queues and job kinds that modules reserve for their own work. API callers can
//! neither enqueue, claim nor declare them. Administrators can pause, limit and repair them; API keys
//! cannot.

use kith_kernel::{Actor, Ctx};
use kith_platform::ReservedJobs;

use super::model::JobsError;

/// Checks that the queue and the kind are not reserved, for all callers.
///
/// # Errors
/// Returns [`JobsError::Reserved`] if the queue or the kind is reserved.
pub fn reject_reserved(
    reserved: ReservedJobs,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<(), JobsError> {
    let queue = queue.filter(|queue| reserved.has_queue(queue)).map(|name| ("queue", name));
    let kind = kind.filter(|kind| reserved.has_kind(kind)).map(|name| ("job kind", name));
    queue
        .or(kind)
        .map_or(Ok(()), |(resource, name)| Err(JobsError::Reserved { resource, name: name.to_owned() }))
}

/// Checks that the queue and the kind are not reserved if an API key made the request. Administrators may
/// pause, limit and repair reserved queues.
///
/// # Errors
/// Returns [`JobsError::Reserved`] if an API key made the request and the queue or the kind is reserved.
pub fn reject_reserved_for_api_key(
    reserved: ReservedJobs,
    ctx: &Ctx,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<(), JobsError> {
    if is_api_key(ctx) { reject_reserved(reserved, queue, kind) } else { Ok(()) }
}

/// Returns `true` if an API key made the request.
pub fn is_api_key(ctx: &Ctx) -> bool {
    matches!(ctx.actor, Actor::ApiKey(_))
}
