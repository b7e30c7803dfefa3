//! Runs all due jobs until none is left, for tests that change the clock.

use std::sync::Arc;

use kith_store::Error;
use tokio::sync::watch;

use super::{AttemptContext, Handler, PROCESS_LEASE};
use crate::finish::AttemptReport;
use crate::jobs::Jobs;
use crate::model::JobError;

/// Maximum number of jobs claimed at once.
const BATCH_SIZE: i64 = 100;

impl Jobs {
    /// Runs all due jobs in `queues` one after the other, including jobs that become due through them.
    /// Returns the number of attempts.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn drain(&self, handlers: &[Handler], queues: &[&str]) -> Result<usize, Error> {
        let worker = self.register("drain", false, PROCESS_LEASE).await?;
        let mut attempts = 0;
        loop {
            let before = attempts;
            for queue in queues {
                attempts += self.drain_some(handlers, queue, worker).await?;
            }
            if attempts == before {
                break;
            }
        }
        self.deregister(worker).await?;
        Ok(attempts)
    }

    async fn drain_some(&self, handlers: &[Handler], queue: &str, worker: i64) -> Result<usize, Error> {
        let claim = self.claim(queue, worker, BATCH_SIZE).await?;
        let count = claim.jobs.len();
        for job in claim.jobs {
            let attempt = job.as_attempt();
            let handler = handlers.iter().find(|one| one.kind == job.kind);
            let (_stop, stopped) = watch::channel(false);
            let outcome = match handler {
                Some(handler) => handler.attempt(AttemptContext::new(self, job, stopped)).await,
                None => Err(JobError::discard("no handler for this kind")),
            };
            let report = AttemptReport {
                attempt,
                outcome,
                notify_queue: claim.is_limited.then(|| (*queue).to_owned()),
            };
            self.report(Arc::new(vec![report])).await?;
        }
        Ok(count)
    }
}
