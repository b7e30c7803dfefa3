//! Measures log-ins at the full cost of password hashing: their throughput relative to hashing alone, and
//! their effect on other requests.

use std::time::Duration;

use anyhow::{Context as _, Result};
use argon2::{Algorithm, Argon2, Params, Version};
use serde_json::{Value, json};

use super::rows::median;
use super::sources::{RepeatedRequest, ZipfReads};
use super::{BenchmarkSizes, SEED};
use crate::kith::{Kith, Start};
use crate::load::accounts::{log_in, register};
use crate::load::{LoadResult, Plan, generate_load, now, on_one_thread};

/// Argon2id parameters of `defaults.toml`: KiB and passes.
const HASH_COST: (u32, u32) = (19_456, 2);
/// Number of concurrent log-ins. They saturate the hashing thread, but are so few that none is rejected.
const LOG_IN_CONNECTIONS: usize = 4;
/// Load of other requests during the log-ins: number of connections, and requests per second.
const READ_CONNECTIONS: usize = 16;
const READS_PER_S: f64 = 1_000.0;

/// Results of the log-in benchmark.
pub struct LogIns {
    rate: f64,
    of_ceiling: f64,
    alone: LoadResult,
    beside: LoadResult,
}

/// Starts another server with full hashing cost on the database of `start`, and measures log-ins on it.
pub fn measure(start: &Start, lengths: &BenchmarkSizes) -> Result<LogIns> {
    let mut start = start.clone();
    start.environment.push(("KITH__AUTH__PASSWORD_MEMORY_KIB".into(), HASH_COST.0.to_string()));
    start.environment.push(("KITH__AUTH__PASSWORD_ITERATIONS".into(), HASH_COST.1.to_string()));
    // One hashing thread, because the server is pinned to one core.
    start.environment.push(("KITH__AUTH__HASH_THREADS".into(), "1".into()));
    let kith = Kith::start(&start)?;
    let measured = on_one_thread(measure_on(&kith, lengths))?;
    kith.stop()?;
    Ok(measured)
}

async fn measure_on(kith: &Kith, lengths: &BenchmarkSizes) -> Result<LogIns> {
    let (length, warm_up) = (lengths.log_in, lengths.warm_up);
    eprintln!("  registering {} users at full cost", lengths.log_ins);
    let accounts = register(kith.address, "login", lengths.log_ins).await?;
    let nothing = || Ok([0.0; 3]);
    let log_ins = || Box::new(RepeatedRequest(log_in("login0")));
    let reads = || Box::new(ZipfReads::of(&accounts, "/api/v1/me", SEED));
    let mut rates = Vec::new();
    let mut ratios = Vec::new();
    for _ in 0..lengths.pairs {
        let ceiling = hashes_per_s(length / 4)?;
        let plan = Plan { connections: LOG_IN_CONNECTIONS, warm_up, length, rate: None };
        let seen = generate_load(kith.address, plan, log_ins(), nothing).await.context("log in")?;
        eprintln!("  log in: {:.1}/s; hashing alone: {ceiling:.1}/s", seen.rate());
        rates.push(seen.rate());
        ratios.push(seen.rate() / ceiling);
    }
    let steady = Plan { connections: READ_CONNECTIONS, warm_up, length, rate: Some(READS_PER_S) };
    let alone = generate_load(kith.address, steady, reads(), nothing).await.context("read own profile")?;
    let saturating = Plan { connections: 64, warm_up, length, rate: None };
    let (beside, _) = tokio::try_join!(
        generate_load(kith.address, steady, reads(), nothing),
        generate_load(kith.address, saturating, log_ins(), nothing)
    )?;
    Ok(LogIns { rate: median(&rates), of_ceiling: median(&ratios), alone, beside })
}

/// Returns the hashes per second of this machine, measured on the core that the server does not use.
fn hashes_per_s(length: Duration) -> Result<f64> {
    let params =
        Params::new(HASH_COST.0, HASH_COST.1, 1, None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let (began, mut hashed) = (now(), 0);
    let mut out = [0; 32];
    while began.elapsed() < length {
        argon2
            .hash_password_into(b"correct horse battery", b"sixteen bytes...", &mut out)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        hashed += 1;
    }
    Ok(f64::from(hashed) / began.elapsed().as_secs_f64())
}

fn ms(seen: &LoadResult, quantile: f64) -> f64 {
    seen.latency.value_at_quantile(quantile) as f64 / 1e6
}

impl LogIns {
    /// Returns true if there were successful log-ins, and successful requests without and beside them.
    pub fn has_figures(&self) -> bool {
        self.rate > 0.0 && self.of_ceiling.is_finite() && self.alone.answered > 0 && self.beside.answered > 0
    }

    /// Returns the report as text.
    pub fn line(&self) -> String {
        let Self { rate, of_ceiling, alone, beside } = self;
        format!(
            "log in at full cost: {rate:.1}/s, {:.0} % of hashing alone on such a core\nread own profile at \
             {READS_PER_S:.0}/s: p50 {:.2} ms, p99 {:.2} ms; while log-ins saturate: p50 {:.2} ms, p99 {:.2} \
             ms ({:.0}/s completed)",
            of_ceiling * 100.0,
            ms(alone, 0.5),
            ms(alone, 0.99),
            ms(beside, 0.5),
            ms(beside, 0.99),
            beside.rate(),
        )
    }

    /// Returns the report as JSON.
    pub fn json(&self) -> Value {
        json!({
            "rate_per_s": self.rate,
            "of_hashing_alone": self.of_ceiling,
            "others_alone_ms": { "p50": ms(&self.alone, 0.5), "p99": ms(&self.alone, 0.99) },
            "others_beside_ms": { "p50": ms(&self.beside, 0.5), "p99": ms(&self.beside, 0.99) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_cost_matches_defaults() {
        let defaults = include_str!("../../../platform/src/config/defaults.toml");
        assert!(defaults.contains(&format!("\npassword_memory_kib = {}\n", HASH_COST.0)));
        assert!(defaults.contains(&format!("\npassword_iterations = {}\n", HASH_COST.1)));
    }
}
