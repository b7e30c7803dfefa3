//! Validation with JSON Schema (draft 2020-12), for declared collections and job payloads. Time, memory and
//! stack of compilation and validation are bounded for every schema and value. Schemas cannot refer to other
//! documents, and `format` is only an annotation.

mod compile;
mod document;
mod evaluate;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod pattern;
mod schema;
mod validation;
mod values;
mod violation;

use std::sync::{Arc, LazyLock};

use kith_kernel::FieldError;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::Value;
use sha2::{Digest, Sha256};

use evaluate::Limits;
use schema::Schema;
pub use validation::{NotValidated, SchemaText, ValidationCache, check_declared};
pub use violation::{Violation, ViolationKind};

/// Maximum length of a schema in bytes, as JSON without whitespace.
const MAX_SCHEMA_BYTES: usize = 32 << 10;
/// Maximum number of steps for validating one request. This many steps take some tens of milliseconds.
const MAX_WORK: u64 = 4_000_000;
/// Limits of [`check`]. It runs on the compute threads, which have large stacks.
const CHECK_LIMITS: Limits = Limits { depth: 1_000, violations: 10 };
/// Maximum depth of nested schemas for [`Validator`], which can run on any thread.
const VALIDATOR_DEPTH: usize = 100;
/// Maximum memory of all cached compiled schemas, in bytes.
const CACHE_BYTES: u64 = 16 << 20;

/// Remaining budget of an evaluation, in steps of a few nanoseconds each.
#[derive(Debug)]
pub struct Work {
    left: u64,
}

/// Error that the budget for validation is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooCostly;

impl Work {
    /// Creates a budget of `steps`.
    pub fn new(steps: u64) -> Self {
        Self { left: steps }
    }

    /// Creates the budget of one request.
    pub fn for_request() -> Self {
        Self::new(MAX_WORK)
    }

    fn charge(&mut self, steps: u64) -> Result<(), TooCostly> {
        self.left = self.left.checked_sub(steps).ok_or(TooCostly)?;
        Ok(())
    }

    /// Charges the steps for reading `bytes` bytes of text.
    fn charge_bytes(&mut self, bytes: usize) -> Result<(), TooCostly> {
        self.charge(bytes as u64 / 16)
    }
}

/// Cache of compiled schemas. The key is the SHA-256 digest of the text of the schema.
static COMPILED: LazyLock<Cache<[u8; 32], Arc<Schema>, ByBytes>> =
    LazyLock::new(|| Cache::with_weighter(200, CACHE_BYTES, ByBytes));

#[derive(Clone)]
struct ByBytes;

impl Weighter<[u8; 32], Arc<Schema>> for ByBytes {
    fn weight(&self, _: &[u8; 32], schema: &Arc<Schema>) -> u64 {
        schema.bytes as u64
    }
}

/// Checks that `text` is a valid schema within the size limits.
///
/// # Errors
/// Returns a [`FieldError`] at `/schema` with the code `too_long` or `not_a_schema`.
pub fn check_schema(text: &str) -> Result<(), FieldError> {
    if text.len() > MAX_SCHEMA_BYTES {
        let detail = format!("At most {MAX_SCHEMA_BYTES} bytes.");
        return Err(FieldError::new("/schema", "too_long", detail));
    }
    compile(text).map(|_| ()).map_err(|detail| FieldError::new("/schema", "not_a_schema", detail))
}

/// Validates `data` against a schema. `at` is the JSON Pointer of `data` in the request.
///
/// # Errors
/// Returns at most ten errors at `at` and below, with the code `not_as_declared` or `schema_too_costly`.
pub fn check(schema: &str, data: &Value, at: &str, work: &mut Work) -> Result<(), Vec<FieldError>> {
    let error = |pointer: &str, code, detail| FieldError::new(format!("{at}{pointer}"), code, detail);
    let schema = compile(schema).map_err(|fault| {
        vec![error("", "not_as_declared", format!("The declared schema is no longer valid: {fault}").into())]
    })?;
    let violations = evaluate::validate(&schema, data, CHECK_LIMITS, work).map_err(|TooCostly| {
        let detail =
            "Validating the value exceeds the work limit. Send a smaller value or simplify the schema.";
        vec![error("", "schema_too_costly", detail.into())]
    })?;
    if violations.is_empty() {
        return Ok(());
    }
    let errors = violations.into_iter().map(|one| error(&one.pointer, "not_as_declared", one.detail));
    Err(errors.collect())
}

/// Compiled schema without a size limit, for schemas that are part of this build.
#[derive(Debug)]
pub struct Validator(Schema);

impl Validator {
    /// Compiles a schema. References can point to any part of `schema`.
    ///
    /// # Errors
    /// Returns a sentence that describes the error and where it is.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        compile::compile(schema, 0).map(Self)
    }

    /// Returns at most `limit` violations of a value. The list is empty if the value is valid.
    ///
    /// # Errors
    /// Returns [`TooCostly`] if `work` is used up, or if more than 100 schemas are nested.
    pub fn violations(
        &self,
        data: &Value,
        limit: usize,
        work: &mut Work,
    ) -> Result<Vec<Violation>, TooCostly> {
        evaluate::validate(&self.0, data, Limits { depth: VALIDATOR_DEPTH, violations: limit }, work)
    }
}

fn compile(text: &str) -> Result<Arc<Schema>, String> {
    let key = Sha256::digest(text).into();
    if let Some(known) = COMPILED.get(&key) {
        return Ok(known);
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let compiled = Arc::new(compile::compile(&schema, text.len())?);
    COMPILED.insert(key, Arc::clone(&compiled));
    Ok(compiled)
}

#[cfg(test)]
mod tests;
