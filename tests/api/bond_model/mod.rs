//! PRT-02, PRT-03, PRT-04: model-based test of partner requests and bonds. A story is a random sequence of
//! operations by a few users. Each story runs on the server and on a model written from the product
//! description. All responses must be equal.
//!
//! `KITH_MODEL_STORIES` sets the number of stories per engine, and `KITH_MODEL_SEED` sets the first seed.
//! Stories that failed in earlier runs are stored in `tests/api/bond_model.regressions` and run first.

mod faults;
mod model;
mod play;
mod rules;
mod steps;
mod transitions;

use std::cell::Cell;
use std::env;
use std::time::Instant;

use kith_kernel::minutes;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

pub use self::faults::find_faults;
use self::play::{SequenceStatistics, play};
use self::steps::Sequence;
use crate::support::{TestApp, note_trials, on_every_engine};

const SEQUENCES: u32 = 20;
const SEED: u64 = 20_260_101;
const REGRESSIONS_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/api/bond_model.regressions");

on_every_engine! {
    // Access tokens must stay valid during waits of thirty days.
    with |config: &mut kith_platform::config::Config| config.auth.access_token_minutes = 6 * 24 * 60;
    random_sequences_agree_with_model,
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "reports how long the sequences took")]
async fn random_sequences_agree_with_model(app: &TestApp) {
    let (seed, sequences) =
        (setting("KITH_MODEL_SEED", SEED), setting("KITH_MODEL_SEQUENCES", SEQUENCES.into()));
    let config = Config {
        cases: u32::try_from(sequences).expect("the number of sequences fits in 32 bits"),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS_FILE))),
        max_shrink_time: 120_000,
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (sequences, all, began) = (Cell::new(0), Cell::new(SequenceStatistics::default()), Instant::now());
    let result = runner.run(&Sequence::any(), |sequence| {
        sequences.set(sequences.get() + 1);
        // Resets the rate limits used by the previous sequence.
        app.advance(minutes(2));
        let name = format!("s{}p", sequences.get());
        let statistics = block_in_place(|| Handle::current().block_on(play(app, &name, &sequence)));
        all.set(all.get() + statistics.map_err(TestCaseError::fail)?);
        Ok(())
    });
    println!("seed {seed}: {} sequences, {:?}, in {:.1?}", sequences.get(), all.get(), began.elapsed());
    match result {
        Ok(()) => note_trials(
            "PRT-01",
            "a random sequence of requests and bonds matches the model",
            sequences.get(),
        ),
        Err(TestError::Fail(why, sequence)) => panic!("seed {seed}: {sequence:#?}\n{why}"),
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}
