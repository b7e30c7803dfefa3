//! Job engine on one database, with jobs that do nothing, as in the benchmarks of the peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kith_jobs::{
    Handler, JOBS_MIGRATIONS, JobOutput, Jobs, NewJob, QueueConcurrency, WorkerOptions, Workers,
};
use kith_kernel::{Clock as _, Sources, SystemClock, SystemRandom, TimeOrderedIds, Timestamp};
use kith_store::testing::TestVault;
use kith_store::{
    EngineKind, EngineOptions, PostgresOptions, STORE_MIGRATIONS, SqliteOptions, Store, StoreOptions, params,
};
use tokio::task::JoinSet;

use super::{Args, Error};

/// Number of concurrent callers that enqueue one job at a time.
pub const CALLERS: u64 = 64;
/// Number of jobs that a process runs concurrently.
pub const CONCURRENCY: usize = 50;
/// Number of jobs per bulk call.
pub const BATCH: u64 = 1_000;
/// Number of concurrent bulk calls.
const BULK_CALLERS: u64 = 2;
const WARM_UP: u64 = 2_000;
pub const QUEUE: &str = "bench";
const KIND: &str = "bench.noop";

/// Job engine on an open database, and the arguments with which another process opens it.
pub struct Engine {
    pub jobs: Jobs,
    pub place: Vec<String>,
}

/// Number of jobs that the workers of this process have run.
#[derive(Clone, Default)]
pub struct Ran(Arc<AtomicU64>);

impl Ran {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Engine {
    /// Opens the engine on `--data FOLDER` or `--database URL`, and creates missing tables.
    pub async fn open(args: &Args) -> Result<Self, Error> {
        let (place, engine) = match args.text("database") {
            Ok(url) => {
                let place = vec!["--database".to_owned(), url.to_owned()];
                (place, EngineOptions::Postgres(PostgresOptions::at(url)))
            }
            Err(_) => {
                let folder = args.text("data")?;
                let place = vec!["--data".to_owned(), folder.to_owned()];
                (place, EngineOptions::Sqlite(SqliteOptions::in_folder(folder)))
            }
        };
        let options = StoreOptions {
            deadline: Duration::from_secs(60),
            ..StoreOptions::new(engine, TestVault::with_secret(1))
        };
        let modules = vec![STORE_MIGRATIONS, JOBS_MIGRATIONS];
        Store::migrate_up(&options, modules, SystemClock.now()).await?;
        let sources = Sources {
            clock: Arc::new(SystemClock),
            ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
            random: Arc::new(SystemRandom),
        };
        Ok(Self { jobs: Jobs::new(Store::open(options).await?, sources), place })
    }

    /// Describes whether an acknowledged job survives a crash or a power loss under the current settings.
    pub async fn durability(&self) -> Result<String, Error> {
        if self.jobs.db().kind() == EngineKind::Sqlite {
            return Ok("SQLite, WAL, synchronous=FULL: an acknowledged job survives kill -9 and power loss"
                .to_owned());
        }
        let synced = self.jobs.db().read(|q| {
            q.one(
                "SELECT current_setting('fsync') || current_setting('synchronous_commit')",
                params![],
                |row| row.get::<String>(0),
            )
        });
        let synced = synced.await?;
        Ok(if synced.as_deref() == Some("onon") {
            "PostgreSQL, fsync and synchronous_commit on: an acknowledged job survives kill -9 and power loss"
        } else {
            "PostgreSQL, not synced: an acknowledged job may be lost with the power"
        }
        .to_owned())
    }

    /// Starts workers that call `on_run` with the number of each job and count the jobs.
    pub async fn work(&self, on_run: impl Fn(u64) + Send + Sync + 'static) -> Result<(Workers, Ran), Error> {
        let ran = Ran::default();
        let (counted, on_run) = (ran.clone(), Arc::new(on_run));
        let handler = Handler::new(KIND, move |run| {
            let (counted, on_run) = (counted.clone(), Arc::clone(&on_run));
            async move {
                on_run(run.payload.parse().unwrap_or(u64::MAX));
                counted.0.fetch_add(1, Ordering::Relaxed);
                Ok(JobOutput::default())
            }
        });
        let share = QueueConcurrency { queue: QUEUE.to_owned(), concurrency: CONCURRENCY };
        let options = WorkerOptions::new("bench", vec![share]);
        Ok((Workers::start(&self.jobs, vec![handler], options).await?, ran))
    }

    /// Returns the job with the number `n`.
    pub fn job(n: u64, at: Option<Timestamp>) -> NewJob {
        let job = NewJob::new(QUEUE, KIND, n.to_string());
        match at {
            Some(at) => job.at(at),
            None => job,
        }
    }

    /// Enqueues `jobs` jobs in bulk. Two calls run at a time, so that the next call is ready while the
    /// database processes the current one.
    pub async fn in_bulk(&self, jobs: u64, at: Option<Timestamp>) -> Result<(), Error> {
        let next = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..BULK_CALLERS {
            let (next, engine) = (Arc::clone(&next), self.jobs.clone());
            callers.spawn(async move {
                loop {
                    let from = next.fetch_add(BATCH, Ordering::Relaxed);
                    if from >= jobs {
                        return Ok::<_, Error>(());
                    }
                    let batch = (from..jobs.min(from + BATCH)).map(|n| Self::job(n, at)).collect();
                    engine.enqueue_all(batch).await?;
                }
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Returns true if a job exists that has not ended.
    pub async fn is_any_left(&self) -> Result<bool, Error> {
        let left =
            self.jobs.db().read(|q| q.one("SELECT 1 FROM jobs LIMIT 1", params![], |_| Ok(()))).await?;
        Ok(left.is_some())
    }

    /// Waits until `count` jobs have run and all jobs have ended.
    pub async fn worked(&self, ran: &Ran, count: u64) -> Result<(), Error> {
        while ran.count() < count {
            pause(1).await;
        }
        self.until_none_is_left().await
    }

    /// Waits until all jobs have ended.
    pub async fn until_none_is_left(&self) -> Result<(), Error> {
        while self.is_any_left().await? {
            pause(2).await;
        }
        Ok(())
    }

    /// Runs some jobs and stops the workers, so that all code paths have run before the measurement.
    pub async fn warm_up(&self) -> Result<(), Error> {
        let (workers, ran) = self.work(|_| {}).await?;
        self.in_bulk(WARM_UP, None).await?;
        self.worked(&ran, WARM_UP).await?;
        workers.stop().await;
        Ok(())
    }
}

/// Sleeps for `ms` milliseconds.
pub async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Returns the current monotonic time.
#[expect(clippy::disallowed_methods, reason = "measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the current wall-clock time.
pub fn wall() -> Timestamp {
    SystemClock.now()
}
