//! Verification, comparison and archiving of the audit chain.

use std::sync::Arc;

use kith_kernel::Timestamp;

use super::{Engine, Store};
use crate::audit::{self, AuditChain, VerifiedPage};
use crate::audit_archive::{self, ArchivedLink};
use crate::audit_head::{self, HeadComparison};
use crate::chain_head::AuditHead;
use crate::options::StoreOptions;
use crate::{AuditTail, Error, OpenError, facts, migrate};

/// Maximum number of links removed per transaction.
const REMOVE_BATCH_SIZE: i64 = 1_000;

impl Store {
    /// Verifies the whole audit chain and returns a summary.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if a link does not match, an entry has no link, or a key cannot be decrypted.
    /// The message contains the number of the first such link or of the key.
    pub async fn verify_audit(&self) -> Result<AuditChain, Error> {
        let base = self.read(audit_archive::base).await?;
        let mut last = base.clone();
        loop {
            let (from, keyring) = (last.clone(), Arc::clone(&self.audit_keyring));
            let VerifiedPage { seal, unkeyed, more } =
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

    /// Returns the last archived link of the audit chain; all zeros if no link was archived. The chain in the
    /// database begins after it.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn archived_audit(&self) -> Result<AuditHead, Error> {
        let base = self.read(audit_archive::base).await?;
        Ok(AuditHead { links: base.n, hash: base.hash })
    }

    /// Returns up to `limit` verified links after `from`. It stops before the first link whose entry is not
    /// older than `before`, and never returns the newest link.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] with the number of the first link that does not match.
    pub async fn audit_links_after(
        &self,
        from: AuditHead,
        before: Timestamp,
        limit: i64,
    ) -> Result<Vec<ArchivedLink>, Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.export(move |q| audit_archive::links_after(q, &keyring, &from, before, limit)).await
    }

    /// Verifies archived links that follow `from`, and returns the last of them as a head.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] with the number of the first link that does not match.
    pub async fn check_archived_audit(
        &self,
        from: AuditHead,
        links: Vec<ArchivedLink>,
    ) -> Result<AuditHead, Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.export(move |q| audit_archive::check(q, &keyring, &from, &links)).await
    }

    /// Returns true if an entry of the chain, with the action [`AUDIT_ARCHIVED`](crate::AUDIT_ARCHIVED),
    /// records the archiving of the links up to `to`.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn is_audit_archive_recorded(&self, to: AuditHead) -> Result<bool, Error> {
        self.export(move |q| audit_archive::is_recorded(q, &to)).await
    }

    /// Removes the links of the audit chain up to `to`, with their entries, and returns the number of links
    /// removed. An entry must record the archiving of `to`. On PostgreSQL this runs with the role in
    /// `options` that owns the tables, because the serving role may not delete audit entries.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the archiving is not recorded, or the error of the database.
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
                    self.write(move |tx| audit_archive::remove(tx, to.links, REMOVE_BATCH_SIZE)).await?
                }
                Engine::Postgres(_) => {
                    let options = options.clone();
                    let run = move || {
                        migrate::as_owner(&options, |tx| {
                            audit_archive::remove(tx, to.links, REMOVE_BATCH_SIZE)
                        })
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

    /// Verifies the newest `limit` links of the audit chain. A broken link is reported in the result and not
    /// as an error.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn audit_tail(&self, limit: i64) -> Result<AuditTail, Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.export(move |q| facts::audit_tail(q, &keyring, limit)).await
    }

    /// Checks that this process's vault can decrypt all keys of the audit chain.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] with the number of the first key that cannot be decrypted.
    pub async fn check_audit_keys(&self) -> Result<(), Error> {
        let keyring = Arc::clone(&self.audit_keyring);
        self.read(move |q| keyring.load(q)?.check()).await
    }

    /// Returns the number of links of the audit chain and the hash of the last link, as stored in the
    /// database.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be read.
    pub async fn audit_head(&self) -> Result<AuditHead, Error> {
        self.read(audit_head::current).await
    }

    /// Compares the audit chain with a head stored outside the database.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be read.
    pub async fn compare_audit_head(&self, remembered: AuditHead) -> Result<HeadComparison, Error> {
        self.read(move |q| audit_head::compare(q, &remembered)).await
    }
}
