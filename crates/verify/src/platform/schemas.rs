//! Validation of responses against the schemas of a served OpenAPI document.

use jsonschema::{Validator, draft202012};
use kith_readiness::{CheckResponse, Shortfall};
use serde_json::{Value, json};

/// Media type of problems (RFC 9457).
const PROBLEM_JSON: &str = "application/problem+json";

/// Validates `value` against `schema`, which is part of `document`.
///
/// # Errors
/// Returns the first fault, with the offending value masked.
pub fn validate(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let validator = validator(document, schema)?;
    match validator.iter_errors(value).next() {
        None => Ok(()),
        Some(fault) => Err(format!("{} at {:?}", fault.masked(), fault.instance_path().as_str())),
    }
}

/// Compiles `schema`, which may refer to the components of `document`.
///
/// # Errors
/// Returns a message if it is not a valid schema of draft 2020-12.
pub fn validator(document: &Value, schema: &Value) -> Result<Validator, String> {
    let schema = json!({ "allOf": [schema], "components": document["components"] });
    draft202012::options().offline().build(&schema).map_err(|fault| fault.masked().to_string())
}

/// Checks that a response is a problem: media type, schema, status and request id.
///
/// # Errors
/// Returns [`Shortfall::Fails`] with the first fault.
pub fn check_problem(document: &Value, response: &CheckResponse) -> Result<(), Shortfall> {
    let request = &response.request;
    let fault = |what: &str| Err(Shortfall::fails(format!("{request} answered {} {what}", response.status)));
    if response.header("content-type") != Some(PROBLEM_JSON) {
        return fault("that is not application/problem+json");
    }
    let body = response.json();
    if let Err(reason) = validate(document, &document["components"]["schemas"]["ProblemBody"], &body) {
        return fault(&format!("with a body that is no problem: {reason}"));
    }
    if body["status"] != response.status {
        return fault(&format!("and says {} in the body", body["status"]));
    }
    if body["request_id"].as_str() != response.header("x-request-id") {
        return fault("with another request id in the body than in the header");
    }
    Ok(())
}
