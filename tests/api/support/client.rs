//! HTTP client that alternates between nodes and validates each response against the server's OpenAPI
//! document.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::contract::Contract;

/// Header with the request id. The response, the log line and the audit entries of a request contain the same
/// id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Client that sends each request to the next node of an app in turn. Clones share the connections and the
/// turn.
#[derive(Clone)]
pub struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    nodes: Arc<[SocketAddr]>,
    turn: Arc<AtomicUsize>,
    /// OpenAPI document of the server, fetched when the client sends its first request.
    contract: Arc<OnceCell<Arc<Contract>>>,
    headers: HeaderMap,
}

/// Response of a server.
#[derive(Debug)]
pub struct TestResponse {
    /// HTTP status.
    pub status: u16,
    /// Response headers.
    pub headers: HeaderMap,
    /// Body: `Null` if there is none, a string if it is not JSON.
    pub body: Value,
}

impl Client {
    /// Creates a client that alternates between `nodes`.
    pub fn new(nodes: impl Into<Arc<[SocketAddr]>>) -> Self {
        // Automatic retries are disabled, so that a test notices a dropped request.
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .retry_canceled_requests(false)
            .build_http();
        Self {
            http,
            nodes: nodes.into(),
            turn: Arc::default(),
            contract: Arc::default(),
            headers: HeaderMap::new(),
        }
    }

    /// Returns a copy of this client that sends all requests to node `n`.
    pub fn at(&self, n: usize) -> Self {
        Self { nodes: [self.nodes[n]].into(), ..self.clone() }
    }

    /// Returns a copy of this client that sets the header `name` on each request.
    pub fn with_header(&self, name: HeaderName, value: &str) -> Self {
        let mut with = self.clone();
        with.headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        with
    }

    /// Returns a copy of this client that adds a header `name` to each request, even if the header is already
    /// set.
    pub fn with_additional_header(&self, name: HeaderName, value: &str) -> Self {
        let mut with = self.clone();
        with.headers.append(name, HeaderValue::from_str(value).expect("a header value"));
        with
    }

    /// Returns a copy of this client that authenticates with `token`.
    pub fn with_token(&self, token: &str) -> Self {
        self.with_header(AUTHORIZATION, &format!("Bearer {token}"))
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Sends a POST request with a JSON body. `Null` sends an empty body.
    pub async fn post(&self, path: &str, body: Value) -> TestResponse {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.send(Method::POST, path, bytes).await
    }

    /// Sends a request. A body is sent as `application/json` unless the client has another `content-type`.
    ///
    /// # Panics
    /// Panics if the server's OpenAPI document does not declare the response.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> TestResponse {
        let node = self.nodes[self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len()];
        let contract = self.contract.get_or_init(async || {
            let (head, document) =
                self.fetch(node, Method::GET, "/openapi.json", Bytes::new(), &HeaderMap::new()).await;
            assert_eq!(head.status, 200);
            Contract::of(document)
        });
        let contract = contract.await;
        let answer = self.exchange(node, method.clone(), path, body, &self.headers).await;
        let faults = contract.faults(&method, path, &answer);
        assert!(faults.is_empty(), "{method} {path} answered {answer:#?}, but {faults:#?}");
        answer
    }

    async fn exchange(
        &self,
        node: SocketAddr,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &HeaderMap,
    ) -> TestResponse {
        let (head, bytes) = self.fetch(node, method, path, body, headers).await;
        let body = read(&head.headers, &bytes);
        TestResponse { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn fetch(
        &self,
        node: SocketAddr,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &HeaderMap,
    ) -> (Parts, Bytes) {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{node}{path}").parse().expect("a path");
        if !body.is_empty() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request.headers_mut().extend(headers.clone());
        let answer = self.http.request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        (head, body.collect().await.expect("the whole body").to_bytes())
    }
}

fn read(headers: &HeaderMap, body: &[u8]) -> Value {
    let kind = headers.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().expect("text"));
    match body {
        [] => Value::Null,
        json if kind.ends_with("json") => serde_json::from_slice(json).expect("JSON"),
        text => str::from_utf8(text).expect("text").into(),
    }
}

impl TestResponse {
    /// Returns the body. Panics unless the response has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }

    /// Returns the body. Panics unless the response is a well-formed problem (API-05) with this status and
    /// code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{:#}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["request_id"].as_str(), self.header("x-request-id"));
        for text in ["type", "title", "detail"] {
            assert!(self.body[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {:#}", self.body);
        }
        // A 503 must have a Retry-After header, and a 401 must have an authentication challenge.
        assert!(status != 503 || self.header("retry-after").is_some(), "{:#?}", self.headers);
        let challenged = self.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer"));
        assert!(status != 401 || challenged, "{:#?}", self.headers);
        self.body
    }

    /// Returns the field errors of a 422 as `(pointer, code)`.
    #[track_caller]
    pub fn expect_faults(self) -> Vec<(String, String)> {
        let problem = self.expect_problem(422, "validation_failed");
        let text = |fault: &Value, key: &str| fault[key].as_str().expect("text").to_owned();
        let faults = problem["errors"].as_array().expect("faults");
        faults.iter().map(|fault| (text(fault, "pointer"), text(fault, "code"))).collect()
    }

    /// Returns a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}
