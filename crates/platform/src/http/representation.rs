//! The form in which a successful read is answered: its ETag, nothing at all if the caller has it, or compressed.
//!
//! Only GET is answered so: what holds a new token or password is the answer to a POST, and must not be squeezed beside
//! text of the caller's own (BREACH), nor kept by a cache. The same goes for an answer that says `no-store` itself.

use std::sync::{Arc, OnceLock};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, response};
use http_body_util::BodyExt;

use super::compression::{Accepted, Coding, Effort};
use super::etag::{ETag, IfNoneMatch};

/// Less than this fits into one packet anyway.
const WORTH_COMPRESSING_BYTES: u64 = 1024;
/// More than this is not held in memory for it.
const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// More than this keeps others on the same core waiting, and is done elsewhere.
const QUICK_BYTES: usize = 64 * 1024;
/// May be kept by whoever asked, and by nobody on the way; asked for again each time, which the ETag makes cheap.
const KEEP_AND_ASK: HeaderValue = HeaderValue::from_static("private, no-cache");

/// What a read's answer depends on, beside its address.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    accepted: Accepted,
    known: IfNoneMatch,
}

impl Reading {
    pub fn of(headers: &HeaderMap) -> Self {
        Self { accepted: Accepted::of(headers), known: IfNoneMatch::of(headers) }
    }

    /// The answer in the form that this caller wants.
    pub async fn represent(&self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK || is_not_to_be_kept(&parts.headers) {
            return Response::from_parts(parts, body);
        }
        if let Some(asset) = parts.extensions.get::<Arc<Asset>>().cloned() {
            return self.represent_asset(parts, asset).await;
        }
        let kind = Kind::of(&parts.headers);
        if kind.is_some() && body.size_hint().exact().is_none() {
            return self.stream(parts, body);
        }
        let size = body.size_hint().exact().filter(|size| *size <= MOST_BYTES);
        let Some((kind, size)) = kind.zip(size) else { return Response::from_parts(parts, body) };
        let coding = (size >= WORTH_COMPRESSING_BYTES).then(|| self.accepted.best(Coding::Gzip));
        if kind == Kind::Text && coding.is_none_or(|coding| coding.is_none()) {
            return Response::from_parts(vary_if(parts, coding.is_some()), body);
        }
        let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return Response::from_parts(parts, Body::empty());
        };
        let parts = vary_if(parts, coding.is_some());
        let state = (kind == Kind::Json).then(|| ETag::of(&bytes));
        self.answer(parts, state.as_ref(), coding.flatten(), |coding| encode(coding, bytes)).await
    }

    /// A body that is made while it is sent: compressed chunk by chunk, without a tag.
    fn stream(&self, parts: response::Parts, body: Body) -> Response {
        let mut parts = vary_if(parts, true);
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
            let now = rest.split_to(rest.len().min(QUICK_BYTES));
            Some((Ok(Bytes::from(encoder.encode(&now))), Some((chunks, encoder, rest))))
        });
        Response::from_parts(parts, Body::from_stream(encoded))
    }

    async fn represent_asset(&self, parts: response::Parts, asset: Arc<Asset>) -> Response {
        let coding = self.accepted.best(Coding::Brotli);
        let parts = vary_if(parts, true);
        self.answer(parts, Some(&asset.state), coding, |coding| encode_asset(coding, Arc::clone(&asset)))
            .await
    }

    /// A 304 if the caller has this state, else the bytes in the coding.
    async fn answer<F: Future<Output = Bytes>>(
        &self,
        mut parts: response::Parts,
        state: Option<&ETag>,
        coding: Option<Coding>,
        encode: impl FnOnce(Option<Coding>) -> F,
    ) -> Response {
        if let Some(state) = state {
            parts.headers.insert(header::ETAG, state.header(coding));
            parts.headers.entry(header::CACHE_CONTROL).or_insert(KEEP_AND_ASK);
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

/// An answer that says so itself, or that is encoded already.
fn is_not_to_be_kept(headers: &HeaderMap) -> bool {
    let no_store = |value: &HeaderValue| value.as_bytes().windows(8).any(|part| part == b"no-store");
    headers.get(header::CACHE_CONTROL).is_some_and(no_store)
        || headers.contains_key(header::SET_COOKIE)
        || headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::ETAG)
}

fn vary_if(mut parts: response::Parts, varies: bool) -> response::Parts {
    if varies {
        parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    parts
}

async fn encode(coding: Option<Coding>, bytes: Bytes) -> Bytes {
    let Some(coding) = coding else { return bytes };
    if bytes.len() <= QUICK_BYTES {
        return coding.encode(&bytes, Effort::Low).into();
    }
    apart(move || coding.encode(&bytes, Effort::Low).into()).await
}

async fn encode_asset(coding: Option<Coding>, asset: Arc<Asset>) -> Bytes {
    match coding {
        None => asset.bytes.clone(),
        Some(coding) => match asset.encoded[coding as usize].get() {
            Some(encoded) => encoded.clone(),
            None => apart(move || asset.encoded(coding)).await,
        },
    }
}

async fn apart(work: impl FnOnce() -> Bytes + Send + 'static) -> Bytes {
    match tokio::task::spawn_blocking(work).await {
        Ok(bytes) => bytes,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What can be done with an answer of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What callers read again and again.
    Json,
    /// What only gets smaller.
    Text,
}

impl Kind {
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

/// An answer that is the same for everybody for as long as the server runs. It is compressed once in each coding, when
/// first asked for.
#[derive(Debug)]
pub struct Asset {
    kind: &'static str,
    bytes: Bytes,
    state: ETag,
    encoded: [OnceLock<Bytes>; Coding::ALL.len()],
}

impl Asset {
    /// Bytes of the media type `kind`.
    pub fn new(kind: &'static str, bytes: impl Into<Bytes>) -> Arc<Self> {
        let bytes = bytes.into();
        let state = ETag::of(&bytes);
        Arc::new(Self { kind, bytes, state, encoded: Default::default() })
    }

    /// The answer that shows it.
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
