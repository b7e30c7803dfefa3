//! Access to the queues and job kinds that modules reserve for their own work: no caller of the API enqueues,
//! claims or declares them; administrators operate them; API keys do neither.

use kith_kernel::{Actor, Ctx};
use kith_platform::ReservedJobs;

use super::model::JobsError;

/// Rejects reserved queues and job kinds for every caller.
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

/// Rejects reserved queues and job kinds for API keys only: administrators pause, limit and repair the queues
/// of the server.
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
