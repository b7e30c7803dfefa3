//! Commands that declare and withdraw job kinds.

use kith_jobs::check_name;
use kith_kernel::{Ctx, FieldError};
use kith_store::Tx;

use super::super::model::{JobKind, JobKindBody, JobsError, check_ms};
use super::super::rows;

/// Declares a job kind, or replaces its declaration. Existing jobs are not affected. The caller must have
/// compiled the schema successfully.
///
/// # Errors
/// Returns [`JobsError::Invalid`] for invalid input, [`JobsError::Store`] if a statement fails.
pub fn declare_kind(tx: &Tx<'_>, ctx: &Ctx, kind: &str, body: &JobKindBody) -> Result<JobKind, JobsError> {
    check_name("kind", kind)?;
    if let Some(queue) = &body.queue {
        check_name("queue", queue)?;
    }
    if body.priority.is_some_and(|priority| !(0..=kith_jobs::MAX_PRIORITY).contains(&priority)) {
        return Err(FieldError::new("/priority", "out_of_range", "Expected 0 to 9.").into());
    }
    check_ms(body.timeout_ms, "/timeout_ms")?;
    body.retry.as_ref().map_or(Ok(()), |retry| retry.check("/retry"))?;
    let declared = JobKind {
        kind: kind.to_owned(),
        queue: body.queue.clone(),
        schema: body.schema(),
        priority: body.priority,
        retry: body.retry.clone(),
        timeout_ms: body.timeout_ms,
        updated_at: ctx.now,
    };
    tx.lock("job kind", [kind])?;
    let existing = rows::find_kind(tx, kind)?;
    if let Some(existing) =
        existing.filter(|existing| JobKind { updated_at: ctx.now, ..existing.clone() } == declared)
    {
        return Ok(existing);
    }
    rows::upsert_kind(tx, &declared, ctx.now)?;
    tx.audit(ctx, "job_kind.declared", kind);
    Ok(declared)
}

/// Withdraws the declaration of a job kind. The jobs of this kind stay.
///
/// # Errors
/// Returns [`JobsError::Store`] if a statement fails.
pub fn withdraw_kind(tx: &Tx<'_>, ctx: &Ctx, kind: &str) -> Result<(), JobsError> {
    if rows::delete_kind(tx, kind)? {
        tx.audit(ctx, "job_kind.withdrawn", kind);
    }
    Ok(())
}
