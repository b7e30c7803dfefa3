//! Model test of claims, heartbeats, evictions and completions. The model is derived from the guarantees.
//! Workers work, fail, freeze, resume and die in random sequences, on the model and on the engine, and both
//! must agree at each step. In some sequences the database crashes, which undoes claims and heartbeats that
//! were not synced to disk.
//!
//! The test prints the seed. `KITH_JOB_SEQUENCES=500` runs more sequences, `KITH_JOB_CRASH_SEQUENCES=50` runs
//! more sequences with crashes, and `KITH_JOB_SEED=7` sets the seed.

mod sequence;

use kith_store::contract;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use kith_store::testing::{TestDatabase, postgres_url};

use self::sequence::Sequence;
use crate::database_crashes::freeze_wal_writer;
use crate::support::Engine;

const STEPS: usize = 80;

contract! {
    random_sequences_agree_with_model
}

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Covers rows DRV-06 and DRV-08 of the readiness catalogue.
async fn random_sequences_agree_with_model(engine: Engine) {
    run_sequences(engine, None, env_number("KITH_JOB_SEQUENCES", 12)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_sequences_with_crashes_agree_with_model() {
    if postgres_url().is_none() {
        return;
    }
    let options = PostgresServerOptions { fsync: true, ..PostgresServerOptions::default() };
    let server = PostgresServer::start(options).unwrap();
    let engine = Engine::on(TestDatabase::postgres(&server.url("postgres")).await.unwrap()).await;
    freeze_wal_writer(&engine).await;
    let undone = run_sequences(engine, Some(server), env_number("KITH_JOB_CRASH_SEQUENCES", 2)).await;
    assert!(undone > 0, "at least one crash has undone a claim");
}

/// Runs `count` random sequences. Returns the number of claims that crashes have undone.
async fn run_sequences(engine: Engine, server: Option<PostgresServer>, count: u64) -> usize {
    let seed = env_number("KITH_JOB_SEED", 1);
    eprintln!("{count} sequences, starting at seed {seed}");
    let mut sequence = Sequence::new(engine, server, seed).await;
    for n in seed..seed + count {
        sequence.begin(n);
        let (jobs, claims) = (sequence.jobs.len(), sequence.claims.len());
        let run = async {
            for _ in 0..STEPS {
                sequence.step().await;
            }
            sequence.end().await;
        };
        let result = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(run)).await;
        if result.is_err() {
            panic!("the sequence of seed {n} failed after:\n{}", sequence.steps.join("\n"));
        }
        assert!(
            sequence.jobs.len() > jobs && sequence.claims.len() > claims,
            "the sequence of seed {n} was empty"
        );
        sequence.forget_jobs();
    }
    sequence.undone
}
