//! Random operations on the engine and on the model. Both must agree after each operation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_jobs::{
    CancelOutcome, ClaimToken, ClaimedJob, HeartbeatOutcome, JobError, JobId, JobState, Jobs, MAX_CRASHES,
    ReportOutcome, RetryPolicy, cancel,
};
use kith_kernel::{Random as _, SeededRandom, Timestamp, seconds};

use kith_store::testing::server::PostgresServer;

use crate::database_crashes::freeze_wal_writer;
use crate::support::{Engine, done, until, work};

const LEASE: Duration = seconds(6);
const ATTEMPTS: i64 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ModelState {
    /// The job waits until this time.
    Waits(Timestamp),
    Runs {
        worker: i64,
    },
    Finished(JobState),
}

#[derive(Clone, Debug)]
pub struct ModelJob {
    at: ModelState,
    /// Token of the last claim; `None` if the claim was undone.
    token: Option<ClaimToken>,
    attempt: i64,
    failures: i64,
    crashes: i64,
    is_cancel_requested: bool,
}

/// Sequence of operations on one engine, with the expected state of its jobs and workers.
pub struct Sequence {
    engine: Engine,
    second: Option<Jobs>,
    random: SeededRandom,
    pub jobs: BTreeMap<JobId, ModelJob>,
    /// Time of the last heartbeat of each worker. Evicted workers are removed.
    workers: BTreeMap<i64, Timestamp>,
    /// All claims that were made, including stale ones.
    pub claims: Vec<ClaimedJob>,
    /// Number of acknowledged completions of each completed job.
    pub acknowledged: BTreeMap<JobId, usize>,
    pub steps: Vec<String>,
    /// Number of claims undone by crashes.
    pub undone: usize,
    /// Server to be crashed, in sequences with crashes. The field is declared last, so that the server is
    /// dropped last.
    server: Option<PostgresServer>,
}

impl Sequence {
    /// Creates an empty sequence of operations on `engine`. On PostgreSQL a second node takes part.
    pub async fn new(engine: Engine, server: Option<PostgresServer>, seed: u64) -> Self {
        Self {
            second: engine.second().await,
            random: SeededRandom::new(seed),
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            claims: Vec::new(),
            acknowledged: BTreeMap::new(),
            steps: Vec::new(),
            undone: 0,
            engine,
            server,
        }
    }

    /// Starts another sequence with another seed. The workers remain registered.
    pub fn begin(&mut self, seed: u64) {
        self.random = SeededRandom::new(seed);
        self.steps.clear();
    }

    /// Removes all jobs from the model, so that they do not slow down the next sequence.
    pub fn forget_jobs(&mut self) {
        self.jobs.clear();
        self.claims.clear();
        self.acknowledged.clear();
    }

    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }

    fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize].clone()) }
    }

    fn now(&self) -> Timestamp {
        self.engine.ctx().now
    }

    /// Returns a random node.
    fn node(&self) -> Jobs {
        match &self.second {
            Some(second) if self.below(2) == 0 => second.clone(),
            _ => self.engine.jobs.clone(),
        }
    }

    /// Performs a random operation on a random node.
    pub async fn step(&mut self) {
        if self.server.is_some() && self.below(15) == 0 {
            self.claim().await;
            return self.crash().await;
        }
        match self.below(20) {
            0..=3 => self.enqueue().await,
            4..=7 => self.claim().await,
            8..=12 => self.report().await,
            13 => self.register().await,
            14..=15 => self.heartbeat().await,
            16..=17 => self.advance(),
            18 => self.evict_expired().await,
            _ => self.cancel().await,
        }
    }

    async fn enqueue(&mut self) {
        let delay = Duration::from_millis(self.below(3) * self.below(9_000));
        let at = self.now() + delay;
        let retry = RetryPolicy::times(ATTEMPTS).waiting(seconds(2), seconds(4));
        let id = self.node().enqueue(work(1).at(at).retry(retry)).await.unwrap().id;
        self.steps.push(format!("enqueue {id} in {delay:?}"));
        let job = ModelJob {
            at: ModelState::Waits(at),
            token: None,
            attempt: 0,
            failures: 0,
            crashes: 0,
            is_cancel_requested: false,
        };
        assert!(self.jobs.insert(id, job).is_none(), "{id} was assigned twice");
    }

    async fn register(&mut self) {
        let worker = self.node().register("in a sequence", false, LEASE).await.unwrap();
        self.steps.push(format!("heartbeat of worker {worker}"));
        self.workers.insert(worker, self.now());
    }

    async fn claim(&mut self) {
        let all: Vec<_> = self.workers.keys().copied().collect();
        let Some(worker) = self.pick(&all) else { return self.register().await };
        let (limit, now) = (1 + self.below(4) as i64, self.now());
        let claim = self.node().claim("default", worker, limit).await.unwrap();
        let got: Vec<_> = claim.jobs.iter().map(|job| job.id).collect();
        self.steps.push(format!("worker {worker} claims {limit}: {got:?}"));
        let is_due = |job: &ModelJob| matches!(job.at, ModelState::Waits(at) if at <= now);
        let due: BTreeSet<_> =
            self.jobs.iter().filter(|(_, job)| is_due(job) && job.crashes < 2).map(|(id, _)| *id).collect();
        let (usual, suspects): (Vec<JobId>, Vec<JobId>) =
            got.iter().copied().partition(|id| self.jobs[id].crashes < 2);
        let room = limit - suspects.len() as i64;
        assert_eq!(
            usual.len() as i64,
            room.min(due.len() as i64),
            "the claim returns as many due jobs as it has room for: {due:?}"
        );
        assert!(usual.iter().all(|id| due.contains(id)), "claimed {usual:?}, due {due:?}");
        assert!(suspects.len() <= 1 && suspects.iter().all(|id| is_due(&self.jobs[id])));
        if !suspects.is_empty() {
            let beside =
                self.jobs.values().any(|job| job.at == ModelState::Runs { worker } && job.crashes >= 2);
            assert!(!beside, "a suspect job runs alone");
        }
        for claimed in claim.jobs {
            let job = self.jobs.get_mut(&claimed.id).unwrap();
            job.attempt += 1;
            assert_eq!((claimed.attempt, claimed.worker), (job.attempt, worker));
            assert_eq!((claimed.failures, claimed.crashes), (job.failures, job.crashes));
            job.at = ModelState::Runs { worker };
            job.token = Some(claimed.token);
            self.claims.push(claimed);
        }
    }

    /// Reports the end of an attempt, which the sender may no longer own.
    async fn report(&mut self) {
        let Some(claimed) = self.pick(&self.claims) else { return };
        let (id, now) = (claimed.id, self.now());
        let outcome = match self.below(6) {
            0 => Err(JobError::retry("in a sequence")),
            1 => Err(JobError::Snooze(seconds(3))),
            2 => Err(JobError::discard("in a sequence")),
            _ => done(),
        };
        let kind = outcome.as_ref().map(|_| "done").unwrap_or_else(|error| match error {
            JobError::Retry(_) => "failed",
            JobError::Snooze(_) => "snoozed",
            _ => "discarded",
        });
        let reported = self.engine.report(&claimed, outcome).await;
        self.steps.push(format!("{id}/{} by {} is {kind}: {reported:?}", claimed.attempt, claimed.worker));
        let job = self.jobs.get_mut(&id).unwrap();
        let owns = job.at == ModelState::Runs { worker: claimed.worker } && job.token == Some(claimed.token);
        if !owns {
            return assert_eq!(reported, ReportOutcome::Stale);
        }
        let expected = match kind {
            "done" => JobState::Completed,
            _ if job.is_cancel_requested => JobState::Cancelled,
            "discarded" => JobState::Dead,
            "failed" if job.failures + 1 >= ATTEMPTS => JobState::Dead,
            again => {
                let ReportOutcome::Rescheduled(at) = reported else { panic!("{reported:?}") };
                if again == "failed" {
                    job.failures += 1;
                    job.crashes = 0;
                    assert!(at >= now + seconds(1) && at <= now + seconds(4), "{:?}", at.since(now));
                } else {
                    assert_eq!(at, now + seconds(3));
                }
                job.at = ModelState::Waits(at);
                return;
            }
        };
        assert_eq!(reported, ReportOutcome::Finished(expected));
        job.at = ModelState::Finished(expected);
        if kind == "done" {
            *self.acknowledged.entry(id).or_default() += 1;
        }
    }

    async fn heartbeat(&mut self) {
        let all: BTreeSet<_> =
            self.claims.iter().map(|claimed| claimed.worker).chain(self.workers.keys().copied()).collect();
        let Some(worker) = self.pick(&all.into_iter().collect::<Vec<_>>()) else { return };
        let heartbeat = self.node().heartbeat(worker).await.unwrap();
        self.steps.push(format!("worker {worker} sends a heartbeat: {heartbeat:?}"));
        let now = self.now();
        match self.workers.get_mut(&worker) {
            None => assert_eq!(heartbeat, HeartbeatOutcome::Evicted),
            Some(last) => {
                *last = now;
                let HeartbeatOutcome::Alive { cancel } = heartbeat else {
                    panic!("the worker was evicted before its lease expired")
                };
                let requested: BTreeSet<_> = cancel.iter().map(|attempt| attempt.job).collect();
                let expected: BTreeSet<_> = self
                    .jobs
                    .iter()
                    .filter(|(_, job)| job.is_cancel_requested && job.at == ModelState::Runs { worker })
                    .map(|(id, _)| *id)
                    .collect();
                assert_eq!(requested, expected);
            }
        }
    }

    fn advance(&mut self) {
        let by = Duration::from_millis(self.below(5_000));
        self.steps.push(format!("the clock advances by {by:?}"));
        self.engine.advance(by);
    }

    async fn evict_expired(&mut self) {
        let now = self.now();
        let (one, other) = (self.node(), self.node());
        let (first, second) = tokio::join!(one.evict_expired_workers(), other.evict_expired_workers());
        let returned = first.unwrap() + second.unwrap();
        let expired: Vec<_> =
            self.workers.iter().filter(|(_, last)| **last + LEASE < now).map(|(worker, _)| *worker).collect();
        self.steps.push(format!("{expired:?} are evicted, {returned} jobs are returned"));
        let mut expected = 0;
        for worker in expired {
            self.workers.remove(&worker);
            for job in self.jobs.values_mut().filter(|job| job.at == ModelState::Runs { worker }) {
                expected += 1;
                job.crashes += 1;
                job.at = match (job.is_cancel_requested, job.crashes >= MAX_CRASHES) {
                    (true, _) => ModelState::Finished(JobState::Cancelled),
                    (_, true) => ModelState::Finished(JobState::Dead),
                    _ => ModelState::Waits(now),
                };
            }
        }
        assert_eq!(returned, expected);
    }

    async fn cancel(&mut self) {
        let all: Vec<_> = self.jobs.keys().copied().collect();
        let Some(id) = self.pick(&all).filter(|_| self.below(3) == 0) else { return };
        let ctx = self.engine.ctx();
        let outcome = self.engine.db().write(move |tx| cancel(tx, &ctx, id, "in a sequence")).await.unwrap();
        self.steps.push(format!("{id} is cancelled: {outcome:?}"));
        let job = self.jobs.get_mut(&id).unwrap();
        match job.at {
            ModelState::Finished(_) => assert_eq!(outcome, CancelOutcome::AlreadyEnded),
            ModelState::Runs { .. } => {
                assert_eq!(outcome, CancelOutcome::Requested);
                job.is_cancel_requested = true;
            }
            ModelState::Waits(_) => {
                assert_eq!(outcome, CancelOutcome::Cancelled);
                job.at = ModelState::Finished(JobState::Cancelled);
            }
        }
    }

    /// Crashes and restarts the database. Claims and heartbeats that were not on disk are undone.
    async fn crash(&mut self) {
        let Some(server) = &mut self.server else { return };
        server.kill().unwrap();
        server.restart().unwrap();
        until("the database answers", async || self.engine.db().last_position().await.is_ok()).await;
        freeze_wal_writer(&self.engine).await;
        let mut undone = Vec::new();
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| matches!(job.at, ModelState::Runs { .. })) {
            let record = self.engine.job(*id).await;
            if record.state == JobState::Running {
                assert_eq!(record.attempt, job.attempt);
                continue;
            }
            assert!(matches!(record.state, JobState::Ready | JobState::Scheduled), "{:?}", record.state);
            assert_eq!(record.attempt, job.attempt - 1);
            (job.at, job.token, job.attempt) = (ModelState::Waits(record.run_at), None, record.attempt);
            undone.push(*id);
        }
        let heartbeats = self.engine.db().read(|q| {
            q.all("SELECT id, heartbeat_at FROM job_workers", &[], |row| {
                Ok((row.get::<i64>(0)?, row.get::<Timestamp>(1)?))
            })
        });
        let heartbeats: BTreeMap<_, _> = heartbeats.await.unwrap().into_iter().collect();
        for (worker, last) in &mut self.workers {
            assert!(heartbeats[worker] <= *last, "heartbeat of worker {worker}");
            *last = heartbeats[worker];
        }
        self.undone += undone.len();
        self.steps.push(format!("the database crashes; claims of {undone:?} are undone"));
    }

    /// Advances the clock and runs claims and reports until all jobs have ended, then compares all jobs with
    /// the model.
    pub async fn end(&mut self) {
        for _ in 0..400 {
            if self.jobs.values().all(|job| matches!(job.at, ModelState::Finished(_))) {
                break;
            }
            self.engine.advance(seconds(7));
            self.evict_expired().await;
            self.register().await;
            self.claim().await;
            let running: Vec<_> = self.claims.iter().rev().take(5).cloned().collect();
            for claimed in running {
                let reported = self.engine.report(&claimed, done()).await;
                let job = self.jobs.get_mut(&claimed.id).unwrap();
                if job.at == (ModelState::Runs { worker: claimed.worker }) && job.token == Some(claimed.token)
                {
                    assert_eq!(reported, ReportOutcome::Finished(JobState::Completed));
                    job.at = ModelState::Finished(JobState::Completed);
                    *self.acknowledged.entry(claimed.id).or_default() += 1;
                } else {
                    assert_eq!(reported, ReportOutcome::Stale);
                }
            }
        }
        for (id, job) in &self.jobs {
            let record = self.engine.job(*id).await;
            assert_eq!(ModelState::Finished(record.state), job.at, "final state of job {id}");
            let acknowledged = self.acknowledged.get(id).copied().unwrap_or(0);
            assert_eq!(acknowledged, usize::from(record.state == JobState::Completed), "job {id}");
        }
        assert_eq!(self.engine.count("SELECT COUNT(*) FROM jobs").await, 0);
    }
}
