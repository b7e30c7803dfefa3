//! Job types: kind, queue, policy and payload of a job in one constant, so that whoever enqueues and whoever runs agree.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Handler, Run};
use crate::model::{Done, Invalid, JobError, USUAL_PRIORITY};
use crate::new_job::NewJob;
use crate::retry::Retry;

/// A type of job whose payload is a `P`.
pub struct JobType<P> {
    /// What is to be done: verb and noun, such as `callbacks.deliver`.
    pub kind: &'static str,
    /// In which queue.
    pub queue: &'static str,
    /// 0 is first.
    pub priority: i64,
    /// How often it may fail.
    pub retry: Retry,
    /// An attempt that takes longer has failed; zero: none does.
    pub timeout: Duration,
    payload: PhantomData<fn(P) -> P>,
}

impl<P> JobType<P> {
    /// The defaults, on a queue.
    pub const fn new(kind: &'static str, queue: &'static str) -> Self {
        Self {
            kind,
            queue,
            priority: USUAL_PRIORITY,
            retry: Retry::DEFAULT,
            timeout: Duration::ZERO,
            payload: PhantomData,
        }
    }

    /// Another policy.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Another timeout.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Another priority; 0 is first.
    #[must_use]
    pub const fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }
}

impl<P: Serialize> JobType<P> {
    /// A job of this type.
    ///
    /// # Errors
    /// [`Invalid`] if the payload is not JSON.
    pub fn with(&self, payload: &P) -> Result<NewJob, Invalid> {
        let payload =
            serde_json::to_string(payload).map_err(|error| Invalid::new("payload", error.to_string()))?;
        let job = NewJob::new(self.queue, self.kind, payload);
        Ok(job.priority(self.priority).retry(self.retry).timeout(self.timeout))
    }
}

impl<P: DeserializeOwned + Send + 'static> JobType<P> {
    /// What is done for jobs of this type. One whose payload is no `P` goes to the dead letters.
    pub fn handler<F, R>(&self, run: F) -> Handler
    where
        F: Fn(Run, P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Done, JobError>> + Send + 'static,
    {
        let run = std::sync::Arc::new(run);
        Handler::new(self.kind, move |job: Run| {
            let run = std::sync::Arc::clone(&run);
            async move {
                let payload = serde_json::from_str(&job.payload).map_err(JobError::discard)?;
                run(job, payload).await
            }
        })
    }
}
