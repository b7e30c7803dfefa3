//! Validates responses against the schemas of the OpenAPI document that a deployment serves.

use kith_json_schema::{TooCostly, Validator, Work};
use kith_readiness::{CheckResponse, Shortfall};
use serde_json::{Value, json};

/// Media type of problems (RFC 9457).
const PROBLEM_JSON: &str = "application/problem+json";

/// Validates `value` against `schema`, which is part of `document`.
///
/// # Errors
/// Returns a description of the first violation. It contains no part of the value.
pub fn validate(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let violations = validator(document, schema)?.violations(value, 1, &mut Work::for_request());
    match violations.map(|violations| violations.into_iter().next()) {
        Ok(None) => Ok(()),
        Ok(Some(violation)) => Err(format!("{} at {:?}", violation.detail, violation.pointer)),
        Err(TooCostly) => Err("Validating the value exceeds the work limit.".to_owned()),
    }
}

/// Compiles `schema`, which may refer to the components of `document`.
///
/// # Errors
/// Returns a message if a keyword that constrains values is invalid. Annotations are not checked.
pub fn validator(document: &Value, schema: &Value) -> Result<Validator, String> {
    Validator::compile(&json!({ "allOf": [schema], "components": document["components"] }))
}

/// Checks that a response is a problem: its media type, schema, status and request id.
///
/// # Errors
/// Returns [`Shortfall::Fails`] with the first fault.
pub fn check_problem(document: &Value, response: &CheckResponse) -> Result<(), Shortfall> {
    let request = &response.request;
    let fault = |what: &str| Err(Shortfall::fails(format!("{request} returned {} {what}", response.status)));
    if response.header("content-type") != Some(PROBLEM_JSON) {
        return fault("with a content type other than application/problem+json");
    }
    let body = response.json();
    if let Err(reason) = validate(document, &document["components"]["schemas"]["ProblemBody"], &body) {
        return fault(&format!("with a body that does not match the problem schema: {reason}"));
    }
    if body["status"] != response.status {
        return fault(&format!("with the status {} in the body", body["status"]));
    }
    if body["request_id"].as_str() != response.header("x-request-id") {
        return fault("with different request ids in body and header");
    }
    Ok(())
}
