//! Reduces stored responses to the ids of their objects, if a response is large or its caller has used up the
//! allowance of stored bytes.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::header::{self, HeaderValue};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Clock, days};
use serde_json::{Map, Value};

use super::IDEMPOTENCY_REPLAYED;
use super::response::SerializedResponse;
use crate::http::LimiterClock;

/// Size in bytes above which only the id of a response is stored. This applies to responses with an id and an
/// ETag, because the client can read them again.
const MAX_STORED_BYTES: usize = 16 << 10;
/// Number of callers in the rate limiter above which entries with a full allowance are removed.
const SWEEP_THRESHOLD_CALLERS: usize = 4_096;
/// Value of [`IDEMPOTENCY_REPLAYED`] that marks a stored response whose body contains only ids. It is never
/// sent.
const REDUCED: HeaderValue = HeaderValue::from_static("short");

type Limiter =
    RateLimiter<Uuid, DashMapStateStore<Uuid>, LimiterClock, NoOpMiddleware<governor::nanos::Nanos>>;

/// Allowance of stored bytes per caller on this node.
pub(crate) struct StoredBytesLimiter(Option<Limiter>);

impl StoredBytesLimiter {
    /// Creates an allowance of `per_day` bytes per caller; 0 means no limit.
    pub fn new(per_day: u32, clock: Arc<dyn Clock>) -> Self {
        let quota = NonZeroU32::new(per_day)
            .and_then(|per_day| Some(Quota::with_period(days(1) / per_day.get())?.allow_burst(per_day)));
        Self(
            quota.map(|quota| RateLimiter::new(quota, DashMapStateStore::default(), LimiterClock::of(clock))),
        )
    }

    /// Returns true if `caller` may store `bytes` more bytes. In this case, subtracts them from the
    /// allowance.
    fn admits(&self, caller: Uuid, bytes: usize) -> bool {
        let (Some(limiter), Some(bytes)) = (&self.0, u32::try_from(bytes).ok().and_then(NonZeroU32::new))
        else {
            return true;
        };
        if limiter.len() > SWEEP_THRESHOLD_CALLERS {
            limiter.retain_recent();
        }
        matches!(limiter.check_key_n(&caller, bytes), Ok(Ok(())))
    }

    /// Returns the form of `answer` to store for `caller`: the whole response or only its ids.
    pub(super) fn reduce(&self, caller: Uuid, answer: &SerializedResponse) -> SerializedResponse {
        let Some(body) = &answer.body else { return answer.clone() };
        let is_large = body.len() > MAX_STORED_BYTES && answer.headers.contains_key(header::ETAG);
        if !is_large && self.admits(caller, body.len()) {
            return answer.clone();
        }
        let Some(ids) = serde_json::from_slice(body).ok().and_then(ids_of) else { return answer.clone() };
        if !is_large || ids.get("id").is_some() {
            let mut short = answer.clone();
            short.body = Some(ids.to_string().into());
            short.headers.insert(IDEMPOTENCY_REPLAYED, REDUCED);
            return short;
        }
        answer.clone()
    }
}

/// Returns true if the body of the stored response contains only ids.
pub(super) fn is_reduced(answer: &SerializedResponse) -> bool {
    answer.headers.get(IDEMPOTENCY_REPLAYED) == Some(&REDUCED)
}

/// Replaces each object that has an `id` by an object with this id only. Lists and objects around it stay.
fn ids_of(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut members) => {
            if let Some(id) = members.remove("id") {
                return Some(Value::Object(Map::from_iter([("id".to_owned(), id)])));
            }
            let kept = members.into_iter().filter_map(|(name, value)| Some((name, ids_of(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(items.into_iter().filter_map(ids_of).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kith_kernel::{ManualClock, Timestamp, hours};
    use serde_json::json;

    use super::*;
    use crate::idempotency::WriteResponse;

    const CALLER: Uuid = Uuid::from_u128(1);

    fn answer(body: Value) -> SerializedResponse {
        WriteResponse::created(body).with_etag().write()
    }

    fn body(answer: &SerializedResponse) -> Value {
        serde_json::from_slice(answer.body.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn large_response_is_stored_as_id_and_headers() {
        let kept = StoredBytesLimiter::new(0, Arc::new(ManualClock::at(Timestamp::EPOCH)));
        let large = answer(json!({ "id": "one", "data": "x".repeat(MAX_STORED_BYTES) }));
        let short = kept.reduce(CALLER, &large);
        assert_eq!(body(&short), json!({ "id": "one" }));
        assert_eq!(short.headers[header::ETAG], large.headers[header::ETAG]);
        assert!(is_reduced(&short) && !is_reduced(&large));
        let small = answer(json!({ "id": "one", "data": "x" }));
        assert_eq!(kept.reduce(CALLER, &small), small);
        // A client could not read these responses again, so they are stored as they are.
        let without_id = answer(json!({ "data": "x".repeat(MAX_STORED_BYTES) }));
        assert_eq!(kept.reduce(CALLER, &without_id), without_id);
        let without_etag =
            WriteResponse::created(json!({ "id": "one", "data": "x".repeat(MAX_STORED_BYTES) })).write();
        assert_eq!(kept.reduce(CALLER, &without_etag), without_etag);
    }

    #[test]
    fn responses_beyond_daily_bytes_are_reduced_to_ids() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_767_225_600_000)));
        let kept = StoredBytesLimiter::new(1_000, Arc::clone(&clock) as Arc<dyn Clock>);
        let jobs =
            WriteResponse::ok(json!({ "jobs": [{ "id": 1, "payload": "x".repeat(300) }, { "id": 2 }] }))
                .write();
        let is_whole = |caller| kept.reduce(caller, &jobs) == jobs;
        assert_eq!([is_whole(CALLER), is_whole(CALLER), is_whole(CALLER)], [true, true, false]);
        assert_eq!(body(&kept.reduce(CALLER, &jobs)), json!({ "jobs": [{ "id": 1 }, { "id": 2 }] }));
        assert!(is_whole(Uuid::from_u128(2)), "another caller has a separate allowance");
        clock.advance(hours(24));
        assert!(is_whole(CALLER));
        let huge = WriteResponse::ok(json!([{ "id": 1, "payload": "x".repeat(2_000) }])).write();
        assert_eq!(body(&kept.reduce(CALLER, &huge)), json!([{ "id": 1 }]));
    }
}
