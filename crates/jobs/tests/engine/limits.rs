//! Tests of the limits per queue and per key, which are counted across all nodes.

use std::collections::HashMap;

use kith_jobs::{QueueError, QueueSettings, Rate, set_queue};
use kith_kernel::seconds;
use kith_store::contract;

use crate::support::{Engine, done, numbers, work};

contract! {
    concurrency_limit_is_enforced
    rate_limit_is_enforced
    key_concurrency_is_independent_per_key
    key_rate_is_independent_per_key
    limits_are_exact_across_nodes
    jobs_of_saturated_key_do_not_block_other_keys
    many_saturated_keys_do_not_block_other_keys
    examined_keys_are_not_examined_again_immediately
    keyed_and_keyless_jobs_share_claims_equally
    single_claims_alternate_between_keyed_and_keyless
    invalid_queue_settings_are_rejected
    mismatched_settings_revision_is_rejected
}

async fn set(engine: &Engine, change: impl Fn(&mut QueueSettings) + Send + 'static) {
    let ctx = engine.ctx();
    engine.db().write(move |tx| set_queue(tx, &ctx, "default", None, &change)).await.unwrap();
}

async fn concurrency_limit_is_enforced(engine: Engine) {
    set(&engine, |queue| queue.concurrency = Some(3)).await;
    engine.jobs.enqueue_all((0..10).map(work).collect()).await.unwrap();
    let worker = engine.worker().await;
    let claim = engine.claim(worker, 10).await;
    assert_eq!(numbers(&claim), [0, 1, 2]);
    assert!(claim.is_limited);
    assert!(engine.claim(worker, 10).await.jobs.is_empty());
    engine.report(&claim.jobs[1], done()).await;
    assert_eq!(numbers(&engine.claim(worker, 10).await), [3]);
}

async fn rate_limit_is_enforced(engine: Engine) {
    set(&engine, |queue| queue.rate = Some(Rate { limit: 4, period_ms: 60_000 })).await;
    engine.jobs.enqueue_all((0..10).map(work).collect()).await.unwrap();
    let began = engine.ctx().now;
    assert_eq!(engine.numbers(3).await, [0, 1, 2]);
    engine.advance(seconds(20));
    assert_eq!(engine.numbers(3).await, [3]);
    let worker = engine.worker().await;
    let claim = engine.claim(worker, 3).await;
    assert!(claim.jobs.is_empty());
    assert_eq!(claim.next_claim_at, Some(began + seconds(60)));
    engine.clock.set(began + seconds(60));
    assert_eq!(numbers(&engine.claim(worker, 10).await), [4, 5, 6, 7]);
}

async fn key_concurrency_is_independent_per_key(engine: Engine) {
    set(&engine, |queue| queue.key_concurrency = Some(2)).await;
    let jobs = (0..30).map(|n| work(n).with_limit_key(format!("key-{}", n % 3)));
    engine.jobs.enqueue_all(jobs.chain([work(100)]).collect()).await.unwrap();
    let worker = engine.worker().await;
    let mut claimed = Vec::new();
    for _ in 0..5 {
        claimed.extend(engine.claim(worker, 20).await.jobs);
    }
    let mut by_key: HashMap<_, usize> = HashMap::new();
    for job in &claimed {
        *by_key.entry(job.limit_key.clone()).or_default() += 1;
    }
    let key = |n: i64| Some(format!("key-{n}"));
    assert_eq!(by_key, HashMap::from([(key(0), 2), (key(1), 2), (key(2), 2), (None, 1)]));
    let one = claimed.iter().find(|job| job.limit_key == key(1)).unwrap();
    engine.report(one, done()).await;
    let next = engine.claim(worker, 20).await.jobs;
    assert_eq!(next.iter().map(|job| job.limit_key.clone()).collect::<Vec<_>>(), [key(1)]);
}

async fn key_rate_is_independent_per_key(engine: Engine) {
    set(&engine, |queue| queue.key_rate = Some(Rate { limit: 2, period_ms: 10_000 })).await;
    let jobs = (0..12).map(|n| work(n).with_limit_key(if n % 2 == 0 { "even" } else { "odd" }));
    engine.jobs.enqueue_all(jobs.collect()).await.unwrap();
    let worker = engine.worker().await;
    for _ in 0..3 {
        let mut started = Vec::new();
        for _ in 0..4 {
            for job in engine.claim(worker, 20).await.jobs {
                started.push(job.limit_key.clone().unwrap());
                engine.report(&job, done()).await;
            }
        }
        started.sort();
        assert_eq!(started, ["even", "even", "odd", "odd"]);
        engine.advance(seconds(10));
    }
}

/// Covers a fault similar to river#1145: a limit must be exact across all nodes.
async fn limits_are_exact_across_nodes(engine: Engine) {
    set(&engine, |queue| {
        queue.concurrency = Some(7);
        queue.key_concurrency = Some(2);
    })
    .await;
    let jobs = (0..200).map(|n| work(n).with_limit_key(format!("{}", n % 10)));
    engine.jobs.enqueue_all(jobs.collect()).await.unwrap();
    let nodes = [Some(engine.jobs.clone()), engine.second().await];
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..6 {
        let jobs = nodes[n % 2].clone().unwrap_or_else(|| engine.jobs.clone());
        claimers.spawn(async move {
            let worker = jobs.register("one of six", false, seconds(6)).await.unwrap();
            let mut claimed = Vec::new();
            for _ in 0..10 {
                claimed.extend(jobs.claim("default", worker, 5).await.unwrap().jobs);
            }
            claimed
        });
    }
    let mut claimed = Vec::new();
    while let Some(ended) = claimers.join_next().await {
        claimed.extend(ended.unwrap());
    }
    assert_eq!(claimed.len(), 7);
    for n in 0..10 {
        let key = Some(n.to_string());
        assert!(claimed.iter().filter(|job| job.limit_key == key).count() <= 2);
    }
}

async fn jobs_of_saturated_key_do_not_block_other_keys(engine: Engine) {
    set(&engine, |queue| queue.key_concurrency = Some(1)).await;
    let crowd = (0..2_000).map(|n| work(n).with_limit_key("crowd"));
    let others = (5_000..5_003).map(|n| work(n).with_limit_key(format!("other-{n}")));
    engine.jobs.enqueue_all(crowd.chain(others).collect()).await.unwrap();
    let worker = engine.worker().await;
    let mut found = Vec::new();
    for _ in 0..3 {
        found.extend(numbers(&engine.claim(worker, 10).await));
    }
    found.sort_unstable();
    assert_eq!(found, [0, 5_000, 5_001, 5_002]);
}

async fn many_saturated_keys_do_not_block_other_keys(engine: Engine) {
    const KEYS: i64 = 600;
    set(&engine, |queue| queue.key_concurrency = Some(1)).await;
    let jobs = |n: i64| work(n).with_limit_key(format!("key-{n:04}"));
    engine.jobs.enqueue_all((0..KEYS).chain(0..KEYS).map(jobs).collect()).await.unwrap();
    let worker = engine.worker().await;
    let mut running = 0;
    while running < KEYS as usize {
        let claimed = engine.claim(worker, 500).await.jobs.len();
        assert!(claimed > 0, "{running} run");
        running += claimed;
    }
    engine.enqueue(work(-1).with_limit_key("key-0597-b")).await;
    let mut found = Vec::new();
    for _ in 0..3 {
        found.extend(numbers(&engine.claim(worker, 500).await));
    }
    assert_eq!(found, [-1]);
}

/// Claims jobs `claims` times and reports all of them. Returns the number of jobs without a key and with a
/// key.
async fn count_by_key(engine: &Engine, claims: usize, limit: i64) -> (usize, usize) {
    let worker = engine.worker().await;
    let (mut without, mut with) = (0, 0);
    for _ in 0..claims {
        for job in engine.claim(worker, limit).await.jobs {
            *if job.limit_key.is_none() { &mut without } else { &mut with } += 1;
            engine.report(&job, done()).await;
        }
    }
    (without, with)
}

async fn fill(engine: &Engine, without: i64, with: i64) {
    set(engine, |queue| queue.key_concurrency = Some(10)).await;
    let with = (0..with).map(|n| work(n).with_limit_key(format!("key-{}", n % 7)));
    engine.jobs.enqueue_all((0..without).map(work).chain(with).collect()).await.unwrap();
}

async fn keyed_and_keyless_jobs_share_claims_equally(engine: Engine) {
    fill(&engine, 600, 300).await;
    let (without, with) = count_by_key(&engine, 10, 28).await;
    assert!(without >= 140 && with >= 100, "{without} jobs without a key, {with} with a key");
    // Jobs of one kind use the part of a claim that jobs of the other kind leave unused.
    while count_by_key(&engine, 1, 28).await.1 > 0 {}
    assert_eq!(count_by_key(&engine, 1, 4).await, (4, 0));
}

async fn single_claims_alternate_between_keyed_and_keyless(engine: Engine) {
    fill(&engine, 100, 100).await;
    let (without, with) = count_by_key(&engine, 20, 1).await;
    assert!(without >= 5 && with >= 5, "{without} jobs without a key, {with} with a key");
}

async fn invalid_queue_settings_are_rejected(engine: Engine) {
    type Change = fn(&mut QueueSettings);
    let wrong: [(&str, Change); 4] = [
        ("concurrency", |queue| queue.concurrency = Some(0)),
        ("rate", |queue| queue.rate = Some(Rate { limit: -1, period_ms: 1_000 })),
        ("key_rate", |queue| queue.key_rate = Some(Rate { limit: 1, period_ms: 0 })),
        ("key_concurrency", |queue| queue.key_concurrency = Some(i64::MAX)),
    ];
    for (field, change) in wrong {
        let ctx = engine.ctx();
        let refused = engine.db().write(move |tx| set_queue(tx, &ctx, "default", None, change)).await;
        assert!(
            matches!(&refused, Err(QueueError::Invalid(invalid)) if invalid.field == field),
            "{refused:?}"
        );
    }
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_queues").await, 0);
}

async fn mismatched_settings_revision_is_rejected(engine: Engine) {
    set(&engine, |queue| queue.concurrency = Some(5)).await;
    let ctx = engine.ctx();
    let change = |revision| {
        let ctx = ctx.clone();
        engine.db().write(move |tx| {
            set_queue(tx, &ctx, "default", Some(revision), |queue| queue.concurrency = Some(6))
        })
    };
    let read = engine.db().read(|q| kith_jobs::find_settings(q, "default")).await.unwrap();
    assert!(matches!(change(read.revision + 1).await, Err(QueueError::Changed)));
    assert_eq!(change(read.revision).await.unwrap().revision, read.revision + 1);
}

/// There are more keys than one claim examines.
async fn examined_keys_are_not_examined_again_immediately(engine: Engine) {
    const KEYS: i64 = 600;
    set(&engine, |queue| queue.key_concurrency = Some(1)).await;
    let jobs = (0..2 * KEYS).map(|n| work(n).with_limit_key(format!("key-{}", n % KEYS)));
    engine.jobs.enqueue_all(jobs.collect()).await.unwrap();
    let worker = engine.worker().await;
    let mut claimed = 0;
    while claimed < KEYS {
        claimed += engine.claim(worker, KEYS).await.jobs.len() as i64;
    }
    let mut next_claims = Vec::new();
    for _ in 0..6 {
        let claim = engine.claim(worker, KEYS).await;
        assert!(claim.jobs.is_empty(), "all keys are saturated");
        next_claims.push(claim.next_claim_at);
    }
    assert_eq!(next_claims[2..], [None; 4], "{next_claims:?}");
}
