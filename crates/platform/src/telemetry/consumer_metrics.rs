//! Prometheus metrics of durable consumers: lag, pending events and failed events.

use std::fmt;
use std::sync::Arc;

use kith_consumers::{ConsumerCounts, ConsumerSet, ConsumerStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Metrics of the consumers. Gauges describe the whole deployment and are at most about ten seconds old.
/// Counters describe this process.
#[derive(Debug)]
pub(super) struct ConsumerMetrics(pub Arc<ConsumerSet>);

impl Collector for ConsumerMetrics {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let sampled = self.0.sampled();
        let mut gauge = |name, help, value: fn(&ConsumerStatus) -> f64| -> fmt::Result {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for status in &sampled {
                ConstGauge::new(value(status))
                    .encode(family.encode_family(&[("consumer", &*status.name)])?)?;
            }
            Ok(())
        };
        gauge("consumer_lag_events", "Events of any kind after the cursor", |status| {
            status.lag_events as f64
        })?;
        let help = "Age of the first event after the cursor";
        gauge("consumer_lag_seconds", help, |status| status.lag_ms as f64 / 1_000.0)?;
        let help = "Failed events waiting for a retry, and events waiting for them, at most 10,000";
        gauge("consumer_pending", help, |status| status.pending as f64)?;
        let help = "Events dead-lettered after all attempts, at most 10,000; alert if above 0";
        gauge("consumer_dead_letters", help, |status| status.dead_letters as f64)?;
        let mut counter = |name, help, value: fn(&ConsumerCounts) -> u64| -> fmt::Result {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for counts in self.0.counts() {
                let count = ConstCounter::new(value(&counts));
                count.encode(family.encode_family(&[("consumer", counts.name)])?)?;
            }
            Ok(())
        };
        counter("consumer_events", "Events handled by this process", |counts| counts.handled)?;
        let help = "Events dead-lettered by this process after all attempts";
        counter("consumer_events_dead_lettered", help, |counts| counts.dead_lettered)?;
        let help = "Panics of the delivery task, which restarts after each; alert on an increase";
        counter("consumer_panics", help, |counts| counts.panics)
    }
}
