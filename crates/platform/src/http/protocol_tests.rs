//! Protocol tests with raw bytes: clients that are old, hostile or slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::testing::{TestServer, header, read_to_end, status};

const JSON: &str = "Content-Type: application/json\r\n";

/// The requests are the same as those that ApacheBench sends with `ab -c 4` and `ab -k`.
#[tokio::test]
async fn http_1_0_supports_keep_alive() {
    let test = TestServer::start(|_| {}).await;
    let closed = test.raw("GET /some HTTP/1.0\r\n\r\n").await;
    assert_eq!(status(&closed), "200");
    assert!(header(&closed, "content-length").is_some(), "{closed}");
    assert_eq!(header(&closed, "transfer-encoding"), None);
    let mut stream = test.connect().await;
    for path in ["/api/v1/ping", "/some", "/nothing", "/page"] {
        let ask = format!(
            "GET {path} HTTP/1.0\r\nHost: kith\r\nConnection: Keep-Alive\r\nUser-Agent: ApacheBench/2.3\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert_eq!(
            header(&head, "connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive"),
            "{head}"
        );
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    stream.write_all(b"GET /some HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.0 200"));
}

/// DRV-13: input that a proxy and the server could split into requests in different ways is rejected.
#[tokio::test]
async fn ambiguous_framing_is_rejected() {
    let test = TestServer::start(|_| {}).await;
    let inner = "GET /some HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n\r\n";
    let length = inner.len();
    for (framing, body) in [
        (format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), inner.to_owned()),
        (format!("Content-Length: {length}\r\nContent-Length: 0\r\n"), inner.to_owned()),
        (format!("Content-Length: 0, {length}\r\n"), inner.to_owned()),
        ("Content-Length: +0\r\n".to_owned(), inner.to_owned()),
        ("Content-Length: -1\r\n".to_owned(), inner.to_owned()),
        ("Content-Length: 0x0\r\n".to_owned(), inner.to_owned()),
        ("Content-Length: 99999999999999999999999\r\n".to_owned(), inner.to_owned()),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), format!("0\r\n\r\n{inner}")),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), format!("0\r\n\r\n{inner}")),
        ("Transfer-Encoding : chunked\r\n".to_owned(), format!("0\r\n\r\n{inner}")),
        ("Transfer-Encoding:\u{b}chunked\r\n".to_owned(), format!("0\r\n\r\n{inner}")),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("0x0\r\n\r\n{inner}")),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("-0\r\n\r\n{inner}")),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("10000000000000000\r\n\r\n{inner}")),
        ("X: y\r\n Transfer-Encoding: chunked\r\n".to_owned(), format!("0\r\n\r\n{inner}")),
    ] {
        let mut stream = test.connect().await;
        let outer = format!("POST /echo HTTP/1.1\r\nHost: kith\r\n{JSON}{framing}\r\n{body}");
        stream.write_all(outer.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{framing:?}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 4"), "{framing:?}: {answer}");
    }
}

/// DRV-13: a request with both kinds of framing (RFC 9112, section 6.1) is the last request of its
/// connection.
#[tokio::test]
async fn request_with_two_framings_closes_connection() {
    let test = TestServer::start(|_| {}).await;
    let inner = "GET /some HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n\r\n";
    for framing in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let mut stream = test.connect().await;
        let outer = format!("POST /echo HTTP/1.1\r\nHost: kith\r\n{JSON}{framing}\r\n0\r\n\r\n{inner}");
        stream.write_all(outer.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{framing:?}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 4"), "{framing:?}: {answer}");
    }
}

#[expect(clippy::disallowed_methods, reason = "measures response times")]
async fn p95_of_a_hundred(test: &TestServer) -> Duration {
    let mut took = Vec::new();
    for _ in 0..100 {
        let started = std::time::Instant::now();
        assert_eq!(status(&test.send_request("GET /some", "").await), "200");
        took.push(started.elapsed());
    }
    took.sort_unstable();
    took[94]
}

/// DRV-26: slow clients do not delay other clients, and are disconnected in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_delay_others() {
    let test = TestServer::start(|config| {
        config.server.head_timeout_ms = 5_000;
        config.server.body_timeout_ms = 5_000;
        config.server.shutdown_grace_ms = 1;
    })
    .await;
    let alone = p95_of_a_hundred(&test).await;
    let mut slow = Vec::new();
    for n in 0..1_000 {
        let mut stream = test.connect().await;
        let body = format!("POST /echo HTTP/1.1\r\nHost: kith\r\n{JSON}Content-Length: 20\r\n\r\n{{");
        let begun = if n % 2 == 0 { "GET /some HTTP/1.1\r\nHo" } else { &body };
        stream.write_all(begun.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let beside = p95_of_a_hundred(&test).await;
    println!("p95 latency: {alone:?} alone, {beside:?} beside 1,000 slow clients");
    // The limit is twice the latency without slow clients, plus an allowance for other load on the machine.
    assert!(
        beside < alone * 2 + Duration::from_millis(20),
        "p95 latency: {alone:?} alone, {beside:?} beside slow clients"
    );
    let answered = futures_util::future::join_all(slow.iter_mut().map(read_to_end)).await;
    for (n, answer) in answered.iter().enumerate() {
        let sent_away = if n % 2 == 0 { answer.is_empty() } else { status(answer) == "408" };
        assert!(sent_away, "{answer}");
    }
}
