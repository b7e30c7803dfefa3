//! Connects modules to the job engine. Background work is a job whose kind a module declares; recurring work
//! is a schedule that a module declares.

use std::pin::Pin;
use std::time::Duration;

use kith_jobs::schedules::{DeclaredSchedule, Schedule, ScheduleFilter, list_schedules};
use kith_jobs::{
    AttemptContext, Enqueued, Handler, JobError, JobOutput, JobRecord, JobState, NewJob, QueueConcurrency,
    Retention, WorkerOptions, Workers,
};
use kith_kernel::{Ctx, Timestamp, days};
use kith_store::{Error, Query};
use serde_json::{Value, json};

use crate::{App, Fact, Module};

/// Error of a maintenance job. It is written to the log.
pub type MaintenanceError = Box<dyn std::error::Error + Send + Sync>;

/// Queue of the modules' maintenance jobs.
pub const MAINTENANCE: &str = "maintenance";

/// Maximum time to wait for jobs that other workers run.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Fact for administrators about the maintenance schedules: the latest run of each, and the number of
/// failures within a day.
pub(crate) const MAINTENANCE_FACT: Fact = Fact { name: "jobs.maintenance", read: read_maintenance };

/// Future of a job attempt.
pub type AttemptFuture = Pin<Box<dyn Future<Output = Result<JobOutput, JobError>> + Send>>;

/// Future of a maintenance run.
pub type MaintenanceFuture = Pin<Box<dyn Future<Output = Result<(), MaintenanceError>> + Send>>;

/// Job kind that a module handles. A job can run again even after it has completed, so handlers must be
/// idempotent.
#[derive(Clone, Copy, Debug)]
pub struct ModuleJob {
    /// Unique name of the kind: the name of the module, a dot, and the purpose.
    pub kind: &'static str,
    /// Queue of such jobs.
    pub queue: &'static str,
    work: Work,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    /// Job without input, which determines itself what is due.
    Maintenance(fn(App) -> MaintenanceFuture),
    /// Job whose work depends on its payload.
    Job(fn(App, AttemptContext) -> AttemptFuture),
}

impl ModuleJob {
    /// Creates a job kind. `run` handles each job.
    pub const fn new(
        kind: &'static str,
        queue: &'static str,
        run: fn(App, AttemptContext) -> AttemptFuture,
    ) -> Self {
        Self { kind, queue, work: Work::Job(run) }
    }

    /// Creates the kind of a maintenance job, which a schedule runs. `run` determines what is due.
    pub const fn maintenance(kind: &'static str, run: fn(App) -> MaintenanceFuture) -> Self {
        Self { kind, queue: MAINTENANCE, work: Work::Maintenance(run) }
    }

    fn handler(self, app: &App) -> Handler {
        let app = app.clone();
        match self.work {
            Work::Job(work) => Handler::new(self.kind, move |run| work(app.clone(), run)),
            Work::Maintenance(work) => Handler::new(self.kind, move |_| {
                let app = app.clone();
                async move { work(app).await.map(|()| JobOutput::default()).map_err(JobError::retry) }
            }),
        }
    }
}

/// Queues and job kinds that the modules of this build declare. Other programs cannot use them directly, but
/// only through the operations of the modules.
#[derive(Clone, Copy, Debug)]
pub struct ReservedJobs(&'static [&'static Module]);

impl ReservedJobs {
    /// Returns true if a module declares this queue.
    pub fn has_queue(self, queue: &str) -> bool {
        self.declared().any(|job| job.queue == queue)
    }

    /// Returns true if a module declares this job kind.
    pub fn has_kind(self, kind: &str) -> bool {
        self.declared().any(|job| job.kind == kind)
    }

    fn declared(self) -> impl Iterator<Item = &'static ModuleJob> {
        self.0.iter().flat_map(|module| module.jobs)
    }
}

impl App {
    /// Returns the queues and job kinds that other programs cannot use.
    pub fn reserved_jobs(&self) -> ReservedJobs {
        ReservedJobs(self.installed)
    }

    /// Returns the job handlers of the modules.
    pub fn job_handlers(&self) -> Vec<Handler> {
        self.modules.iter().flat_map(|module| module.jobs).map(|job| job.handler(self)).collect()
    }

    /// Returns the queues of the modules' jobs, sorted and without duplicates.
    pub fn job_queues(&self) -> Vec<&'static str> {
        let mut queues: Vec<_> =
            self.modules.iter().flat_map(|module| module.jobs).map(|job| job.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Updates the schedules in the database so that they match those that the modules of this build declare.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn declare_schedules(&self) -> Result<(), Error> {
        let declared = self.modules.iter().map(|module| (module.name, module.schedules)).collect();
        self.jobs.declare(declared).await.map(drop)
    }

    /// Starts workers in this process for `queues`, with up to `concurrency` concurrent jobs per queue.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn start_workers(&self, queues: &[String], concurrency: usize) -> Result<Workers, Error> {
        let shares = queues.iter().map(|queue| QueueConcurrency { queue: queue.clone(), concurrency });
        let own = &self.config.jobs;
        let mut options = WorkerOptions::new(process_name(), shares.collect());
        options.grace = Duration::from_millis(u64::from(own.shutdown_grace_ms));
        options.retention = Retention {
            ended_age: days(u64::from(own.retention_days)),
            max_ended: u64::from(own.max_retained),
            dead: days(u64::from(own.dead_letter_retention_days)),
        };
        Workers::start(&self.jobs, self.job_handlers(), options).await
    }

    /// Runs the schedules, jobs and consumers of the modules that are due, and further work that this makes
    /// due, until nothing is due. Returns the number of job attempts.
    ///
    /// # Errors
    /// Returns the store's error if the database fails, or if jobs that other workers run do not end within a
    /// minute.
    pub async fn run_due(&self) -> Result<usize, Error> {
        let mut attempts = 0;
        loop {
            let ticked = self.jobs.tick().await?;
            let ran = self.jobs.drain(&self.job_handlers(), &self.job_queues()).await?;
            attempts += ran;
            let handled = self.consume_due().await?;
            if ran == 0 && ticked.jobs == 0 && handled == 0 {
                break;
            }
        }
        let queues = self.job_queues();
        self.wait_until(move |q| kith_jobs::is_idle(q, &queues)).await?;
        Ok(attempts)
    }

    /// Waits until `holds` returns true. Other workers, here or on other nodes, may be running some of the
    /// due jobs.
    async fn wait_until<F>(&self, holds: F) -> Result<(), Error>
    where
        F: Fn(&Query<'_>) -> Result<bool, Error> + Clone + Send + 'static,
    {
        let mut interval = tokio::time::interval(Duration::from_millis(5));
        let waited = async {
            while !self.db.read(holds.clone()).await? {
                interval.tick().await;
            }
            Ok(())
        };
        let in_time = tokio::time::timeout(WAIT_TIMEOUT, waited).await;
        in_time.unwrap_or_else(|_| Err(Error::unavailable("timed out waiting for jobs of other workers")))
    }

    /// Runs all maintenance jobs of the modules now, even if they are not due.
    ///
    /// # Errors
    /// Returns the first error of a maintenance job, or of the database.
    pub async fn run_maintenance(&self) -> Result<(), MaintenanceError> {
        let declared = self.modules.iter().flat_map(|module| module.schedules);
        let is_maintenance = |one: &&DeclaredSchedule| one.queue == MAINTENANCE;
        let jobs = declared.filter(is_maintenance).map(|one| NewJob::new(one.queue, one.kind, one.payload));
        let enqueued = self.jobs.enqueue_all(jobs.collect()).await?;
        self.jobs.drain(&self.job_handlers(), &self.job_queues()).await?;
        for Enqueued { id, .. } in enqueued {
            let has_run = |job: &JobRecord| !matches!(job.state, JobState::Ready | JobState::Running);
            let find = move |q: &Query<'_>| kith_jobs::find_job(q, id);
            self.wait_until(move |q| Ok(find(q)?.is_none_or(|job| has_run(&job)))).await?;
            let found = self.db.read(find).await?;
            if let Some(job) = found.filter(|job| job.state != JobState::Completed) {
                let error = job.errors.last().map_or("the job did not run", |failure| &failure.error);
                return Err(format!("{}: {error}", job.kind).into());
            }
        }
        Ok(())
    }
}

/// Returns the host name and the process id.
pub(crate) fn process_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}", std::process::id())
}

fn read_maintenance(q: &Query<'_>, ctx: &Ctx) -> Result<Value, Error> {
    let filter = ScheduleFilter { is_declared: Some(true), ..ScheduleFilter::default() };
    let records = kith_jobs::list_kind_summaries(q, MAINTENANCE, ctx.now - days(1))?;
    let to_json = |one: Schedule| {
        let record = records.iter().find(|record| record.kind == one.plan.kind);
        let spec = one.plan.check(one.anchor_at).ok();
        let next = spec.map(|spec| one.plan.preview(&spec, ctx.now, 2)).unwrap_or_default();
        let every_ms = next.first().zip(next.get(1)).map(|(one, other)| other.as_millis() - one.as_millis());
        json!({
            "kind": one.plan.kind,
            "paused": one.paused,
            "every_ms": every_ms,
            "since": one.created_at.as_millis(),
            "now": ctx.now.as_millis(),
            "completed_in": record.and_then(|record| record.last_completed_minute).map(Timestamp::as_millis),
            "failed": record.map_or(0, |record| record.failed),
            "dead": record.map_or(0, |record| record.dead),
        })
    };
    let schedules = list_schedules(q, &filter, i64::from(u16::MAX))?;
    Ok(schedules.into_iter().filter(|one| one.plan.queue == MAINTENANCE).map(to_json).collect())
}
