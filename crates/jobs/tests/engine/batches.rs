//! Tests of batches: reports and enqueues of one process are written together. One that fails, or waits for
//! another transaction, does not block the others.

use std::sync::Arc;

use futures_util::future::join_all;
use kith_jobs::{
    AttemptContext, AttemptReport, EnqueueError, Handler, JobOutput, JobState, MAX_PAYLOAD_BYTES,
    MaintenanceState, NewJob, OnConflict, QueueConcurrency, Retention, RetryPolicy, Unique, WorkerOptions,
    Workers, enqueue,
};
use kith_kernel::seconds;
use kith_store::testing::Fault;
use kith_store::{EngineKind, Error, Tx, contract, params};
use tokio::sync::watch;

use crate::support::{Engine, done, hold, until, work};

contract! {
    report_with_nul_fails_only_its_own_attempt
    result_that_is_too_large_fails_its_attempt
    overdue_job_that_cannot_be_ended_does_not_delay_others
    jobs_that_end_together_update_dependents_within_one_budget
    deferred_dependents_are_updated_in_one_maintenance_run
    enqueue_with_nul_does_not_fail_rest_of_batch
    report_with_lost_response_is_counted_correctly
    untried_enqueue_is_reported_as_unavailable
    report_rejected_by_database_fails_only_its_own_attempt
    success_report_is_retried_until_database_recovers
}

async fn start(engine: &Engine, handler: Handler) -> Workers {
    let share = QueueConcurrency { queue: "default".to_owned(), concurrency: 50 };
    Workers::start(&engine.jobs, vec![handler], WorkerOptions::new("test", vec![share])).await.unwrap()
}

/// Returns a handler that ends when `go` is set, so that all attempts end together. It computes its result
/// from the payload.
fn answers(go: watch::Receiver<bool>, result: fn(&str) -> Option<String>) -> Handler {
    Handler::new("work", move |run: AttemptContext| {
        let mut go = go.clone();
        async move {
            go.wait_for(|go| *go).await.unwrap();
            Ok(JobOutput { result: result(&run.payload) })
        }
    })
}

async fn run_together(engine: &Engine, result: fn(&str) -> Option<String>) -> Vec<i64> {
    let (go, gone) = watch::channel(false);
    let workers = start(engine, answers(gone, result)).await;
    let jobs = (0..30).map(|n| work(n).retry(RetryPolicy::NEVER)).collect();
    let ids: Vec<_> = engine.jobs.enqueue_all(jobs).await.unwrap().iter().map(|job| job.id).collect();
    let running = "SELECT COUNT(*) FROM jobs WHERE state = 2";
    until("all run", async || engine.count(running).await == 30).await;
    go.send_replace(true);
    until("all have ended", async || engine.count("SELECT COUNT(*) FROM jobs").await == 0).await;
    workers.stop().await;
    ids
}

async fn only_the_seventh_is_dead(engine: &Engine, ids: &[i64], why: &str) {
    for (n, id) in ids.iter().enumerate() {
        let expected = if n == 7 { JobState::Dead } else { JobState::Completed };
        assert_eq!(engine.state(*id).await, expected, "job {n}");
    }
    let errors = engine.job(ids[7]).await.errors;
    assert!(errors.len() == 1 && errors[0].error.contains(why), "{errors:?}");
}

async fn report_with_nul_fails_only_its_own_attempt(engine: Engine) {
    let ids = run_together(&engine, |payload| (payload == "7").then(|| "\"a\0b\"".to_owned())).await;
    only_the_seventh_is_dead(&engine, &ids, "U+0000").await;
}

/// The database rejects the report, and with it the whole batch, for a reason that the engine does not know.
async fn report_rejected_by_database_fails_only_its_own_attempt(engine: Engine) {
    let statements: &[&str] = match engine.db().kind() {
        EngineKind::Sqlite => &["CREATE TRIGGER refuse BEFORE INSERT ON job_history_segment_0 WHEN NEW.payload = '7'
             BEGIN SELECT RAISE(ABORT, 'refused by a test'); END"],
        EngineKind::Postgres => &[
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'refused by a test'; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON job_history_segment_0 FOR EACH ROW WHEN (NEW.payload = '7')
             EXECUTE FUNCTION refuse()",
        ],
    };
    let refuse = move |tx: &Tx<'_>| statements.iter().try_for_each(|sql| tx.exec(sql, params![]).map(drop));
    engine.db().write(refuse).await.unwrap();
    let ids = run_together(&engine, |_| None).await;
    only_the_seventh_is_dead(&engine, &ids, "refused by a test").await;
}

async fn result_that_is_too_large_fails_its_attempt(engine: Engine) {
    let large = |payload: &str| {
        let bytes = if payload == "7" { MAX_PAYLOAD_BYTES + 1 } else { MAX_PAYLOAD_BYTES };
        Some(format!("\"{}\"", "x".repeat(bytes - 2)))
    };
    let ids = run_together(&engine, large).await;
    only_the_seventh_is_dead(&engine, &ids, "longer than 262144 bytes").await;
}

/// The attempt of a job cannot be ended if a dead letter with its id already exists.
async fn overdue_job_that_cannot_be_ended_does_not_delay_others(engine: Engine) {
    let jobs = (0..5)
        .map(|n| work(n).retry(RetryPolicy::NEVER).timeout(std::time::Duration::from_secs(1)))
        .collect();
    let ids: Vec<_> = engine.jobs.enqueue_all(jobs).await.unwrap().iter().map(|job| job.id).collect();
    let bad = ids[2];
    let prepare = move |tx: &Tx<'_>| {
        tx.exec(
            "INSERT INTO job_dead_letters (id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts,
                 timeout_ms, finished_at, created_at)
             VALUES ($1, 'default', 'work', 6, 5, 1, '1', 1, 1, 1, 0, $2, 1)",
            params![bad, i64::MAX / 2],
        )?;
        tx.exec("UPDATE jobs SET state = 2, attempt = 1, worker = 1, deadline_at = 1", params![]).map(drop)
    };
    engine.db().write(prepare).await.unwrap();
    engine.jobs.run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT).await.unwrap();
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 1, "the other jobs are dead");
    assert_eq!(
        engine.count("SELECT COUNT(*) FROM job_queue_samples").await,
        1,
        "the other maintenance steps have run"
    );
}

/// Inserts `parents` ready jobs, each with `waiters` jobs that depend on it.
async fn insert_parents(engine: &Engine, parents: i64, waiters: i64) {
    let insert = move |tx: &Tx<'_>| {
        tx.exec(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1 * ($2 + 1))
             INSERT INTO jobs (id, queue, kind, state, priority, run_at, payload, max_attempts, timeout_ms, pending_dependencies,
                 has_dependents, created_at)
             SELECT i, 'default', 'work', CASE WHEN i <= $1 THEN 0 ELSE 3 END, 5, 1, '1', 1, 0,
                 CASE WHEN i <= $1 THEN 0 ELSE 1 END, i <= $1, 1
             FROM n",
            params![parents, waiters],
        )?;
        tx.exec(
            "INSERT INTO job_dependencies (depends_on, job, on_failure)
             SELECT 1 + id % $1, id, 0 FROM jobs WHERE id > $1",
            params![parents],
        )
    };
    engine.db().write(insert).await.unwrap();
}

/// The jobs have more dependents than one transaction updates.
async fn deferred_dependents_are_updated_in_one_maintenance_run(engine: Engine) {
    const PARENTS: i64 = 2_000;
    insert_parents(&engine, PARENTS, 1).await;
    let worker = engine.worker().await;
    let claim = engine.claim(worker, PARENTS).await;
    let report = |job: &kith_jobs::ClaimedJob| AttemptReport {
        attempt: job.as_attempt(),
        outcome: done(),
        notify_queue: None,
    };
    engine.jobs.report(Arc::new(claim.jobs.iter().map(report).collect())).await.unwrap();
    assert!(
        engine.count("SELECT COUNT(*) FROM job_dependent_updates").await > 1_000,
        "the remaining dependent updates are deferred"
    );
    let before = engine.db().stats().commits;
    engine.jobs.run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT).await.unwrap();
    let commits = engine.db().stats().commits - before;
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE state = 3").await, 0);
    assert!(commits < 20, "{commits} transactions");
}

async fn jobs_that_end_together_update_dependents_within_one_budget(engine: Engine) {
    const PARENTS: i64 = 20;
    insert_parents(&engine, PARENTS, 400).await;
    let worker = engine.worker().await;
    let claim = engine.claim(worker, PARENTS).await;
    let report = |job: &kith_jobs::ClaimedJob| AttemptReport {
        attempt: job.as_attempt(),
        outcome: done(),
        notify_queue: None,
    };
    engine.jobs.report(Arc::new(claim.jobs.iter().map(report).collect())).await.unwrap();
    let ended_dependencies = "SELECT COUNT(*) FROM job_dependencies WHERE state IS NOT NULL";
    assert!((1..1_000).contains(&engine.count(ended_dependencies).await), "transactions are bounded");
    engine.jobs.run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT).await.unwrap();
    assert_eq!(engine.count(ended_dependencies).await, PARENTS * 400);
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE state = 3").await, 0);
}

async fn enqueue_with_nul_does_not_fail_rest_of_batch(engine: Engine) {
    let payload = |n: i64| if n == 40 { "\"\0\"".to_owned() } else { n.to_string() };
    let jobs = (0..100).map(|n| engine.jobs.enqueue(NewJob::new("default", "work", payload(n))));
    for (n, enqueued) in join_all(jobs).await.into_iter().enumerate() {
        match n {
            40 => assert!(matches!(enqueued, Err(EnqueueError::Store(Error::NulInText))), "{enqueued:?}"),
            _ => assert!(enqueued.is_ok(), "job {n}: {enqueued:?}"),
        }
    }
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 99);
}

/// The response to a COMMIT is lost. The report is sent again, and its earlier success is detected.
async fn report_with_lost_response_is_counted_correctly(engine: Engine) {
    const JOBS: i64 = 60;
    let db = engine.db().clone();
    let handler = Handler::new("work", move |run: AttemptContext| {
        db.inject(Fault::CommitAnswerLost);
        async move {
            match run.payload.parse::<i64>().unwrap() % 3 {
                0 => done(),
                1 => Err(kith_jobs::JobError::discard("no")),
                _ => Err(kith_jobs::JobError::Cancelled),
            }
        }
    });
    let workers = start(&engine, handler).await;
    for n in 0..JOBS {
        // The response to this enqueue may also be lost.
        let _ = engine.jobs.enqueue(work(n)).await;
    }
    until("all have ended", async || engine.count("SELECT COUNT(*) FROM jobs").await == 0).await;
    let stale = workers.stale();
    workers.stop().await;
    let total = engine.jobs.totals().remove(0).2.counts;
    let completed = engine.count("SELECT COUNT(*) FROM job_history WHERE state = 4").await;
    let cancelled = engine.count("SELECT COUNT(*) FROM job_history WHERE state = 5").await;
    let dead = engine.count("SELECT COUNT(*) FROM job_dead_letters").await;
    assert_eq!((completed + cancelled + dead, stale), (JOBS, 0));
    assert_eq!((total.completed, total.cancelled, total.dead), (completed, cancelled, dead));
}

/// The response to the COMMIT of one part of a batch is lost. The remaining parts are not tried.
async fn untried_enqueue_is_reported_as_unavailable(engine: Engine) {
    for _ in 0..100 {
        let before = engine.count("SELECT COUNT(*) FROM jobs").await;
        engine.db().inject(Fault::CommitAnswerLost);
        let payload = |n: i64| if n == 99 { "\"\0\"".to_owned() } else { n.to_string() };
        let all =
            join_all((0..100).map(|n| engine.jobs.enqueue(NewJob::new("default", "work", payload(n))))).await;
        let of = |is: fn(&Error) -> bool| {
            all.iter().filter(|one| matches!(one, Err(EnqueueError::Store(error)) if is(error))).count()
                as i64
        };
        let doubtful = of(|error| matches!(error, Error::OutcomeUnknown(_)));
        let enqueued = all.iter().filter(|one| one.is_ok()).count() as i64;
        let added = engine.count("SELECT COUNT(*) FROM jobs").await - before;
        assert_eq!(enqueued + doubtful, added, "jobs with an unknown enqueue result were added");
        if of(|error| matches!(error, Error::Unavailable(_))) > 0 {
            return;
        }
    }
    panic!("no batch was split");
}

/// A statement fails for a reason that has nothing to do with the report, until the cause is fixed.
async fn success_report_is_retried_until_database_recovers(engine: Engine) {
    let rename = |sql: &'static str| engine.db().write(move |tx: &Tx<'_>| tx.exec(sql, params![]).map(drop));
    let (go, gone) = watch::channel(false);
    let workers = start(&engine, answers(gone, |_| None)).await;
    let id = engine.enqueue(work(1).retry(RetryPolicy::NEVER)).await.id;
    until("it runs", async || engine.state(id).await == JobState::Running).await;
    rename("ALTER TABLE job_history_ring RENAME TO job_history_ring_away").await.unwrap();
    let before = engine.db().stats().rollbacks;
    go.send_replace(true);
    until("its report is refused", async || engine.db().stats().rollbacks >= before + 3).await;
    rename("ALTER TABLE job_history_ring_away RENAME TO job_history_ring").await.unwrap();
    until("it has ended", async || engine.count("SELECT COUNT(*) FROM jobs").await == 0).await;
    assert_eq!(engine.state(id).await, JobState::Completed);
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn report_for_locked_job_does_not_delay_other_reports() {
    let Some(engine) = Engine::postgres().await else { return };
    let (go, gone) = watch::channel(false);
    let workers = start(&engine, answers(gone, |_| None)).await;
    let ids = engine.jobs.enqueue_all((0..30).map(work).collect()).await.unwrap();
    until("all run", async || engine.count("SELECT COUNT(*) FROM jobs WHERE state = 2").await == 30).await;
    let held_job = ids[7].id;
    let held = hold(&engine, move |tx: &Tx<'_>| {
        tx.exec("UPDATE jobs SET started_at = started_at WHERE id = $1", params![held_job]).map(drop)
    })
    .await;
    go.send_replace(true);
    until("the others have ended", async || engine.count("SELECT COUNT(*) FROM jobs").await == 1).await;
    assert_eq!(engine.state(held_job).await, JobState::Running);
    held.release().await;
    until("it has ended too", async || engine.state(held_job).await == JobState::Completed).await;
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn contended_key_does_not_delay_other_enqueues() {
    let Some(engine) = Engine::postgres().await else { return };
    let keyed = |n: i64, key: &str| work(n).unique(Unique::key(key).on_conflict(OnConflict::Keep));
    let (ctx, first) = (engine.ctx(), keyed(1, "hot"));
    let held = hold(&engine, move |tx: &Tx<'_>| {
        enqueue(tx, &ctx, &first).map(drop).map_err(|error| Error::fault(error.to_string()))
    })
    .await;
    let (jobs, second) = (engine.jobs.clone(), keyed(2, "hot"));
    let contended = tokio::spawn(async move { jobs.enqueue(second).await });
    let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("it waits for the key", async || engine.count(waits).await > 0).await;
    for n in 0..20 {
        engine.enqueue(work(10 + n)).await;
        engine.enqueue(keyed(100 + n, &format!("cold-{n}"))).await;
    }
    assert!(!contended.is_finished(), "the enqueue waits for the held key");
    held.release().await;
    assert!(contended.await.unwrap().unwrap().is_existing);
}

/// This test needs PostgreSQL: on SQLite all writes wait for the transaction that holds the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_contended_enqueues_do_not_delay_others() {
    let Some(engine) = Engine::postgres().await else { return };
    let keyed = |n: i64, key: &str| work(n).unique(Unique::key(key));
    let (ctx, first) = (engine.ctx(), keyed(1, "hot"));
    let held = hold(&engine, move |tx: &Tx<'_>| {
        enqueue(tx, &ctx, &first).map(drop).map_err(|error| Error::fault(error.to_string()))
    })
    .await;
    let mut contended = tokio::task::JoinSet::new();
    for n in 0..300 {
        let (jobs, job) = (engine.jobs.clone(), keyed(n, "hot"));
        contended.spawn(async move { jobs.enqueue(job).await });
    }
    let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("they wait for the key", async || engine.count(waits).await > 0).await;
    let (jobs, cold) = (engine.jobs.clone(), keyed(1_000, "cold"));
    let other = tokio::spawn(async move { jobs.enqueue(cold).await });
    until("the other is written", async || other.is_finished()).await;
    assert!(other.await.unwrap().is_ok());
    let all = tokio::time::timeout(seconds(20), contended.join_all()).await.expect("every enqueue returns");
    for answer in all {
        assert!(matches!(answer, Err(EnqueueError::Store(Error::DeadlinePassed))), "{answer:?}");
    }
    held.release().await;
}
