//! Platform crate, on which all features are built: configuration, HTTP, authentication, passwords, logs,
//! metrics, health.
//!
//! The crate depends on no feature module, and contains SQL only for its own tables.

extern crate self as kith_platform;

mod app;
pub mod audit;
pub mod auth;
mod cache;
pub mod clock;
pub mod compute;
pub mod config;
pub mod consumers;
mod development;
mod docs;
pub mod export;
mod facts;
mod fair_queue;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod jobs;
mod module;
pub mod observed_time;
pub mod outbound;
mod own_module;
pub mod purge;
pub mod starts;
pub mod telemetry;
#[cfg(test)]
mod testing;

pub use app::{App, AppInner, Program, StartError};
pub use auth::passwords;
pub use auth::{Allowed, AllowedPerson, Caller, Client, Principal, SignedIn};
pub use consumers::{EventHandler, ModuleConsumer, NodeEvent};
pub use development::{AheadClock, DEVELOPMENT};
pub use docs::style_sheet_path;
pub use http::{
    ApiError, ApiResult, Asset, Changed, ClientAddress, Json, MergePatch, PageAnswer, PageQuery, PathId,
    PathParams, Preconditions, Query, bad_query, cursor_problem, page_limit, store_problem, tagged,
};
pub use idempotency::{Answer, IdempotencyKey};
pub use jobs::{Doing, MAINTENANCE, ModuleJob, ReservedJobs, Upkeep, UpkeepError};
pub use kith_consumers::HandlerError;
pub use module::{Blocked, Counts, ExportPart, Fact, Module, PersonalData, Routes, SealedColumn, Tag};
pub use own_module::MODULE;
