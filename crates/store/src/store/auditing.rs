//! The audit chain: recomputed, compared, and its oldest links archived.

use std::sync::Arc;

use kith_kernel::Timestamp;

use super::{Engine, Store};
use crate::audit::{self, AuditChain, Verified};
use crate::audit_archive::{self, ArchivedLink};
use crate::audit_head::{self, AuditHead, HeadComparison};
use crate::options::StoreOptions;
use crate::{AuditTail, Error, OpenError, facts, migrate};

/// Links removed in one transaction.
const REMOVED_AT_ONCE: i64 = 1_000;

impl Store {
    /// Recomputes the whole audit chain and says what it comes to.
    ///
    /// # Errors
    /// [`Error::Fault`] that names the first entry at which the chain breaks, or the key that cannot be opened.
    pub async fn verify_audit(&self) -> Result<AuditChain, Error> {
        let base = self.read(audit_archive::base).await?;
        let mut last = base.clone();
        loop {
            let (from, keyring) = (last.clone(), Arc::clone(&self.audit_keyring));
            let Verified { seal, unkeyed, more } =
                self.export(move |q| audit::verify_page(q, &keyring, &from)).await?;
            last = seal;
            if !more {
                self.check_all_sealed().await?;
                let archived = AuditHead { links: base.n, hash: base.hash };
                self.export(move |q| audit_archive::check_base(q, &base)).await?;
                return Ok(AuditChain { links: last.n, head: last.hash, unkeyed, archived });
            }
        }
    }

    async fn check_all_sealed(&self) -> Result<(), Error> {
        let mut from = None;
        loop {
            from = self.export(move |q| audit::check_sealed(q, from)).await?;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// The last link of the audit chain that was archived, behind which the chain begins; zeros if there is none.
    ///
    /// # Errors
    /// Whatever the database answers.
    pub async fn archived_audit(&self) -> Result<AuditHead, Error> {
        let base = self.read(audit_archive::base).await?;
        Ok(AuditHead { links: base.n, hash: base.hash })
    }

    /// The links behind `from` whose entries are older than `before`, at most `limit`, recomputed. The newest link is never
    /// among them.
    ///
    /// # Errors
    /// [`Error::Fault`] names the first link that does not fit.
    pub async fn audit_links_behind(
        &self,
        from: AuditHead,
        before: Timestamp,
        limit: i64,
    ) -> Result<Vec<ArchivedLink>, Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.export(move |q| audit_archive::links_behind(q, &keyring, &from, before, limit)).await
    }

    /// Recomputes archived links that follow `from`, and returns where they end.
    ///
    /// # Errors
    /// [`Error::Fault`] names the first link that does not fit.
    pub async fn check_archived_audit(
        &self,
        from: AuditHead,
        links: Vec<ArchivedLink>,
    ) -> Result<AuditHead, Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.export(move |q| audit_archive::check(q, &keyring, &from, &links)).await
    }

    /// Whether an entry of the chain, with the action [`AUDIT_ARCHIVED`](crate::AUDIT_ARCHIVED), records that the links up
    /// to `to` were archived.
    ///
    /// # Errors
    /// Whatever the database answers.
    pub async fn is_audit_archive_recorded(&self, to: AuditHead) -> Result<bool, Error> {
        self.export(move |q| audit_archive::is_recorded(q, &to)).await
    }

    /// Removes the links of the audit chain up to `to`, which is recorded as archived, with their entries. On PostgreSQL
    /// the role of `options` that owns the tables does it: the one that serves may not.
    ///
    /// # Errors
    /// [`Error::Fault`] if it is not recorded; what the database answers.
    pub async fn remove_archived_audit(
        &self,
        options: StoreOptions,
        to: AuditHead,
    ) -> Result<u64, OpenError> {
        if !self.is_audit_archive_recorded(to).await? {
            return Err(Error::fault("no entry records this archive").into());
        }
        let mut removed = 0;
        loop {
            let batch = match &*self.engine {
                Engine::Sqlite(_) => {
                    self.write(move |tx| audit_archive::remove(tx, to.links, REMOVED_AT_ONCE)).await?
                }
                Engine::Postgres(_) => {
                    let options = options.clone();
                    let run = move || {
                        migrate::as_owner(&options, |tx| audit_archive::remove(tx, to.links, REMOVED_AT_ONCE))
                    };
                    tokio::task::spawn_blocking(run).await.map_err(Error::fault)??
                }
            };
            if batch == 0 {
                return Ok(removed);
            }
            removed += batch;
        }
    }

    /// Recomputes the newest `limit` links of the audit chain.
    ///
    /// # Errors
    /// Whatever the database answers; a broken link is no error, but reported.
    pub async fn audit_tail(&self, limit: i64) -> Result<AuditTail, Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.export(move |q| facts::audit_tail(q, &keyring, limit)).await
    }

    /// Fails if a key of the audit chain cannot be opened by this process's vault.
    ///
    /// # Errors
    /// [`Error::Fault`] names the key.
    pub async fn check_audit_keys(&self) -> Result<(), Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.read(move |q| keyring.load(q)?.check()).await
    }

    /// The number of links of the audit chain and the last one's hash, as the database has them.
    ///
    /// # Errors
    /// [`enum@Error`] if the database cannot be read.
    pub async fn audit_head(&self) -> Result<AuditHead, Error> {
        self.read(audit_head::current).await
    }

    /// Compares the audit chain with a head that was remembered outside the database.
    ///
    /// # Errors
    /// [`enum@Error`] if the database cannot be read.
    pub async fn compare_audit_head(&self, remembered: AuditHead) -> Result<HeadComparison, Error> {
        self.read(move |q| audit_head::compare(q, &remembered)).await
    }
}
