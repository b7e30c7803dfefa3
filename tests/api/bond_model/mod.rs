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
use self::play::{StoryStatistics, play};
use self::steps::Story;
use crate::support::{TestApp, note_trials, on_every_engine};

const STORIES: u32 = 20;
const SEED: u64 = 20_260_101;
const REGRESSIONS_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/api/bond_model.regressions");

on_every_engine! {
    // Access tokens must stay valid during waits of thirty days.
    with |config: &mut kith_platform::config::Config| config.auth.access_token_minutes = 6 * 24 * 60;
    random_partner_sequences_agree_with_model,
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "reports how long the stories took")]
async fn random_partner_sequences_agree_with_model(app: &TestApp) {
    let (seed, stories) = (setting("KITH_MODEL_SEED", SEED), setting("KITH_MODEL_STORIES", STORIES.into()));
    let config = Config {
        cases: u32::try_from(stories).expect("the number of stories fits in 32 bits"),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS_FILE))),
        max_shrink_time: 120_000,
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (stories, all, began) = (Cell::new(0), Cell::new(StoryStatistics::default()), Instant::now());
    let result = runner.run(&Story::any(), |story| {
        stories.set(stories.get() + 1);
        // Resets the rate limits used by the previous story.
        app.advance(minutes(2));
        let name = format!("s{}p", stories.get());
        let statistics = block_in_place(|| Handle::current().block_on(play(app, &name, &story)));
        all.set(all.get() + statistics.map_err(TestCaseError::fail)?);
        Ok(())
    });
    println!("seed {seed}: {} stories, {:?}, in {:.1?}", stories.get(), all.get(), began.elapsed());
    match result {
        Ok(()) => {
            note_trials("PRT-01", "a random story of requests and bonds matches the model", stories.get())
        }
        Err(TestError::Fail(why, story)) => panic!("seed {seed}: {story:#?}\n{why}"),
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}
