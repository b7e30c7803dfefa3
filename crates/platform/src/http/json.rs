//! JSON request bodies and responses. Request bodies are parsed strictly and with size limits, and errors
//! have a JSON Pointer. Handlers check whether the values are allowed.

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, MatchedPath, OptionalFromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use kith_kernel::{FieldError, Problem, problems};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_path_to_error::{Path, Segment};

use super::body::{BodyEncoding, read_body};
use super::problem::ApiError;
use super::strict::{NUL, Strict};
use crate::App;
use crate::idempotency::IdempotencyKey;

const JSON: &str = "application/json";

/// JSON body. The extractor rejects bodies that are not `application/json`, are too large, arrive too slowly
/// or do not match the type. Derive the type with `deny_unknown_fields`. `Option<Json<T>>` also accepts a
/// request without a body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

/// Deserializes a field that is present as `Some`. With `#[serde(default, deserialize_with =
/// "deserialize_some")]`, an absent field is `None`. If `T` is an `Option`, null becomes `Some(None)`;
/// otherwise null is rejected.
///
/// # Errors
/// Returns the error of the field's type.
pub fn deserialize_some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(json) => {
                let mut response = Response::new(Body::from(json));
                let kind = HeaderValue::from_static(JSON);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "cannot serialize a response");
                ApiError::from(Problem::new(&problems::INTERNAL, "The response could not be created."))
                    .into_response()
            }
        }
    }
}

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        read(request, app, &[JSON]).await.map(Self)
    }
}

/// JSON body like [`Json`], but the content type may also be `application/merge-patch+json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergePatch<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for MergePatch<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        read(request, app, &[JSON, "application/merge-patch+json"]).await.map(Self)
    }
}

async fn read<T: DeserializeOwned>(request: Request, app: &App, kinds: &[&str]) -> Result<T, ApiError> {
    check_kind(request.headers(), kinds)?;
    let encoding = BodyEncoding::of(request.headers())?;
    let (parts, body) = request.into_parts();
    let policy = parts.extensions.get().copied().unwrap_or_default();
    let bytes = read_body(policy, body, encoding, &app.config.server, &app.body_memory).await?;
    if let Some(key) = parts.extensions.get::<IdempotencyKey>() {
        key.record_body(&bytes);
    }
    parse(&bytes).map_err(|problem| name_all_faults(app, &parts, &bytes, problem).into())
}

/// Replaces the first error, at which serde stopped, by all errors that the schema of the body finds.
fn name_all_faults(app: &App, parts: &Parts, body: &[u8], mut problem: Problem) -> Problem {
    if let Some(path) = parts.extensions.get::<MatchedPath>()
        && let Some(first) = problem.errors.pop()
    {
        problem.errors = app.body_schemas.all_faults(&parts.method, path.as_str(), body, first);
    }
    problem
}

impl<T: DeserializeOwned> OptionalFromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Option<Self>, ApiError> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<App>>::from_request(request, app).await.map(Some)
    }
}

pub(super) fn check_kind(headers: &HeaderMap, kinds: &[&str]) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !kinds.iter().any(|kind| essence.eq_ignore_ascii_case(kind)) {
        let detail = format!("Set `Content-Type` to {}.", kinds.join(" or "));
        return Err(Problem::new(&problems::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    Ok(())
}

/// Deserializes a body.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Strict(&mut json)).map_err(|error| {
        let pointer = pointer(error.path());
        if is_no_variant(error.inner(), bytes) {
            let detail = "The value is not valid for this field.";
            return Problem::invalid(vec![FieldError::new(pointer, "wrong_type", detail)]);
        }
        to_problem(error.inner(), pointer)
    })?;
    json.end().map_err(|error| to_problem(&error, String::new()))?;
    Ok(value)
}

/// Deserializes a JSON value. `at` is the JSON Pointer of the value; the pointer of an error begins with it.
///
/// # Errors
/// Returns the first error with its pointer.
pub fn read_value<T: DeserializeOwned>(value: &serde_json::Value, at: &str) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(Strict(value)).map_err(
        |error: serde_path_to_error::Error<serde_json::Error>| {
            field_error(&error.inner().to_string(), at.to_owned() + &pointer(error.path()))
        },
    )
}

/// Returns true if the text is valid JSON in which, for example, a number or an array occurs where an enum
/// name is expected. serde_json reports this as a syntax error.
fn is_no_variant(error: &serde_json::Error, bytes: &[u8]) -> bool {
    error.is_syntax()
        && error.to_string().starts_with("expected value")
        && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

fn to_problem(error: &serde_json::Error, pointer: String) -> Problem {
    if !error.is_data() {
        return Problem::new(&problems::MALFORMED, "The body is not valid JSON, or nested too deep.");
    }
    Problem::invalid(vec![field_error(&error.to_string(), pointer)])
}

/// Converts an error message of serde, which has no structured form. The result does not contain values,
/// because they can be secrets.
fn field_error(message: &str, pointer: String) -> FieldError {
    let quoted = || message.split('`').nth(1).unwrap_or_default();
    if message.starts_with("missing field") {
        return FieldError::new(pointer + "/" + &escape(quoted()), "missing", "This field is required.");
    }
    if message.starts_with("unknown field") {
        return FieldError::new(pointer, "unknown_field", "This field does not exist.");
    }
    if message.starts_with("duplicate field") {
        return FieldError::new(
            pointer + "/" + &escape(quoted()),
            "duplicate_field",
            "This field occurs twice.",
        );
    }
    if message.starts_with(NUL) {
        return FieldError::new(pointer, "forbidden_character", "Text must not contain U+0000.");
    }
    let code = if message.starts_with("invalid type") { "wrong_type" } else { "invalid" };
    let expected =
        message.rsplit_once("expected ").map(|(_, rest)| rest.split(" at line ").next().unwrap_or(rest));
    match expected {
        // The name of the Rust type is of no use to the caller.
        Some(expected) if expected.starts_with("struct ") => {
            FieldError::new(pointer, code, "Expected an object.")
        }
        Some(expected) => FieldError::new(pointer, code, format!("Expected {expected}.")),
        None => FieldError::new(pointer, code, "The value is not valid for this field."),
    }
}

/// Formats a path as a JSON Pointer (RFC 6901).
fn pointer(path: &Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => pointer + "/" + &escape(key),
        Segment::Enum { variant } => pointer + "/" + &escape(variant),
        Segment::Unknown => pointer,
    })
}

pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its parsing matters")]
        list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its parsing matters")]
        name: String,
    }

    #[test]
    fn faults_have_a_code_and_a_pointer() {
        let table = [
            (r#"{"list": [{"name": 5}]}"#, "wrong_type", "/list/0/name"),
            (r#"{"list": [{"name": "a"}, {}]}"#, "missing", "/list/1/name"),
            (r#"{"list": [], "a/b": 1}"#, "unknown_field", "/a~1b"),
            (r#"{"list": [{"name": "a", "name": "b"}]}"#, "duplicate_field", "/list/0/name"),
            (r#"{"list": [["a"]]}"#, "wrong_type", "/list/0"),
            (r#"[[{"name": "a"}]]"#, "wrong_type", ""),
            (r#"{"list": [{"name": "a\u0000b"}]}"#, "forbidden_character", "/list/0/name"),
            (r#"{"list": 5}"#, "wrong_type", "/list"),
            (r#"{}"#, "missing", "/list"),
            (r#"[[]]"#, "wrong_type", ""),
            (r#"5"#, "wrong_type", ""),
        ];
        for (json, code, pointer) in table {
            let problem = parse::<Outer>(json.as_bytes()).unwrap_err();
            assert_eq!(problem.code, &problems::VALIDATION_FAILED, "{json}");
            assert_eq!((problem.errors[0].code, &*problem.errors[0].pointer), (code, pointer), "{json}");
        }
    }

    /// Proves the readiness requirement API-08.
    #[test]
    fn invalid_enum_value_is_a_validation_error() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Colour {
            Red,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Painted {
            #[expect(dead_code, reason = "only its parsing matters")]
            colour: Colour,
        }
        for wrong in ["5", "[]", "true", "null", "{}", r#""blue""#] {
            let problem = parse::<Painted>(format!(r#"{{"colour": {wrong}}}"#).as_bytes()).unwrap_err();
            assert_eq!(problem.code, &problems::VALIDATION_FAILED, "{wrong}");
            assert!(problem.errors[0].pointer.starts_with("/colour"), "{wrong}: {:?}", problem.errors[0]);
        }
        for broken in [r#"{"colour": }"#, r#"{"colour": 5"#, r#"{"colour": x}"#] {
            assert_eq!(
                parse::<Painted>(broken.as_bytes()).unwrap_err().code,
                &problems::MALFORMED,
                "{broken}"
            );
        }
    }

    #[test]
    fn invalid_json_is_malformed() {
        for text in ["", "{", r#"{"list": []} x"#, "\u{1}"] {
            assert_eq!(parse::<Outer>(text.as_bytes()).unwrap_err().code, &problems::MALFORMED, "{text}");
        }
        let deep = r#"{"a":"#.repeat(10_000);
        assert_eq!(parse::<serde_json::Value>(deep.as_bytes()).unwrap_err().code, &problems::MALFORMED);
        assert_eq!(parse::<Outer>(b"{\"list\": [\xff]}").unwrap_err().code, &problems::MALFORMED);
    }

    #[test]
    fn errors_do_not_repeat_input() {
        let problem = parse::<Outer>(br#"{"list": [{"name": 12345678}]}"#).unwrap_err();
        assert!(!problem.errors[0].detail.contains("12345678"), "{:?}", problem.errors[0]);
        assert_eq!(problem.errors[0].detail, "Expected a string.");
    }
}
