//! What surrounds every request: its id, its time, its limits, a panic's end, the headers of the answer, the log line.
//!
//! It decides nothing about a request's meaning. One layer, since each costs every request something.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use kith_kernel::{Problem, RequestId, problems};
use tower::{Layer, Service};

use super::problem::{self, ApiError};
use super::{ClientAddress, page};
use crate::App;
use crate::config::millis;
use crate::idempotency;
use crate::telemetry::RouteMetrics;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const NO_CONTENT_ALLOWED: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// What a request is counted and logged as whose caller went away before its answer. Nobody is sent it.
const CALLER_GONE: u16 = 499;
/// The most headers the edge adds.
const ADDED_HEADERS: usize = 8;

/// The layer.
#[derive(Clone)]
pub(super) struct Edge {
    app: App,
    body_limit_bytes: u64,
    request_timeout: Duration,
}

impl Edge {
    pub fn of(app: &App) -> Self {
        let limits = &app.config.server;
        Self {
            app: app.clone(),
            body_limit_bytes: u64::from(limits.body_limit_bytes),
            request_timeout: millis(limits.request_timeout_ms),
        }
    }
}

impl<S> Layer<S> for Edge {
    type Service = EdgeService<S>;
    fn layer(&self, inner: S) -> EdgeService<S> {
        EdgeService { edge: self.clone(), inner }
    }
}

/// A handler with the edge around it.
#[derive(Clone)]
pub(super) struct EdgeService<S> {
    edge: Edge,
    inner: S,
}

impl<S> Service<Request> for EdgeService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let exchange = Exchange::begin(&self.edge.app, &request);
        let extensions = request.extensions();
        let peer = extensions.get::<ClientAddress>().copied();
        let client =
            peer.map(|peer| peer.behind(&self.edge.app.config.server.trusted_proxies, request.headers()));
        if let Some(client) = client.filter(|_| client != peer) {
            request.extensions_mut().insert(client);
        }
        request.extensions_mut().insert(exchange.request_id.clone());
        let too_large = declared_length(request.headers()) > self.edge.body_limit_bytes;
        let changes = !request.method().is_safe();
        let timeout = self.edge.request_timeout;
        let answer = (!too_large).then(|| self.inner.call(request));
        Box::pin(async move {
            let response = match answer {
                Some(answer) => contained(answer, timeout, changes).await,
                None => ApiError::from(problem::too_large()).into_response(),
            };
            Ok(exchange.end(response))
        })
    }
}

fn declared_length(headers: &HeaderMap) -> u64 {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The answer, or a problem if it panics or takes too long.
async fn contained(
    answer: impl Future<Output = Result<Response, Infallible>>,
    timeout: Duration,
    changes: bool,
) -> Response {
    let problem = match tokio::time::timeout(timeout, AssertUnwindSafe(answer).catch_unwind()).await {
        Ok(Ok(Ok(response))) => return response,
        // The panic hook has logged it.
        Ok(Err(_)) => Problem::new(&problems::INTERNAL, "The request could not be completed."),
        // Its transaction may yet commit.
        Err(_) if changes => problem::outcome_unknown(),
        Err(_) => problem::unavailable("The request took too long."),
    };
    ApiError::from(problem).into_response()
}

/// A request between its arrival and its answer.
struct Exchange {
    app: App,
    started: Instant,
    method: Method,
    route: usize,
    request_id: RequestId,
    asked: Option<PathAndQuery>,
    keyed: bool,
    answered: bool,
}

impl Exchange {
    #[expect(clippy::disallowed_methods, reason = "measures how long the answer takes")]
    fn begin(app: &App, request: &Request) -> Self {
        let started = Instant::now();
        app.metrics.in_flight.inc();
        Self {
            started,
            method: request.method().clone(),
            route: app.metrics.route_of(request),
            request_id: request_id(app, request.headers()),
            asked: request.uri().path_and_query().cloned(),
            keyed: idempotency::is_keyed(request.method(), request.headers()),
            answered: false,
            app: app.clone(),
        }
    }

    fn end(mut self, response: Response) -> Response {
        let mut response = problem::render(response, &self.request_id);
        page::link_next(&mut response, self.asked.as_ref());
        if self.keyed {
            idempotency::check_taken(&response, self.app.metrics.of(self.route).template());
        }
        let took = self.started.elapsed();
        self.add_headers(response.headers_mut(), self.app.metrics.of(self.route), took);
        self.tell(response.status().as_u16(), took);
        self.answered = true;
        response
    }

    /// Counts it and writes its log line.
    fn tell(&self, status: u16, took: Duration) {
        let route = self.app.metrics.of(self.route);
        route.count(status, took);
        tracing::info!(
            target: "kith::request",
            method = self.method.as_str(),
            route = route.template(),
            status,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            request_id = self.request_id.as_str(),
        );
    }

    fn add_headers(&self, headers: &mut HeaderMap, route: &RouteMetrics, took: Duration) {
        headers.reserve(ADDED_HEADERS);
        if let Ok(id) = HeaderValue::from_str(self.request_id.as_str()) {
            headers.insert(X_REQUEST_ID, id);
        }
        if route.tells_time() {
            headers.insert(SERVER_TIMING, server_timing(took));
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NO_CONTENT_ALLOWED);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if self.app.stop.is_draining() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.answered {
            self.tell(CALLER_GONE, self.started.elapsed());
        }
        self.app.metrics.in_flight.dec();
    }
}

fn request_id(app: &App, headers: &HeaderMap) -> RequestId {
    headers.get(X_REQUEST_ID).and_then(|id| RequestId::accept(id.to_str().ok()?)).unwrap_or_else(|| {
        let sources = &app.sources;
        RequestId::from_uuid(sources.ids.next(sources.clock.now()))
    })
}

/// `app;dur=1.234`, in milliseconds.
fn server_timing(took: Duration) -> HeaderValue {
    let micros = took.as_micros();
    let text = format!("app;dur={}.{:03}", micros / 1_000, micros % 1_000);
    HeaderValue::try_from(text).expect("digits are legal in a header")
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
