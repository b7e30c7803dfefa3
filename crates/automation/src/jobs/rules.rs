//! Decides who may use the queues and job kinds that modules declare for their own work: nobody enqueues, claims or declares
//! them over the API, administrators operate them, API keys do neither.

use kith_kernel::{Actor, Ctx};
use kith_platform::ReservedJobs;

use super::model::JobsError;

/// Rejects a queue or job kind that a module declares, for every caller.
///
/// # Errors
/// [`JobsError::Reserved`].
pub fn check_program(
    reserved: ReservedJobs,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<(), JobsError> {
    let queue = queue.filter(|queue| reserved.has_queue(queue)).map(|name| ("queue", name));
    let kind = kind.filter(|kind| reserved.has_kind(kind)).map(|name| ("job kind", name));
    queue.or(kind).map_or(Ok(()), |(what, name)| Err(JobsError::Reserved { what, name: name.to_owned() }))
}

/// As [`check_program`], but only for API keys: people who administer a deployment pause, limit and repair its own queues.
///
/// # Errors
/// [`JobsError::Reserved`].
pub fn check_operator(
    reserved: ReservedJobs,
    ctx: &Ctx,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<(), JobsError> {
    if is_program(ctx) { check_program(reserved, queue, kind) } else { Ok(()) }
}

/// Whether an API key made the request.
pub fn is_program(ctx: &Ctx) -> bool {
    matches!(ctx.actor, Actor::ApiKey(_))
}
