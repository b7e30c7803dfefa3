//! Converts problems to error responses (RFC 9457). Internal causes are logged here and never sent.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderValue};
use http::{StatusCode, response};
use kith_kernel::{FieldError, InvalidCursor, Problem, ProblemCode, RequestId, problems};
use serde::Serialize;
use utoipa::ToSchema;

/// Media type of problem responses.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
/// Prefix of the member `type`. The problem code follows it.
const TYPE_PREFIX: &str = "urn:kith:problem:";

/// Return type of handlers.
pub type ApiResult<T> = Result<T, ApiError>;

/// Problem that a handler returns. The operator `?` converts every error that can be converted to a
/// [`Problem`].
#[derive(Debug)]
pub struct ApiError(Problem);

impl<E: Into<Problem>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ApiError {
    /// Builds a response without a body that contains the problem as an extension. The body is written later,
    /// when the request id is known.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.0.code);
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Body of every error response (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// URI of the problem type: `urn:kith:problem:` followed by `code`.
    #[schema(example = "urn:kith:problem:not_found")]
    r#type: String,
    /// Short name of the problem type, the same for each occurrence.
    title: &'static str,
    /// HTTP status code.
    status: u16,
    /// Explanation for people: what is wrong in this case, and what to do.
    detail: String,
    /// Problem code for programs. It does not change.
    code: &'static str,
    /// Errors in the input, one per field. Absent if the problem is not about the input.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldErrorBody>,
    /// IDs of the objects that were created, in the structure of the response. Present only with the code
    /// `response_not_stored`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Object, additional_properties = true)]
    created_ids: Option<serde_json::Value>,
    /// ID of the request, which also appears in the server's log.
    request_id: String,
}

/// Error in one input field.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldErrorBody {
    /// JSON Pointer (RFC 6901) to the field in the body, or `?name` for a query parameter.
    #[schema(example = "/display_name")]
    pointer: String,
    /// Error code for programs. It does not change.
    #[schema(example = "too_long")]
    code: &'static str,
    /// Explanation of the error, for people.
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
            created_ids: problem.created_ids,
            request_id: request_id.to_string(),
        }
    }
}

impl From<FieldError> for FieldErrorBody {
    fn from(error: FieldError) -> Self {
        Self { pointer: error.pointer.into_owned(), code: error.code, detail: error.detail.into_owned() }
    }
}

/// Writes the body of an error response, from the problem of a handler or of the router. Other responses stay
/// unchanged.
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
        // RFC 7694, section 3: in a 415 response, `Accept-Encoding` lists the codings that requests may use.
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

/// Formats the header `WWW-Authenticate`. The parameter `error` is added only if the request had a token (RFC
/// 6750, section 3.1).
fn challenge(token_error: Option<&'static str>) -> HeaderValue {
    let Some(description) = token_error else { return HeaderValue::from_static("Bearer") };
    let text = format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
    HeaderValue::try_from(text).expect("descriptions are plain ASCII")
}

/// Creates the problem for a request that the router or its extractors rejected. Such responses are empty or
/// plain text.
fn problem_of_router(parts: &response::Parts) -> Option<Problem> {
    let is_plain = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
    if !parts.headers.get(header::CONTENT_TYPE).is_none_or(is_plain) {
        return None;
    }
    let (code, detail) = match parts.status {
        StatusCode::NOT_FOUND => (&problems::NOT_FOUND, "No resource has this path."),
        StatusCode::METHOD_NOT_ALLOWED => (
            &problems::METHOD_NOT_ALLOWED,
            "This path does not support the method. The `Allow` header lists the supported methods.",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => {
            (&problems::TOO_LARGE, "The body exceeds the size limit of this path.")
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (&problems::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON."),
        status if status.is_client_error() => (&problems::MALFORMED, "The request could not be read."),
        _ => (&problems::INTERNAL, "The request could not be completed."),
    };
    Some(Problem::new(code, detail))
}

/// Converts a store error to a problem. Logs the cause.
pub fn store_problem(error: kith_store::Error) -> Problem {
    use kith_store::Error as Store;
    match error {
        Store::Busy => unavailable("The server is overloaded; nothing was changed. Retry in a moment."),
        Store::DeadlinePassed => {
            unavailable("The request took too long; nothing was changed. Retry in a moment.")
        }
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

/// Creates the problem for a cursor that this list did not issue.
pub fn cursor_problem(_: InvalidCursor) -> Problem {
    bad_query(vec![FieldError::new("?cursor", "invalid", "The cursor was not issued by this list.")])
}

/// Creates a 400 problem with one error per invalid query parameter.
pub fn bad_query(errors: Vec<FieldError>) -> Problem {
    Problem {
        errors,
        ..Problem::new(&problems::MALFORMED, "The query is not valid; `errors` lists each fault.")
    }
}

pub(super) fn too_large(limit_bytes: u64) -> Problem {
    Problem::new(&problems::TOO_LARGE, format!("The body must not exceed {limit_bytes} bytes."))
}

pub(super) fn unavailable(detail: &'static str) -> Problem {
    Problem::new(&problems::UNAVAILABLE, detail).retry_after(1)
}

pub(super) fn outcome_unknown() -> Problem {
    let detail = "The change was made completely or not at all. Check the state before you retry.";
    Problem::new(&problems::OUTCOME_UNKNOWN, detail).retry_after(1)
}

fn status(code: &ProblemCode) -> StatusCode {
    StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
