//! Proxy in front of a server that changes requests or responses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::InjectedFault;

/// Request that passes through the proxy.
#[derive(Clone, Debug)]
pub struct ProxiedRequest {
    pub method: Method,
    /// Path and query.
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Response that passes through the proxy.
#[derive(Clone, Debug)]
pub struct ProxiedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Users and requests observed so far.
#[derive(Debug, Default)]
pub struct ObservedTraffic {
    /// Latest access token by user id.
    pub tokens: HashMap<String, String>,
    /// Sender and receiver by request id.
    pub requests: HashMap<String, (String, String)>,
}

/// Running proxy.
pub struct Proxy {
    pub addr: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct ProxyState {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    server: SocketAddr,
    traffic: Arc<Mutex<ObservedTraffic>>,
    change_request: fn(&ObservedTraffic, &mut ProxiedRequest),
    change_response: fn(&ProxiedRequest, &mut ProxiedResponse),
}

impl Proxy {
    /// Starts a proxy for `server`.
    pub async fn start(server: SocketAddr, fault: &InjectedFault) -> Self {
        let state = ProxyState {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(),
            server,
            traffic: Arc::default(),
            change_request: if let InjectedFault::Request(change_request) = fault {
                *change_request
            } else {
                |_, _| {}
            },
            change_response: if let InjectedFault::Response(change_response) = fault {
                *change_response
            } else {
                |_, _| {}
            },
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let router = Router::new().fallback(forward).with_state(state);
        let serving = tokio::spawn(async move {
            let until = async {
                let _ = stopped.await;
            };
            tokio::select! {
                served = axum::serve(listener, router).into_future() => served.expect("the proxy serves"),
                () = until => {}
            }
        });
        Self { addr, stop, serving }
    }

    /// Stops the proxy.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.expect("the proxy task does not panic");
    }
}

async fn forward(State(state): State<ProxyState>, incoming: Request) -> Response {
    let (head, body) = incoming.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let uri = head.uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
    let mut request = ProxiedRequest { method: head.method, uri, headers: head.headers, body };
    (state.change_request)(
        &state.traffic.lock().expect("no thread panicked while it held the lock"),
        &mut request,
    );
    let mut response = state.exchange(&request).await;
    state.traffic.lock().expect("no thread panicked while it held the lock").observe(&request, &response);
    (state.change_response)(&request, &mut response);
    response.headers.remove(CONTENT_LENGTH);
    response.headers.remove(TRANSFER_ENCODING);
    let mut outgoing = Response::new(Body::from(response.body));
    *outgoing.status_mut() = response.status;
    *outgoing.headers_mut() = response.headers;
    outgoing
}

impl ProxyState {
    async fn exchange(&self, request: &ProxiedRequest) -> ProxiedResponse {
        let mut upstream = hyper::Request::new(Full::new(request.body.clone()));
        *upstream.method_mut() = request.method.clone();
        *upstream.uri_mut() = format!("http://{}{}", self.server, request.uri).parse().expect("an address");
        *upstream.headers_mut() = request.headers.clone();
        upstream.headers_mut().remove(HOST);
        upstream.headers_mut().remove(CONTENT_LENGTH);
        let change_response = self.http.request(upstream).await.expect("an answer");
        let (head, body) = change_response.into_parts();
        let body = body.collect().await.expect("the whole body").to_bytes();
        ProxiedResponse { status: head.status, headers: head.headers, body }
    }
}

impl ObservedTraffic {
    fn observe(&mut self, request: &ProxiedRequest, response: &ProxiedResponse) {
        let json = response.json();
        let text = |pointer| json.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if let (Some(id), Some(token)) = (text("/user/id"), text("/access_token")) {
            self.tokens.insert(id, token);
        }
        let is_request = request.method == Method::POST && request.path().contains("partners/request");
        if let (true, Some(id), Some(from), Some(to)) =
            (is_request, text("/id"), text("/from/id"), text("/to/id"))
        {
            self.requests.insert(id, (from, to));
        }
    }
}

impl ProxiedRequest {
    /// Returns the path without its query.
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }

    /// Turns the request into a GET of `path`.
    pub fn become_get(&mut self, path: &str) {
        self.method = Method::GET;
        self.uri = path.to_owned();
        self.body = Bytes::new();
    }

    /// Replaces the access token.
    pub fn sign_in_as(&mut self, token: &str) {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header value");
        self.headers.insert(AUTHORIZATION, value);
    }

    /// Returns the bearer token.
    pub fn token(&self) -> Option<&str> {
        self.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl ProxiedResponse {
    /// Returns the body as JSON, or `Null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Applies `change` to the body as text.
    pub fn change_text(&mut self, change: impl FnOnce(&str) -> String) {
        self.body = change(&String::from_utf8_lossy(&self.body)).into();
    }

    /// Sets the value at `pointer` (RFC 6901) in the JSON body, if there is one.
    pub fn set_json(&mut self, pointer: &str, value: Value) {
        let mut json = self.json();
        if let Some(place) = json.pointer_mut(pointer) {
            *place = value;
            self.body = json.to_string().into();
        }
    }
}
