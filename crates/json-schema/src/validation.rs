//! Validates values before the transaction, on the compute threads. A transaction only compares hashes. If a
//! value has not been validated against the current schema, the transaction is rolled back and runs again
//! after the validation.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use kith_kernel::{FieldError, Precomputed, Problem, StoredJson, problems};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Work, check, check_schema};

/// Error that a value has not been validated against the current schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the value has not been validated yet")]
pub struct NotValidated;

impl From<NotValidated> for Problem {
    fn from(_: NotValidated) -> Self {
        let detail = "The schema is being changed. Retry the request.";
        Self::new(&problems::UNAVAILABLE, detail).retry_after(1)
    }
}

/// Hash of a schema and a value together.
type Pair = [u8; 32];

/// Text of a declared schema, with the hash of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaText {
    text: Arc<str>,
    hash: [u8; 32],
}

impl From<String> for SchemaText {
    fn from(text: String) -> Self {
        Self { hash: Sha256::digest(&text).into(), text: text.into() }
    }
}

impl SchemaText {
    /// Returns the hash of this schema and the value `data` together.
    fn pair(&self, data: &str) -> Pair {
        Sha256::new().chain_update(self.hash).chain_update(data).finalize().into()
    }
}

/// Pairs of schema and value that have been validated, and pairs that transactions found missing.
#[derive(Clone, Debug, Default)]
pub struct ValidationCache {
    known: Arc<HashSet<Pair>>,
    missing: Arc<Mutex<HashMap<Pair, Missing>>>,
}

#[derive(Debug)]
struct Missing {
    schema: SchemaText,
    data: String,
    at: String,
}

impl ValidationCache {
    /// Checks that `data` has been validated against `schema`. If not, records the pair as missing. `at` is
    /// the JSON Pointer of `data` in the request.
    ///
    /// # Errors
    /// Returns [`NotValidated`] if the pair has not been validated. The caller must then roll back the
    /// transaction.
    pub fn require(&self, schema: &SchemaText, data: &Value, at: &str) -> Result<(), NotValidated> {
        let data = data.to_string();
        let pair = schema.pair(&data);
        if self.known.contains(&pair) {
            return Ok(());
        }
        let missing = Missing { schema: schema.clone(), data, at: at.to_owned() };
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(pair, missing);
        Err(NotValidated)
    }
}

/// Validates all missing pairs within the budget of one request.
fn validate(missing: &HashMap<Pair, Missing>) -> Result<(), Vec<FieldError>> {
    let mut work = Work::for_request();
    let mut ordered: Vec<_> = missing.values().collect();
    ordered.sort_unstable_by_key(|one| (one.at.len(), &one.at));
    ordered.into_iter().try_for_each(|one| {
        // Parse one value at a time, because a parsed value needs many times the memory of its text.
        let data = serde_json::from_str(&one.data).unwrap_or_default();
        check(&one.schema.text, &data, &one.at, &mut work)
    })
}

impl Precomputed for ValidationCache {
    fn take_missing(&self) -> Option<impl FnOnce() -> Result<Self, Vec<FieldError>> + Send + 'static> {
        let missing = std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner));
        let known = Arc::clone(&self.known);
        if missing.is_empty() {
            return None;
        }
        Some(move || {
            validate(&missing)?;
            let known = known.iter().copied().chain(missing.into_keys()).collect();
            Ok(Self { known: Arc::new(known), ..Self::default() })
        })
    }
}

/// Checks the schema of a new declaration. Call it on the compute threads only.
///
/// # Errors
/// Returns a [`FieldError`] at `/schema` if the schema is invalid or too long.
pub fn check_declared(schema: &StoredJson) -> Result<(), Vec<FieldError>> {
    check_schema(schema.as_str()).map_err(|fault| vec![fault])
}
