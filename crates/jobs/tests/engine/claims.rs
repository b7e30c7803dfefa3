//! Tests of claims: order, priority, and exclusivity.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use kith_jobs::{JobState, Jobs};
use kith_kernel::seconds;
use kith_store::contract;

use crate::support::{Engine, numbers, work};

contract! {
    jobs_of_one_priority_are_claimed_in_order
    job_is_claimed_by_one_worker_only
    late_committed_job_is_not_skipped
    paused_queue_starts_no_job
    jobs_of_failed_claim_can_be_claimed_again
    clock_set_back_does_not_lose_jobs
    large_payloads_limit_claim_size_and_keep_order
    large_payloads_limit_claim_by_keys_and_keep_order
}

async fn jobs_of_one_priority_are_claimed_in_order(engine: Engine) {
    for (n, priority) in [(1, 5), (2, 5), (3, 0), (4, 9), (5, 0), (6, 5)] {
        engine.enqueue(work(n).priority(priority)).await;
    }
    assert_eq!(engine.numbers(3).await, [3, 5, 1]);
    engine.enqueue(work(7).priority(0)).await;
    assert_eq!(engine.numbers(10).await, [7, 2, 6, 4]);
    assert_eq!(engine.numbers(10).await, [0; 0]);
}

/// Covers row JOB-04 of the readiness catalogue, and a fault similar to pgqueuer#475: each job runs once,
/// however many nodes claim jobs.
async fn job_is_claimed_by_one_worker_only(engine: Engine) {
    const ALL: i64 = 3_000;
    engine.jobs.enqueue_all((0..ALL).map(work).collect()).await.unwrap();
    let nodes = [Some(engine.jobs.clone()), engine.second().await];
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let jobs: Jobs = nodes[n % 2].clone().unwrap_or_else(|| engine.jobs.clone());
        let seen = Arc::clone(&seen);
        claimers.spawn(async move {
            let worker = jobs.register("one of eight", false, seconds(6)).await.unwrap();
            loop {
                let claim = jobs.claim("default", worker, 37).await.unwrap();
                if claim.jobs.is_empty() {
                    break;
                }
                for job in &claim.jobs {
                    assert!(seen.lock().unwrap().insert(job.id), "{} was claimed twice", job.id);
                    assert_eq!((job.attempt, job.worker), (1, worker));
                }
            }
        });
    }
    while let Some(ended) = claimers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len() as i64, ALL);
}

async fn late_committed_job_is_not_skipped(engine: Engine) {
    // This transaction stays open while other transactions commit and their jobs are claimed.
    let (held, is_held) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (held, released) = (Mutex::new(Some(held)), Mutex::new(released));
    let (db, ctx) = (engine.db().clone(), engine.ctx());
    let slow = tokio::spawn(async move {
        db.write(move |tx| {
            kith_jobs::enqueue(tx, &ctx, &work(1))?;
            if let Some(held) = held.lock().unwrap().take() {
                held.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
            }
            Ok::<_, kith_jobs::EnqueueError>(())
        })
        .await
    });
    is_held.await.unwrap();
    let is_alone = engine.db().kind() == kith_store::EngineKind::Sqlite;
    let jobs = engine.jobs.clone();
    let later = tokio::spawn(async move { jobs.enqueue_all((2..50).map(work).collect()).await.unwrap() });
    if !is_alone {
        later.await.unwrap();
        // Claims until the queue is empty, and once more, so that the claim state is cached.
        for expected in [40, 8, 0, 0] {
            assert_eq!(engine.numbers(40).await.len(), expected);
        }
        release.send(()).unwrap();
        slow.await.unwrap().unwrap();
        assert_eq!(engine.numbers(40).await, [1]);
        return;
    }
    release.send(()).unwrap();
    slow.await.unwrap().unwrap();
    later.await.unwrap();
    assert_eq!(engine.numbers(100).await.len(), 49);
}

async fn paused_queue_starts_no_job(engine: Engine) {
    let id = engine.add(1).await;
    let ctx = engine.ctx();
    let pause = |paused: bool| {
        let ctx = ctx.clone();
        engine.db().write(move |tx| {
            kith_jobs::set_queue(tx, &ctx, "default", None, |settings| settings.paused = paused)
        })
    };
    assert!(pause(true).await.unwrap().paused);
    assert_eq!(engine.numbers(10).await, [0; 0]);
    assert_eq!(engine.state(id).await, JobState::Ready);
    engine.add(2).await;
    assert!(!pause(false).await.unwrap().paused);
    assert_eq!(engine.numbers(10).await, [1, 2]);
}

async fn jobs_of_failed_claim_can_be_claimed_again(engine: Engine) {
    engine.jobs.enqueue_all((0..10).map(work).collect()).await.unwrap();
    let worker = engine.worker().await;
    engine.db().inject(kith_store::testing::Fault::CommitFails);
    assert!(engine.jobs.claim("default", worker, 5).await.is_err());
    let claim = engine.claim(worker, 10).await;
    assert_eq!(numbers(&claim), (0..10).collect::<Vec<_>>());
}

/// Covers row DRV-09 of the readiness catalogue for jobs: when the clock is set back, jobs scheduled
/// afterwards are neither lost nor run early.
async fn clock_set_back_does_not_lose_jobs(engine: Engine) {
    let worker = engine.worker().await;
    engine.advance(seconds(86_400));
    assert!(engine.claim(worker, 10).await.jobs.is_empty());
    engine.clock.set(crate::support::BEGINNING);
    let due = engine.ctx().now + seconds(60);
    engine.enqueue(work(1).at(due)).await;
    assert!(engine.claim(worker, 10).await.jobs.is_empty());
    engine.advance(seconds(60));
    assert_eq!(numbers(&engine.claim(worker, 10).await), [1]);
}

/// Claims up to 100 jobs at a time, and returns the payload sizes of each claim in order.
async fn claim_all(engine: &Engine) -> Vec<Vec<usize>> {
    let worker = engine.worker().await;
    let mut claims = Vec::new();
    loop {
        let claim = engine.claim(worker, 100).await;
        if claim.jobs.is_empty() {
            return claims;
        }
        assert!(claim.jobs.iter().all(|job| job.attempt == 1), "a released job does not use up an attempt");
        claims.push(claim.jobs.iter().map(|job| job.payload.len()).collect());
    }
}

/// Returns the payload sizes of jobs, in order: small payloads between large ones.
fn payload_sizes() -> Vec<usize> {
    (0..80).map(|n| if n % 4 == 0 { 200_000 + n } else { 20 + n }).collect()
}

fn sized(bytes: usize) -> kith_jobs::NewJob {
    kith_jobs::NewJob::new("default", "sized", format!("\"{}\"", "x".repeat(bytes - 2)))
}

fn check_claims(claims: &[Vec<usize>], sizes: &[usize]) {
    assert_eq!(claims.concat(), sizes, "jobs are claimed in order and exactly once");
    for claim in claims {
        assert!(
            claim.iter().sum::<usize>() < (2 << 20) + (256 << 10),
            "{} bytes",
            claim.iter().sum::<usize>()
        );
    }
}

async fn large_payloads_limit_claim_size_and_keep_order(engine: Engine) {
    for bytes in payload_sizes() {
        engine.enqueue(sized(bytes)).await;
        engine.enqueue(sized(bytes).priority(9)).await;
    }
    check_claims(&claim_all(&engine).await, &[payload_sizes(), payload_sizes()].concat());
}

async fn large_payloads_limit_claim_by_keys_and_keep_order(engine: Engine) {
    let ctx = engine.ctx();
    let limited = engine.db().write(move |tx| {
        kith_jobs::set_queue(tx, &ctx, "default", None, |limits| limits.key_concurrency = Some(1_000))
    });
    limited.await.unwrap();
    for bytes in payload_sizes() {
        engine.enqueue(sized(bytes)).await;
    }
    check_claims(&claim_all(&engine).await, &payload_sizes());
}
