//! Parts of the server that all features need: configuration, HTTP, authentication, passwords, logs, metrics
//! and health checks.
//!
//! The crate depends on no feature module, and contains SQL statements only for its own tables.

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
pub use auth::{Allowed, AllowedUser, Caller, Client, Principal, SignedIn};
pub use consumers::{EventHandler, ModuleConsumer, NodeEvent};
pub use development::{AdjustableClock, DEVELOPMENT};
pub use docs::style_sheet_path;
pub use http::{
    ApiError, ApiResult, Asset, ClientAddress, Json, MergePatch, PageQuery, PageResponse, PathId, PathParams,
    Preconditions, Query, StateMismatch, bad_query, cursor_problem, page_limit, store_problem, tagged,
};
pub use idempotency::{IdempotencyKey, WriteResponse};
pub use jobs::{AttemptFuture, MAINTENANCE, MaintenanceError, MaintenanceFuture, ModuleJob, ReservedJobs};
pub use kith_consumers::HandlerError;
pub use module::{BlockHook, Counts, ExportPart, Fact, Module, PersonalData, Routes, SealedColumn, Tag};
pub use own_module::MODULE;
