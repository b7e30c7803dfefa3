//! Problem details (RFC 9457): a stable code for programs and a sentence for people.

use std::borrow::Cow;

/// Problem type. Modules declare their types as statics. The documentation lists all types in one catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct ProblemCode {
    /// Stable machine-readable code, such as `slot_occupied`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Short title, the same for every occurrence.
    pub title: &'static str,
}

/// Error in one field of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) to the field, or `?name` for a query parameter.
    pub pointer: Cow<'static, str>,
    /// Stable machine-readable code, such as `too_long`.
    pub code: &'static str,
    /// Explanation for people.
    pub detail: Cow<'static, str>,
}

impl FieldError {
    /// Creates an error at `pointer`.
    pub fn new(
        pointer: impl Into<Cow<'static, str>>,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// One occurrence of a problem, to be returned to the caller. It never contains an SQL statement, a file path
/// or an internal cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Problem type.
    pub code: &'static ProblemCode,
    /// Explanation of this occurrence, for people.
    pub detail: Cow<'static, str>,
    /// Errors in individual input fields.
    pub errors: Vec<FieldError>,
    /// Seconds after which the caller can retry.
    pub retry_after_s: Option<u32>,
    /// Reason for rejecting the access token, sent as `error_description` (RFC 6750). Plain ASCII without
    /// quotes.
    pub token_error: Option<&'static str>,
    /// Ids of the resources that an earlier request with the same idempotency key created. Set if the
    /// response of that request was too large to store.
    pub created_ids: Option<serde_json::Value>,
}

impl Problem {
    /// Creates a problem of the given type, with `detail` for this occurrence.
    pub fn new(code: &'static ProblemCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            token_error: None,
            created_ids: None,
        }
    }

    /// Creates a 422 problem that lists the invalid fields.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(
                &problems::VALIDATION_FAILED,
                "The input has invalid fields. `errors` lists each of them.",
            )
        }
    }

    /// Sets the reason for rejecting the access token.
    #[must_use]
    pub fn token_error(mut self, description: &'static str) -> Self {
        self.token_error = Some(description);
        self
    }

    /// Sets the number of seconds after which the caller can retry.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $title:literal;)+) => {
        $($(#[$doc])* pub static $name: ProblemCode = ProblemCode { code: $code, status: $status, title: $title };)+
        /// All problem types of this catalogue.
        pub static ALL: &[&ProblemCode] = &[$(&$name),+];
    };
}

/// Problem types that are not specific to one module.
pub mod problems {
    use super::ProblemCode;

    catalogue! {
        /// The request is not valid HTTP or JSON.
        MALFORMED = 400 "malformed_request" "Malformed request";
        /// The request has no token, or the token is not valid.
        UNAUTHENTICATED = 401 "unauthenticated" "Authentication required";
        /// The caller is authenticated but lacks the permission.
        FORBIDDEN = 403 "forbidden" "Permission denied";
        /// The API key is valid, but the operation accepts users only.
        API_KEY_NOT_ACCEPTED = 403 "api_key_not_accepted" "API key not accepted";
        /// The caller has the permission, but the request comes from a network address that is not allowed.
        ADDRESS_NOT_LISTED = 403 "address_not_listed" "Address not allowed";
        /// CORS preflight from an origin that is not in the configured list.
        ORIGIN_NOT_ALLOWED = 403 "origin_not_allowed" "Origin not allowed";
        /// The name of a queue, job kind or schedule is reserved for Kith's own jobs.
        RESERVED = 403 "reserved" "Reserved name";
        /// The resource does not exist, or the caller may not know that it exists.
        NOT_FOUND = 404 "not_found" "Not found";
        /// The path exists but does not support the method.
        METHOD_NOT_ALLOWED = 405 "method_not_allowed" "Method not allowed";
        /// The body did not arrive within the time limit.
        REQUEST_TIMEOUT = 408 "request_timeout" "Request timeout";
        /// The current state does not allow the operation.
        CONFLICT = 409 "conflict" "Conflict with current state";
        /// A request with the same idempotency key is still in progress.
        IDEMPOTENCY_IN_PROGRESS = 409 "idempotency_in_progress" "Request in progress";
        /// The request was completed earlier under the same idempotency key, but its response was too large
        /// to store.
        RESPONSE_NOT_STORED = 409 "response_not_stored" "Response not stored";
        /// `If-Match` does not match the current state of the resource.
        PRECONDITION_FAILED = 412 "precondition_failed" "Precondition failed";
        /// The body exceeds the size limit.
        TOO_LARGE = 413 "body_too_large" "Body too large";
        /// The content type is not `application/json`.
        UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type" "Unsupported media type";
        /// The content coding of the body is not supported.
        UNSUPPORTED_ENCODING = 415 "unsupported_encoding" "Unsupported content encoding";
        /// The body is well-formed but has invalid fields, which `errors` lists.
        VALIDATION_FAILED = 422 "validation_failed" "Validation failed";
        /// The idempotency key was used before with a different request.
        IDEMPOTENCY_MISMATCH = 422 "idempotency_key_reused" "Idempotency key reused";
        /// The client has sent too many requests.
        RATE_LIMITED = 429 "rate_limited" "Too many requests";
        /// An export for the same user is already running.
        EXPORT_RUNNING = 409 "export_running" "Export already running";
        /// Access is locked for a time after too many failed attempts.
        LOCKED = 423 "locked" "Temporarily locked";
        /// Unexpected error in the server.
        INTERNAL = 500 "internal_error" "Internal server error";
        /// The server is overloaded or a dependency is unavailable. Nothing was changed.
        UNAVAILABLE = 503 "unavailable" "Service unavailable";
        /// The change may or may not have been committed. Clients must check before they repeat the request.
        OUTCOME_UNKNOWN = 503 "outcome_unknown" "Outcome unknown";
    }
}
