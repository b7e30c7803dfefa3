//! Prometheus metrics, with one registry per server. Counting a request takes no lock except that of its
//! route's histogram.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use kith_consumers::ConsumerSet;
use kith_jobs::Jobs;
use kith_kernel::{Clock, SystemClock, Timestamp};
use kith_store::{STATEMENT_BUCKETS_US, Store};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::consumer_metrics::ConsumerMetrics;
use super::job_metrics::JobMetrics;
use super::process::{self, ResourceMetric};
use super::{disk_free, resident_bytes};
use crate::auth::PasswordCounts;
use crate::clock::NodeClock;
use crate::health::nearest_existing_folder;
use crate::http::RoutePolicy;
use crate::http::openapi::OperationName;

/// Route label of requests that no route matches.
const NO_ROUTE: &str = "(none)";
const BUCKETS_S: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Metrics of one server.
pub struct Metrics {
    registry: Registry,
    /// Metrics of each route. The first element is for requests that no route matches.
    routes: Vec<RouteMetrics>,
    limited: Family<PolicyLabels, Counter>,
    /// Number of requests that are being processed.
    pub in_flight: Gauge,
    /// Number of open connections.
    pub connections: Gauge,
    connections_limited: Family<ConnectionLabels, Counter>,
    /// Counter of each event kind.
    events: Vec<Counter>,
    security: Family<SecurityLabels, Counter>,
    delayed_purges: Family<PurgeLabels, Counter>,
}

/// Security-relevant event that is counted (SEC-25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "values of the metric's label")]
pub enum SecurityEvent {
    /// Login with a wrong password or an unknown e-mail address.
    login_failed,
    /// Login attempt while logins are locked after too many failures.
    login_locked,
    /// Registration of an e-mail address that is already registered. Many from one network indicate account
    /// enumeration.
    registered_address_tried,
    /// Access token that is not valid.
    token_refused,
    /// Refresh token that is unknown, used or expired.
    refresh_refused,
    /// Request without the required permission.
    forbidden,
    /// Reload of the signing keys, because a token named an unknown key.
    signing_keys_reloaded,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecurityLabels {
    kind: SecurityEvent,
}

/// Metrics of one route. They are looked up once, and then only incremented.
#[derive(Debug)]
pub struct RouteMetrics {
    method: Option<Method>,
    template: String,
    /// Path template of the route whose limits apply, if this route is a deprecated path.
    same_as: Option<String>,
    policy: RoutePolicy,
    by_status: [Counter; 5],
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    method: String,
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PurgeLabels {
    purge: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    limit: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    kind: &'static str,
}

type Requests = Family<StatusLabels, Counter>;
type Durations = Family<RouteLabels, Histogram, fn() -> Histogram>;

impl Metrics {
    /// Registers the metrics of `operations` and of the given components.
    pub(crate) fn new(
        operations: &[OperationName],
        kinds: impl Iterator<Item = &'static str>,
        consumers: Arc<ConsumerSet>,
        jobs: Jobs,
        passwords: Arc<PasswordCounts>,
        clock: Option<Arc<NodeClock>>,
        folder: PathBuf,
    ) -> Self {
        let db = jobs.db().clone();
        let mut registry = Registry::with_prefix("kith");
        let requests = Requests::default();
        let durations = Durations::new_with_constructor(|| Histogram::new(BUCKETS_S));
        let limited = Family::<PolicyLabels, Counter>::default();
        let in_flight = Gauge::default();
        registry.register(
            "http_requests",
            "HTTP requests by method, route and status class",
            requests.clone(),
        );
        let help = "Time from the head of a request to the head of its response";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, durations.clone());
        registry.register("http_requests_in_flight", "HTTP requests in progress", in_flight.clone());
        registry.register("http_requests_limited", "Requests rejected by a rate limit", limited.clone());
        let connections = Gauge::default();
        registry.register("http_connections", "Open connections", connections.clone());
        let connections_limited = Family::<ConnectionLabels, Counter>::default();
        let help = "Connections rejected or evicted because of a connection limit";
        registry.register("http_connections_limited", help, connections_limited.clone());
        let by_kind = Family::<EventLabels, Counter>::default();
        registry.register("events", "Committed events by kind", by_kind.clone());
        let events = kinds.map(|kind| by_kind.get_or_create_owned(&EventLabels { kind })).collect();
        let security = Family::<SecurityLabels, Counter>::default();
        registry.register("security_events", "Security-relevant events by kind", security.clone());
        let delayed_purges = Family::<PurgeLabels, Counter>::default();
        let help = "Purge runs that left due items";
        registry.register("purges_delayed", help, delayed_purges.clone());
        registry.register("build", "Build information", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let started = SystemClock.now();
        registry.register_collector(Box::new(JobMetrics(jobs)));
        registry.register_collector(Box::new(ConsumerMetrics(consumers)));
        registry.register_collector(Box::new(ServerCollector { db, passwords, clock, started, folder }));

        let mut routes = vec![RouteMetrics::new(&requests, &durations, None, NO_ROUTE)];
        for OperationName { method, template, same_as, policy } in operations {
            let route = RouteMetrics::new(&requests, &durations, Some(method.clone()), template);
            routes.push(RouteMetrics { same_as: same_as.clone(), policy: *policy, ..route });
        }
        Self {
            registry,
            routes,
            limited,
            in_flight,
            connections,
            connections_limited,
            events,
            security,
            delayed_purges,
        }
    }

    /// Counts committed events. `kinds` contains the index of each event's kind in the list of the kinds of
    /// all modules.
    pub(crate) fn record_events(&self, kinds: &[usize]) {
        kinds.iter().filter_map(|kind| self.events.get(*kind)).for_each(|counter| {
            counter.inc();
        });
    }

    /// Counts a security-relevant event.
    pub fn record_security_event(&self, kind: SecurityEvent) {
        self.security.get_or_create(&SecurityLabels { kind }).inc();
    }

    /// Counts a purge run after which due items remain.
    pub(crate) fn record_delayed_purge(&self, purge: &'static str) {
        self.delayed_purges.get_or_create(&PurgeLabels { purge }).inc();
    }

    /// Counts a connection that was rejected or evicted because of a connection limit, by limit and outcome.
    pub(crate) fn record_limited_connection(&self, limit: &'static str, outcome: &'static str) {
        self.connections_limited.get_or_create(&ConnectionLabels { limit, outcome }).inc();
    }

    /// Returns the metrics of all routes by index. Index 0 is for requests that no route matches.
    pub(crate) fn routes(&self) -> &[RouteMetrics] {
        &self.routes
    }

    /// Returns the counter of requests that the limit `policy` has rejected.
    pub(crate) fn limited(&self, policy: &'static str) -> Counter {
        self.limited.get_or_create_owned(&PolicyLabels { policy })
    }

    /// Returns the metrics of the route with this index.
    pub(crate) fn of(&self, route: usize) -> &RouteMetrics {
        &self.routes[route]
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => unreachable!("writing to a String does not fail"),
        }
    }
}

impl RouteMetrics {
    fn new(requests: &Requests, durations: &Durations, method: Option<Method>, route: &str) -> Self {
        let name = method.as_ref().map_or("(any)", Method::as_str).to_owned();
        let labels = RouteLabels { method: name, route: route.to_owned() };
        let counter = |status| {
            let RouteLabels { method, route } = labels.clone();
            requests.get_or_create_owned(&StatusLabels { method, route, status })
        };
        Self {
            method,
            template: route.to_owned(),
            same_as: None,
            policy: RoutePolicy::default(),
            by_status: STATUS_CLASSES.map(counter),
            duration: durations.get_or_create_owned(&labels),
        }
    }

    pub(crate) fn path_template(&self) -> &str {
        &self.template
    }

    /// Returns the path template of the route whose limits apply: that of this route or, for a deprecated
    /// path, that of the route that replaces it.
    pub(crate) fn limit_path(&self) -> &str {
        self.same_as.as_deref().unwrap_or(&self.template)
    }

    pub(crate) fn policy(&self) -> RoutePolicy {
        self.policy
    }

    /// Returns the method, or `None` for requests that no route matches.
    pub(crate) fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// Counts one response and records its duration.
    pub(crate) fn count(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5);
        self.by_status[class - 1].inc();
        self.duration.observe(took.as_secs_f64());
    }
}

/// Gauges whose values are read when a client requests metrics.
struct ServerCollector {
    db: Store,
    passwords: Arc<PasswordCounts>,
    clock: Option<Arc<NodeClock>>,
    started: Timestamp,
    folder: PathBuf,
}

impl fmt::Debug for ServerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for ServerCollector {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_store(&mut to)?;
        let PasswordCounts { queued, computed } = &*self.passwords;
        let (queued, computed) = (queued.load(Ordering::Relaxed), computed.load(Ordering::Relaxed));
        gauge(&mut to, "passwords_queued", "Passwords waiting to be hashed or verified", queued)?;
        counter(&mut to, "passwords_computed", "Password hashes computed", computed)?;
        let up_s = SystemClock.now().since(self.started).as_secs();
        gauge(&mut to, "uptime_seconds", "Time since the server started", up_s)?;
        counter(&mut to, "panics", "Panics, including caught ones", super::log::panics())?;
        if let Some(bytes) = resident_bytes() {
            gauge(&mut to, "resident_memory_bytes", "Resident memory of this process", bytes)?;
        }
        self.encode_machine(&mut to)?;
        match &self.clock {
            Some(clock) => float(&mut to, "clock_skew_seconds", CLOCK_HELP, clock.skew_ms() as f64 / 1_000.0),
            None => Ok(()),
        }
    }
}

const CLOCK_HELP: &str = "Time by which the system clock is ahead of the database's clock";

impl ServerCollector {
    fn encode_machine(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for ResourceMetric { name, help, value, is_counter } in process::resource_metrics() {
            if is_counter {
                let metric = ConstCounter::new(value);
                metric.encode(to.encode_descriptor(name, help, None, metric.metric_type())?)?;
            } else {
                float(to, name, help, value)?;
            }
        }
        if let Some((free, all)) = disk_free(nearest_existing_folder(&self.folder)) {
            gauge(to, "disk_free_bytes", "Free space on the disk of the data folder", free)?;
            gauge(to, "disk_bytes", "Size of the disk of the data folder", all)?;
        }
        Ok(())
    }

    /// Encodes the durations of all statements together. The facts for administrators contain them per
    /// statement.
    fn encode_statements(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let times = self.db.statement_times();
        let in_seconds = |us: u64| us as f64 / 1_000_000.0;
        let bounds = STATEMENT_BUCKETS_US.iter().map(|us| in_seconds(*us)).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(times.buckets).collect();
        let name = "store_statement_duration_seconds";
        let mut metric = to.encode_descriptor(
            name,
            "Duration of statements, excluding waits for locks and commits",
            None,
            MetricType::Histogram,
        )?;
        metric.encode_histogram::<NoLabelSet>(in_seconds(times.total_us), times.count, &buckets, None)
    }

    fn encode_store(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let s = self.db.stats();
        counter(to, "store_commits", "Transactions committed", s.commits)?;
        counter(to, "store_rollbacks", "Transactions rolled back", s.rollbacks)?;
        counter(
            to,
            "store_retries",
            "Transactions retried after a conflict or a lost connection",
            s.retries,
        )?;
        counter(to, "store_refused_busy", "Operations rejected because the queue was full", s.refused_busy)?;
        counter(
            to,
            "store_dropped_late",
            "Operations dropped after their deadline before they started",
            s.dropped_late,
        )?;
        counter(to, "store_outcomes_unknown", "Commits whose outcome is unknown", s.outcomes_unknown)?;
        counter(to, "store_groups", "Groups of transactions committed together", s.groups)?;
        counter(to, "store_reads", "Reads", s.reads)?;
        counter(to, "store_slow_reads", "Reads that moved to the slow lane", s.slow_reads)?;
        counter(to, "store_reconnects", "Reconnections to the database", s.reconnects)?;
        counter(to, "store_checkpoints", "Checkpoints of the write-ahead log", s.checkpoints)?;
        counter(to, "store_events_sequenced", "Events sequenced by this process", s.sequenced)?;
        gauge(to, "store_queued", "Operations waiting in the queue", s.queued)?;
        gauge(to, "store_running", "Operations in progress", s.running)?;
        if let Some(size) = self.db.pool_size() {
            gauge(to, "store_pool_size", "Maximum number of database connections", size as u64)?;
        }
        self.encode_statements(to)?;
        gauge(to, "store_wal_bytes", "Size of the write-ahead log", s.wal_bytes)?;
        gauge(to, "store_head", "Last position known to this process", s.head)?;
        gauge(to, "store_sequencer", "1 while this process is the sequencer", s.sequencer)
    }
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(to.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(to.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn float(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(to.encode_descriptor(name, help, None, metric.metric_type())?)
}
