//! HTTP: connections, the processing common to all requests, extractors, problems and the OpenAPI document.

mod body;
mod body_schema;
mod capacity;
mod client_address;
mod compression;
mod connection;
mod connection_state;
mod cors;
mod deprecated_paths;
mod edge;
mod etag;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
mod limits;
pub mod openapi;
mod openapi_value;
mod operations;
mod page;
mod path;
mod problem;
mod query;
mod representation;
mod route_index;
mod route_policy;
mod security_headers;
mod serve;
mod stop;
mod strict;
mod tags;
mod watched_stream;

use std::net::Ipv4Addr;

use axum::extract::Request;
use axum::response::Response;

use crate::App;
use crate::module::{Module, Routes};

use edge::Edge;

pub use crate::module::RateClass;
pub(crate) use body::BodyMemory;
pub(crate) use body_schema::BodySchemas;
pub use capacity::raise_descriptor_limit;
pub use client_address::ClientAddress;
pub use deprecated_paths::deprecated_path;
pub(crate) use etag::tag_of;
pub use etag::{Preconditions, StateMismatch};
pub use json::{Json, MergePatch, deserialize_some, read_value};
pub(crate) use limits::LimiterClock;
pub use page::PageResponse;
pub use path::{PathId, PathParams};
pub use problem::{ApiError, ApiResult, bad_query, cursor_problem, store_problem};
pub use query::{PageQuery, Query, page_limit};
pub use representation::Asset;
pub(crate) use route_policy::is_secret;
pub use route_policy::{RoutePolicy, rate_limited, secret};
pub use serve::{Server, serve};
pub use stop::Stop;
pub(crate) use tags::SYSTEM_TAG;
pub use tags::tagged;

/// Returns the handlers of all modules.
fn routes(modules: &[&Module]) -> Routes {
    modules.iter().fold(Routes::new(), |all, module| all.merge((module.routes)()))
}

/// Builds the router for the app's modules, with the processing that is common to all requests.
fn edge(app: &App) -> Edge {
    let (handlers, _) = routes(app.modules).split_for_parts();
    Edge::around(handlers.with_state(app.clone()), app)
}

/// Handler of requests that are made inside the process, without a network connection.
pub struct InProcess(Edge);

impl InProcess {
    /// Builds the handler for the modules of `app`.
    pub fn new(app: &App) -> Self {
        Self(edge(app))
    }

    /// Processes `request` as if it came from the loopback address 127.0.0.1.
    pub async fn answer(&self, mut request: Request) -> Response {
        request.extensions_mut().insert(ClientAddress::new(Ipv4Addr::LOCALHOST.into()));
        self.0.answer(request).await
    }
}
