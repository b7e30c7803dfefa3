//! Tests of flows: children run before their parents, parents get the results, and failures are passed on.

use kith_jobs::{
    Flow, JobError, JobOutput, JobState, MaintenanceState, OnFailure, ReportOutcome, Retention, enqueue_flow,
};
use kith_store::{Tx, contract, params};

use crate::support::{Engine, done, work};

contract! {
    parent_runs_after_children_with_results
    parent_dies_with_child_by_default
    parent_with_run_policy_sees_child_failure
    deep_flows_run_in_order
    job_after_ended_jobs_does_not_wait
    cancelled_parent_does_not_run
    failure_propagates_through_long_chain_in_bounded_transactions
    many_dependents_are_updated_in_bounded_transactions
}

/// Inserts jobs 1 to `count`, of which only the first is ready, and runs the statement `waits`, which inserts
/// their dependencies.
async fn insert(engine: &Engine, count: i64, waits: &'static str) {
    let insert = move |tx: &Tx<'_>| {
        tx.exec(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
             INSERT INTO jobs (id, queue, kind, state, priority, run_at, payload, max_attempts, timeout_ms, pending_dependencies,
                 has_dependents, created_at)
             SELECT i, 'default', 'work', CASE WHEN i = 1 THEN 0 ELSE 3 END, 5, 1, '1', 1, 0,
                 CASE WHEN i = 1 THEN 0 ELSE 1 END, TRUE, 1
             FROM n",
            params![count],
        )?;
        tx.exec(waits, params![count])
    };
    engine.db().write(insert).await.unwrap();
}

async fn maintain(engine: &Engine) {
    engine.jobs.run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT).await.unwrap();
}

async fn failure_propagates_through_long_chain_in_bounded_transactions(engine: Engine) {
    const LINKS: i64 = 8_000;
    let waits = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)
         INSERT INTO job_dependencies (depends_on, job, on_failure) SELECT i, i + 1, 0 FROM n";
    insert(&engine, LINKS, waits).await;
    let (_, outcome) = engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    assert_eq!(outcome, ReportOutcome::Finished(JobState::Dead));
    assert!(engine.count("SELECT COUNT(*) FROM job_dead_letters").await < 1_000, "transactions are bounded");
    maintain(&engine).await;
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_dead_letters").await, LINKS);
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 0);
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_dependent_updates").await, 0);
}

async fn many_dependents_are_updated_in_bounded_transactions(engine: Engine) {
    let waits = "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
         INSERT INTO job_dependencies (depends_on, job, on_failure) SELECT 1, i, 0 FROM n";
    insert(&engine, 2_001, waits).await;
    engine.run_next(Ok(JobOutput { result: Some("7".to_owned()) })).await.unwrap();
    let result_count = "SELECT COUNT(*) FROM job_dependencies WHERE state = 4 AND result = '7'";
    assert!((1..1_000).contains(&engine.count(result_count).await), "transactions are bounded");
    maintain(&engine).await;
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE state = 1").await, 2_000);
    assert_eq!(engine.count(result_count).await, 2_000);
}

fn leaf(n: i64) -> Flow {
    Flow { job: work(n), children: Vec::new() }
}

async fn add(engine: &Engine, flow: Flow) -> (i64, Vec<i64>) {
    let ctx = engine.ctx();
    let (parent, children) = engine.db().write(move |tx| enqueue_flow(tx, &ctx, &flow)).await.unwrap();
    (parent.id, children.iter().map(|child| child.id).collect())
}

async fn parent_runs_after_children_with_results(engine: Engine) {
    let (parent, children) =
        add(&engine, Flow { job: work(100), children: (1..=5).map(leaf).collect() }).await;
    assert_eq!(engine.job(parent).await.pending_dependencies, 5);
    for (n, child) in children.iter().enumerate() {
        assert_eq!(engine.state(parent).await, JobState::Blocked);
        let result = JobOutput { result: Some(format!("{n}")) };
        assert_eq!(engine.run_next(Ok(result)).await.unwrap().0, *child);
    }
    let results = engine.db().read(move |q| kith_jobs::list_results(q, parent, i64::MAX)).await.unwrap();
    let results: Vec<_> = results.into_iter().map(|one| (one.job, one.state, one.result)).collect();
    let expected: Vec<_> = (0..)
        .zip(&children)
        .map(|(n, child)| (*child, Some(JobState::Completed), Some(format!("{n}"))))
        .collect();
    assert_eq!(results, expected);
    assert_eq!(engine.run_next(done()).await.unwrap().0, parent);
}

async fn parent_dies_with_child_by_default(engine: Engine) {
    let middle = Flow { job: work(10), children: vec![leaf(1), leaf(2)] };
    let (top, _) = add(&engine, Flow { job: work(100), children: vec![middle] }).await;
    engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    let dead = engine.job(top).await;
    assert_eq!(dead.state, JobState::Dead, "the failure propagates to the root job");
    assert!(dead.errors[0].error.contains("dependency"), "{:?}", dead.errors);
    assert_eq!(engine.numbers(10).await, [2], "the sibling of the dead job can be claimed");
}

async fn parent_with_run_policy_sees_child_failure(engine: Engine) {
    let mut job = work(100);
    job.on_failure = OnFailure::Run;
    let (parent, children) = add(&engine, Flow { job, children: vec![leaf(1)] }).await;
    engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    let results = engine.db().read(move |q| kith_jobs::list_results(q, parent, i64::MAX)).await.unwrap();
    assert_eq!(results[0].state, Some(JobState::Dead), "{children:?}");
    assert_eq!(engine.numbers(10).await, [100]);
}

async fn deep_flows_run_in_order(engine: Engine) {
    let flow = (1..=20).fold(leaf(0), |below, n| Flow { job: work(n), children: vec![below] });
    add(&engine, flow).await;
    for n in 0..=20 {
        let worker = engine.worker().await;
        let claim = engine.claim(worker, 10).await;
        assert_eq!(crate::support::numbers(&claim), [n]);
        engine.report(&claim.jobs[0], done()).await;
    }
}

async fn job_after_ended_jobs_does_not_wait(engine: Engine) {
    let good = engine.add(1).await;
    engine.run_next(done()).await.unwrap();
    let bad = engine.add(2).await;
    engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    let after_good = engine.enqueue(work(3).after([good])).await.id;
    assert_eq!(engine.state(after_good).await, JobState::Ready);
    let after_both = engine.enqueue(work(4).after([good, bad])).await.id;
    assert_eq!(engine.state(after_both).await, JobState::Dead);
}

async fn cancelled_parent_does_not_run(engine: Engine) {
    let (parent, _) = add(&engine, Flow { job: work(100), children: vec![leaf(1)] }).await;
    let ctx = engine.ctx();
    engine.db().write(move |tx| kith_jobs::cancel(tx, &ctx, parent, "no need")).await.unwrap();
    engine.run_next(done()).await.unwrap();
    assert_eq!(engine.numbers(10).await, [0; 0]);
    assert_eq!(engine.state(parent).await, JobState::Cancelled);
}
