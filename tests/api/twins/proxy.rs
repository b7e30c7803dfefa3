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

use super::Break;

/// Request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    /// Path and query.
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Response.
#[derive(Clone, Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Users and requests observed so far.
#[derive(Debug, Default)]
pub struct Memory {
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
struct Parts {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    server: SocketAddr,
    memory: Arc<Mutex<Memory>>,
    ask: fn(&Memory, &mut Asked),
    answer: fn(&Asked, &mut Answered),
}

impl Proxy {
    /// Starts a proxy for `server`.
    pub async fn start(server: SocketAddr, by: &Break) -> Self {
        let parts = Parts {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(),
            server,
            memory: Arc::default(),
            ask: if let Break::Asked(ask) = by { *ask } else { |_, _| {} },
            answer: if let Break::Answered(answer) = by { *answer } else { |_, _| {} },
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let router = Router::new().fallback(pass).with_state(parts);
        let serving = tokio::spawn(async move {
            let until = async {
                let _ = stopped.await;
            };
            tokio::select! {
                served = axum::serve(listener, router).into_future() => served.expect("a proxy that serves"),
                () = until => {}
            }
        });
        Self { addr, stop, serving }
    }

    /// Stops the proxy.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.expect("a proxy that served");
    }
}

async fn pass(State(parts): State<Parts>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let uri = head.uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
    let mut asked = Asked { method: head.method, uri, headers: head.headers, body };
    (parts.ask)(&parts.memory.lock().expect("no panic before"), &mut asked);
    let mut answered = parts.exchange(&asked).await;
    parts.memory.lock().expect("no panic before").note(&asked, &answered);
    (parts.answer)(&asked, &mut answered);
    answered.headers.remove(CONTENT_LENGTH);
    answered.headers.remove(TRANSFER_ENCODING);
    let mut response = Response::new(Body::from(answered.body));
    *response.status_mut() = answered.status;
    *response.headers_mut() = answered.headers;
    response
}

impl Parts {
    async fn exchange(&self, asked: &Asked) -> Answered {
        let mut request = hyper::Request::new(Full::new(asked.body.clone()));
        *request.method_mut() = asked.method.clone();
        *request.uri_mut() = format!("http://{}{}", self.server, asked.uri).parse().expect("an address");
        *request.headers_mut() = asked.headers.clone();
        request.headers_mut().remove(HOST);
        request.headers_mut().remove(CONTENT_LENGTH);
        let answer = self.http.request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("the whole body").to_bytes();
        Answered { status: head.status, headers: head.headers, body }
    }
}

impl Memory {
    fn note(&mut self, asked: &Asked, answered: &Answered) {
        let json = answered.json();
        let text = |pointer| json.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if let (Some(id), Some(token)) = (text("/user/id"), text("/access_token")) {
            self.tokens.insert(id, token);
        }
        let is_request = asked.method == Method::POST && asked.path().contains("partners/request");
        if let (true, Some(id), Some(from), Some(to)) =
            (is_request, text("/id"), text("/from/id"), text("/to/id"))
        {
            self.requests.insert(id, (from, to));
        }
    }
}

impl Asked {
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

impl Answered {
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
