//! Kinds of jobs as other programs declare them: what a payload has to look like, and what goes without saying.

use kith_jobs::Retry;
use kith_kernel::{FieldError, StoredJson, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::check_ms;

/// How often a job may fail, and how long it waits each time: `base_ms`, twice that, and so on, at most `cap_ms`; of each
/// wait a random part between half and all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// Failures after which it is given up; 1 to 1000.
    #[schema(minimum = 1)]
    pub max_attempts: i64,
    /// The wait after the first failure, in milliseconds; 10 s unless given.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub base_ms: Option<i64>,
    /// The longest wait, in milliseconds; 3 h unless given.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub cap_ms: Option<i64>,
}

impl RetryBody {
    /// As the engine has it.
    pub fn policy(&self) -> Retry {
        let ms = |ms: i64| std::time::Duration::from_millis(ms.unsigned_abs());
        let usual = Retry::DEFAULT;
        Retry::times(self.max_attempts)
            .waiting(self.base_ms.map_or(usual.base, ms), self.cap_ms.map_or(usual.cap, ms))
    }

    /// Whether the waits can be waited for.
    pub fn check(&self, at: &str) -> Result<(), FieldError> {
        check_ms(self.base_ms, &format!("{at}/base_ms"))?;
        check_ms(self.cap_ms, &format!("{at}/cap_ms"))?;
        if (1..=kith_jobs::MOST_ATTEMPTS).contains(&self.max_attempts) {
            return Ok(());
        }
        let detail = format!("Between 1 and {}.", kith_jobs::MOST_ATTEMPTS);
        Err(FieldError::new(format!("{at}/max_attempts"), "out_of_range", detail))
    }
}

/// What jobs of a kind are, unless they say something else.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobKindBody {
    /// The queue they stand in.
    #[serde(default)]
    pub queue: Option<String>,
    /// A JSON Schema (draft 2020-12) that refers to nothing outside itself, at most 32 KiB: a payload that does not fit is
    /// rejected when its job is enqueued. Patterns have no look-around and no back references, and take at most 2 MiB
    /// compiled; at most 128 schemas apply to one value within each other. A payload that takes too much work to validate
    /// is rejected with `schema_too_costly`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
    /// 0 is first, 9 last.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub priority: Option<i64>,
    /// How often they may fail.
    #[serde(default)]
    pub retry: Option<RetryBody>,
    /// An attempt that takes longer has failed; 0: none does.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub timeout_ms: Option<i64>,
}

impl JobKindBody {
    /// The schema as it is kept.
    pub fn schema(&self) -> Option<StoredJson> {
        self.schema.clone().map(|schema| StoredJson::of(&Value::Object(schema)))
    }
}

/// A kind of jobs, as a program has declared it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobKind {
    /// Its name.
    #[schema(example = "thumbnails.make")]
    pub kind: String,
    /// The queue its jobs stand in unless they say so themselves.
    #[schema(required = true)]
    pub queue: Option<String>,
    /// A JSON Schema (draft 2020-12) of their payloads.
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<StoredJson>,
    /// 0 is first, 9 last.
    #[schema(required = true)]
    pub priority: Option<i64>,
    /// How often they may fail.
    #[schema(required = true)]
    pub retry: Option<RetryBody>,
    /// An attempt that takes longer has failed.
    #[schema(required = true)]
    pub timeout_ms: Option<i64>,
    /// When this was last changed.
    pub updated_at: Timestamp,
}
