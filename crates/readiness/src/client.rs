//! HTTP client of the checks. It does not follow redirects, returns every response regardless of its status,
//! and records each request as evidence.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kith_kernel::Timestamp;
use serde_json::Value;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::Shortfall;
use crate::evidence::{EvidenceRecorder, Step};

/// Maximum time in `Retry-After` for which the client waits.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(65);

/// HTTP client of one deployment. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    headers: HeaderMap,
    notes: EvidenceRecorder,
}

/// Error of a request that got no response.
#[derive(Clone, Debug, Error)]
#[error("{request}: {reason}")]
pub struct RequestError {
    /// Method and path of the request.
    pub request: String,
    /// Cause of the failure.
    pub reason: String,
}

impl From<RequestError> for Shortfall {
    fn from(error: RequestError) -> Self {
        Self::unmeasured(error.to_string(), "check that the deployment is reachable from here, and try again")
    }
}

/// HTTP response together with the request that it answers.
#[derive(Clone, Debug)]
pub struct CheckResponse {
    /// Method and path of the request, such as `GET /api/v1/me`.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Response headers.
    pub headers: HeaderMap,
    /// Response body.
    pub body: Bytes,
    /// Time from sending the request to receiving the last byte.
    pub duration: Duration,
    /// Server's TLS certificate in DER. `None` without TLS.
    pub certificate: Option<Vec<u8>>,
}

impl Client {
    pub(crate) fn new(http: reqwest::Client, base: &str, notes: EvidenceRecorder) -> Self {
        Self { http, base: base.trim_end_matches('/').to_owned(), headers: HeaderMap::new(), notes }
    }

    /// Returns the base URL, without a trailing slash.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns a copy of this client with another base URL.
    #[must_use]
    pub fn with_base_url(&self, base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    /// Returns a copy of this client that sends one more header with each request.
    ///
    /// # Panics
    /// Panics if `value` is not a valid header value.
    #[must_use]
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut with = self.clone();
        let value = HeaderValue::from_str(value).expect("a header value");
        with.headers.append(HeaderName::from_static(name), value);
        with
    }

    /// Returns a copy of this client that sends `token` as its only `Authorization` header.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        let mut with = self.clone();
        with.headers.remove(AUTHORIZATION);
        with.with("authorization", &format!("Bearer {token}"))
    }

    /// Returns a header that the client sends with each request. Used by checks that send requests without
    /// this client.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Sends a GET request.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    pub async fn get(&self, path: &str) -> Result<CheckResponse, RequestError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Sends a POST request with a JSON body. `Null` sends an empty body.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    pub async fn post(&self, path: &str, body: Value) -> Result<CheckResponse, RequestError> {
        self.send(Method::POST, path, json(&body)).await
    }

    /// Sends a PUT request with a JSON body. `Null` sends an empty body.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    pub async fn put(&self, path: &str, body: Value) -> Result<CheckResponse, RequestError> {
        self.send(Method::PUT, path, json(&body)).await
    }

    /// Sends a PATCH request with a JSON body.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    pub async fn patch(&self, path: &str, body: Value) -> Result<CheckResponse, RequestError> {
        self.send(Method::PATCH, path, json(&body)).await
    }

    /// Sends a DELETE request with a JSON body. `Null` sends an empty body.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    pub async fn delete(&self, path: &str, body: Value) -> Result<CheckResponse, RequestError> {
        self.send(Method::DELETE, path, json(&body)).await
    }

    /// Sends a request. A body is sent as `application/json` unless the client has another `content-type`. If
    /// the response is a 429 with a `Retry-After` of at most 65 s, waits for this time and repeats the
    /// request once.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<CheckResponse, RequestError> {
        let response = self.send_once(method.clone(), path, body.clone()).await?;
        let seconds =
            response.header("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs);
        match seconds {
            Some(wait) if response.status == 429 && wait <= MAX_RETRY_AFTER => {
                tokio::time::sleep(wait + Duration::from_millis(50)).await;
                self.send_once(method, path, body).await
            }
            _ => Ok(response),
        }
    }

    /// Waits for the given time, for example for the `Retry-After` of a response.
    pub async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Sends a request like [`Client::send`], but returns a 429 without repeating the request.
    ///
    /// # Errors
    /// Returns [`RequestError`] if no response is received.
    #[expect(clippy::disallowed_methods, reason = "the duration of a response is measured in real time")]
    pub async fn send_once(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<CheckResponse, RequestError> {
        let request = format!("{method} {path}");
        let mut builder =
            self.http.request(method, format!("{}{path}", self.base)).headers(self.headers.clone());
        if !body.is_empty() {
            if !self.headers.contains_key(CONTENT_TYPE) {
                builder = builder.header(CONTENT_TYPE, "application/json");
            }
            builder = builder.body(body);
        }
        let started = Instant::now();
        let response = self
            .receive(builder, &request)
            .await
            .map_err(|error| RequestError { request: request.clone(), reason: format_causes(&error) });
        let duration = started.elapsed();
        let (received, request_id) = match &response {
            Ok(response) => (response.status.to_string(), response.header("x-request-id").map(str::to_owned)),
            Err(error) => (error.reason.clone(), None),
        };
        self.notes.step(Step {
            request,
            response: received,
            request_id,
            duration_ms: as_millis_u64(duration),
        });
        response.map(|response| CheckResponse { duration, ..response })
    }

    async fn receive(
        &self,
        builder: reqwest::RequestBuilder,
        request: &str,
    ) -> Result<CheckResponse, reqwest::Error> {
        let response = builder.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let tls = response.extensions().get::<reqwest::tls::TlsInfo>();
        let certificate = tls.and_then(|tls| tls.peer_certificate()).map(<[u8]>::to_vec);
        let body = response.bytes().await?;
        Ok(CheckResponse {
            request: request.to_owned(),
            status,
            headers,
            body,
            duration: Duration::ZERO,
            certificate,
        })
    }
}

fn json(body: &Value) -> Bytes {
    if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) }
}

/// Formats the causes of an error on one line. The error itself contains the URL, so it is included only if
/// it has no causes.
fn format_causes(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// Returns a duration in whole milliseconds.
pub(crate) fn as_millis_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl CheckResponse {
    /// Returns this response if its status is `status`.
    ///
    /// # Errors
    /// Returns [`Shortfall::Fails`] with the actual status and problem code.
    pub fn expect(self, status: u16) -> Result<Self, Shortfall> {
        self.expect_any(&[status])
    }

    /// Returns this response if its status is one of `statuses`.
    ///
    /// # Errors
    /// Returns [`Shortfall::Fails`] with the actual status and problem code.
    pub fn expect_any(self, statuses: &[u16]) -> Result<Self, Shortfall> {
        if statuses.contains(&self.status) {
            return Ok(self);
        }
        let wanted: Vec<_> = statuses.iter().map(u16::to_string).collect();
        let code = self.code().map_or(String::new(), |code| format!(" ({code})"));
        let id = self.header("x-request-id").map_or(String::new(), |id| format!(", request {id}"));
        let (request, status) = (&self.request, self.status);
        Err(Shortfall::fails(format!(
            "{request} returned {status}{code} instead of {}{id}",
            wanted.join(" or ")
        )))
    }

    /// Returns this response if it is a problem with this status and code.
    ///
    /// # Errors
    /// Returns [`Shortfall::Fails`] with the actual status or code.
    pub fn expect_problem(self, status: u16, code: &str) -> Result<Self, Shortfall> {
        let response = self.expect(status)?;
        match response.code() {
            Some(found) if found == code => Ok(response),
            found => {
                let (request, found) = (&response.request, found.unwrap_or_else(|| "no code".to_owned()));
                Err(Shortfall::fails(format!("{request} returned {status} with {found} instead of {code}")))
            }
        }
    }

    /// Returns the body as JSON, or `Null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the body as text. Invalid UTF-8 is replaced by U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the string at `pointer` in the JSON body (RFC 6901).
    ///
    /// # Errors
    /// Returns [`Shortfall::Fails`] if there is no string at `pointer`.
    pub fn text_at(&self, pointer: &str) -> Result<String, Shortfall> {
        let json = self.json();
        json.pointer(pointer).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
            Shortfall::fails(format!("the response to {} has no string at {pointer}", self.request))
        })
    }

    /// Returns a header of the response as text. Returns `None` if it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the number of whole days after `now` for which the server's certificate is valid. Returns
    /// `None` without TLS.
    pub fn certificate_days(&self, now: Timestamp) -> Option<i64> {
        let certificate = Certificate::from_der(self.certificate.as_deref()?).ok()?;
        let ends = certificate.tbs_certificate.validity.not_after.to_unix_duration();
        let ends_s = i64::try_from(ends.as_secs()).ok()?;
        Some((ends_s - now.as_millis() / 1_000).div_euclid(24 * 60 * 60))
    }

    /// Returns the `code` of a problem. Returns `None` if the body contains none.
    pub fn code(&self) -> Option<String> {
        self.json().get("code")?.as_str().map(str::to_owned)
    }

    /// Returns the `Retry-After` header in seconds. Returns `None` if it is absent or not a number.
    pub fn retry_after(&self) -> Option<u64> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
    }
}
