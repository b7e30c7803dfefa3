//! Test support: a database for each test, nodes on that database, and manual clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kith_jobs::schedules::{
    BackfillResult, DeclaredChanges, DeclaredSchedule, Plan, Schedule, ScheduleError, ScheduleFilter,
    TickResult, list_schedules,
};
use kith_jobs::{Handler, JOBS_MIGRATIONS, JobOutput, JobRecord, Jobs, schedules};
use kith_kernel::{
    Ctx, ManualClock, SeededRandom, Sources, SystemClock, SystemRandom, TimeOrderedIds, Timestamp,
};
use kith_store::testing::{TestDatabase, postgres_url};
use kith_store::{ModuleMigrations, STORE_MIGRATIONS, Store, Tx};

/// Time at the start of each test, which is a Sunday.
pub const BEGINNING: &str = "2027-03-21T00:00:30Z";
pub const QUEUE: &str = "tests";
pub const KIND: &str = "test.run";

/// Fixture passed to each scenario.
pub type Fixture = TestContext;

/// Process with a separate manual clock.
pub struct Node {
    pub jobs: Jobs,
    pub clock: Arc<ManualClock>,
}

impl Node {
    fn on(db: Store, now: Timestamp) -> Self {
        let clock = Arc::new(ManualClock::at(now));
        static NODES: AtomicU64 = AtomicU64::new(0);
        let seed = u64::from(std::process::id()) << 32 | NODES.fetch_add(1, Ordering::Relaxed);
        let sources = Sources {
            clock: clock.clone(),
            ids: Arc::new(TimeOrderedIds::new(SeededRandom::new(seed))),
            random: Arc::new(SeededRandom::new(1)),
        };
        Self { jobs: Jobs::new(db, sources), clock }
    }

    pub async fn tick_at(&self, now: Timestamp) -> TickResult {
        self.clock.set(now);
        self.jobs.tick().await.unwrap()
    }

    /// Runs [`Jobs::tick`] every `step` until the time `until`, inclusive.
    pub async fn tick_until(&self, until: Timestamp, step: Duration) {
        let mut now = kith_kernel::Clock::now(&*self.clock);
        while now < until {
            now = (now + step).min(until);
            self.tick_at(now).await;
        }
    }
}

fn modules() -> Vec<ModuleMigrations> {
    vec![STORE_MIGRATIONS, JOBS_MIGRATIONS]
}

pub struct TestContext {
    pub node: Node,
    pub database: TestDatabase,
}

impl TestContext {
    pub async fn sqlite() -> Self {
        Self::on(TestDatabase::migrated_sqlite(modules()).await.unwrap()).await
    }

    pub async fn postgres() -> Option<Self> {
        let database = TestDatabase::migrated_postgres(&postgres_url()?, modules()).await.unwrap();
        Some(Self::on(database).await)
    }

    async fn on(database: TestDatabase) -> Self {
        let store = Store::open(database.options()).await.unwrap();
        Self { node: Node::on(store, at(BEGINNING)), database }
    }

    /// Returns another process. On PostgreSQL it has its own connections; on SQLite it shares the store.
    pub async fn another_node(&self) -> Node {
        let store = match self.node.jobs.db().kind() {
            kith_store::EngineKind::Sqlite => self.node.jobs.db().clone(),
            kith_store::EngineKind::Postgres => Store::open(self.database.options()).await.unwrap(),
        };
        Node::on(store, kith_kernel::Clock::now(&*self.node.clock))
    }

    /// Returns the engine on the same database, with the system clock.
    pub fn with_system_clock(&self) -> Jobs {
        let sources = Sources {
            clock: Arc::new(SystemClock),
            ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
            random: Arc::new(SystemRandom),
        };
        Jobs::new(self.node.jobs.db().clone(), sources)
    }

    pub async fn write<T: Send + 'static>(
        &self,
        run: impl Fn(&Tx<'_>, &Ctx) -> Result<T, ScheduleError> + Send + 'static,
    ) -> Result<T, ScheduleError> {
        let ctx = self.node.jobs.ctx();
        self.node.jobs.db().write(move |tx| run(tx, &ctx)).await
    }

    pub async fn add(&self, name: &'static str, plan: Plan) -> Schedule {
        self.write(move |tx, ctx| schedules::create(tx, ctx, name, plan.clone(), false)).await.unwrap()
    }

    pub async fn declare(&self, declared: &'static [DeclaredSchedule]) -> DeclaredChanges {
        self.node.jobs.declare(vec![("tests", declared)]).await.unwrap()
    }

    pub async fn backfill(
        &self,
        name: &'static str,
        from: &str,
        to: &str,
    ) -> Result<BackfillResult, ScheduleError> {
        let (from, to) = (at(from), at(to));
        self.write(move |tx, ctx| schedules::backfill(tx, ctx, name, from, to)).await
    }

    pub async fn find(&self, name: &'static str) -> Option<Schedule> {
        self.node.jobs.db().read(move |q| schedules::find_schedule(q, name)).await.unwrap()
    }

    pub async fn names(&self) -> Vec<String> {
        let read = |q: &kith_store::Query<'_>| list_schedules(q, &ScheduleFilter::default(), 1_000);
        let all = self.node.jobs.db().read(read).await.unwrap();
        all.into_iter().map(|one| one.name).collect()
    }

    /// Returns the times of the runs of a schedule, earliest first, with their jobs.
    pub async fn runs(&self, name: &'static str) -> Vec<(Timestamp, Option<JobRecord>)> {
        let far = Timestamp::from_millis(i64::MAX);
        let runs =
            self.node.jobs.db().read(move |q| schedules::list_runs(q, name, far, 10_000)).await.unwrap();
        runs.into_iter().rev().map(|(one, job)| (one.at, job)).collect()
    }

    /// Returns the times of the runs that have a job, as text, earliest first.
    pub async fn times(&self, name: &'static str) -> Vec<String> {
        let runs = self.runs(name).await;
        let ran = runs.into_iter().filter(|(_, job)| job.is_some());
        ran.map(|(at, _)| at.to_string().replace(":00.000Z", "Z")).collect()
    }

    /// Returns the number of jobs of all schedules, in any state.
    pub async fn count_jobs(&self) -> i64 {
        let sql = "SELECT (SELECT COUNT(*) FROM jobs) + (SELECT COUNT(*) FROM job_history)
                   + (SELECT COUNT(*) FROM job_dead_letters)";
        let count = self.node.jobs.db().read(move |q| q.one(sql, &[], |row| row.get::<i64>(0))).await;
        count.unwrap().unwrap_or(0)
    }

    /// Runs all jobs that are due, and returns the number of attempts.
    pub async fn work(&self) -> usize {
        let handler = Handler::new(KIND, |_| async { Ok(JobOutput::default()) });
        self.node.jobs.drain(&[handler], &[QUEUE]).await.unwrap()
    }
}

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Returns a plan for a job that does nothing.
pub fn plan(schedule: &str) -> Plan {
    Plan::new(QUEUE, KIND, schedule)
}
