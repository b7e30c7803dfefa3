//! Row of the benchmark: alternates runs of the row with runs of its ceiling, then measures latencies at a
//! steady rate.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::ceiling::PING;
use super::machine::{cpu_s, cpu_with_children_s, peak_memory_mb};
use super::sources::RepeatedRequest;
use crate::load::http::encode_request;
use crate::load::{LoadResult, Plan, Source, generate_load};

const CONNECTIONS: usize = 64;
/// Fraction of the highest measured rate. Latencies are measured at this rate.
const STEADY_RATE_FRACTION: f64 = 0.5;

/// Server to measure, with its process ids.
#[derive(Clone, Copy)]
pub struct Server {
    pub address: SocketAddr,
    pub pid: u32,
    pub database_pid: Option<u32>,
}

/// Ceiling of a row: the same load on a server that only answers with 204.
#[derive(Clone, Copy)]
pub struct Ceiling {
    pub name: &'static str,
    pub server: Server,
}

/// Row of the benchmark to measure.
pub struct BenchRow<'a> {
    pub name: &'static str,
    pub server: Server,
    pub ceiling: Ceiling,
    pub pairs: usize,
    pub length: Duration,
    pub ceiling_length: Duration,
    /// Duration of the warm-up. Zero if every request can be sent only once.
    pub warm_up: Duration,
    pub ceiling_warm_up: Duration,
    /// True if each response acknowledges a durable commit.
    pub durable: bool,
    /// Returns the source of requests for the next run.
    pub source: &'a mut dyn FnMut() -> Box<dyn Source>,
}

/// Results of a row of the benchmark.
pub struct BenchResult {
    pub name: &'static str,
    pub ceiling: &'static str,
    /// Responses per second of each run.
    rates: Vec<f64>,
    /// Ratio of each run's rate to that of the ceiling run before it.
    ratios: Vec<f64>,
    server_cpu_us: f64,
    database_cpu_us: f64,
    /// Fraction of their cores that server and generator used during the runs. If both are well below 1 and
    /// the disk is not the bottleneck, another process used the cores.
    server_busy: f64,
    generator_busy: f64,
    durable: bool,
    steady: LoadResult,
    peak_memory_mb: f64,
}

impl BenchRow<'_> {
    /// Measures the row and its ceiling.
    pub async fn measure(self) -> Result<BenchResult> {
        let (mut rates, mut ratios) = (Vec::new(), Vec::new());
        let (mut cpu, mut answered, mut elapsed_s) = ([0.0; 3], 0, 0.0);
        for pair in 1..=self.pairs {
            let ping = Box::new(RepeatedRequest(encode_request("GET", PING, None, None)));
            let ceiling =
                run(self.ceiling.server, plan(self.ceiling_length, self.ceiling_warm_up, None), ping).await?;
            let seen = run(self.server, plan(self.length, self.warm_up, None), (self.source)()).await;
            let seen = seen.with_context(|| format!("{}, run {pair}", self.name))?;
            rates.push(seen.rate());
            ratios.push(seen.rate() / ceiling.rate());
            cpu = std::array::from_fn(|i| cpu[i] + seen.sampled[i]);
            (answered, elapsed_s) = (answered + seen.answered, elapsed_s + seen.elapsed.as_secs_f64());
            eprintln!(
                "  {}: {}; {}: {}",
                self.name,
                format_run(&seen),
                self.ceiling.name,
                format_run(&ceiling)
            );
        }
        let steady = plan(self.length, self.warm_up, Some(STEADY_RATE_FRACTION * median(&rates)));
        let steady = run(self.server, steady, (self.source)()).await.with_context(|| self.name)?;
        let [server_cpu_us, database_cpu_us, _] = cpu.map(|s| s * 1e6 / answered as f64);
        let [server_busy, _, generator_busy] = cpu.map(|s| s / elapsed_s);
        Ok(BenchResult {
            name: self.name,
            ceiling: self.ceiling.name,
            rates,
            ratios,
            server_cpu_us,
            database_cpu_us,
            server_busy,
            generator_busy,
            durable: self.durable,
            steady,
            peak_memory_mb: peak_memory_mb(self.server.pid)?,
        })
    }
}

/// Formats one run. If the generator's core is as busy as the server's, the generator may be the bottleneck.
fn format_run(seen: &LoadResult) -> String {
    let [server, _, generator] = seen.sampled.map(|s| s * 100.0 / seen.elapsed.as_secs_f64());
    format!("{:.0}/s (server {server:.0} % busy, generator {generator:.0} %)", seen.rate())
}

fn plan(length: Duration, warm_up: Duration, rate: Option<f64>) -> Plan {
    Plan { connections: CONNECTIONS, warm_up, length, rate }
}

async fn run(server: Server, plan: Plan, source: Box<dyn Source>) -> Result<LoadResult> {
    generate_load(server.address, plan, source, || {
        let database = server.database_pid.map_or(Ok(0.0), cpu_with_children_s)?;
        Ok([cpu_s(server.pid)?, database, cpu_s(std::process::id())?])
    })
    .await
}

impl BenchResult {
    /// Returns the heading of the table of [`BenchResult::line`].
    pub fn head() -> String {
        [
            format!("{:<30} {:>8} {:>18} {:>8}", "", "rate/s", "% of its ceiling", "x fsync"),
            format!("{:>9} {:>7} {:>7} {:>8}", "at rate/s", "p50 ms", "p99 ms", "worst ms"),
            format!("{:>9} {:>12} {:>8}", "CPU µs", "% srv/gen", "peak MB"),
        ]
        .join(" ")
    }

    /// Returns a line of the table. The CPU time is that of Kith, and after a plus sign that of the database.
    pub fn line(&self, fsync_rate: f64) -> String {
        let [min, middle, max] = spread(&self.ratios).map(|ratio| ratio * 100.0);
        let times_fsync = self.over_fsync(fsync_rate).map_or_else(String::new, |times| format!("{times:.1}"));
        let database = self.database_cpu_us;
        let database = if database > 0.0 { format!("+{database:.0}") } else { String::new() };
        let of_ceiling = format!("{middle:.0} ({min:.0} to {max:.0})");
        let busy = format!("{:.0}/{:.0}", self.server_busy * 100.0, self.generator_busy * 100.0);
        let (rate, steady) = (median(&self.rates), self.steady.rate());
        [
            format!("{:<30} {rate:>8.0} {of_ceiling:>18} {times_fsync:>8}", self.name),
            format!("{steady:>9.0} {:>7.2} {:>7.2} {:>8.1}", self.ms(0.5), self.ms(0.99), self.ms(1.0)),
            format!(
                "{:>9} {busy:>12} {:>8.0}",
                format!("{:.0}{database}", self.server_cpu_us),
                self.peak_memory_mb
            ),
        ]
        .join(" ")
    }

    /// Returns true if every run and the steady run have responses.
    pub fn has_figures(&self) -> bool {
        self.rates.iter().chain(&self.ratios).all(|value| value.is_finite() && *value > 0.0)
            && self.steady.answered > 0
    }

    fn over_fsync(&self, fsync_rate: f64) -> Option<f64> {
        self.durable.then(|| median(&self.rates) / fsync_rate)
    }

    /// Returns the results as JSON.
    pub fn json(&self, fsync_rate: f64) -> Value {
        let [min, middle, max] = spread(&self.ratios);
        json!({
            "row": self.name,
            "ceiling": self.ceiling,
            "rates_per_s": self.rates,
            "rate_per_s": median(&self.rates),
            "of_ceiling": {"median": middle, "min": min, "max": max},
            "rate_over_fsync_rate": self.over_fsync(fsync_rate),
            "steady": {
                "rate_per_s": self.steady.rate(),
                "p50_ms": self.ms(0.5),
                "p99_ms": self.ms(0.99),
                "worst_ms": self.ms(1.0),
                "refused": self.steady.refused,
            },
            "server_cpu_us_per_request": self.server_cpu_us,
            "database_cpu_us_per_request": self.database_cpu_us,
            "server_core_busy": self.server_busy,
            "generator_core_busy": self.generator_busy,
            "peak_memory_mb": self.peak_memory_mb,
        })
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.steady.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// Returns minimum, median and maximum. Panics on an empty slice.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    [sorted[0], median, sorted[sorted.len() - 1]]
}

/// Returns the median. Panics on an empty slice.
pub fn median(values: &[f64]) -> f64 {
    spread(values)[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_returns_minimum_median_and_maximum() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [1.0, 2.5, 4.0]);
        assert_eq!(spread(&[7.0]), [7.0; 3]);
    }
}
