//! Basic types that every other crate uses: time, ids, randomness, actors, problems, pages and text.
//!
//! This crate does no I/O and contains no async code.

extern crate self as kith_kernel;

mod actor;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod id;
mod page;
mod precomputed;
mod problem;
mod random;
mod schema;
mod stored_json;
mod text;
mod time;

pub use actor::{Actor, Ctx, RequestId, Sources};
pub use id::{Ids, SeededIds, TimeOrderedIds};
pub use page::{Cursor, InvalidCursor, MAX_PAGE_BYTES, Page, PageLimit};
pub use precomputed::{COMPUTE_STACK_BYTES, Precomputed};
pub use problem::{FieldError, Problem, ProblemCode, problems};
pub use random::{Random, SeededRandom, SystemRandom};
pub use stored_json::{StoredJson, count_values};
pub use text::{Text, TextRules};
pub use time::{Clock, ManualClock, OffsetClock, SystemClock, Timestamp, days, hours, minutes, seconds};

/// Re-exported so that [`id_type!`] works in crates that do not depend on `serde` themselves.
#[doc(hidden)]
pub use serde as __serde;
/// Re-exported for [`scalar_schema!`].
#[doc(hidden)]
pub use utoipa as __utoipa;
/// Re-exported so that [`id_type!`] works in crates that do not depend on `uuid` themselves.
#[doc(hidden)]
pub use uuid;

id_type! {
    /// Id of a user account.
    UserId
    /// Id of an API key. It reveals nothing about the key's secret.
    ApiKeyId
}
