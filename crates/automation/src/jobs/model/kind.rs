//! Types of job kinds, which programs declare with a payload schema and defaults.

use kith_jobs::RetryPolicy;
use kith_kernel::{FieldError, StoredJson, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::check_ms;

/// Retry policy. The delay after a failure doubles with each failure, from `base_ms` up to `cap_ms`. The
/// actual delay is random, between one half of this value and the whole value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// Number of failures after which the job becomes a dead letter, 1 to 1,000.
    #[schema(minimum = 1)]
    pub max_attempts: i64,
    /// Delay after the first failure in milliseconds. Default 10,000 (10 seconds).
    #[serde(default)]
    #[schema(minimum = 0)]
    pub base_ms: Option<i64>,
    /// Maximum delay in milliseconds. Default 10,800,000 (3 hours).
    #[serde(default)]
    #[schema(minimum = 0)]
    pub cap_ms: Option<i64>,
}

impl RetryBody {
    /// Converts the policy into the engine's type.
    pub fn policy(&self) -> RetryPolicy {
        let ms = |ms: i64| std::time::Duration::from_millis(ms.unsigned_abs());
        let defaults = RetryPolicy::DEFAULT;
        RetryPolicy::times(self.max_attempts)
            .waiting(self.base_ms.map_or(defaults.base, ms), self.cap_ms.map_or(defaults.cap, ms))
    }

    /// Checks the number of attempts and the delays. `at` is the JSON Pointer of the policy, for the error.
    pub fn check(&self, at: &str) -> Result<(), FieldError> {
        check_ms(self.base_ms, &format!("{at}/base_ms"))?;
        check_ms(self.cap_ms, &format!("{at}/cap_ms"))?;
        if (1..=kith_jobs::MAX_ATTEMPTS).contains(&self.max_attempts) {
            return Ok(());
        }
        let detail = format!("Expected 1 to {}.", kith_jobs::MAX_ATTEMPTS);
        Err(FieldError::new(format!("{at}/max_attempts"), "out_of_range", detail))
    }
}

/// Declaration of a job kind: payload schema and defaults for its jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobKindBody {
    /// Default queue of the jobs.
    #[serde(default)]
    pub queue: Option<String>,
    /// JSON Schema (draft 2020-12) for payloads, at most 32 KiB, without external references. A job whose
    /// payload does not match is rejected when it is enqueued. Patterns must not use look-around or
    /// back-references; each may need at most 2 MiB of memory when compiled. At most 128 nested schemas may
    /// apply to one value. A payload whose validation takes too much work is rejected with
    /// `schema_too_costly`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
    /// Default priority, 0 (first) to 9 (last).
    #[serde(default)]
    #[schema(minimum = 0)]
    pub priority: Option<i64>,
    /// Default retry policy.
    #[serde(default)]
    pub retry: Option<RetryBody>,
    /// Default maximum duration of an attempt in milliseconds; 0 for no limit.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub timeout_ms: Option<i64>,
}

impl JobKindBody {
    /// Returns the schema as JSON text to store; `None` if there is none.
    pub fn schema(&self) -> Option<StoredJson> {
        self.schema.clone().map(|schema| StoredJson::of(&Value::Object(schema)))
    }
}

/// Declared job kind.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobKind {
    /// Name of the kind.
    #[schema(example = "thumbnails.make")]
    pub kind: String,
    /// Default queue of the jobs; `null` if not set.
    #[schema(required = true)]
    pub queue: Option<String>,
    /// JSON Schema (draft 2020-12) for payloads; `null` if not set.
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<StoredJson>,
    /// Default priority, 0 (first) to 9 (last); `null` if not set.
    #[schema(required = true)]
    pub priority: Option<i64>,
    /// Default retry policy; `null` if not set.
    #[schema(required = true)]
    pub retry: Option<RetryBody>,
    /// Default maximum duration of an attempt in milliseconds; `null` if not set.
    #[schema(required = true)]
    pub timeout_ms: Option<i64>,
    /// Time of the last change.
    pub updated_at: Timestamp,
}
