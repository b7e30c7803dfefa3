//! Prometheus metrics of the job engine: the state of the queues, and attempts by queue and job kind.

use std::fmt;

use kith_jobs::{DURATION_BUCKETS_MS, JobTotals, Jobs, QueueSample};
use kith_kernel::{Clock as _, SystemClock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Metrics that are read from the job engine when a client requests metrics. The state of the queues is at
/// most ten seconds old.
pub(super) struct JobMetrics(pub Jobs);

impl fmt::Debug for JobMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobMetrics")
    }
}

impl Collector for JobMetrics {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut samples, totals) = (self.0.samples(), self.0.totals());
        // A queue that had attempts, but has no jobs now, is included with zero values.
        for (queue, ..) in &totals {
            if samples.iter().all(|one| one.queue != *queue) {
                samples.push(QueueSample::empty(queue));
            }
        }
        encode_depths(&mut to, &samples)?;
        encode_oldest(&mut to, &samples)?;
        encode_attempts(&mut to, &totals)?;
        encode_durations(&mut to, &totals)
    }
}

fn encode_depths(to: &mut DescriptorEncoder<'_>, samples: &[QueueSample]) -> fmt::Result {
    let mut all = to.encode_descriptor("jobs", "Jobs by queue and state", None, MetricType::Gauge)?;
    for one in samples {
        let states = [
            ("ready", one.ready),
            ("scheduled", one.scheduled),
            ("running", one.running),
            ("blocked", one.blocked),
            ("dead", one.dead),
        ];
        for (state, count) in states {
            ConstGauge::new(count).encode(all.encode_family(&[("queue", &*one.queue), ("state", state)])?)?;
        }
    }
    Ok(())
}

fn encode_oldest(to: &mut DescriptorEncoder<'_>, samples: &[QueueSample]) -> fmt::Result {
    let help = "Waiting time of the oldest runnable job; 0 if none waits";
    let mut all = to.encode_descriptor("jobs_oldest_runnable_seconds", help, None, MetricType::Gauge)?;
    let now = SystemClock.now();
    for one in samples {
        // The age is computed from the current time, so that it grows between two samples.
        let at = one.oldest_ready_at.map_or(0.0, |since| now.since(since).as_secs_f64());
        ConstGauge::new(at).encode(all.encode_family(&[("queue", &*one.queue)])?)?;
    }
    Ok(())
}

fn encode_attempts(to: &mut DescriptorEncoder<'_>, totals: &[(String, String, JobTotals)]) -> fmt::Result {
    let help = "Attempts of this process by outcome";
    let mut all = to.encode_descriptor("jobs_attempts", help, None, MetricType::Counter)?;
    for (queue, kind, total) in totals {
        let counts = total.counts;
        let outcomes = [
            ("started", counts.started),
            ("completed", counts.completed),
            ("failed", counts.failed),
            ("dead", counts.dead),
            ("cancelled", counts.cancelled),
        ];
        for (outcome, count) in outcomes {
            let count = ConstCounter::new(count.unsigned_abs());
            count.encode(all.encode_family(&[
                ("queue", &**queue),
                ("kind", &**kind),
                ("outcome", outcome),
            ])?)?;
        }
    }
    let help = "Total time that jobs of this process waited from becoming due until they ran";
    let mut all = to.encode_descriptor("jobs_wait_seconds", help, None, MetricType::Counter)?;
    for (queue, kind, total) in totals {
        let waited = ConstCounter::new(total.counts.wait_ms as f64 / 1_000.0);
        waited.encode(all.encode_family(&[("queue", queue), ("kind", kind)])?)?;
    }
    Ok(())
}

fn encode_durations(to: &mut DescriptorEncoder<'_>, totals: &[(String, String, JobTotals)]) -> fmt::Result {
    let help = "Duration of attempts of this process";
    let mut all = to.encode_descriptor("jobs_duration_seconds", help, None, MetricType::Histogram)?;
    for (queue, kind, total) in totals {
        let bounds = DURATION_BUCKETS_MS.iter().map(|ms| *ms as f64 / 1_000.0).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(total.durations).collect();
        let count = total.durations.iter().sum();
        let sum = total.counts.run_ms as f64 / 1_000.0;
        all.encode_family(&[("queue", queue), ("kind", kind)])?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
