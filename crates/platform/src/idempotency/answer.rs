//! The answer to a write, in a form that can be kept and given again.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::http::tag_of;

/// What a write answers: a status of success, headers of its own, and a body, if it has one.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<T>,
}

impl<T> Answer<T> {
    /// 200 with a body.
    pub fn ok(body: T) -> Self {
        Self::new(StatusCode::OK, Some(body))
    }

    /// 201 with what was made.
    pub fn created(body: T) -> Self {
        Self::new(StatusCode::CREATED, Some(body))
    }

    /// 202 with what is going to happen.
    pub fn accepted(body: T) -> Self {
        Self::new(StatusCode::ACCEPTED, Some(body))
    }

    fn new(status: StatusCode, body: Option<T>) -> Self {
        Self { status, headers: HeaderMap::new(), body }
    }

    /// The same with a header, such as `ETag` or `Location`.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl Answer<()> {
    /// 204.
    pub fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, None)
    }
}

impl<T: Serialize> Answer<T> {
    /// The same with the ETag that a read of its body would have: whoever edits next need not read it first.
    #[must_use]
    pub fn with_etag(self) -> Self {
        match self.body.as_ref().and_then(tag_of) {
            Some(tag) => self.with_header(header::ETAG, tag),
            None => self,
        }
    }

    pub(super) fn write(self) -> WrittenAnswer {
        let write = |body| serde_json::to_vec(&body).expect("an answer is plain data");
        WrittenAnswer {
            status: self.status,
            headers: self.headers,
            body: self.body.map(write).map(Bytes::from),
        }
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        self.write().into_response()
    }
}

/// An answer with its body as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrittenAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
}

impl WrittenAnswer {
    /// The headers as lines of `name: value`.
    pub fn header_lines(&self) -> String {
        let text = |value: &HeaderValue| value.to_str().expect("a handler's headers are text").to_owned();
        let lines = self.headers.iter().map(|(name, value)| format!("{name}: {}", text(value)));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Reads what `header_lines` wrote.
    pub fn parse_headers(lines: &str) -> HeaderMap {
        let pairs = lines.lines().filter_map(|line| line.split_once(": "));
        pairs
            .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?)))
            .collect()
    }
}

impl IntoResponse for WrittenAnswer {
    fn into_response(self) -> Response {
        let has_body = self.body.is_some();
        let mut response = Response::new(self.body.map_or_else(Body::empty, Body::from));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if has_body {
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        response
    }
}
