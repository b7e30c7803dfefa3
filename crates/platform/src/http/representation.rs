//! Prepares the responses of successful reads: ETag, status 304 and compression.
//!
//! Applies only to safe requests. Responses to other requests can contain new secrets. Such responses must
//! not be cached, or compressed together with input of the caller (BREACH). Responses with `no-store` are
//! excluded, too.

use std::sync::{Arc, OnceLock};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, response};
use http_body_util::BodyExt;

use super::compression::{AcceptedCodings, Coding, Effort};
use super::etag::{ETag, IfNoneMatch};

/// Minimum size in bytes of a body that is compressed. Smaller bodies fit into one packet.
const MIN_COMPRESSED_BYTES: u64 = 1024;
/// Maximum size in bytes of a body that is held in memory to compute an ETag or to compress it.
const MAX_BUFFERED_BYTES: u64 = 8 * 1024 * 1024;
/// Size in bytes above which a body is compressed on a blocking thread. Also the maximum size of a chunk in a
/// streamed body.
const MAX_INLINE_BYTES: usize = 64 * 1024;
/// `Cache-Control` of responses with an ETag. Only the caller may store the response, and must revalidate it
/// before each use.
const PRIVATE_NO_CACHE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Request headers that determine the form of the response.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadNegotiation {
    accepted: AcceptedCodings,
    known: IfNoneMatch,
}

impl ReadNegotiation {
    pub fn of(headers: &HeaderMap) -> Self {
        Self { accepted: AcceptedCodings::of(headers), known: IfNoneMatch::of(headers) }
    }

    /// Converts the response to the form that the request headers ask for.
    pub async fn represent(&self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK || forbids_representation(&parts.headers) {
            return Response::from_parts(parts, body);
        }
        if let Some(asset) = parts.extensions.get::<Arc<Asset>>().cloned() {
            return self.represent_asset(parts, asset).await;
        }
        let kind = MediaClass::of(&parts.headers);
        if kind.is_some() && body.size_hint().exact().is_none() {
            return self.stream(parts, body);
        }
        let size = body.size_hint().exact().filter(|size| *size <= MAX_BUFFERED_BYTES);
        let Some((kind, size)) = kind.zip(size) else { return Response::from_parts(parts, body) };
        let coding = (size >= MIN_COMPRESSED_BYTES).then(|| self.accepted.best(Coding::Gzip));
        if kind == MediaClass::Text && coding.is_none_or(|coding| coding.is_none()) {
            return Response::from_parts(add_vary_if(parts, coding.is_some()), body);
        }
        let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return Response::from_parts(parts, Body::empty());
        };
        let parts = add_vary_if(parts, coding.is_some());
        let state = (kind == MediaClass::Json).then(|| ETag::of(&bytes));
        self.answer(parts, state.as_ref(), coding.flatten(), |coding| encode(coding, bytes)).await
    }

    /// Compresses a streamed body chunk by chunk, without an ETag.
    fn stream(&self, parts: response::Parts, body: Body) -> Response {
        let mut parts = add_vary_if(parts, true);
        let Some(coding) = self.accepted.best(Coding::Gzip) else { return Response::from_parts(parts, body) };
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        let state = Some((body.into_data_stream(), coding.encoder(), Bytes::new()));
        let encoded = stream::unfold(state, |state| async move {
            let (mut chunks, mut encoder, mut rest) = state?;
            if rest.is_empty() {
                match chunks.next().await {
                    Some(Ok(chunk)) => rest = chunk,
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => return Some((Ok(Bytes::from(encoder.finish())), None)),
                }
            }
            let now = rest.split_to(rest.len().min(MAX_INLINE_BYTES));
            Some((Ok(Bytes::from(encoder.encode(&now))), Some((chunks, encoder, rest))))
        });
        Response::from_parts(parts, Body::from_stream(encoded))
    }

    async fn represent_asset(&self, parts: response::Parts, asset: Arc<Asset>) -> Response {
        let coding = self.accepted.best(Coding::Brotli);
        let parts = add_vary_if(parts, true);
        self.answer(parts, Some(&asset.state), coding, |coding| encode_asset(coding, Arc::clone(&asset)))
            .await
    }

    /// Returns 304 if the caller already has this state. Otherwise, returns the body in the given coding.
    async fn answer<F: Future<Output = Bytes>>(
        &self,
        mut parts: response::Parts,
        state: Option<&ETag>,
        coding: Option<Coding>,
        encode: impl FnOnce(Option<Coding>) -> F,
    ) -> Response {
        if let Some(state) = state {
            parts.headers.insert(header::ETAG, state.header(coding));
            parts.headers.entry(header::CACHE_CONTROL).or_insert(PRIVATE_NO_CACHE);
            if self.known.has(state) {
                parts.status = StatusCode::NOT_MODIFIED;
                parts.headers.remove(header::CONTENT_TYPE);
                parts.headers.remove(header::CONTENT_LENGTH);
                return Response::from_parts(parts, Body::empty());
            }
        }
        if let Some(coding) = coding {
            parts.headers.remove(header::CONTENT_LENGTH);
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
        Response::from_parts(parts, Body::from(encode(coding).await))
    }
}

/// Returns true if the response must not be stored, or already has a content coding or an ETag.
fn forbids_representation(headers: &HeaderMap) -> bool {
    let no_store = |value: &HeaderValue| value.as_bytes().windows(8).any(|part| part == b"no-store");
    headers.get(header::CACHE_CONTROL).is_some_and(no_store)
        || headers.contains_key(header::SET_COOKIE)
        || headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::ETAG)
}

fn add_vary_if(mut parts: response::Parts, varies: bool) -> response::Parts {
    if varies {
        parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    parts
}

async fn encode(coding: Option<Coding>, bytes: Bytes) -> Bytes {
    let Some(coding) = coding else { return bytes };
    if bytes.len() <= MAX_INLINE_BYTES {
        return coding.encode(&bytes, Effort::Low).into();
    }
    run_blocking(move || coding.encode(&bytes, Effort::Low).into()).await
}

async fn encode_asset(coding: Option<Coding>, asset: Arc<Asset>) -> Bytes {
    match coding {
        None => asset.bytes.clone(),
        Some(coding) => match asset.encoded[coding as usize].get() {
            Some(encoded) => encoded.clone(),
            None => run_blocking(move || asset.encoded(coding)).await,
        },
    }
}

async fn run_blocking(work: impl FnOnce() -> Bytes + Send + 'static) -> Bytes {
    match tokio::task::spawn_blocking(work).await {
        Ok(bytes) => bytes,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Media type for which responses get an ETag or are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaClass {
    /// JSON. Gets an ETag and is compressed.
    Json,
    /// Text. Is compressed, but gets no ETag.
    Text,
}

impl MediaClass {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match kind.split(';').next().unwrap_or_default().trim_end() {
            "application/json" => Some(Self::Json),
            "application/health+json" | "application/openmetrics-text" | "text/plain" | "text/html" => {
                Some(Self::Text)
            }
            _ => None,
        }
    }
}

/// Response that is the same for all callers while the server runs. It is compressed once per coding, on
/// first use.
#[derive(Debug)]
pub struct Asset {
    kind: &'static str,
    bytes: Bytes,
    state: ETag,
    encoded: [OnceLock<Bytes>; Coding::ALL.len()],
}

impl Asset {
    /// Creates an asset of the media type `kind`.
    pub fn new(kind: &'static str, bytes: impl Into<Bytes>) -> Arc<Self> {
        let bytes = bytes.into();
        let state = ETag::of(&bytes);
        Arc::new(Self { kind, bytes, state, encoded: Default::default() })
    }

    /// Returns the response that contains this asset.
    pub fn answer(self: &Arc<Self>) -> Response {
        let mut response = ([(header::CONTENT_TYPE, self.kind)], self.bytes.clone()).into_response();
        response.extensions_mut().insert(Arc::clone(self));
        response
    }

    fn encoded(&self, coding: Coding) -> Bytes {
        self.encoded[coding as usize].get_or_init(|| coding.encode(&self.bytes, Effort::High).into()).clone()
    }
}

#[cfg(test)]
#[path = "representation_tests.rs"]
mod tests;
