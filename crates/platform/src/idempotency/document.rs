//! Documents idempotency keys in the OpenAPI document.

use kith_kernel::problems;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Required};

use crate::http::is_secret;
use crate::http::openapi::add_problem;

/// Pattern of the header `Idempotency-Key`: 1 to 255 printable ASCII characters, with or without quotes.
const KEY: &str = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~]([ -~]{0,253}[!-~])?)$"#;

/// Documents the header `Idempotency-Key` of a write operation. If the operation rejects keys, documents only
/// the 400 problem.
pub(crate) fn declare(operation: &mut Operation) {
    add_problem(operation, &problems::MALFORMED);
    if operation.security.is_none() || is_secret(operation) {
        return;
    }
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Key that the client chooses for this request: 1 to 255 printable ASCII characters. If the same \
             request is sent again with the same key within 24 hours of its success, nothing is changed and \
             the stored response is returned. Two kinds of responses are not stored in full: responses over \
             16 KiB that have an `id` and an ETag, because the client can read the resource again, and \
             responses beyond the caller's daily limit `limits.idempotency_bytes_per_day`. The repeated \
             request is then rejected with 409 `response_not_stored`, and the problem contains the IDs from \
             the original response.",
        ))
        .schema(Some(text().pattern(Some(KEY))));
    operation.parameters.get_or_insert_default().push(key.build().into());
    add_problem(operation, &problems::IDEMPOTENCY_IN_PROGRESS);
    add_problem(operation, &problems::IDEMPOTENCY_MISMATCH);
    add_problem(operation, &problems::RESPONSE_NOT_STORED);
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with('2')
        {
            let replayed = HeaderBuilder::new()
                .schema(Some(text().enum_values(Some(["true"]))))
                .description(Some("`true` if an earlier request with the same key had this response."));
            response.headers.insert("Idempotency-Replayed".to_owned(), replayed.build().into());
        }
    }
}
