//! Problems as answers: RFC 9457 bodies. Causes are logged here and never sent.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderValue};
use http::{StatusCode, response};
use kith_kernel::{FieldError, InvalidCursor, Problem, ProblemCode, RequestId, problems};
use serde::Serialize;
use utoipa::ToSchema;

/// What problem answers declare themselves as.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
/// Before each code in `type`.
const TYPE_PREFIX: &str = "urn:kith:problem:";

/// What a handler returns.
pub type ApiResult<T> = Result<T, ApiError>;

/// A problem on its way out of a handler. `?` makes it from whatever turns into a [`Problem`].
#[derive(Debug)]
pub struct ApiError(Problem);

impl<E: Into<Problem>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ApiError {
    /// The body is written at the edge, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.0.code);
        response.extensions_mut().insert(self.0);
        response
    }
}

/// The body of every answer that is not a success (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// `urn:kith:problem:` and the code.
    #[schema(example = "urn:kith:problem:not_found")]
    r#type: String,
    /// Short, and the same for each occurrence.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// About this occurrence, for people.
    detail: String,
    /// Stable, for machines.
    code: &'static str,
    /// Faults in the input, if that is what is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldErrorBody>,
    /// With `answer_not_kept`: the ids of what was made, in the form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Object, additional_properties = true)]
    kept: Option<serde_json::Value>,
    /// Names this request in our logs.
    request_id: String,
}

/// One fault in the input.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldErrorBody {
    /// JSON Pointer (RFC 6901) to the field, or `?name` for a query parameter.
    #[schema(example = "/display_name")]
    pointer: String,
    /// Stable, for machines.
    #[schema(example = "too_long")]
    code: &'static str,
    /// For people.
    detail: String,
}

impl ProblemBody {
    fn new(problem: Problem, request_id: &RequestId) -> Self {
        Self {
            r#type: format!("{TYPE_PREFIX}{}", problem.code.code),
            title: problem.code.title,
            status: problem.code.status,
            detail: problem.detail.into_owned(),
            code: problem.code.code,
            errors: problem.errors.into_iter().map(FieldErrorBody::from).collect(),
            kept: problem.kept,
            request_id: request_id.to_string(),
        }
    }
}

impl From<FieldError> for FieldErrorBody {
    fn from(error: FieldError) -> Self {
        Self { pointer: error.pointer.into_owned(), code: error.code, detail: error.detail.into_owned() }
    }
}

/// Writes the problem's body, if the answer is a problem: a handler's, or one that the router made.
pub(super) fn render(response: Response, request_id: &RequestId) -> Response {
    if response.status().as_u16() < 400 {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Some(problem) = parts.extensions.remove::<Problem>().or_else(|| problem_of_router(&parts)) else {
        return Response::from_parts(parts, body);
    };
    let (retry_after_s, token_error) = (problem.retry_after_s, problem.token_error);
    if problem.code == &problems::UNSUPPORTED_ENCODING {
        // RFC 7694.
        parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let json = serde_json::to_vec(&ProblemBody::new(problem, request_id)).expect("a problem is plain text");
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(seconds) = retry_after_s {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if parts.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(header::WWW_AUTHENTICATE, challenge(token_error));
    }
    Response::from_parts(parts, Body::from(json))
}

/// RFC 6750, 3: `error` only where a token was sent.
fn challenge(token_error: Option<&'static str>) -> HeaderValue {
    let Some(description) = token_error else { return HeaderValue::from_static("Bearer") };
    let text = format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
    HeaderValue::try_from(text).expect("descriptions are plain ASCII")
}

/// The router's and its extractors' own refusals are empty or plain text.
fn problem_of_router(parts: &response::Parts) -> Option<Problem> {
    let is_plain = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
    if !parts.headers.get(header::CONTENT_TYPE).is_none_or(is_plain) {
        return None;
    }
    let (code, detail) = match parts.status {
        StatusCode::NOT_FOUND => (&problems::NOT_FOUND, "There is nothing at this address."),
        StatusCode::METHOD_NOT_ALLOWED => {
            (&problems::METHOD_NOT_ALLOWED, "The Allow header says which methods this address has.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => (&problems::TOO_LARGE, "The body is larger than this path accepts."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (&problems::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON."),
        status if status.is_client_error() => (&problems::MALFORMED, "The request could not be read."),
        _ => (&problems::INTERNAL, "The request could not be completed."),
    };
    Some(Problem::new(code, detail))
}

/// The store's answer, as a problem. The cause goes to the log.
pub fn store_problem(error: kith_store::Error) -> Problem {
    use kith_store::Error as Store;
    match error {
        Store::Busy => unavailable("Too much is waiting already; nothing was changed."),
        Store::DeadlinePassed => unavailable("It took too long; nothing was changed."),
        Store::Unavailable(cause) => {
            tracing::warn!(%cause, "the database is not available");
            unavailable("The database is not available; nothing was changed.")
        }
        Store::OutcomeUnknown(cause) => {
            tracing::error!(%cause, "the outcome of a commit is unknown");
            outcome_unknown()
        }
        Store::NulInText => {
            let detail = "Text must not contain U+0000.";
            Problem::invalid(vec![FieldError::new("", "forbidden_character", detail)])
        }
        Store::Constraint(cause) | Store::Fault(cause) => {
            tracing::error!(%cause, "a transaction failed");
            Problem::new(&problems::INTERNAL, "The request could not be completed.")
        }
    }
}

/// A cursor that the list did not hand out.
pub fn cursor_problem(_: InvalidCursor) -> Problem {
    bad_query(vec![FieldError::new("?cursor", "invalid", "Not a cursor that this list handed out.")])
}

/// A 400 that names the parameters at fault.
pub fn bad_query(errors: Vec<FieldError>) -> Problem {
    Problem { errors, ..Problem::new(&problems::MALFORMED, "The query has faults; `errors` names each.") }
}

pub(super) fn too_large(limit_bytes: u64) -> Problem {
    Problem::new(&problems::TOO_LARGE, format!("The body must not exceed {limit_bytes} bytes."))
}

pub(super) fn unavailable(detail: &'static str) -> Problem {
    Problem::new(&problems::UNAVAILABLE, detail).retry_after(1)
}

pub(super) fn outcome_unknown() -> Problem {
    let detail = "The change was made whole or not at all. Look before you repeat it.";
    Problem::new(&problems::OUTCOME_UNKNOWN, detail).retry_after(1)
}

fn status(code: &ProblemCode) -> StatusCode {
    StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
