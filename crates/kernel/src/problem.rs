//! What went wrong, in the words of RFC 9457: a stable code for machines, a sentence for people.

use std::borrow::Cow;

/// One kind of problem. Modules declare theirs as constants; together they are the catalogue in the documentation.
#[derive(Debug, PartialEq, Eq)]
pub struct ProblemCode {
    /// Stable, for machines: `slot_occupied`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Short and the same for each occurrence.
    pub title: &'static str,
}

/// One fault in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) to the field, or `?name` for a query parameter.
    pub pointer: Cow<'static, str>,
    /// Stable, for machines: `too_long`.
    pub code: &'static str,
    /// For people.
    pub detail: Cow<'static, str>,
}

impl FieldError {
    /// A fault at `pointer`.
    pub fn new(
        pointer: impl Into<Cow<'static, str>>,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// One occurrence of a problem, on its way to whoever asked. It never carries a query, a path or a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which kind.
    pub code: &'static ProblemCode,
    /// About this occurrence, for people.
    pub detail: Cow<'static, str>,
    /// Faults in the input.
    pub errors: Vec<FieldError>,
    /// Seconds after which it is worth trying again.
    pub retry_after_s: Option<u32>,
    /// Why the token that was sent is not accepted: `error_description` of RFC 6750. Plain ASCII without quotes.
    pub token_error: Option<&'static str>,
    /// Ids of what an earlier request made whose answer was not kept.
    pub kept: Option<serde_json::Value>,
}

impl Problem {
    /// A problem of this kind, with `detail` about this occurrence.
    pub fn new(code: &'static ProblemCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            token_error: None,
            kept: None,
        }
    }

    /// A 422 that names the fields at fault.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(&problems::VALIDATION_FAILED, "The input has faults; `errors` names each.")
        }
    }

    /// The same, about a token that was sent.
    #[must_use]
    pub fn token_error(mut self, description: &'static str) -> Self {
        self.token_error = Some(description);
        self
    }

    /// The same, worth trying again after `seconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $title:literal;)+) => {
        $($(#[$doc])* pub static $name: ProblemCode = ProblemCode { code: $code, status: $status, title: $title };)+
        /// All of them.
        pub static ALL: &[&ProblemCode] = &[$(&$name),+];
    };
}

/// The problems that are not any one module's own.
pub mod problems {
    use super::ProblemCode;

    catalogue! {
        /// The request is not HTTP or JSON as we read it.
        MALFORMED = 400 "malformed_request" "The request could not be read";
        /// No token, or one that is not valid.
        UNAUTHENTICATED = 401 "unauthenticated" "Sign in first";
        /// Known, but not allowed.
        FORBIDDEN = 403 "forbidden" "Not allowed";
        /// A good API key, where only people may ask.
        API_KEY_NOT_ACCEPTED = 403 "api_key_not_accepted" "Not for API keys";
        /// Allowed, but not from there.
        ADDRESS_NOT_LISTED = 403 "address_not_listed" "Not from this address";
        /// A preflight of a page whose origin is not listed.
        ORIGIN_NOT_ALLOWED = 403 "origin_not_allowed" "Origin not allowed";
        /// A queue, job kind or schedule that Kith uses for its own work.
        RESERVED = 403 "reserved" "Reserved for Kith";
        /// Not there, or not for this actor to know of.
        NOT_FOUND = 404 "not_found" "Not found";
        /// The path exists, the method does not.
        METHOD_NOT_ALLOWED = 405 "method_not_allowed" "Method not allowed";
        /// The body did not arrive in time.
        REQUEST_TIMEOUT = 408 "request_timeout" "The request took too long to arrive";
        /// The state does not permit it.
        CONFLICT = 409 "conflict" "The present state does not allow this";
        /// The same request under the same key has not ended.
        IDEMPOTENCY_IN_PROGRESS = 409 "idempotency_in_progress" "The same request is on its way";
        /// The same request was made before under the same key; its answer was too large to be kept.
        ANSWER_NOT_KEPT = 409 "answer_not_kept" "It was done before, and its answer was not kept";
        /// `If-Match` names another state than the present one.
        PRECONDITION_FAILED = 412 "precondition_failed" "It has changed since you read it";
        /// The body is over the limit.
        TOO_LARGE = 413 "body_too_large" "The body is too large";
        /// Not `application/json`.
        UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type" "Send application/json";
        /// A body in a coding that is not read here.
        UNSUPPORTED_ENCODING = 415 "unsupported_encoding" "Send the body as it is, or as gzip";
        /// Readable, but with faults that `errors` names.
        VALIDATION_FAILED = 422 "validation_failed" "The input is not valid";
        /// The key was used for another request.
        IDEMPOTENCY_MISMATCH = 422 "idempotency_key_reused" "This key was used for another request";
        /// Too many requests of one client.
        RATE_LIMITED = 429 "rate_limited" "Too many requests";
        /// The same user exports already.
        EXPORT_RUNNING = 409 "export_running" "An export is running";
        /// Too many failures: nobody gets in for a while.
        LOCKED = 423 "locked" "Locked for a while";
        /// A fault of ours.
        INTERNAL = 500 "internal_error" "Something went wrong on our side";
        /// Too much to do, or a dependency is away; nothing was changed.
        UNAVAILABLE = 503 "unavailable" "Not available right now";
        /// The change may or may not have been made: look before you repeat it.
        OUTCOME_UNKNOWN = 503 "outcome_unknown" "It is not known whether the change was made";
    }
}
