//! Processing that is common to all requests: request id, timeout, rate limits, panics, ETag and compression
//! of the response, headers, and logging.
//!
//! It is a plain function around the router, because an axum layer would need two allocations and a clone for
//! each request.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Version};
use kith_kernel::{Problem, RequestId, problems};
use prometheus_client::metrics::gauge::Gauge;
use tower::Service;

use super::cors::{Cors, is_loopback_host};
use super::limits::{Allowance, Limits};
use super::problem::{self, ApiError};
use super::representation::ReadNegotiation;
use super::route_index::RouteIndex;
use super::security_headers::SecurityHeaders;
use super::{ClientAddress, RoutePolicy, page};
use crate::App;
use crate::config::millis;
use crate::idempotency;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Maximum size in bytes of a body that is expected to arrive together with the request head.
const MAX_IMMEDIATE_BODY_BYTES: u64 = 4 * 1024;
/// Status in metrics and logs if the client disconnected before the response. It is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// Maximum number of headers that the edge adds besides the security headers.
const ADDED_HEADERS: usize = 10;

/// Router with the processing that is common to all requests.
pub(super) struct Edge {
    app: App,
    router: Router,
    index: RouteIndex,
    limits: Limits,
    cors: Cors,
    security_headers: SecurityHeaders,
    max_body_bytes: u64,
    request_timeout: Duration,
}

impl Edge {
    pub fn around(router: Router, app: &App) -> Self {
        let server = &app.config.server;
        Self {
            app: app.clone(),
            router,
            index: RouteIndex::of(app.metrics.routes()),
            limits: Limits::of(app),
            cors: Cors::of(&app.config),
            security_headers: SecurityHeaders::new(app.config.is_production()),
            max_body_bytes: u64::from(server.max_body_bytes),
            request_timeout: millis(server.request_timeout_ms),
        }
    }

    /// Returns true if the connection limit per network does not apply to `peer`: limits are disabled, or
    /// `peer` is a trusted proxy, which has many clients.
    pub fn exempts_from_network_limit(&self, peer: IpAddr) -> bool {
        let proxies = &self.app.config.server.trusted_proxies;
        self.app.are_limits_disabled() || proxies.iter().any(|network| network.contains(peer.to_canonical()))
    }

    fn policy(&self, route: usize) -> RoutePolicy {
        self.app.metrics.of(route).policy()
    }

    /// Returns the gauge of open connections.
    pub fn connections(&self) -> Gauge {
        self.app.metrics.connections.clone()
    }

    /// Counts a connection that was rejected because `limit` was reached.
    pub fn record_connection_rejected(&self, limit: &'static str) {
        self.app.metrics.record_limited_connection(limit, "rejected");
    }

    /// Counts a connection that was closed so that another one could be accepted.
    pub fn record_connection_evicted(&self, limit: &'static str) {
        self.app.metrics.record_limited_connection(limit, "evicted");
    }

    /// Processes a request and returns its response.
    pub async fn answer(&self, mut request: Request) -> Response {
        let exchange = Exchange::begin(self, &request);
        let client = self.find_client(&mut request);
        request.extensions_mut().insert(exchange.request_id.clone());
        let policy = self.policy(exchange.route);
        // If the request has no policy extension, extractors apply the default policy.
        if policy != RoutePolicy::default() {
            request.extensions_mut().insert(policy);
        }
        if let Some(preflight) = self.cors.preflight(&request) {
            let answer = preflight.unwrap_or_else(|problem| ApiError::from(problem).into_response());
            return exchange.end(answer, None).await;
        }
        let counted = client.filter(|_| !self.app.are_limits_disabled());
        let allowance = counted.and_then(|client| self.limits.count(exchange.route, client));
        let response = match self.refusal(allowance.as_ref(), &request) {
            Some(problem) => ApiError::from(problem).into_response(),
            None => self.handle(request).await,
        };
        exchange.end(response, allowance.as_ref()).await
    }

    /// Determines the client address, and stores it in the request for limits and handlers.
    fn find_client(&self, request: &mut Request) -> Option<ClientAddress> {
        let peer = *request.extensions().get::<ClientAddress>()?;
        let client = peer.behind(&self.app.config.server.trusted_proxies, request.headers());
        if client != peer {
            request.extensions_mut().insert(client);
        }
        Some(client)
    }

    /// Returns the problem if the request must be rejected before it reaches a handler.
    fn refusal(&self, allowance: Option<&Allowance<'_>>, request: &Request) -> Option<Problem> {
        let too_many = allowance.and_then(Allowance::refusal);
        let is_too_large = || declared_length(request.headers()) > self.max_body_bytes;
        too_many
            .or_else(|| check_host(request.version(), request.headers()).err())
            .or_else(|| check_development_host(request).err())
            .or_else(|| is_too_large().then(|| problem::too_large(self.max_body_bytes)))
    }

    /// Runs the handler. Returns a problem if it panics or exceeds the timeout.
    async fn handle(&self, mut request: Request) -> Response {
        let changes = !request.method().is_safe();
        if *request.method() == Method::HEAD {
            // Handlers treat HEAD as GET. hyper sends only the head of the response.
            *request.method_mut() = Method::GET;
        }
        let answer = AssertUnwindSafe(self.router.clone().call(request)).catch_unwind();
        let problem = match tokio::time::timeout(self.request_timeout, answer).await {
            Ok(Ok(Ok(response))) => return response,
            // The panic hook logs the panic.
            Ok(Err(_)) => Problem::new(&problems::INTERNAL, "The request could not be completed."),
            // The transaction may still be committed.
            Err(_) if changes => problem::outcome_unknown(),
            Err(_) => problem::unavailable("The request took too long."),
        };
        ApiError::from(problem).into_response()
    }
}

/// Checks the Host header (RFC 9112, section 3.2). An HTTP/1.1 request must have exactly one, and it must be
/// valid.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let mut sent = headers.get_all(header::HOST).iter();
    let (host, more) = (sent.next(), sent.next());
    match (host, more) {
        (Some(host), None) if is_host(host) => Ok(()),
        (None, _) if version < Version::HTTP_11 => Ok(()),
        _ => Err(Problem::new(&problems::MALFORMED, "The request needs exactly one valid Host header.")),
    }
}

/// Rejects requests to paths below `/dev/` unless the host always means the local machine. This protects a
/// server in development mode against DNS rebinding.
fn check_development_host(request: &Request) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    match host {
        Some(host)
            if request.uri().path().starts_with("/dev/")
                && !is_loopback_host(&host.host().to_ascii_lowercase()) =>
        {
            let detail = "Paths below /dev require localhost or a loopback address in the Host header.";
            Err(Problem::new(&problems::FORBIDDEN, detail))
        }
        _ => Ok(()),
    }
}

/// Returns true if the value is a host with an optional port (RFC 3986, section 3.2) and without user
/// information.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let host = authority.host();
    let is_port = |port: &str| {
        port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    };
    match authority.as_str().strip_prefix(host) {
        Some("") => !host.is_empty(),
        Some(rest) => !host.is_empty() && rest.strip_prefix(':').is_some_and(is_port),
        None => false,
    }
}

fn declared_length(headers: &HeaderMap) -> u64 {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Data about one request, from its arrival until its response.
struct Exchange<'e> {
    edge: &'e Edge,
    started: Instant,
    method: Method,
    route: usize,
    request_id: RequestId,
    /// Trace id from the header `traceparent`.
    trace_id: Option<Box<str>>,
    request_uri: Option<PathAndQuery>,
    has_idempotency_key: bool,
    /// Value of the header `Content-Length`; 0 if absent.
    declared_bytes: u64,
    origin: Option<HeaderValue>,
    /// `None` unless the request is a read whose response contains no secrets.
    negotiation: Option<ReadNegotiation>,
    is_answered: bool,
}

impl<'e> Exchange<'e> {
    #[expect(clippy::disallowed_methods, reason = "measures the response time")]
    fn begin(edge: &'e Edge, request: &Request) -> Self {
        let started = Instant::now();
        edge.app.metrics.in_flight.inc();
        let (method, headers) = (request.method(), request.headers());
        let route = edge.index.find(method, request.uri().path());
        let reads = method.is_safe() && !edge.policy(route).is_secret;
        Self {
            edge,
            started,
            method: method.clone(),
            route,
            request_id: request_id(&edge.app, headers),
            trace_id: trace_id(headers).map(Box::from),
            request_uri: request.uri().path_and_query().cloned(),
            has_idempotency_key: idempotency::is_keyed(request.method(), request.headers()),
            declared_bytes: declared_length(headers),
            origin: edge.cors.origin_of(headers),
            negotiation: reads.then(|| ReadNegotiation::of(headers)),
            is_answered: false,
        }
    }

    async fn end(mut self, response: Response, allowance: Option<&Allowance<'_>>) -> Response {
        let mut response = problem::render(response, &self.request_id);
        page::add_next_link(&mut response, self.request_uri.as_ref());
        if self.has_idempotency_key {
            let template = self.edge.app.metrics.of(self.route).path_template();
            idempotency::check_key_applied(&response, template);
        }
        if let Some(reading) = &self.negotiation {
            response = reading.represent(response).await;
        }
        let took = self.started.elapsed();
        self.add_headers(response.headers_mut(), allowance, took);
        if self.may_leave_body_unread(response.status()) {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        self.record(response.status().as_u16(), took);
        self.is_answered = true;
        response
    }

    /// Returns true if part of the request body may still be arriving when the response is sent. The
    /// connection is then closed. The response must announce this, so that the client does not send another
    /// request on the connection.
    fn may_leave_body_unread(&self, status: StatusCode) -> bool {
        let is_cut = [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::REQUEST_TIMEOUT].contains(&status);
        is_cut || (status.is_client_error() && self.declared_bytes > MAX_IMMEDIATE_BODY_BYTES)
    }

    /// Counts the request in the metrics and writes its log line.
    fn record(&self, status: u16, took: Duration) {
        let route = self.edge.app.metrics.of(self.route);
        route.count(status, took);
        tracing::info!(
            target: "kith::request",
            method = name_of(&self.method),
            route = route.path_template(),
            status,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            request_id = self.request_id.as_str(),
            trace_id = self.trace_id.as_deref(),
        );
    }

    fn add_headers(&mut self, headers: &mut HeaderMap, allowance: Option<&Allowance<'_>>, took: Duration) {
        headers.reserve(ADDED_HEADERS + self.edge.security_headers.len());
        if let Ok(id) = HeaderValue::from_str(self.request_id.as_str()) {
            headers.insert(X_REQUEST_ID, id);
        }
        if !self.edge.policy(self.route).is_secret {
            headers.insert(SERVER_TIMING, server_timing(took));
        }
        if let Some(allowance) = allowance {
            allowance.write_headers(headers);
        }
        self.edge.cors.allow(self.origin.take(), headers);
        self.edge.security_headers.add(headers);
        if self.edge.app.stop.is_draining() {
            headers.insert(header::CONNECTION, CLOSE);
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.record(CLIENT_CLOSED_REQUEST, self.started.elapsed());
        }
        self.edge.app.metrics.in_flight.dec();
    }
}

/// Returns the name of a standard method. Other method names are client input and are not logged.
fn name_of(method: &Method) -> &str {
    let own = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ];
    if own.contains(method) { method.as_str() } else { "(other)" }
}

fn request_id(app: &App, headers: &HeaderMap) -> RequestId {
    headers.get(X_REQUEST_ID).and_then(|id| RequestId::accept(id.to_str().ok()?)).unwrap_or_else(|| {
        let sources = &app.sources;
        RequestId::from_uuid(sources.ids.next(sources.clock.now()))
    })
}

/// Returns the trace id of the header `traceparent` (W3C Trace Context,
/// <https://www.w3.org/TR/trace-context/#traceparent-header>). Returns `None` if the header is malformed or
/// repeated.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    let text = sent.next()?.to_str().ok().filter(|_| sent.next().is_none())?;
    let mut parts = text.split('-');
    let [version, trace, parent, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part, length| is_hex(part, length) && part.bytes().any(|byte| byte != b'0');
    // Later versions of `traceparent` may have more parts.
    let known = is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    (known && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2)).then_some(trace)
}

/// Formats the `Server-Timing` header, such as `app;dur=1.234`, in milliseconds.
fn server_timing(took: Duration) -> HeaderValue {
    let micros = took.as_micros();
    let text = format!("app;dur={}.{:03}", micros / 1_000, micros % 1_000);
    HeaderValue::try_from(text).expect("digits are legal in a header")
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
