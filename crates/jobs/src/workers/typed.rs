//! Job types: kind, queue, options and payload type of a job in one constant. The code that enqueues the job
//! and the code that runs it share it.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{AttemptContext, Handler};
use crate::model::{DEFAULT_PRIORITY, Invalid, JobError, JobOutput};
use crate::new_job::NewJob;
use crate::retry::RetryPolicy;

/// Type of job with a payload of type `P`.
pub struct JobType<P> {
    /// Kind of the job: module and verb, such as `callbacks.deliver`.
    pub kind: &'static str,
    /// Queue.
    pub queue: &'static str,
    /// Priority; 0 is the most urgent.
    pub priority: i64,
    /// Retry policy.
    pub retry: RetryPolicy,
    /// Time limit of an attempt. An attempt that exceeds it fails. Zero means no limit.
    pub timeout: Duration,
    payload: PhantomData<fn(P) -> P>,
}

impl<P> JobType<P> {
    /// Creates a job type with the default options.
    pub const fn new(kind: &'static str, queue: &'static str) -> Self {
        Self {
            kind,
            queue,
            priority: DEFAULT_PRIORITY,
            retry: RetryPolicy::DEFAULT,
            timeout: Duration::ZERO,
            payload: PhantomData,
        }
    }

    /// Sets the retry policy.
    #[must_use]
    pub const fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the time limit of an attempt.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the priority; 0 is the most urgent.
    #[must_use]
    pub const fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }
}

impl<P: Serialize> JobType<P> {
    /// Creates a job of this type.
    ///
    /// # Errors
    /// Returns [`Invalid`] if the payload cannot be serialized to JSON.
    pub fn with(&self, payload: &P) -> Result<NewJob, Invalid> {
        let payload =
            serde_json::to_string(payload).map_err(|error| Invalid::new("payload", error.to_string()))?;
        let job = NewJob::new(self.queue, self.kind, payload);
        Ok(job.priority(self.priority).retry(self.retry).timeout(self.timeout))
    }
}

impl<P: DeserializeOwned + Send + 'static> JobType<P> {
    /// Creates a handler for jobs of this type. A job whose payload cannot be deserialized into `P` goes to
    /// the dead letters.
    pub fn handler<F, R>(&self, run: F) -> Handler
    where
        F: Fn(AttemptContext, P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<JobOutput, JobError>> + Send + 'static,
    {
        let run = std::sync::Arc::new(run);
        Handler::new(self.kind, move |job: AttemptContext| {
            let run = std::sync::Arc::clone(&run);
            async move {
                let payload = serde_json::from_str(&job.payload).map_err(JobError::discard)?;
                run(job, payload).await
            }
        })
    }
}
