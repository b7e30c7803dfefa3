//! Stores the head of the audit chain, which is its last link, outside the database. Checks that the chain
//! still contains the stored head. The head is written to a file in the data folder every few seconds, and to
//! the log and an event every hour.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, seconds};
use kith_store::{AuditChain, AuditHead, AuditHeadFile, EngineKind, Error, HeadComparison, NewEvent, Store};
use serde_json::json;
use thiserror::Error as ThisError;
use tokio::time::MissedTickBehavior;

use crate::App;

/// Event that contains the current head, for consumers that archive events.
pub(crate) const HEAD_NOTED: &str = "audit.head_noted";
/// Event that an operator accepted a chain that does not contain the stored head.
pub(crate) const HEAD_ACCEPTED: &str = "audit.head_accepted";

/// Interval at which the chain is compared and the file is updated. If an entry is removed within this time
/// after it was written, this is not detected.
const INTERVAL: Duration = seconds(5);
/// Number of intervals between two publications of the head: one hour.
const INTERVALS_PER_NOTE: u32 = 720;

/// Head of the audit chain that was stored in a file for this server's database.
pub struct RememberedHead {
    file: AuditHeadFile,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outcome: HeadOutcome,
    /// Head that was last published in the log and in an event.
    published: Option<AuditHead>,
}

/// Result of the latest comparison of the chain with the stored head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HeadOutcome {
    /// The chain has not been compared yet.
    #[default]
    Unknown,
    /// The chain contains the stored head.
    Contained,
    /// The chain does not contain the stored head. The text is the reason.
    Missing(String),
    /// The file cannot be read or written. The text is the error.
    Unreadable(String),
}

/// Error of comparing or storing a head.
#[derive(Debug, ThisError)]
pub enum HeadError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Path of the file.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// The chain does not contain a stored or expected head, or the chain cannot be trusted for another
    /// reason. The text explains the reason.
    #[error("{0}")]
    Missing(String),
}

impl fmt::Debug for RememberedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RememberedHead").field(&self.file).finish()
    }
}

impl RememberedHead {
    /// Creates the state for the head that is stored in `file`.
    pub fn new(file: AuditHeadFile) -> Self {
        Self { file, state: Mutex::default() }
    }

    /// Returns the file in which the head is stored.
    pub fn file(&self) -> &AuditHeadFile {
        &self.file
    }

    /// Returns the result of the latest comparison.
    pub fn outcome(&self) -> HeadOutcome {
        self.state().outcome.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares the chain with the file, then writes the current head to the file. If the chain does not
    /// contain the stored head, logs an error and leaves the file unchanged until an operator accepts the
    /// chain.
    ///
    /// # Errors
    /// Returns [`HeadError::Store`] if the database cannot be read. All other errors are reported by
    /// [`RememberedHead::outcome`].
    pub async fn compare_and_remember(&self, db: &Store) -> Result<(), HeadError> {
        let outcome = match self.compare_and_write(db).await {
            Ok(()) => HeadOutcome::Contained,
            Err(HeadError::Missing(fault)) => HeadOutcome::Missing(fault),
            Err(error @ HeadError::File { .. }) => HeadOutcome::Unreadable(error.to_string()),
            Err(error @ HeadError::Store(_)) => return Err(error),
        };
        let before = std::mem::replace(&mut self.state().outcome, outcome.clone());
        if before != outcome {
            match outcome {
                HeadOutcome::Missing(fault) => {
                    tracing::error!(
                        fault,
                        "the audit log was changed, truncated or restored; run `kith audit verify`"
                    );
                }
                HeadOutcome::Unreadable(error) => {
                    tracing::warn!(error, "cannot write the head of the audit chain to the data folder");
                }
                HeadOutcome::Contained | HeadOutcome::Unknown => {}
            }
        }
        Ok(())
    }

    async fn compare_and_write(&self, db: &Store) -> Result<(), HeadError> {
        let remembered = read(&self.file).await?;
        let current = check(db, remembered).await?;
        if remembered == Some(current) { Ok(()) } else { write(&self.file, current).await }
    }
}

async fn read(file: &AuditHeadFile) -> Result<Option<AuditHead>, HeadError> {
    let own = file.clone();
    on_disk(file, move || own.read()).await
}

async fn write(file: &AuditHeadFile, head: AuditHead) -> Result<(), HeadError> {
    let own = file.clone();
    on_disk(file, move || own.write(&head)).await
}

async fn on_disk<T: Send + 'static>(
    file: &AuditHeadFile,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, HeadError> {
    let done = tokio::task::spawn_blocking(run).await.map_err(io::Error::other).flatten();
    done.map_err(|source| HeadError::File { path: file.path().display().to_string(), source })
}

/// Returns the current head if the chain contains `remembered`.
async fn check(db: &Store, remembered: Option<AuditHead>) -> Result<AuditHead, HeadError> {
    let Some(remembered) = remembered else { return Ok(db.audit_head().await?) };
    match db.compare_audit_head(remembered).await? {
        HeadComparison::Contained { current } => Ok(current),
        other => Err(HeadError::Missing(other.fault(&remembered).unwrap_or_default())),
    }
}

/// Recomputes the whole chain, and checks that it contains the head in `file` and the head `expected`. At
/// least one of these heads is required unless the chain is empty. The first `max_unkeyed` links may be
/// computed without a key.
///
/// # Errors
/// Returns [`HeadError::Store`] with the link at which the chain breaks, and [`HeadError::File`] if the file
/// cannot be read. Returns [`HeadError::Missing`] if the chain does not contain a head or cannot be trusted
/// for another reason.
pub async fn verify(
    db: &Store,
    file: &AuditHeadFile,
    expected: Option<AuditHead>,
    max_unkeyed: i64,
) -> Result<AuditChain, HeadError> {
    let remembered = read(file).await?;
    let chain = db.verify_audit().await?;
    let head = AuditHead { links: chain.links, hash: chain.head };
    if chain.unkeyed > max_unkeyed {
        return Err(HeadError::Missing(format!(
            "{} of {} links are sealed without a key, so anyone with write access to the database can forge \
             them. If these entries are from a version without keys, allow them with `--allow-unkeyed {}`",
            chain.unkeyed, chain.links, chain.unkeyed
        )));
    }
    if remembered.is_none() && expected.is_none() && chain.links > 0 {
        return Err(HeadError::Missing(format!(
            "{} links are consistent, but {} has no head to compare them with, so removed entries or a \
             replaced chain would not be detected. Pass the head of an earlier run (`--expect-head`); the \
             chain ends at {head}",
            chain.links,
            file.path().display()
        )));
    }
    if let Some(head) = expected.filter(|head| head.links < chain.archived.links) {
        return Err(HeadError::Missing(format!(
            "link {} was archived: `kith audit verify --archive FILE` prints where each archive ends",
            head.links
        )));
    }
    for head in [remembered, expected] {
        check(db, head).await?;
    }
    Ok(chain)
}

/// Compares and stores the head now, then every few seconds until the server stops.
///
/// # Errors
/// Returns [`HeadError::Store`] if the database cannot be read. The periodic comparison starts even in this
/// case.
pub async fn start(app: &App) -> Result<(), HeadError> {
    let compared = app.audit_head.compare_and_remember(&app.db).await;
    // The task starts even after an error, because the database may become available later.
    tokio::spawn(run(app.clone()));
    compared
}

async fn run(app: App) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut since_noted = 0;
    while app.stop.or(ticks.tick()).await.is_some() {
        let mut kept = app.audit_head.compare_and_remember(&app.db).await;
        since_noted = (since_noted + 1) % INTERVALS_PER_NOTE;
        // If the chain was truncated, its head must not become the new reference.
        let is_contained = kept.is_ok() && app.audit_head.outcome() == HeadOutcome::Contained;
        if since_noted == 0 && is_sealer(&app) && is_contained {
            kept = publish_head(&app).await.map_err(HeadError::Store);
        }
        if let Err(error) = kept {
            tracing::debug!(%error, "cannot compare the audit chain at the moment");
        }
    }
}

/// Returns true if this process adds entries to the audit chain. Exactly one node of a deployment does.
fn is_sealer(app: &App) -> bool {
    app.db.kind() == EngineKind::Sqlite || app.db.stats().sequencer == 1
}

/// Writes the head to the log and to an event, if it has changed since it was last published.
async fn publish_head(app: &App) -> Result<(), Error> {
    let head = app.db.audit_head().await?;
    if app.audit_head.state().published.replace(head) == Some(head) {
        return Ok(());
    }
    tracing::info!(audit_head = %head, "the audit chain ends here; `kith audit verify --expect-head` compares it later");
    let ctx = app.system_ctx("audit");
    app.write(&ctx, move |tx, ctx| {
        tx.emit(ctx, event(HEAD_NOTED, json!({ "head": head.to_string() })));
        Ok::<_, Error>(())
    })
    .await
}

pub(super) fn event(kind: &'static str, payload: serde_json::Value) -> NewEvent {
    NewEvent { kind, subject: Uuid::nil(), recipients: vec![], payload }
}

/// Accepts the current chain after an operator restored a backup on purpose. Stores the head of the chain.
/// Also writes an audit entry with the previously stored head, and an event with both heads.
///
/// # Errors
/// Returns [`HeadError::Store`] if the chain is broken or the database fails, and [`HeadError::File`] if the
/// file cannot be written. A broken chain is not accepted.
pub async fn accept(app: &App, ctx: &Ctx) -> Result<AuditHead, HeadError> {
    app.db.verify_audit().await?;
    let file = &app.audit_head.file;
    // An unreadable file is replaced, too.
    let (remembered, current) = (read(file).await.unwrap_or_default(), app.db.audit_head().await?);
    let remembered = remembered.map_or_else(|| "none".to_owned(), |head| head.to_string());
    let payload = json!({ "remembered": remembered, "accepted": current.to_string() });
    app.write(ctx, move |tx, ctx| {
        tx.audit(ctx, HEAD_ACCEPTED, &remembered);
        tx.emit(ctx, event(HEAD_ACCEPTED, payload.clone()));
        Ok::<_, Error>(())
    })
    .await?;
    // The file is written after the audit entry, so that the audit log always records the head that is
    // replaced.
    write(file, current).await?;
    app.audit_head.compare_and_remember(&app.db).await?;
    Ok(app.db.audit_head().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;

    async fn write_entries(test: &TestServer, entries: usize) {
        for _ in 0..entries {
            let ctx = test.app.system_ctx("test");
            let written: Result<(), Error> = test
                .app
                .write(&ctx, |tx, ctx| {
                    tx.audit(ctx, "thing.done", "a-thing");
                    Ok(())
                })
                .await;
            written.unwrap();
        }
    }

    async fn exec(test: &TestServer, sql: &'static str) {
        let done: Result<u64, Error> = test.app.db.write(move |tx| tx.exec(sql, &[])).await;
        done.unwrap();
    }

    #[tokio::test]
    async fn remembered_head_is_kept_when_chain_is_truncated() {
        let test = TestServer::start(|_| {}).await;
        let (db, head) = (&test.app.db, &test.app.audit_head);
        assert_eq!(head.outcome(), HeadOutcome::Unknown);
        for _ in 0..2 {
            write_entries(&test, 2).await;
            head.compare_and_remember(db).await.unwrap();
            assert_eq!(head.outcome(), HeadOutcome::Contained);
            assert_eq!(head.file.read().unwrap(), Some(db.audit_head().await.unwrap()));
        }
        let remembered = head.file.read().unwrap();
        exec(&test, "DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE n > 3)")
            .await;
        exec(&test, "DELETE FROM audit_seals WHERE n > 3").await;
        for _ in 0..2 {
            head.compare_and_remember(db).await.unwrap();
            assert!(matches!(head.outcome(), HeadOutcome::Missing(_)), "{:?}", head.outcome());
            assert_eq!(head.file.read().unwrap(), remembered, "the stored head is not overwritten");
        }
        verify(db, &head.file, None, 0).await.unwrap_err();
        assert_eq!(test.app.db.verify_audit().await.unwrap().links, 3);
    }

    /// Regression: a chain that was recomputed without a key was accepted if no head was stored.
    #[tokio::test]
    async fn chain_cannot_be_verified_without_known_head() {
        let test = TestServer::start(|_| {}).await;
        let (db, file) = (&test.app.db, &test.app.audit_head.file);
        write_entries(&test, 2).await;
        let refused = verify(db, file, None, 0).await.unwrap_err().to_string();
        assert!(refused.contains("no head to compare them with"), "{refused}");
        let head = db.audit_head().await.unwrap();
        assert_eq!(verify(db, file, Some(head), 0).await.unwrap().links, 2);
        test.app.audit_head.compare_and_remember(db).await.unwrap();
        assert_eq!(verify(db, file, None, 0).await.unwrap().links, 2);
    }

    #[tokio::test]
    async fn expected_head_must_be_in_the_chain() {
        let test = TestServer::start(|_| {}).await;
        write_entries(&test, 1).await;
        let early = test.app.db.audit_head().await.unwrap();
        write_entries(&test, 1).await;
        let verify = async |head| verify(&test.app.db, &test.app.audit_head.file, Some(head), 0).await;
        assert_eq!(verify(early).await.unwrap().links, 2);
        let wrong = AuditHead { hash: [7; 32], ..early };
        assert!(matches!(verify(wrong).await, Err(HeadError::Missing(_))));
        assert!(matches!(verify(AuditHead { links: 3, ..early }).await, Err(HeadError::Missing(_))));
    }

    #[tokio::test]
    async fn damaged_file_is_reported_and_replaced_only_when_accepted() {
        let test = TestServer::start(|_| {}).await;
        let head = &test.app.audit_head;
        write_entries(&test, 1).await;
        std::fs::write(head.file.path(), "nonsense").unwrap();
        head.compare_and_remember(&test.app.db).await.unwrap();
        assert!(matches!(head.outcome(), HeadOutcome::Unreadable(_)), "{:?}", head.outcome());
        assert_eq!(std::fs::read_to_string(head.file.path()).unwrap(), "nonsense");
        let accepted = accept(&test.app, &test.app.system_ctx("test")).await.unwrap();
        assert_eq!(accepted.links, 2, "accepting a new head adds an audit entry");
        assert_eq!((head.outcome(), head.file.read().unwrap()), (HeadOutcome::Contained, Some(accepted)));
    }

    #[tokio::test]
    async fn head_is_published_once_per_change() {
        let test = TestServer::start(|_| {}).await;
        let noted = async || {
            let events = test.app.db.events_after(0, 100).await.unwrap();
            events.into_iter().filter(|one| one.event.kind == HEAD_NOTED).count()
        };
        for (entries, expected) in [(1, 1), (0, 1), (1, 2)] {
            write_entries(&test, entries).await;
            publish_head(&test.app).await.unwrap();
            assert_eq!(noted().await, expected);
        }
    }
}
