//! Response to a write, in a form that can be stored and sent again.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::http::tag_of;

/// Successful response to a write: status, additional headers and an optional JSON body.
#[derive(Clone, Debug)]
pub struct WriteResponse<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<T>,
}

impl<T> WriteResponse<T> {
    /// Creates a 200 response with a body.
    pub fn ok(body: T) -> Self {
        Self::new(StatusCode::OK, Some(body))
    }

    /// Creates a 201 response with the created object.
    pub fn created(body: T) -> Self {
        Self::new(StatusCode::CREATED, Some(body))
    }

    /// Creates a 202 response that describes the accepted operation.
    pub fn accepted(body: T) -> Self {
        Self::new(StatusCode::ACCEPTED, Some(body))
    }

    fn new(status: StatusCode, body: Option<T>) -> Self {
        Self { status, headers: HeaderMap::new(), body }
    }

    /// Adds a header, such as `ETag` or `Location`.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl WriteResponse<()> {
    /// Creates a 204 response.
    pub fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, None)
    }
}

impl<T: Serialize> WriteResponse<T> {
    /// Adds the ETag that a GET of the object would return, so that the client can change the object without
    /// reading it first.
    #[must_use]
    pub fn with_etag(self) -> Self {
        match self.body.as_ref().and_then(tag_of) {
            Some(tag) => self.with_header(header::ETAG, tag),
            None => self,
        }
    }

    pub(super) fn write(self) -> SerializedResponse {
        let write = |body| serde_json::to_vec(&body).expect("a stored response can be serialized");
        SerializedResponse {
            status: self.status,
            headers: self.headers,
            body: self.body.map(write).map(Bytes::from),
        }
    }
}

impl<T: Serialize> IntoResponse for WriteResponse<T> {
    fn into_response(self) -> Response {
        self.write().into_response()
    }
}

/// Response with its serialized body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SerializedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
}

impl SerializedResponse {
    /// Formats the headers as lines of `name: value`.
    pub fn header_lines(&self) -> String {
        let text = |value: &HeaderValue| value.to_str().expect("a handler's headers are text").to_owned();
        let lines = self.headers.iter().map(|(name, value)| format!("{name}: {}", text(value)));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Parses the lines returned by `header_lines`.
    pub fn parse_headers(lines: &str) -> HeaderMap {
        let pairs = lines.lines().filter_map(|line| line.split_once(": "));
        pairs
            .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?)))
            .collect()
    }
}

impl IntoResponse for SerializedResponse {
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
