//! Tests of compression, ETags and conditional reads.

use std::io::Read;

use flate2::read::GzDecoder;

use super::*;

use crate::testing::{TestServer, header, status};

fn decode(head: &str, body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match header(head, "content-encoding") {
        Some("gzip") => GzDecoder::new(body).read_to_end(&mut plain).unwrap(),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_end(&mut plain).unwrap(),
        other => {
            assert_eq!(other, None);
            return body.to_vec();
        }
    };
    plain
}

/// Proves the readiness requirement API-10.
#[tokio::test]
async fn responses_are_compressed_by_accept_encoding() {
    let test = TestServer::start(|_| {}).await;
    for path in ["/some", "/openapi.json", "/api/metrics"] {
        let (head, plain) = test.bytes(&format!("GET {path}"), "").await;
        assert_eq!((status(&head), header(&head, "content-encoding")), ("200", None));
        assert_eq!(header(&head, "vary"), Some("accept-encoding"), "{path}");
        for (accept, coding) in [
            ("gzip", Some("gzip")),
            ("br", Some("br")),
            ("gzip;q=0.5, br", Some("br")),
            ("gzip, br;q=0.5", Some("gzip")),
            ("br;q=0, gzip;q=0", None),
            ("identity, gzip;q=0.9", None),
            ("deflate, zstd", None),
        ] {
            let (head, body) =
                test.bytes(&format!("GET {path}"), &format!("Accept-Encoding: {accept}\r\n")).await;
            assert_eq!(header(&head, "content-encoding"), coding, "{path}: {accept}");
            assert_eq!(header(&head, "content-length"), Some(&*body.len().to_string()));
            assert_eq!(header(&head, "vary"), Some("accept-encoding"), "{path}: {accept}");
            assert!(
                coding.is_none() || body.len() * 2 < plain.len(),
                "the compressed body has {} bytes, the plain one {}",
                body.len(),
                plain.len()
            );
            // Metrics change between requests.
            if path != "/api/metrics" {
                assert!(decode(&head, &body) == plain, "{path}: {accept}");
            }
        }
    }
}

/// API-10: responses are not compressed if they contain tokens, are small or forbid storing.
#[tokio::test]
async fn secret_and_small_responses_are_not_compressed() {
    let test = TestServer::start(|_| {}).await;
    let takes_all = "Accept-Encoding: gzip, br\r\n";
    for line in [
        "POST /some",
        "GET /api/v1/auth/some",
        "GET /some/unkept",
        "GET /livez",
        "GET /page",
        "GET /nothing",
        "GET /api/v1/ping",
    ] {
        let (head, _) = test.bytes(line, takes_all).await;
        assert_eq!(header(&head, "content-encoding"), None, "{line}");
    }
}

#[tokio::test]
async fn matching_etag_is_answered_with_304() {
    let test = TestServer::start(|_| {}).await;
    for path in ["/some", "/openapi.json"] {
        let line = format!("GET {path}");
        let (first, body) = test.bytes(&line, "").await;
        let tag = header(&first, "etag").unwrap().to_owned();
        assert_eq!(header(&first, "cache-control"), Some("private, no-cache"));
        let (zipped, _) = test.bytes(&line, "Accept-Encoding: gzip\r\n").await;
        let zipped_tag = header(&zipped, "etag").unwrap().to_owned();
        assert_ne!(tag, zipped_tag, "each encoding has its own ETag");
        for known in [&tag, &zipped_tag, &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
            for (accept, own) in [("", &tag), ("Accept-Encoding: gzip\r\n", &zipped_tag)] {
                let (head, body) = test.bytes(&line, &format!("If-None-Match: {known}\r\n{accept}")).await;
                assert_eq!((status(&head), body.len()), ("304", 0), "{known}");
                assert_eq!(header(&head, "etag"), Some(&**own));
                assert_eq!(header(&head, "vary"), Some("accept-encoding"));
                assert_eq!(header(&head, "cache-control"), Some("private, no-cache"));
                assert_eq!((header(&head, "content-type"), header(&head, "content-length")), (None, None));
            }
        }
        let (other, again) = test.bytes(&line, "If-None-Match: \"x\", W/\"y\"\r\n").await;
        assert!(status(&other) == "200" && again == body);
        let (head, nothing) = test.bytes(&format!("HEAD {path}"), "").await;
        assert_eq!((header(&head, "etag"), nothing.len()), (Some(&*tag), 0));
        assert_eq!(header(&head, "content-length"), Some(&*body.len().to_string()));
    }
}

#[tokio::test]
async fn secret_and_volatile_responses_have_no_etag() {
    let test = TestServer::start(|_| {}).await;
    for line in [
        "POST /some",
        "GET /api/v1/auth/some",
        "GET /some/unkept",
        "GET /api/health",
        "GET /livez",
        "GET /readyz",
        "GET /api/metrics",
        "GET /nothing",
        "GET /secret",
    ] {
        let (head, _) = test.bytes(line, "If-None-Match: *\r\n").await;
        assert_ne!(status(&head), "304", "{line}");
        assert_eq!(
            (header(&head, "etag"), header(&head, "cache-control")),
            (None, Some("no-store")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn streamed_body_is_compressed_by_chunk() {
    let chunks: Vec<Vec<u8>> = (0..5).map(|n| vec![b'a' + n; 150_000]).collect();
    let plain = chunks.concat();
    for (accept, coding) in [("gzip", Some("gzip")), ("br", Some("br")), ("identity", None)] {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accept));
        let sent = chunks.clone().into_iter().map(Ok::<_, std::io::Error>);
        let mut response = Response::new(Body::from_stream(stream::iter(sent)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = ReadNegotiation::of(&headers).represent(response).await;
        let of = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((of("content-encoding"), of("etag"), of("vary")), (coding, None, Some("accept-encoding")));
        let mut frames = response.into_body().into_data_stream();
        let (mut body, mut largest) = (Vec::new(), 0);
        while let Some(frame) = frames.next().await {
            let frame = frame.unwrap();
            largest = largest.max(frame.len());
            body.extend_from_slice(&frame);
        }
        let head = coding
            .map_or(String::new(), |coding| format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\n"));
        assert!(decode(&head, &body) == plain, "{accept}");
        assert!(coding.is_none() || largest < 10_000, "the largest frame has {largest} bytes");
    }
}

#[tokio::test]
async fn failing_stream_is_reported_as_error() {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let sent = [Ok(vec![b'a'; 10]), Err(std::io::Error::other("on purpose"))];
    let mut response = Response::new(Body::from_stream(stream::iter(sent)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = ReadNegotiation::of(&headers).represent(response).await;
    assert!(response.into_body().collect().await.is_err());
}
