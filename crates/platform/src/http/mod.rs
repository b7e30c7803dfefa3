//! The HTTP edge: connections, what surrounds every request, extractors, problems, the OpenAPI document.

mod client_address;
mod connection;
mod edge;
mod json;
pub mod openapi;
mod page;
mod path;
mod problem;
mod query;
mod serve;
mod stop;
mod strict;

use axum::Router;

use crate::App;
use crate::module::{Module, Routes};

pub use client_address::ClientAddress;
pub use json::Json;
pub use page::PageAnswer;
pub use path::PathId;
pub use problem::{ApiError, ApiResult, FieldErrorBody, ProblemBody, cursor_problem, store_problem};
pub use query::{PageQuery, Query, page_limit};
pub use serve::{Server, serve};
pub use stop::Stop;

/// Every module's handlers.
fn routes(modules: &[&Module]) -> Routes {
    modules.iter().fold(Routes::new(), |all, module| all.merge((module.routes)()))
}

/// What answers requests: every module's handlers, and around them what all requests share.
pub fn router(app: &App) -> Router {
    let (handlers, _) = routes(app.modules).split_for_parts();
    handlers.layer(edge::Edge::of(app)).with_state(app.clone())
}
