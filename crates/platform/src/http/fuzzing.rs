//! Fuzz targets for headers, bodies and queries. See `crate::fuzzing`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, request};
use kith_kernel::{Cursor, Problem, problems};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{BodyEncoding, gunzip};
use super::client_address::ClientAddress;
use super::compression::{AcceptedCodings, Coding};
use super::cors::Cors;
use super::edge::trace_id;
use super::etag::{ETag, IfNoneMatch, Preconditions};
use super::json::{check_kind, parse};
use super::query::PageQuery;
use super::{page, query as queries};
use crate::config::{Config, Mode, Network, WebOrigin};
use crate::idempotency::{IDEMPOTENCY_KEY, parse_key};

const GUNZIP_LIMIT: usize = 1 << 16;

/// Parses headers from lines. Skips invalid lines.
fn headers_in(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())) {
            headers.append(name, value);
        }
    }
    headers
}

/// Returns all values of a header in lower case, joined by newlines.
fn text_of(headers: &HeaderMap, name: &HeaderName) -> String {
    let values =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
    values.collect::<Vec<_>>().join("\n")
}

fn parts_with(headers: &HeaderMap) -> request::Parts {
    let mut parts = Request::new(()).into_parts().0;
    parts.headers = headers.clone();
    parts
}

/// Checks `Accept-Encoding`, `If-Match`, `If-None-Match`, `Content-Type`, `Content-Encoding` and `Origin`.
pub fn negotiation(data: &[u8]) {
    let headers = headers_in(data);
    let accepted = AcceptedCodings::of(&headers);
    let (by_gzip, by_brotli) = (accepted.best(Coding::Gzip), accepted.best(Coding::Brotli));
    assert_eq!(by_gzip.is_some(), by_brotli.is_some(), "which is first decides among equals only");
    for coding in [by_gzip, by_brotli].into_iter().flatten() {
        let uri = text_of(&headers, &header::ACCEPT_ENCODING);
        assert!(uri.contains(coding.name()) || uri.contains('*'), "{coding:?} was not asked for");
    }
    conditions(headers.clone());
    if check_kind(&headers, &["application/json"]).is_ok() {
        assert!(text_of(&headers, &header::CONTENT_TYPE).trim_start().starts_with("application/json"));
    }
    match BodyEncoding::of(&headers) {
        Ok(BodyEncoding::Gzip) => assert!(text_of(&headers, &header::CONTENT_ENCODING).contains("gzip")),
        Ok(BodyEncoding::Identity) => {}
        Err(problem) => assert_eq!(problem.code, &problems::UNSUPPORTED_ENCODING),
    }
    let listed = "https://app.example.org";
    let mut config = Config::default();
    config.server.mode = Mode::Production;
    config.server.cors_origins = vec![WebOrigin::try_from(listed.to_owned()).expect("an origin")];
    if let Some(origin) = Cors::of(&config).origin_of(&headers) {
        assert_eq!((origin.as_bytes(), &headers[header::ORIGIN]), (listed.as_bytes(), &origin));
    }
}

/// Checks that only the ETag of the state satisfies `If-Match`. Also checks that a tag which satisfies
/// `If-Match` matches `If-None-Match`, too.
fn conditions(mut headers: HeaderMap) {
    let state = json!({ "a": 1 });
    let tag = ETag::of(state.to_string().as_bytes());
    let own = tag.header(None);
    let bare = own.to_str().expect("ASCII").trim_matches('"').to_lowercase();
    if IfNoneMatch::of(&headers).has(&tag) {
        let sent = text_of(&headers, &header::IF_NONE_MATCH);
        assert!(sent.contains(&bare) || sent.contains('*'));
    }
    let Ok(edit) =
        Preconditions::from_request_parts(&mut parts_with(&headers), &()).now_or_never().expect("at once");
    if headers.contains_key(header::IF_MATCH) && edit.check(&state).is_ok() {
        let sent = text_of(&headers, &header::IF_MATCH);
        assert!(sent.contains(&bare) || sent.contains('*'));
        let values: Vec<_> = headers.get_all(header::IF_MATCH).iter().cloned().collect();
        headers.remove(header::IF_NONE_MATCH);
        for value in values {
            headers.append(header::IF_NONE_MATCH, value);
        }
        assert!(IfNoneMatch::of(&headers).has(&tag));
    }
    headers.append(header::IF_NONE_MATCH, own);
    assert!(IfNoneMatch::of(&headers).has(&tag));
}

/// Checks the headers `X-Forwarded-For`, `traceparent` and `Idempotency-Key`.
pub fn provenance(data: &[u8]) {
    let headers = headers_in(data);
    check_forwarded_for(&headers);
    if let Some(id) = trace_id(&headers) {
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        );
        assert!(id.bytes().any(|byte| byte != b'0'));
        let again = headers_in(format!("traceparent: 00-{id}-00f067aa0ba902b7-01").as_bytes());
        assert_eq!(trace_id(&again), Some(id));
    }
    if let Ok(key) = parse_key(&headers) {
        assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', "\\\""));
        let mut again = HeaderMap::new();
        again.insert(IDEMPOTENCY_KEY, HeaderValue::try_from(quoted).expect("printable"));
        assert_eq!(parse_key(&again).as_ref(), Ok(&key));
    }
}

/// Checks that only the address that a trusted proxy reports is used, regardless of the entries before it.
fn check_forwarded_for(headers: &HeaderMap) {
    let address = |text: &str| ClientAddress::new(text.parse().expect("an address"));
    let proxies: [Network; 2] = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
    let (stranger, proxy, forwarded) = (address("198.51.100.1"), address("10.0.0.1"), "203.0.113.9");
    assert_eq!(stranger.behind(&proxies, headers), stranger);
    assert_eq!(proxy.behind(&[], headers), proxy);
    let client = proxy.behind(&proxies, headers);
    assert_eq!(client.ip(), client.ip().to_canonical());
    let network: IpAddr = client.network().parse().expect("the first address of a network");
    assert_eq!(ClientAddress::new(network).network(), client.network());
    let mut added = headers.clone();
    added.append("x-forwarded-for", HeaderValue::from_static("203.0.113.9"));
    assert_eq!(proxy.behind(&proxies, &added), address(forwarded));
    assert_eq!(stranger.behind(&proxies, &added), stranger);
}

/// Nested body, similar to the bodies of handlers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing matters")]
struct Outer {
    list: Vec<Inner>,
    #[serde(default)]
    named: BTreeMap<String, Inner>,
    choice: Option<Choice>,
    #[serde(default, deserialize_with = "super::deserialize_some")]
    maybe: Option<Option<u8>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing matters")]
struct Inner {
    name: String,
    number: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its parsing matters")]
enum Choice {
    One,
    Other(Inner),
}

/// Checks JSON bodies: the result is the same as that of serde_json, and errors have a valid pointer. Also
/// checks that decompression stops at the size limit.
pub fn body(data: &[u8]) {
    let plain = serde_json::from_slice::<Value>(data).ok();
    match parse::<Value>(data) {
        Ok(value) => {
            assert_eq!(Some(&value), plain.as_ref());
            let written = value.to_string();
            assert_eq!(parse::<Value>(written.as_bytes()).as_ref(), Ok(&value), "{written}");
        }
        Err(problem) => has_place(&problem, plain.as_ref()),
    }
    if let Err(problem) = parse::<Outer>(data) {
        has_place(&problem, plain.as_ref());
    }
    if let Ok(decoded) = gunzip(data, GUNZIP_LIMIT) {
        assert!(decoded.len() <= GUNZIP_LIMIT);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).expect("to memory");
    let zipped = encoder.finish().expect("to memory");
    assert_eq!(gunzip(&zipped, data.len()).expect("just enough"), data);
    if let Some(too_little) = data.len().checked_sub(1) {
        assert_eq!(gunzip(&zipped, too_little).map_err(|problem| problem.code), Err(&problems::TOO_LARGE));
    }
}

/// Checks that the pointer of an error exists in the body, or that its parent exists.
fn has_place(problem: &Problem, whole: Option<&Value>) {
    if problem.code == &problems::MALFORMED {
        return;
    }
    assert_eq!((problem.code, problem.errors.len()), (&problems::VALIDATION_FAILED, 1));
    let fault = &problem.errors[0];
    let Some(whole) = whole else { return };
    let place = match fault.code {
        "missing" | "duplicate_field" => fault.pointer.rsplit_once('/').expect("a name").0,
        _ => &*fault.pointer,
    };
    assert!(whole.pointer(place).is_some(), "{fault:?} of {whole}");
}

/// Query with filters, similar to the queries of handlers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing matters")]
struct Filters {
    order: Option<String>,
    choice: Option<Side>,
    late: Option<bool>,
    limit: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Incoming,
    Outgoing,
}

/// Checks queries: only declared parameters are accepted, each at most once, and errors name their parameter.
/// Also checks that the next link of a next link, with the same cursor, is the same link.
pub fn query(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let names: Vec<_> = form_urlencoded::parse(data).map(|(name, _)| name.into_owned()).collect();
    match queries::parse::<PageQuery>(text) {
        Ok(page) => {
            declares(&names, &["limit", "cursor"]);
            if let Ok(limit) = page.limit() {
                assert!((2..=101).contains(&limit.rows()));
            }
        }
        Err(problem) => names_parameter(&problem),
    }
    match queries::parse::<Filters>(text) {
        Ok(_) => declares(&names, &["order", "choice", "late", "limit"]),
        Err(problem) => names_parameter(&problem),
    }
    // `*` is a valid request target, but no list has this path.
    let Ok(uri) = text.parse::<PathAndQuery>() else { return };
    if !uri.path().starts_with('/') {
        return;
    }
    let cursor = Cursor::at(&5);
    let link = page::next(&uri, &cursor);
    let address =
        link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("a link");
    assert!(!address.contains('>') && HeaderValue::from_str(&link).is_ok(), "{link}");
    assert_eq!(page::next(&address.parse().expect("an address"), &cursor), link);
}

fn declares(names: &[String], declared: &[&str]) {
    for (at, name) in names.iter().enumerate() {
        assert!(declared.contains(&name.as_str()) && !names[..at].contains(name), "{names:?}");
    }
}

fn names_parameter(problem: &Problem) {
    assert!(!problem.errors.is_empty());
    assert!(problem.errors.iter().all(|fault| fault.pointer.starts_with('?')), "{problem:?}");
}
