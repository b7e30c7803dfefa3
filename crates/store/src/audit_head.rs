//! Head of the audit chain, stored outside the database. With it, the server detects that the chain was
//! truncated, emptied, recomputed or restored from an earlier state.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::chain_head::AuditHead;
use crate::options::{EngineOptions, StoreOptions};
use crate::{Error, OpenError, Query, audit, audit_archive, outbox, postgres};

const FILE: &str = "audit-head";

/// Counter that makes the names of temporary files unique within the process.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Result of comparing the chain in the database with a head that was stored earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadComparison {
    /// The chain contains the stored head.
    Contained {
        /// Current end of the chain.
        current: AuditHead,
    },
    /// The chain ends before the stored head.
    Shorter {
        /// Current end of the chain.
        current: AuditHead,
    },
    /// The chain has a different link at the position of the stored head, or a link is missing there.
    Different {
        /// Current end of the chain.
        current: AuditHead,
    },
}

impl HeadComparison {
    /// Returns a description of the problem for a log or a terminal, or `None` if the chain contains the head
    /// `remembered`.
    pub fn fault(&self, remembered: &AuditHead) -> Option<String> {
        match self {
            Self::Contained { .. } => None,
            Self::Shorter { current } => Some(format!(
                "the audit chain has {} links, but the expected head has {}: entries were removed, or an \
                 older state of the database was restored",
                current.links, remembered.links
            )),
            Self::Different { .. } => Some(format!(
                "link {} of the audit chain differs from the expected head: the chain was resealed or replaced",
                remembered.links
            )),
        }
    }
}

/// Returns the current end of the chain.
pub(crate) fn current(q: &Query<'_>) -> Result<AuditHead, Error> {
    let seal = outbox::heads(q)?.seal;
    Ok(AuditHead { links: seal.n, hash: seal.hash })
}

pub(crate) fn compare(q: &Query<'_>, remembered: &AuditHead) -> Result<HeadComparison, Error> {
    let base = audit_archive::base(q)?;
    if remembered.links < base.n {
        let current = current(q)?;
        return match audit_archive::check_base(q, &base) {
            // The stored head belongs to a link that was archived.
            Ok(()) => Ok(HeadComparison::Contained { current }),
            Err(Error::Fault(_)) => Ok(HeadComparison::Different { current }),
            Err(error) => Err(error),
        };
    }
    let found = if remembered.links == base.n {
        Some(base.hash)
    } else if remembered.links == 0 {
        Some([0; 32])
    } else {
        audit::link_hash(q, remembered.links)?
    };
    let current = current(q)?;
    Ok(match found {
        Some(hash) if hash == remembered.hash => HeadComparison::Contained { current },
        None if current.links < remembered.links => HeadComparison::Shorter { current },
        // A link that is missing in the middle of the chain counts as different.
        Some(_) | None => HeadComparison::Different { current },
    })
}

/// File that stores the head of one database's audit chain, as one line. It is replaced atomically and synced
/// to disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHeadFile(PathBuf);

impl AuditHeadFile {
    /// Returns the file in `folder` for the database of `options`. The file name depends on the name of the
    /// database and not on its server, so that the file remains valid when the database moves to another
    /// server.
    ///
    /// # Errors
    /// Returns [`OpenError::Settings`] if the database URL cannot be parsed.
    pub fn of(options: &StoreOptions, folder: &Path) -> Result<Self, OpenError> {
        let name = match &options.engine {
            EngineOptions::Sqlite(_) => FILE.to_owned(),
            EngineOptions::Postgres(own) => format!("{FILE}-{}", postgres::database_label(&own.url)?),
        };
        Ok(Self(folder.join(name)))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the stored head. Returns `None` if the file does not exist.
    ///
    /// # Errors
    /// Returns the I/O error, or `InvalidData` if the content is not a head.
    pub fn read(&self) -> io::Result<Option<AuditHead>> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) => {
                let head = text.trim_end().parse();
                head.map(Some).map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, wrong))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores `watch_last_position`, and creates the folder if it does not exist. After a power failure the file contains
    /// either this head or the previous one.
    ///
    /// # Errors
    /// Returns the I/O error.
    pub fn write(&self, head: &AuditHead) -> io::Result<()> {
        let mut unfinished = self.0.clone().into_os_string();
        unfinished.push(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        if let Some(folder) = self.0.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let written = writeln!(file, "{head}")
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, &self.0));
        if written.is_err() {
            // Otherwise each attempt on a full disk would leave a temporary file.
            let _ = std::fs::remove_file(&unfinished);
        }
        written?;
        match self.0.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_round_trips_through_text_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = AuditHeadFile(folder.path().join("data/audit-head"));
        assert_eq!(file.read().unwrap(), None);
        for head in [AuditHead::default(), AuditHead { links: i64::MAX, hash: [0xa7; 32] }] {
            assert_eq!(head.to_string().parse(), Ok(head));
            file.write(&head).unwrap();
            assert_eq!(file.read().unwrap(), Some(head));
        }
        let left: Vec<_> = std::fs::read_dir(folder.path().join("data")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn malformed_head_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = AuditHeadFile(folder.path().join("audit-head"));
        let hash = "0".repeat(64);
        for text in
            ["", "1", "1:", &format!("-1:{hash}"), &format!("1:{hash}0"), &format!("1:{}é", &hash[2..])]
        {
            assert!(text.parse::<AuditHead>().is_err(), "{text}");
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::InvalidData, "{text}");
        }
    }
}
