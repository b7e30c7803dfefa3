//! Random generators behind a trait, so that tests can use reproducible randomness.

use std::sync::Mutex;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Source of random bytes. Production implementations must be cryptographically secure.
pub trait Random: Send + Sync {
    /// Overwrites `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// Random generator of the operating system. Panics if the system does not provide one.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the seam the ban points to")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has a random generator");
    }
}

/// ChaCha20 generator with a fixed seed, for tests only. The same seed produces the same bytes in every run.
#[derive(Debug)]
pub struct SeededRandom(Mutex<ChaCha20Rng>);

impl SeededRandom {
    /// Creates a generator whose output is determined by `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha20Rng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill_bytes(bytes);
    }
}
