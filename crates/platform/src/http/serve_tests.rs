//! Tests of stopping the server, slow connections and unread bodies, with raw bytes over real connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::testing::{LARGE_BODY_BYTES, TestServer, read_to_end};

const PING: &str = "GET /api/v1/ping HTTP/1.1\r\nHost: kith\r\n\r\n";
const HALF_A_HEAD: &[u8] = b"GET /api/v1/ping HTTP/1.1\r\nHo";
const OTHER_HALF: &[u8] = b"st: kith\r\n\r\n";

/// Waits until a connection of the server is in `phase`.
async fn wait_for_phase(server: &Server, phase: Phase) {
    wait_for_connection_phase(&server.connections, phase).await;
}

async fn wait_for_connection_phase(connections: &Connections, phase: Phase) {
    while connections.open_connections().states().all(|state| state.phase().0 != phase) {
        tokio::task::yield_now().await;
    }
}

/// Reads the head of a response without a body.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Starts to stop the server. Returns when the listener is closed and all connections have processed their
/// order to close.
async fn begin_stop(server: Server) -> JoinHandle<usize> {
    let addr = server.addr();
    let connections = Arc::clone(&server.connections);
    let stopping = tokio::spawn(server.stop());
    while TcpStream::connect(addr).await.is_ok()
        || connections.open_connections().states().any(|state| state.is_close_requested())
    {
        tokio::task::yield_now().await;
    }
    stopping
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_head_before_stop_is_answered() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    stream.write_all(HALF_A_HEAD).await.unwrap();
    wait_for_phase(&test.server, Phase::Reading).await;
    let stopping = begin_stop(test.server).await;
    stream.write_all(OTHER_HALF).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_head_after_response_is_answered() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    stream.write_all(PING.as_bytes()).await.unwrap();
    assert!(!read_head(&mut stream).await.contains("connection: close"));
    stream.write_all(HALF_A_HEAD).await.unwrap();
    wait_for_phase(&test.server, Phase::Reading).await;
    let stopping = begin_stop(test.server).await;
    stream.write_all(OTHER_HALF).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_body_before_stop_is_answered() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    let head =
        "POST /echo HTTP/1.1\r\nHost: kith\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n";
    stream.write_all(format!("{head}{{\"word\"").as_bytes()).await.unwrap();
    wait_for_phase(&test.server, Phase::ReadingBody).await;
    let stopping = begin_stop(test.server).await;
    stream.write_all(b": \"late\"}").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"), "{answer}");
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_delay_stop() {
    let test = TestServer::start(|config| config.server.shutdown_grace_ms = 60_000).await;
    let mut used = test.connect().await;
    used.write_all(PING.as_bytes()).await.unwrap();
    read_head(&mut used).await;
    let mut fresh = test.connect().await;
    while test.app.metrics.connections.get() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(test.server.stop().await, 0);
    assert_eq!(read_to_end(&mut used).await, "");
    assert_eq!(read_to_end(&mut fresh).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_connections_are_aborted_after_grace() {
    let test = TestServer::start(|config| config.server.shutdown_grace_ms = 50).await;
    let mut stream = test.connect().await;
    stream.write_all(HALF_A_HEAD).await.unwrap();
    wait_for_phase(&test.server, Phase::Reading).await;
    assert_eq!(test.server.stop().await, 1);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_server_answers_but_is_not_ready() {
    let test = TestServer::start(|config| config.server.drain_ms = 600_000).await;
    assert!(test.send_request("GET /readyz", "").await.starts_with("HTTP/1.1 200"));
    let (app, addr) = (test.app.clone(), test.addr);
    let stopping = tokio::spawn(test.server.stop());
    while !app.stop.is_draining() {
        tokio::task::yield_now().await;
    }
    for (path, status) in [("/readyz", "503"), ("/livez", "200"), ("/api/v1/ping", "204")] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: kith\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{path}: {answer}");
    }
    stopping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_head_is_aborted_but_idle_connection_is_not() {
    let test = TestServer::start(|config| config.server.head_timeout_ms = 1).await;
    let mut quiet = test.connect().await;
    let mut slow = test.connect().await;
    slow.write_all(HALF_A_HEAD).await.unwrap();
    assert_eq!(read_to_end(&mut slow).await, "");
    quiet.write_all(PING.as_bytes()).await.unwrap();
    assert!(read_head(&mut quiet).await.starts_with("HTTP/1.1 204"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_is_closed() {
    let test = TestServer::start(|config| config.server.keep_alive_ms = 1).await;
    let mut stream = test.connect().await;
    stream.write_all(PING.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 204"));
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_still_sending_receives_413() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    let head = "POST /echo HTTP/1.1\r\nHost: kith\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        for _ in 0..1_000 {
            if write.write_all(&[b' '; 8_000]).await.is_err() {
                break;
            }
        }
    };
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(sending, read.read_to_end(&mut answer));
    read.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_pipelined_head_is_answered() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    stream.write_all(&[PING.as_bytes(), HALF_A_HEAD].concat()).await.unwrap();
    assert!(!read_head(&mut stream).await.contains("connection: close"));
    wait_for_phase(&test.server, Phase::Idle).await;
    let stopping = begin_stop(test.server).await;
    stream.write_all(OTHER_HALF).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer:?}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_head_during_response_is_answered() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    // The end of the body arrives together with the first half of the next request.
    let head =
        "POST /echo HTTP/1.1\r\nHost: kith\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    wait_for_phase(&test.server, Phase::ReadingBody).await;
    stream.write_all(&[br#"{"word": "a"}"#, HALF_A_HEAD].concat()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(stream.read_u8().await.unwrap(), b'a');
    wait_for_phase(&test.server, Phase::Idle).await;
    let stopping = begin_stop(test.server).await;
    stream.write_all(OTHER_HALF).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer:?}");
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowly_read_response_is_complete() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    stream.write_all(b"GET /much HTTP/1.1\r\nHost: kith\r\n\r\n").await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(!head.contains("connection: close"), "{head}");
    wait_for_phase(&test.server, Phase::Idle).await;
    let stopping = begin_stop(test.server).await;
    assert_eq!(read_to_end(&mut stream).await.len(), LARGE_BODY_BYTES);
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test]
async fn request_has_client_address() {
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with(&format!("\r\n\r\n{}", stream.local_addr().unwrap().ip())), "{answer}");
}

/// Connects from the loopback address `ip`. Each loopback address counts as a separate client network.
async fn connect_from(ip: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

async fn ping(stream: &mut TcpStream) {
    stream.write_all(PING.as_bytes()).await.unwrap();
    assert!(read_head(stream).await.starts_with("HTTP/1.1 204"));
}

const FIRST: [u8; 4] = [127, 0, 0, 2];
const SECOND: [u8; 4] = [127, 0, 0, 3];

/// Regression: 1,100 idle connections blocked a server with 1,024 file descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_server_closes_an_idle_connection_of_the_largest_network() {
    let test = TestServer::start(|config| config.server.max_connections = 3).await;
    let mut idle = connect_from(FIRST, test.addr).await;
    ping(&mut idle).await;
    let mut answering = connect_from(FIRST, test.addr).await;
    answering.write_all(b"GET /hangs HTTP/1.1\r\nHost: kith\r\n\r\n").await.unwrap();
    wait_for_phase(&test.server, Phase::Answering).await;
    let mut alone = connect_from(SECOND, test.addr).await;
    ping(&mut alone).await;
    let mut newcomer = test.connect().await;
    ping(&mut newcomer).await;
    assert_eq!(read_to_end(&mut idle).await, "");
    ping(&mut alone).await;
    assert_eq!(test.app.metrics.connections.get(), 3);
    let counted = r#"kith_http_connections_limited_total{limit="total",outcome="evicted"} 1"#;
    assert!(test.app.metrics.to_text().contains(counted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_is_rejected_while_all_others_are_being_answered() {
    let test = TestServer::start(|config| config.server.max_connections = 2).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = test.connect().await;
        stream.write_all(b"GET /hangs HTTP/1.1\r\nHost: kith\r\n\r\n").await.unwrap();
        busy.push(stream);
    }
    while test.app.metrics.in_flight.get() < 2 {
        tokio::task::yield_now().await;
    }
    let mut newcomer = test.connect().await;
    let answer = read_to_end(&mut newcomer).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After"), "{answer}");
    drop(busy);
    while test.app.metrics.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
    ping(&mut test.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_network_evicts_own_connection_unless_limits_are_off() {
    let test = TestServer::start(|config| config.server.max_connections_per_network = 1).await;
    let mut first = connect_from(FIRST, test.addr).await;
    ping(&mut first).await;
    let mut elsewhere = connect_from(SECOND, test.addr).await;
    ping(&mut elsewhere).await;
    let mut second = connect_from(FIRST, test.addr).await;
    ping(&mut second).await;
    assert_eq!(read_to_end(&mut first).await, "");
    ping(&mut elsewhere).await;
    test.app.limits_disabled.store(true, Ordering::Relaxed);
    let mut third = connect_from(FIRST, test.addr).await;
    ping(&mut third).await;
    ping(&mut second).await;
}

/// Regression: a response that was still being sent, such as an event stream, was aborted after twice
/// `server.keep_alive_ms`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_pausing_longer_than_keep_alive_is_completed() {
    let test = TestServer::start(|config| config.server.keep_alive_ms = 1).await;
    let answer = test.send_request("GET /trickle", "").await;
    assert_eq!(answer.matches("drop").count(), 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_response_is_aborted() {
    let test = TestServer::start(|config| config.server.keep_alive_ms = 1).await;
    let mut stream = test.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: kith\r\n\r\n").await.unwrap();
    wait_for_phase(&test.server, Phase::Sending).await;
    let cut = async {
        while test.app.metrics.connections.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), cut)
        .await
        .expect("a response that the client does not read is aborted");
}
