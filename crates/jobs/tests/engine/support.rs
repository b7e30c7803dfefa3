//! Test support: a database for each test, the engine on that database, and a manual clock.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kith_jobs::{
    AttemptReport, Claim, Enqueued, JOBS_MIGRATIONS, JobError, JobId, JobOutput, JobRecord, JobState, Jobs,
    NewJob, ReportOutcome,
};
use kith_kernel::{Ctx, ManualClock, SeededRandom, Sources, TimeOrderedIds, Timestamp};
use kith_store::testing::{TestDatabase, postgres_url};
use kith_store::{Error, ModuleMigrations, STORE_MIGRATIONS, Store, Tx};
use tokio::task::JoinHandle;

pub const BEGINNING: Timestamp = Timestamp::from_millis(1_763_716_151_007);

/// Fixture passed to each scenario.
pub type Fixture = Engine;

fn modules() -> Vec<ModuleMigrations> {
    vec![STORE_MIGRATIONS, JOBS_MIGRATIONS]
}

pub struct Engine {
    pub jobs: Jobs,
    pub clock: Arc<ManualClock>,
    pub sources: Sources,
    pub database: TestDatabase,
}

impl Engine {
    pub async fn sqlite() -> Self {
        Self::open(TestDatabase::migrated_sqlite(modules()).await.unwrap()).await
    }

    pub async fn postgres() -> Option<Self> {
        let database = TestDatabase::migrated_postgres(&postgres_url()?, modules()).await.unwrap();
        Some(Self::open(database).await)
    }

    /// Migrates and opens an empty database.
    pub async fn on(database: TestDatabase) -> Self {
        database.migrate(modules()).await.unwrap();
        Self::open(database).await
    }

    async fn open(database: TestDatabase) -> Self {
        let clock = Arc::new(ManualClock::at(BEGINNING));
        let sources = Sources {
            clock: clock.clone(),
            ids: Arc::new(TimeOrderedIds::new(SeededRandom::new(u64::from(std::process::id())))),
            random: Arc::new(SeededRandom::new(1)),
        };
        let jobs = Jobs::new(Store::open(database.options()).await.unwrap(), sources.clone());
        Self { jobs, clock, sources, database }
    }

    /// Returns another node on the same database, with the same clock. Returns `None` on SQLite.
    pub async fn second(&self) -> Option<Jobs> {
        if self.jobs.db().kind() == kith_store::EngineKind::Sqlite {
            return None;
        }
        let store = Store::open(self.database.options()).await.unwrap();
        Some(Jobs::new(store, self.sources.clone()))
    }

    pub fn ctx(&self) -> Ctx {
        self.jobs.ctx()
    }

    pub fn db(&self) -> &Store {
        self.jobs.db()
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub async fn enqueue(&self, job: NewJob) -> Enqueued {
        self.jobs.enqueue(job).await.unwrap()
    }

    /// Enqueues a job of kind `work` in the queue `default`, whose payload is the number `n`.
    pub async fn add(&self, n: i64) -> JobId {
        self.enqueue(work(n)).await.id
    }

    pub async fn worker(&self) -> i64 {
        self.jobs.register("tester", false, Duration::from_secs(6)).await.unwrap()
    }

    pub async fn claim(&self, worker: i64, limit: i64) -> Claim {
        self.jobs.claim("default", worker, limit).await.unwrap()
    }

    /// Registers a worker, claims up to `limit` jobs with it, and returns the numbers in their payloads, in
    /// order.
    pub async fn numbers(&self, limit: i64) -> Vec<i64> {
        let worker = self.worker().await;
        numbers(&self.claim(worker, limit).await)
    }

    pub async fn report(
        &self,
        job: &kith_jobs::ClaimedJob,
        outcome: Result<JobOutput, JobError>,
    ) -> ReportOutcome {
        let report = AttemptReport { attempt: job.as_attempt(), outcome, notify_queue: None };
        self.jobs.report(Arc::new(vec![report])).await.unwrap().remove(0)
    }

    /// Claims the next job and ends it with `outcome`. Returns `None` if no job can be claimed.
    pub async fn run_next(&self, outcome: Result<JobOutput, JobError>) -> Option<(JobId, ReportOutcome)> {
        let worker = self.worker().await;
        let claim = self.claim(worker, 1).await;
        let job = claim.jobs.first()?;
        Some((job.id, self.report(job, outcome).await))
    }

    pub async fn job(&self, id: JobId) -> JobRecord {
        self.find(id).await.expect("a job")
    }

    pub async fn find(&self, id: JobId) -> Option<JobRecord> {
        self.db().read(move |q| kith_jobs::find_job(q, id)).await.unwrap()
    }

    pub async fn state(&self, id: JobId) -> JobState {
        self.job(id).await.state
    }

    /// Returns the number in the first column of the first row of a query.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let count = self.db().read(move |q| q.one(sql, &[], |row| row.get::<i64>(0))).await;
        count.unwrap().unwrap_or(0)
    }
}

/// Returns a job of kind `work` for the queue `default`, whose payload is the number `n`.
pub fn work(n: i64) -> NewJob {
    NewJob::new("default", "work", n.to_string())
}

pub fn numbers(claim: &Claim) -> Vec<i64> {
    claim.jobs.iter().map(|job| job.payload.parse().unwrap()).collect()
}

pub fn done() -> Result<JobOutput, JobError> {
    Ok(JobOutput::default())
}

/// Waits until a condition is true. Panics after 20 seconds. The tasks of the engine run during this wait.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not reached within 20 s");
}

/// Open transaction that has made its changes and was not committed yet.
pub struct Held {
    release: Sender<()>,
    committed: JoinHandle<Result<(), Error>>,
}

/// Runs `change` in a transaction that stays open until it is released. On SQLite all other writes wait for
/// this transaction.
pub async fn hold(engine: &Engine, change: impl Fn(&Tx<'_>) -> Result<(), Error> + Send + 'static) -> Held {
    let (release, released) = channel();
    let (held, is_held) = tokio::sync::oneshot::channel();
    let (held, released, db) = (Mutex::new(Some(held)), Mutex::new(released), engine.db().clone());
    let committed = tokio::spawn(async move {
        db.write(move |tx| {
            change(tx)?;
            if let Some(held) = held.lock().unwrap().take() {
                held.send(()).unwrap();
                // If the test fails, the sender is dropped.
                let _ = released.lock().unwrap().recv();
            }
            Ok::<_, Error>(())
        })
        .await
    });
    is_held.await.unwrap();
    Held { release, committed }
}

impl Held {
    pub async fn release(self) {
        drop(self.release);
        self.committed.await.unwrap().unwrap();
    }
}
