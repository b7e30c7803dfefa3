//! Authenticated writes with `Idempotency-Key`. Each write is performed only once, even if its request is
//! repeated.
//!
//! The response is stored in the same transaction as the write, so every stored key belongs to a committed
//! write.

mod document;
mod key;
mod reduced;
mod response;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use http::{HeaderName, HeaderValue};
use kith_kernel::{Ctx, Problem, days, problems};
use kith_store::{Error, IntoTxOutcome, Tx, TxOutcome};
use serde::Serialize;

use crate::App;
use crate::auth::{Keyring, Principal};
use crate::http::{ApiResult, store_problem};

pub(crate) use document::declare;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use key::parse as parse_key;
pub use key::{IDEMPOTENCY_KEY, IdempotencyKey};
pub(crate) use key::{is_keyed, refuse};
pub(crate) use reduced::StoredBytesLimiter;
use response::SerializedResponse;
pub use response::WriteResponse;

/// Response header that marks a replayed response.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Time for which a response is stored.
const RETENTION: Duration = days(1);
/// Maximum number of expired responses that one call of [`remove_expired`] removes.
pub(crate) const MAX_REMOVED_ROWS: u64 = 1_000;

/// Response extension that marks that the handler applied the request's key.
#[derive(Clone, Copy, Debug)]
struct KeyApplied;

/// Command of a handler, with a type that is the same for all handlers.
type Command = Box<dyn Fn(&Tx<'_>, &Ctx) -> TxOutcome<UnserializedResponse, ChangeError> + Send>;

/// Function that serializes the response. It is called in the transaction if the response is stored,
/// otherwise after it.
type UnserializedResponse = Box<dyn FnOnce() -> SerializedResponse + Send>;

/// Reason why a write was not performed.
enum ChangeError {
    /// The command returned an error. It is converted after the transaction, because the conversion can write
    /// to the log.
    Own(Box<dyn FnOnce() -> Problem + Send>),
    /// The store returned an error.
    Store(Error),
    /// The key was already used with a different request.
    KeyReused,
}

impl ChangeError {
    fn into_problem(self, problem: fn(Error) -> Problem) -> Problem {
        match self {
            Self::Own(own) => own(),
            Self::Store(error) => problem(error),
            Self::KeyReused => reused(),
        }
    }
}

/// Response of the command that has just run, or stored response of an earlier request.
enum ChangeResponse {
    New(SerializedResponse),
    Replayed(SerializedResponse),
}

impl App {
    /// Runs a command of an authenticated caller in a transaction and returns its response. All authenticated
    /// handlers that write call this method. If the request has an `Idempotency-Key`, a successful response
    /// is stored in the same transaction. If the request is repeated, the stored response is returned and the
    /// command does not run again. In all other respects, this method works like [`App::write`].
    ///
    /// # Errors
    /// Returns the error of the command, or a 401 problem if the credential is no longer valid. Returns 409
    /// if the same request is in progress, or if its stored response contains only ids. Returns 422 if the
    /// key was used with a different request.
    pub async fn change<F, O, T>(&self, caller: impl Into<Principal>, run: F) -> ApiResult<Response>
    where
        F: Fn(&Tx<'_>, &Ctx) -> O + Send + 'static,
        O: IntoTxOutcome<Value = WriteResponse<T>> + 'static,
        O::Error: From<Error> + Into<Problem> + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let command = move |tx: &Tx<'_>, ctx: &Ctx| match run(tx, ctx).into_outcome() {
            TxOutcome::Commit(answer) => {
                TxOutcome::Commit(Box::new(move || answer.write()) as UnserializedResponse)
            }
            TxOutcome::CommitRefusal(error) => {
                TxOutcome::CommitRefusal(ChangeError::Own(Box::new(move || error.into())))
            }
            TxOutcome::Rollback(error) => {
                TxOutcome::Rollback(ChangeError::Own(Box::new(move || error.into())))
            }
        };
        let problem = |error: Error| O::Error::from(error).into();
        self.change_by(caller.into(), Box::new(command), problem).await
    }

    /// Performs [`App::change`]. It is not generic, so that it is compiled only once. `problem` converts
    /// errors of the store.
    async fn change_by(
        &self,
        caller: Principal,
        command: Command,
        problem: fn(Error) -> Problem,
    ) -> ApiResult<Response> {
        // The caller is checked again, because the body may have arrived long after the request headers.
        caller.reauthenticate(self).await?;
        let Some(key) = caller.key.clone() else {
            let serialize = self.write(&caller.ctx, command).await;
            let serialize = serialize.map_err(|refused| refused.into_problem(problem))?;
            return Ok(serialize().into_response());
        };
        let caller_id = caller.id();
        let wait_timed_out = Arc::new(AtomicBool::new(false));
        let noted_timeout = Arc::clone(&wait_timed_out);
        let keyring = Arc::clone(&self.keyring);
        let stored_bytes = Arc::clone(&self.stored_bytes);
        let write = self.write(&caller.ctx, move |tx, ctx| {
            let id = key.id(&keyring, caller_id);
            let mut fingerprint = key.fingerprint(&keyring, &id);
            let mut known = find(tx, ctx, &keyring, &id);
            if let (Ok(None), Some((id, previous))) = (&known, key.previous(&keyring, caller_id)) {
                known = find(tx, ctx, &keyring, &id);
                if matches!(known, Ok(Some(_))) {
                    fingerprint = previous;
                }
            }
            noted_timeout.store(matches!(known, Err(Error::DeadlinePassed)), Ordering::Relaxed);
            match known {
                Err(error) => TxOutcome::Rollback(error.into()),
                Ok(Some(stored)) if stored.fingerprint != fingerprint => {
                    TxOutcome::Rollback(ChangeError::KeyReused)
                }
                Ok(Some(stored)) => TxOutcome::Commit(ChangeResponse::Replayed(stored.answer)),
                Ok(None) => {
                    let stored = |answer: &SerializedResponse| stored_bytes.reduce(caller_id, answer);
                    store_response(tx, ctx, &keyring, (&id, &fingerprint), stored, command(tx, ctx))
                }
            }
        });
        let mut response = match write.await {
            Ok(ChangeResponse::New(answer)) => answer.into_response(),
            Ok(ChangeResponse::Replayed(answer)) => replay(answer)?,
            Err(_) if wait_timed_out.load(Ordering::Relaxed) => return Err(in_progress().into()),
            Err(refused) => return Err(refused.into_problem(problem).into()),
        };
        response.extensions_mut().insert(KeyApplied);
        Ok(response)
    }
}

impl App {
    /// Returns the response that is stored under the request's key, if there is one. Call it in handlers that
    /// check a condition before the transaction. The original write may have changed that condition, such as
    /// the current password.
    ///
    /// # Errors
    /// Returns 422 if the key was used with a different request, 409 if the stored response contains only
    /// ids, and a problem of the store if the database fails.
    pub async fn stored_response(&self, caller: impl Into<Principal>) -> ApiResult<Option<Response>> {
        let caller = caller.into();
        let Some(key) = caller.key.clone() else { return Ok(None) };
        let (id, now) = (key.id(&self.keyring, caller.id()), caller.ctx.now);
        let keyring = Arc::clone(&self.keyring);
        let present = (id, key.fingerprint(&self.keyring, &id));
        let names = [Some(present), key.previous(&self.keyring, caller.id())];
        let stored = self.db.read(move |q| {
            for (id, fingerprint) in names.into_iter().flatten() {
                if let Some(stored) = rows::find(q, &keyring, &id, now - RETENTION)? {
                    return Ok(Some((stored, fingerprint)));
                }
            }
            Ok::<_, Error>(None)
        });
        let Some((stored, fingerprint)) = stored.await.map_err(store_problem)? else { return Ok(None) };
        if stored.fingerprint != fingerprint {
            return Err(reused().into());
        }
        Ok(Some(replay(stored.answer)?))
    }
}

fn replay(answer: SerializedResponse) -> Result<Response, Problem> {
    if reduced::is_reduced(&answer) {
        let created_ids = answer.body.and_then(|body| serde_json::from_slice(&body).ok());
        let detail = "This request has already succeeded, but its response was not stored. `created_ids` contains \
                      the IDs of its objects; get them by these IDs.";
        return Err(Problem { created_ids, ..Problem::new(&problems::RESPONSE_NOT_STORED, detail) });
    }
    let mut response = answer.into_response();
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response.extensions_mut().insert(KeyApplied);
    Ok(response)
}

/// Detects handlers that ignore an idempotency key: they neither call [`App::change`] nor reject keys. Logs
/// an error, and panics in debug builds.
pub(crate) fn check_key_applied(response: &Response, route: &str) {
    if response.status().is_success() && response.extensions().get::<KeyApplied>().is_none() {
        tracing::error!(route, "a handler ignored the Idempotency-Key of a write");
        debug_assert!(false, "{route} ignored an Idempotency-Key: it must use `App::change`");
    }
}

/// Removes expired responses and returns their number. If it is less than [`MAX_REMOVED_ROWS`], no expired
/// response remains. Expired responses are never replayed, even if they are not removed yet.
///
/// # Errors
/// Returns the store's error if the database fails.
pub fn remove_expired(tx: &Tx<'_>, ctx: &Ctx) -> Result<u64, Error> {
    rows::remove(tx, ctx.now - RETENTION, MAX_REMOVED_ROWS.cast_signed())
}

/// Waits until no other transaction has locked the key. Returns the response that is stored under the key.
fn find(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    id: &[u8; 32],
) -> Result<Option<rows::StoredResponse>, Error> {
    // The key is locked before the command takes any lock, so that two transactions cannot deadlock.
    tx.lock("idempotency_key", [BASE64.encode(id)])?;
    rows::find(tx, keyring, id, ctx.now - RETENTION)
}

/// If the command succeeded, stores the response in the form that `reduce` returns. After an error nothing is
/// stored, so the request can be retried with the same key.
fn store_response(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    (id, fingerprint): (&[u8; 32], &[u8; 32]),
    reduce: impl FnOnce(&SerializedResponse) -> SerializedResponse,
    made: TxOutcome<UnserializedResponse, ChangeError>,
) -> TxOutcome<ChangeResponse, ChangeError> {
    match made {
        TxOutcome::Commit(serialize) => {
            let answer = serialize();
            match rows::store_response(tx, ctx, keyring, id, fingerprint, &reduce(&answer)) {
                Ok(()) => TxOutcome::Commit(ChangeResponse::New(answer)),
                Err(error) => TxOutcome::Rollback(error.into()),
            }
        }
        TxOutcome::CommitRefusal(refused) => TxOutcome::CommitRefusal(refused),
        TxOutcome::Rollback(refused) => TxOutcome::Rollback(refused),
    }
}

impl From<Error> for ChangeError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

fn in_progress() -> Problem {
    let detail = "The same request is being processed. Retry in a moment.";
    Problem::new(&problems::IDEMPOTENCY_IN_PROGRESS, detail).retry_after(1)
}

fn reused() -> Problem {
    let detail = "This key was used with another path, query or body. Use a new key for a new request.";
    Problem::new(&problems::IDEMPOTENCY_MISMATCH, detail)
}

#[cfg(test)]
mod tests;
