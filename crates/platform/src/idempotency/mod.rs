//! Signed-in writes, which do what they do once for each `Idempotency-Key`, however often they are sent.
//!
//! The answer is kept in the change's own transaction: a key that is known is a change that was made.

mod answer;
mod document;
mod key;
mod rows;
mod short;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use http::{HeaderName, HeaderValue};
use kith_kernel::{Ctx, Problem, days, problems};
use kith_store::{Error, IntoOutcome, Outcome, Tx};
use serde::Serialize;

use crate::App;
use crate::auth::{Keyring, Principal};
use crate::http::{ApiResult, store_problem};

pub use answer::Answer;
use answer::WrittenAnswer;
pub(crate) use document::declare;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use key::parse as parse_key;
pub use key::{IDEMPOTENCY_KEY, IdempotencyKey};
pub(crate) use key::{is_keyed, refuse};
pub(crate) use short::KeptBytes;

/// Says that an answer is the one that was given before.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long an answer is kept.
const KEPT: Duration = days(1);
/// How many expired answers one call of [`tidy`] removes at most.
pub(crate) const TIDIED: u64 = 1_000;

/// In the extensions of an answer that is kept under its request's key.
#[derive(Clone, Copy, Debug)]
struct TookKey;

/// Why a write under a key was not made.
enum Refused<E> {
    /// The command refused, or the store failed.
    Own(E),
    /// The key was used for another request.
    Reused,
}

/// An answer that was just made and kept, or one that had been.
enum Given {
    Now(WrittenAnswer),
    Again(WrittenAnswer),
}

impl App {
    /// Runs a command of somebody who is signed in, or of a program with an API key, in a transaction, and answers with
    /// what it returns: how every such handler changes anything. If the request has an `Idempotency-Key`, the answer of a success is kept
    /// in that transaction, and given again to whoever sends the same. Otherwise as [`App::write`].
    ///
    /// # Errors
    /// The command's own; 409 if the same request is on its way, 422 if the key was another's.
    pub async fn change<F, O, T>(&self, caller: impl Into<Principal>, run: F) -> ApiResult<Response>
    where
        F: Fn(&Tx<'_>, &Ctx) -> O + Send + 'static,
        O: IntoOutcome<Value = Answer<T>> + 'static,
        O::Error: From<Error> + Into<Problem> + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let caller = caller.into();
        // The body may have come long after the head, at which this was asked first.
        caller.check_again(self).await?;
        let Some(key) = caller.key.clone() else {
            return Ok(self.write(&caller.ctx, run).await?.into_response());
        };
        let caller_id = caller.id();
        let waited_in_vain = Arc::new(AtomicBool::new(false));
        let in_vain = Arc::clone(&waited_in_vain);
        let keyring = Arc::clone(&self.keyring);
        let kept_bytes = Arc::clone(&self.kept_bytes);
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
            in_vain.store(matches!(known, Err(Error::DeadlinePassed)), Ordering::Relaxed);
            match known {
                Err(error) => Outcome::Rollback(Refused::Own(error.into())),
                Ok(Some(kept)) if kept.fingerprint != fingerprint => Outcome::Rollback(Refused::Reused),
                Ok(Some(kept)) => Outcome::Commit(Given::Again(kept.answer)),
                Ok(None) => {
                    let kept = |answer: &WrittenAnswer| kept_bytes.shorten(caller_id, answer);
                    keep(tx, ctx, &keyring, (&id, &fingerprint), kept, run(tx, ctx))
                }
            }
        });
        let mut response = match write.await {
            Ok(Given::Now(answer)) => answer.into_response(),
            Ok(Given::Again(answer)) => replay(answer)?,
            Err(_) if waited_in_vain.load(Ordering::Relaxed) => return Err(in_progress().into()),
            Err(Refused::Reused) => return Err(reused().into()),
            Err(Refused::Own(error)) => return Err(error.into().into()),
        };
        response.extensions_mut().insert(TookKey);
        Ok(response)
    }
}

impl App {
    /// The answer that is kept under the request's key, for handlers that must look at something before the
    /// transaction which the change itself made untrue: a password that was changed.
    ///
    /// # Errors
    /// 422 if the key was another's; the database's.
    pub async fn given_answer(&self, caller: impl Into<Principal>) -> ApiResult<Option<Response>> {
        let caller = caller.into();
        let Some(key) = caller.key.clone() else { return Ok(None) };
        let (id, now) = (key.id(&self.keyring, caller.id()), caller.ctx.now);
        let keyring = Arc::clone(&self.keyring);
        let present = (id, key.fingerprint(&self.keyring, &id));
        let names = [Some(present), key.previous(&self.keyring, caller.id())];
        let kept = self.db.read(move |q| {
            for (id, fingerprint) in names.into_iter().flatten() {
                if let Some(kept) = rows::find(q, &keyring, &id, now - KEPT)? {
                    return Ok(Some((kept, fingerprint)));
                }
            }
            Ok::<_, Error>(None)
        });
        let Some((kept, fingerprint)) = kept.await.map_err(store_problem)? else { return Ok(None) };
        if kept.fingerprint != fingerprint {
            return Err(reused().into());
        }
        Ok(Some(replay(kept.answer)?))
    }
}

fn replay(answer: WrittenAnswer) -> Result<Response, Problem> {
    if short::is_short(&answer) {
        let kept = answer.body.and_then(|body| serde_json::from_slice(&body).ok());
        let detail = "This request was made before, and succeeded. Its answer was too large to be kept: read what it made \
                      by the ids in `kept`.";
        return Err(Problem { kept, ..Problem::new(&problems::ANSWER_NOT_KEPT, detail) });
    }
    let mut response = answer.into_response();
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response.extensions_mut().insert(TookKey);
    Ok(response)
}

/// Tells whoever builds Kith that a handler ignored a key: a write that is not made by [`App::change`], and does not
/// refuse keys either.
pub(crate) fn check_taken(response: &Response, route: &str) {
    if response.status().is_success() && response.extensions().get::<TookKey>().is_none() {
        tracing::error!(route, "a write ignored its Idempotency-Key");
        debug_assert!(false, "{route} ignored an Idempotency-Key: it has to use `App::change`");
    }
}

/// Removes answers that have expired, and says how many: fewer than [`TIDIED`] once it has removed all. They count for
/// nothing before that.
///
/// # Errors
/// The database's.
pub fn tidy(tx: &Tx<'_>, ctx: &Ctx) -> Result<u64, Error> {
    rows::remove(tx, ctx.now - KEPT, TIDIED.cast_signed())
}

/// Waits until no other transaction has the same key, and reads what is kept under it.
fn find(tx: &Tx<'_>, ctx: &Ctx, keyring: &Keyring, id: &[u8; 32]) -> Result<Option<rows::Kept>, Error> {
    // Before any lock of the command's own, so that two transactions never wait for each other.
    tx.lock("idempotency_key", [BASE64.encode(id)])?;
    rows::find(tx, keyring, id, ctx.now - KEPT)
}

/// Keeps what `kept` makes of the answer if the command succeeded: a refusal may be tried again under the same key.
fn keep<T: Serialize, E: From<Error>>(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    (id, fingerprint): (&[u8; 32], &[u8; 32]),
    kept: impl FnOnce(&WrittenAnswer) -> WrittenAnswer,
    made: impl IntoOutcome<Value = Answer<T>, Error = E>,
) -> Outcome<Given, Refused<E>> {
    match made.into_outcome() {
        Outcome::Commit(answer) => {
            let answer = answer.write();
            match rows::keep(tx, ctx, keyring, id, fingerprint, &kept(&answer)) {
                Ok(()) => Outcome::Commit(Given::Now(answer)),
                Err(error) => Outcome::Rollback(error.into()),
            }
        }
        Outcome::CommitRefusal(error) => Outcome::CommitRefusal(Refused::Own(error)),
        Outcome::Rollback(error) => Outcome::Rollback(Refused::Own(error)),
    }
}

impl<E: From<Error>> From<Error> for Refused<E> {
    fn from(error: Error) -> Self {
        Self::Own(error.into())
    }
}

fn in_progress() -> Problem {
    let detail = "The same request is on its way. Send it again in a moment.";
    Problem::new(&problems::IDEMPOTENCY_IN_PROGRESS, detail).retry_after(1)
}

fn reused() -> Problem {
    let detail = "Another path, query or body was sent under this key. Use a new key for a new request.";
    Problem::new(&problems::IDEMPOTENCY_MISMATCH, detail)
}

#[cfg(test)]
mod tests;
