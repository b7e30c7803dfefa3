//! JSON Schemas (draft 2020-12) of declared collections and of jobs' payloads. Own evaluator: whatever the schema and the value, compiling
//! and validating take bounded time, memory and stack. None may refer to anything outside itself; `format` is for people.

mod compile;
mod document;
mod evaluate;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod pattern;
mod schema;
mod validating;
mod values;

use std::sync::{Arc, LazyLock};

use kith_kernel::FieldError;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::Value;
use sha2::{Digest, Sha256};

use schema::Schema;
pub use validating::{AwaitsValidation, SchemaText, Validated, check_declared};

/// Longest schema, as JSON without white space.
const MAX_SCHEMA_BYTES: usize = 32 << 10;
/// Steps that validating one request may take: some tens of milliseconds.
const MAX_WORK: u64 = 4_000_000;
/// Memory that compiled schemas may take together.
const CACHE_BYTES: u64 = 16 << 20;

/// What an evaluation may still cost, in steps of some nanoseconds each.
#[derive(Debug)]
pub struct Work {
    left: u64,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooCostly;

impl Work {
    /// A budget of `steps`.
    pub fn new(steps: u64) -> Self {
        Self { left: steps }
    }

    /// The budget of one request.
    pub fn of_request() -> Self {
        Self::new(MAX_WORK)
    }

    fn charge(&mut self, steps: u64) -> Result<(), TooCostly> {
        self.left = self.left.checked_sub(steps).ok_or(TooCostly)?;
        Ok(())
    }

    /// Charges for looking through a text.
    fn charge_bytes(&mut self, bytes: usize) -> Result<(), TooCostly> {
        self.charge(bytes as u64 / 16)
    }
}

/// By a hash of the text, of which each is a pure function.
static COMPILED: LazyLock<Cache<[u8; 32], Arc<Schema>, ByBytes>> =
    LazyLock::new(|| Cache::with_weighter(200, CACHE_BYTES, ByBytes));

#[derive(Clone)]
struct ByBytes;

impl Weighter<[u8; 32], Arc<Schema>> for ByBytes {
    fn weight(&self, _: &[u8; 32], schema: &Arc<Schema>) -> u64 {
        schema.bytes as u64
    }
}

/// Whether `text` is a schema that can be used.
///
/// # Errors
/// What is wrong with it, at `/schema`.
pub fn check_schema(text: &str) -> Result<(), FieldError> {
    if text.len() > MAX_SCHEMA_BYTES {
        let detail = format!("At most {MAX_SCHEMA_BYTES} bytes.");
        return Err(FieldError::new("/schema", "too_long", detail));
    }
    compile(text).map(|_| ()).map_err(|detail| FieldError::new("/schema", "not_a_schema", detail))
}

/// Whether `data`, which stands at `at`, fits the schema.
///
/// # Errors
/// The first faults, at `at` and below.
pub fn check(schema: &str, data: &Value, at: &str, work: &mut Work) -> Result<(), Vec<FieldError>> {
    match compile(schema) {
        Ok(schema) => evaluate::validate(&schema, data, at, work),
        Err(fault) => {
            let detail = format!("What is declared of it can no longer be used: {fault}");
            Err(vec![FieldError::new(at.to_owned(), "not_as_declared", detail)])
        }
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
