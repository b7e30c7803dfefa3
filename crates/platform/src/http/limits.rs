//! Rate limits: requests per minute, for each client network and route. Each node counts in memory. Limits
//! that must be exact across restarts and nodes are counted in the database, by the modules.
//!
//! The response headers follow draft-ietf-httpapi-ratelimit-headers-10.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use governor::clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use kith_kernel::{Clock, Problem, problems};
use prometheus_client::metrics::counter::Counter;

use super::{ClientAddress, RateClass};
use crate::App;
use crate::telemetry::RouteMetrics;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const WINDOW_S: u32 = 60;
/// Minimum number of requests between two removals of unused entries.
const MIN_SWEEP_REQUESTS: u64 = 1024;
/// Difference that can occur when the clock is read on different cores. If the clock appears to go back by
/// less than this, it was not set back.
const JITTER_MS: i64 = 1_000;

/// Rate limits of all routes.
pub(super) struct Limits {
    policies: Vec<Policy>,
    /// For each route, the index of its policy and of the route whose counter it uses. A deprecated path uses
    /// the counter of the path that replaces it.
    of_route: Vec<Option<(usize, usize)>>,
}

/// Result of counting one request.
pub(super) struct Allowance<'l> {
    policy: &'l Policy,
    remaining: u32,
    /// Time until another request is accepted; `None` if this request is accepted.
    wait: Option<Duration>,
}

struct Policy {
    name: &'static str,
    per_minute: NonZeroU32,
    header: HeaderValue,
    limiter: Limiter,
    /// Number of requests until unused entries are removed again.
    requests_until_sweep: AtomicU64,
    refused: Counter,
}

/// Index of the route, and first address of the client network.
type Key = (usize, IpAddr);
type Limiter = RateLimiter<Key, DashMapStateStore<Key>, LimiterClock, StateInformationMiddleware>;

impl Limits {
    /// Creates the rate limits from the configuration.
    pub fn of(app: &App) -> Self {
        let time = LimiterClock::of(Arc::clone(&app.sources.clock));
        let limited = |class: RateClass| {
            let per_minute = NonZeroU32::new((class.per_minute)(&app.config))?;
            Some(Policy::new(class.name, per_minute, time.clone(), app.metrics.limited(class.name)))
        };
        let policies: Vec<_> = RateClass::all(app.modules).into_iter().filter_map(limited).collect();
        let policy_of =
            |route: &RouteMetrics| policies.iter().position(|policy| policy.name == route.policy().rate.name);
        // A deprecated path uses the counter of the path that replaces it.
        let all = app.metrics.routes();
        let counted_as = |(n, route): (usize, &RouteMetrics)| {
            let is_same = |other: &RouteMetrics| {
                other.path_template() == route.limit_path() && other.method() == route.method()
            };
            let first = all.iter().position(is_same).unwrap_or(n);
            policy_of(route).map(|policy| (policy, first))
        };
        let of_route = all.iter().enumerate().map(counted_as).collect();
        Self { of_route, policies }
    }

    /// Counts a request of `client` to `route`. Returns `None` if the route has no limit.
    pub fn count(&self, route: usize, client: ClientAddress) -> Option<Allowance<'_>> {
        let (policy, counted_as) = self.of_route[route]?;
        Some(self.policies[policy].count((counted_as, client.first_of_network())))
    }
}

impl Policy {
    fn new(name: &'static str, per_minute: NonZeroU32, time: LimiterClock, refused: Counter) -> Self {
        let header = HeaderValue::try_from(format!("\"{name}\";q={per_minute};w={WINDOW_S}"));
        let limiter = RateLimiter::new(Quota::per_minute(per_minute), DashMapStateStore::default(), time);
        Self {
            name,
            per_minute,
            header: header.expect("a name and digits are legal in a header"),
            limiter,
            requests_until_sweep: AtomicU64::new(MIN_SWEEP_REQUESTS),
            refused,
        }
    }

    fn count(&self, key: Key) -> Allowance<'_> {
        self.sweep_if_due();
        let (remaining, wait) = match self.limiter.check_key(&key) {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(until) => (0, Some(until.wait_time_from(clock::Clock::now(self.limiter.clock())))),
        };
        if wait.is_some() {
            self.refused.inc();
        }
        Allowance { policy: self, remaining, wait }
    }

    /// Removes networks that have their full allowance again. Runs after as many requests as there are
    /// entries, so the cost per request is constant. Memory is limited to the networks of about a minute.
    fn sweep_if_due(&self) {
        if self.requests_until_sweep.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.limiter.retain_recent();
            self.requests_until_sweep
                .store(MIN_SWEEP_REQUESTS.max(self.limiter.len() as u64), Ordering::Relaxed);
        }
    }
}

impl Allowance<'_> {
    /// Returns the 429 problem if the limit is exceeded.
    pub fn refusal(&self) -> Option<Problem> {
        let wait_s = u32::try_from(self.wait?.as_millis().div_ceil(1_000)).unwrap_or(WINDOW_S);
        let detail = "Too many requests from your network. Retry after the time in `Retry-After`.";
        Some(Problem::new(&problems::RATE_LIMITED, detail).retry_after(wait_s.max(1)))
    }

    /// Adds headers with the limit and the remaining allowance, such as `"auth";r=59;t=1`. `t` is the number
    /// of seconds until the full allowance is available again.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let Policy { name, per_minute, header, .. } = self.policy;
        let used = u64::from(per_minute.get() - self.remaining);
        let whole_in_s = (used * u64::from(WINDOW_S)).div_ceil(u64::from(per_minute.get()));
        let text = format!("\"{name}\";r={};t={whole_in_s}", self.remaining);
        headers.insert(RATE_LIMIT_POLICY, header.clone());
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(RATE_LIMIT, value);
        }
    }
}

/// Clock of the rate limiters. If the app's clock is set back, this clock continues from its last time.
/// Otherwise, clients would be rejected until the app's clock reaches that time again.
#[derive(Clone)]
pub(crate) struct LimiterClock(Arc<LimiterClockInner>);

struct LimiterClockInner {
    clock: Arc<dyn Clock>,
    last_ms: AtomicI64,
    set_back_ms: AtomicI64,
}

impl LimiterClock {
    /// Creates a clock that is based on `clock`.
    pub fn of(clock: Arc<dyn Clock>) -> Self {
        let last_ms = AtomicI64::new(clock.now().as_millis());
        Self(Arc::new(LimiterClockInner { clock, last_ms, set_back_ms: AtomicI64::new(0) }))
    }
}

impl clock::Clock for LimiterClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let inner = &*self.0;
        let now_ms = inner.clock.now().as_millis();
        let set_back_ms = inner.last_ms.swap(now_ms, Ordering::Relaxed) - now_ms;
        if set_back_ms > JITTER_MS {
            inner.set_back_ms.fetch_add(set_back_ms, Ordering::Relaxed);
        }
        let ms = now_ms + inner.set_back_ms.load(Ordering::Relaxed);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0)).into()
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
