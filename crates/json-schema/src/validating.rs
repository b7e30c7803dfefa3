//! Validates before transactions, on the threads for computations. A transaction only compares hashes: it refuses what was not validated
//! against the schema that holds in it, and is then run again after that was done.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use kith_kernel::{Ctx, FieldError, Problem, StoredJson, problems};
use kith_platform::auth::Principal;
use kith_platform::{Answer, ApiResult, App};
use kith_store::{Error, Tx};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Work, check, check_schema};

/// Runs of a transaction whose schema changes each time.
const MAX_ROUNDS: usize = 4;

/// The schema that holds is not the one that the value was validated against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the value has not been validated yet")]
pub struct AwaitsValidation;

impl From<AwaitsValidation> for Problem {
    fn from(_: AwaitsValidation) -> Self {
        let detail = "The schema is being changed at this moment. Send the request again.";
        Self::new(&problems::UNAVAILABLE, detail).retry_after(1)
    }
}

/// Hash of a schema and a value.
type Pair = [u8; 32];

/// The text of a declared schema, and its hash.
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
    /// The hash of this schema and `data`.
    fn pair(&self, data: &str) -> Pair {
        Sha256::new().chain_update(self.hash).chain_update(data).finalize().into()
    }
}

/// Pairs of schemas and values that were found to fit, and those that a transaction has asked for in vain.
#[derive(Clone, Debug, Default)]
pub struct Validated {
    known: Arc<HashSet<Pair>>,
    missing: Arc<Mutex<HashMap<Pair, Missing>>>,
}

#[derive(Debug)]
struct Missing {
    schema: SchemaText,
    data: String,
    at: String,
}

impl Validated {
    /// Requires that `data`, which stands at `at` in the request, was validated against `schema`.
    ///
    /// # Errors
    /// [`AwaitsValidation`] if it was not: the transaction has to be rolled back.
    pub fn require(&self, schema: &SchemaText, data: &Value, at: &str) -> Result<(), AwaitsValidation> {
        let data = data.to_string();
        let pair = schema.pair(&data);
        if self.known.contains(&pair) {
            return Ok(());
        }
        let missing = Missing { schema: schema.clone(), data, at: at.to_owned() };
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(pair, missing);
        Err(AwaitsValidation)
    }

    fn take_missing(&self) -> HashMap<Pair, Missing> {
        std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Validates all that is missing, within the budget of one request.
fn validate(missing: &HashMap<Pair, Missing>) -> Result<(), Vec<FieldError>> {
    let mut work = Work::of_request();
    let mut ordered: Vec<_> = missing.values().collect();
    ordered.sort_unstable_by_key(|one| (one.at.len(), &one.at));
    ordered.into_iter().try_for_each(|one| {
        // One tree at a time: it takes many times the memory of its text.
        let data = serde_json::from_str(&one.data).unwrap_or_default();
        check(&one.schema.text, &data, &one.at, &mut work)
    })
}

/// Runs a command as [`App::change`] does, with values validated before its transaction.
///
/// # Errors
/// As for [`App::change`]; 422 for what does not fit, 503 if too many others wait to be validated.
pub async fn change_validated<F, T, E>(app: &App, caller: impl Into<Principal>, run: F) -> ApiResult<Response>
where
    F: Fn(&Tx<'_>, &Ctx, &Validated) -> Result<Answer<T>, E> + Send + Sync + 'static,
    E: From<Error> + Into<Problem> + Send + 'static,
    T: Serialize + Send + 'static,
{
    let (caller, run) = (caller.into(), Arc::new(run));
    let mut validated = Validated::default();
    for _ in 0..MAX_ROUNDS {
        let (known, run) = (validated.clone(), Arc::clone(&run));
        let answer = app.change(caller.clone(), move |tx, ctx| run(tx, ctx, &known)).await;
        let missing = validated.take_missing();
        if answer.is_ok() || missing.is_empty() {
            return answer;
        }
        let task = move || validate(&missing).map(|()| missing.into_keys().collect::<Vec<_>>());
        let fitting =
            app.compute.run(caller.id(), task).await.map_err(Problem::from)?.map_err(Problem::invalid)?;
        validated.known = Arc::new(validated.known.iter().copied().chain(fitting).collect());
    }
    Err(Problem::from(AwaitsValidation).into())
}

/// Whether a schema that is to be declared can be used.
///
/// # Errors
/// 422 if it cannot, 503 if too many others wait.
pub async fn check_declared(app: &App, caller: &Principal, schema: Option<&StoredJson>) -> ApiResult<()> {
    let Some(text) = schema.map(|schema| schema.as_str().to_owned()) else { return Ok(()) };
    let checked = app.compute.run(caller.id(), move || check_schema(&text)).await.map_err(Problem::from)?;
    Ok(checked.map_err(|fault| Problem::invalid(vec![fault]))?)
}
