//! Coarse limits: how many requests a minute one client network may send to one route. They live in memory, one set a
//! node; what must be exact over restarts and nodes is counted in the database.
//!
//! The answer's fields are those of draft-ietf-httpapi-ratelimit-headers-10.

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
/// Networks that are forgotten at the earliest: clearing away fewer is not worth the look.
const FEW: u64 = 1024;
/// The app's clock may be this much apart on two cores.
const JITTER_MS: i64 = 1_000;

/// Who may still send how much, where.
pub(super) struct Limits {
    policies: Vec<Policy>,
    /// Which policy each route has.
    of_route: Vec<Option<(usize, usize)>>,
}

/// What a request leaves of its limit.
pub(super) struct Allowance<'l> {
    policy: &'l Policy,
    remaining: u32,
    /// How long to wait, if there was nothing left for this one.
    wait: Option<Duration>,
}

struct Policy {
    name: &'static str,
    per_minute: NonZeroU32,
    header: HeaderValue,
    limiter: Limiter,
    /// Requests until those are forgotten who have their whole allowance again.
    until_sweep: AtomicU64,
    refused: Counter,
}

/// Route and first address of the network.
type Key = (usize, IpAddr);
type Limiter = RateLimiter<Key, DashMapStateStore<Key>, Time, StateInformationMiddleware>;

impl Limits {
    /// The limits that the configuration sets.
    pub fn of(app: &App) -> Self {
        let limits = &app.config.limits;
        let time = Time::of(Arc::clone(&app.sources.clock));
        let mut policies = Vec::new();
        let mut place = |class: RateClass, per_minute| {
            let name = class.name();
            let per_minute = NonZeroU32::new(per_minute)?;
            policies.push(Policy::new(name, per_minute, time.clone(), app.metrics.limited(name)));
            Some(policies.len() - 1)
        };
        let usual = place(RateClass::Requests, limits.requests_per_minute);
        let auth = place(RateClass::Auth, limits.auth_per_minute);
        let partner_lists = place(RateClass::PartnerLists, limits.partner_lists_per_minute);
        let jobs = place(RateClass::Jobs, limits.jobs_per_minute);
        let policy_of = |route: &RouteMetrics| match route.policy().rate {
            RateClass::Requests => usual,
            RateClass::Auth => auth,
            RateClass::PartnerLists => partner_lists,
            RateClass::Jobs => jobs,
            RateClass::Exempt => None,
        };
        // What two paths lead to is counted once.
        let all = app.metrics.routes();
        let counted_as = |(n, route): (usize, &RouteMetrics)| {
            let is_same = |other: &RouteMetrics| {
                other.template() == route.same_as() && other.method() == route.method()
            };
            let first = all.iter().position(is_same).unwrap_or(n);
            policy_of(route).map(|policy| (policy, first))
        };
        Self { of_route: all.iter().enumerate().map(counted_as).collect(), policies }
    }

    /// Counts a request of `client` to `route`. Nothing where there is no limit.
    pub fn count(&self, route: usize, client: ClientAddress) -> Option<Allowance<'_>> {
        let (policy, counted_as) = self.of_route[route]?;
        Some(self.policies[policy].count((counted_as, client.first_of_network())))
    }
}

impl Policy {
    fn new(name: &'static str, per_minute: NonZeroU32, time: Time, refused: Counter) -> Self {
        let header = HeaderValue::try_from(format!("\"{name}\";q={per_minute};w={WINDOW_S}"));
        let limiter = RateLimiter::new(Quota::per_minute(per_minute), DashMapStateStore::default(), time);
        Self {
            name,
            per_minute,
            header: header.expect("a name and digits are legal in a header"),
            limiter,
            until_sweep: AtomicU64::new(FEW),
            refused,
        }
    }

    fn count(&self, key: Key) -> Allowance<'_> {
        self.sweep_at_times();
        let (remaining, wait) = match self.limiter.check_key(&key) {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(until) => (0, Some(until.wait_time_from(clock::Clock::now(self.limiter.clock())))),
        };
        if wait.is_some() {
            self.refused.inc();
        }
        Allowance { policy: self, remaining, wait }
    }

    /// Forgets who is as good as new, once as many requests have come as there may be of them: memory is bounded by
    /// what a minute brings, and looking costs each request next to nothing.
    fn sweep_at_times(&self) {
        if self.until_sweep.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.limiter.retain_recent();
            self.until_sweep.store(FEW.max(self.limiter.len() as u64), Ordering::Relaxed);
        }
    }
}

impl Allowance<'_> {
    /// The 429, if there was nothing left.
    pub fn refusal(&self) -> Option<Problem> {
        let wait_s = u32::try_from(self.wait?.as_millis().div_ceil(1_000)).unwrap_or(WINDOW_S);
        let detail = "Too many requests came from your network; `Retry-After` says when to go on.";
        Some(Problem::new(&problems::RATE_LIMITED, detail).retry_after(wait_s.max(1)))
    }

    /// Tells the limit and what is left of it: `"auth";r=59;t=1`, where in `t` seconds all of it is there again.
    pub fn tell(&self, headers: &mut HeaderMap) {
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

/// The app's clock for the limiters. A clock that is set back would lock everybody out until it is where it was; here
/// time goes on from where it stands.
#[derive(Clone)]
pub(crate) struct Time(Arc<TimeInner>);

struct TimeInner {
    clock: Arc<dyn Clock>,
    last_ms: AtomicI64,
    set_back_ms: AtomicI64,
}

impl Time {
    /// The time of this clock.
    pub fn of(clock: Arc<dyn Clock>) -> Self {
        let last_ms = AtomicI64::new(clock.now().as_millis());
        Self(Arc::new(TimeInner { clock, last_ms, set_back_ms: AtomicI64::new(0) }))
    }
}

impl clock::Clock for Time {
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
