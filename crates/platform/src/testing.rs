//! Servers for the tests of this crate. They consist of the platform and a module of test endpoints, on
//! SQLite, with a manual clock.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{Html, Redirect};
use futures_util::stream;
use http::header::CACHE_CONTROL;
use http::{HeaderName, Method, StatusCode};
use kith_jobs::JOBS_MIGRATIONS;
use kith_kernel::{ManualClock, SeededIds, SeededRandom, Sources, Timestamp};
use kith_store::testing::TestDatabase;
use kith_store::{ModuleMigrations, STORE_MIGRATIONS, Store, StoreOptions};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::Dispatch;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::config::{Config, Secret};
use crate::http::{RateClass, Server, rate_limited, secret, serve};
use crate::{App, ClientAddress, Json, MODULE, Module, PathId, Program, Routes, SignedIn};

static PROBES: Module = Module { routes: probes, rate_classes: &[SLOW], ..Module::named("probes") };
static MODULES: &[&Module] = &[&MODULE, &PROBES];

/// Returns the platform, the module of test endpoints, and `module`.
pub fn with_module(module: &'static Module) -> &'static [&'static Module] {
    Box::leak(Box::new([&MODULE, &PROBES, module]))
}

/// Rate class of the probes.
const SLOW: RateClass = RateClass { name: "slow", per_minute: |_| 5 };

fn probes() -> Routes {
    Routes::new()
        .routes(routes!(echo))
        .routes(routes!(panics))
        .routes(routes!(hangs, hangs_changing))
        .routes(routes!(signed_in))
        .merge(rate_limited(
            RateClass::AUTH,
            &[Method::POST],
            secret(Routes::new().routes(routes!(untimed, timeless_changing))),
        ))
        .merge(rate_limited(SLOW, &[], Routes::new().routes(routes!(partner_list))))
        .routes(routes!(thing))
        .routes(routes!(peer))
        .routes(routes!(large))
        .routes(routes!(trickle))
        .routes(routes!(endless))
        .routes(routes!(some, some_changing))
        .merge(secret(Routes::new().routes(routes!(some_secret))))
        .routes(routes!(some_unkept))
        .routes(routes!(page))
        .routes(routes!(moved))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EchoBody {
    word: String,
}

#[utoipa::path(post, path = "/echo", responses((status = 200, body = String)))]
async fn echo(Json(EchoBody { word }): Json<EchoBody>) -> String {
    word
}

#[utoipa::path(get, path = "/panics", responses((status = 204)))]
async fn panics() -> StatusCode {
    panic!("a probe panics")
}

#[utoipa::path(get, path = "/hangs", responses((status = 204)))]
async fn hangs() -> StatusCode {
    std::future::pending().await
}

#[utoipa::path(post, path = "/hangs", responses((status = 204)))]
async fn hangs_changing() -> StatusCode {
    std::future::pending().await
}

#[utoipa::path(get, path = "/secret", responses((status = 200, body = String)), security(("bearer" = [])))]
async fn signed_in(caller: SignedIn) -> String {
    caller.ctx.actor.to_string()
}

#[utoipa::path(get, path = "/api/v1/auth/timeless", responses((status = 204)))]
async fn untimed() -> StatusCode {
    StatusCode::NO_CONTENT
}

#[utoipa::path(post, path = "/api/v1/auth/timeless", responses((status = 204)))]
async fn timeless_changing() -> StatusCode {
    StatusCode::NO_CONTENT
}

#[utoipa::path(get, path = "/api/v1/partners/probe", responses((status = 204)))]
async fn partner_list() -> StatusCode {
    StatusCode::NO_CONTENT
}

#[utoipa::path(get, path = "/things/{id}", params(("id" = String, Path)), responses((status = 200, body = String)))]
async fn thing(PathId(id): PathId<kith_kernel::UserId>) -> String {
    id.to_string()
}

#[utoipa::path(get, path = "/peer", responses((status = 200, body = String)))]
async fn peer(client: ClientAddress) -> String {
    client.ip().to_string()
}

/// Size of the response of `/much` in bytes. It is larger than the buffers of a socket.
pub const LARGE_BODY_BYTES: usize = 32 * 1024 * 1024;

#[utoipa::path(get, path = "/much", responses((status = 200, body = String)))]
async fn large() -> String {
    "x".repeat(LARGE_BODY_BYTES)
}

/// Pause between two chunks of [`trickle`]. It is longer than the idle timeout of connections in the tests
/// that use it.
const TRICKLE_PAUSE: Duration = Duration::from_millis(1_500);

#[utoipa::path(get, path = "/trickle", responses((status = 200, body = String)))]
async fn trickle() -> Body {
    let chunks = stream::unfold(0, |n| async move {
        if n > 0 {
            let _ = tokio::time::timeout(TRICKLE_PAUSE, std::future::pending::<()>()).await;
        }
        (n < 2).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"drop")), n + 1))
    });
    Body::from_stream(chunks)
}

#[utoipa::path(get, path = "/endless", responses((status = 200, body = String)))]
async fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024]))))
}

/// Returns a JSON array that is large enough to be compressed.
fn large_json() -> Json<Vec<&'static str>> {
    Json(vec!["a line like many others"; 200])
}

#[utoipa::path(get, path = "/some", responses((status = 200, body = Vec<String>)))]
async fn some() -> Json<Vec<&'static str>> {
    large_json()
}

#[utoipa::path(post, path = "/some", responses((status = 200, body = Vec<String>)))]
async fn some_changing() -> Json<Vec<&'static str>> {
    large_json()
}

#[utoipa::path(get, path = "/api/v1/auth/some", responses((status = 200, body = Vec<String>)))]
async fn some_secret() -> Json<Vec<&'static str>> {
    large_json()
}

#[utoipa::path(get, path = "/some/unkept", responses((status = 200, body = Vec<String>)))]
async fn some_unkept() -> ([(HeaderName, &'static str); 1], Json<Vec<&'static str>>) {
    ([(CACHE_CONTROL, "no-store")], large_json())
}

#[utoipa::path(get, path = "/page", responses((status = 200, body = String, content_type = "text/html")))]
async fn page() -> Html<&'static str> {
    Html("<!doctype html><title>A page</title>")
}

#[utoipa::path(get, path = "/moved", responses((status = 308)))]
async fn moved() -> Redirect {
    Redirect::permanent("/page")
}

/// Running server with its own database.
pub struct TestServer {
    pub app: App,
    pub addr: SocketAddr,
    pub server: Server,
    pub clock: Arc<ManualClock>,
    _database: TestDatabase,
}

impl TestServer {
    /// Starts a server with the test endpoints. `change` changes its configuration.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(MODULES, change).await
    }

    /// Starts a server with `modules`. `change` changes its configuration.
    pub async fn start_with(modules: &'static [&'static Module], change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::migrated_sqlite(migrations()).await.unwrap();
        let db = Store::open(StoreOptions { runs_twice: true, ..database.options() }).await.unwrap();
        let mut config = Config::default();
        config.server.drain_ms = 0;
        config.auth.password_memory_kib = 8;
        config.auth.password_iterations = 1;
        config.auth.hash_threads = 1;
        config.auth.jwt_secret = Secret::new("the secret of the platform's tests");
        config.auth.jwt_refresh_secret = Secret::new("the refresh secret of the platform's tests");
        config.data.folder = database.folder().unwrap().to_owned();
        change(&mut config);
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_767_225_600_000)));
        let app = App::new(
            db,
            config,
            sources(&clock),
            None,
            None,
            None,
            Program { modules, installed: modules, build: "0.0.0" },
        )
        .await
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = serve(listener, &app).unwrap();
        Self { addr: server.addr(), app, server, clock, _database: database }
    }

    /// Opens a connection to the server.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends `request` on a new connection and returns the whole response. The request must contain
    /// `Connection: close`.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// Sends a request with this request line and headers. Returns the head and the body of the response,
    /// without decoding the body.
    pub async fn bytes(&self, line: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect().await;
        let head = format!("{line} HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let body = answer.split_off(end);
        (String::from_utf8(answer).unwrap(), body)
    }

    /// Sends a request with this request line and headers. Returns the whole response.
    pub async fn send_request(&self, line: &str, headers: &str) -> String {
        self.raw(&format!("{line} HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n{headers}\r\n")).await
    }
}

pub fn migrations() -> Vec<ModuleMigrations> {
    vec![
        STORE_MIGRATIONS,
        JOBS_MIGRATIONS,
        ModuleMigrations { module: MODULE.name, migrations: MODULE.migrations },
    ]
}

pub fn sources(clock: &Arc<ManualClock>) -> Sources {
    let ids = Arc::new(SeededIds::new(SeededRandom::new(1)));
    Sources { clock: clock.clone(), ids, random: Arc::new(SeededRandom::new(2)) }
}

pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Returns the status code of a response.
pub fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

/// Returns the value of a response header. `name` is in lower case.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name).map(|(_, value)| value))
}

/// Ensures that the subscriber of a test receives its log lines while other tests run. With a single
/// subscriber, `tracing` caches whether a call site is of interest when the first thread reaches it, and that
/// thread may have no subscriber.
pub fn keep_second_subscriber() {
    static OTHERS: LazyLock<[Dispatch; 2]> =
        LazyLock::new(|| std::array::from_fn(|_| Dispatch::new(tracing_subscriber::registry())));
    LazyLock::force(&OTHERS);
}
