//! Archives of the audit log. Moves the oldest entries from the database to a file, with the chain links that
//! protect them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use kith_kernel::{Ctx, Timestamp};
use kith_store::{AUDIT_ARCHIVED, ArchivedLink, AuditHead, Error, OpenError, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error as ThisError;

use super::head::event;
use crate::App;

/// First line of an archive: the format version, and the link before the first link of the archive.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kith_audit_archive: u8,
    from: String,
}

/// Version of the file format.
const FORMAT_VERSION: u8 = 1;
/// Number of links read at once.
const PAGE_LINKS: i64 = 1_000;
/// Maximum number of links per archive. A run with this many links takes seconds.
const MAX_LINKS: i64 = 100_000;
/// Maximum time to wait until the audit entry about the archive has been added to the chain.
const SEAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Range of links that an archive contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Link before the first link of the archive.
    pub from: AuditHead,
    /// Last link of the archive.
    pub to: AuditHead,
    /// True if more links are old enough, but the archive has reached [`MAX_LINKS`]. Always false for
    /// [`verify`].
    pub more: bool,
}

impl Archive {
    /// Returns the number of links in the archive.
    pub fn links(&self) -> i64 {
        self.to.links - self.from.links
    }
}

/// Error of writing or verifying an archive.
#[derive(Debug, ThisError)]
pub enum ArchiveError {
    /// The database failed, or the chain is broken.
    #[error(transparent)]
    Store(#[from] Error),
    /// The archive was written, but its links could not be removed from the database, because the role that
    /// owns the tables cannot connect.
    #[error("the links were archived in {file}, but could not be removed from the database: {source}")]
    NotRemoved {
        /// Path of the archive.
        file: String,
        /// Cause.
        source: OpenError,
    },
    /// The file cannot be written or read, or is not an archive.
    #[error("{path}: {source}")]
    File {
        /// Path of the file.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// Only the newest entry is old enough, or no entry is.
    #[error("no audit entry is older than the given time")]
    Nothing,
    /// The audit entry about the archive was not added to the chain in time. The links are in the file and
    /// still in the database.
    #[error(
        "the entry that records the archive is not sealed yet; the links are in {0} and still in the database"
    )]
    NotSealed(String),
}

/// Moves the oldest entries that are older than `before`, at most [`MAX_LINKS`], to `file`. The file must not
/// exist yet. An audit entry records the last link that was moved. Personal details of the entries are
/// removed from the database and are not archived.
///
/// # Errors
/// Returns an [`ArchiveError`]. If the links are in the file but still in the database, the next run archives
/// them again.
pub async fn archive(app: &App, ctx: &Ctx, before: Timestamp, file: &Path) -> Result<Archive, ArchiveError> {
    let archive = write(app, before, file).await?;
    let head = archive.to.to_string();
    app.write(ctx, move |tx, ctx| {
        tx.audit(ctx, AUDIT_ARCHIVED, &head);
        tx.emit(ctx, event(AUDIT_ARCHIVED, json!({ "head": head })));
        Ok::<_, Error>(())
    })
    .await?;
    let path = file.display().to_string();
    let mut interval = tokio::time::interval(Duration::from_millis(250));
    let sealed = async {
        while !app.db.is_audit_archive_recorded(archive.to).await? {
            interval.tick().await;
        }
        Ok::<_, Error>(())
    };
    let waited = tokio::time::timeout(SEAL_TIMEOUT, sealed).await;
    waited.map_err(|_| ArchiveError::NotSealed(path.clone()))??;
    let removed = app.db.remove_archived_audit(app.config.store_options(), archive.to).await;
    removed.map_err(|source| ArchiveError::NotRemoved { file: path, source })?;
    Ok(archive)
}

async fn write(app: &App, before: Timestamp, file: &Path) -> Result<Archive, ArchiveError> {
    let file_error = |source| ArchiveError::File { path: file.display().to_string(), source };
    let from = app.db.archived_audit().await?;
    let mut page = app.db.audit_links_after(from, before, PAGE_LINKS).await?;
    if page.is_empty() {
        return Err(ArchiveError::Nothing);
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(file_error)?;
    let written = async {
        let mut out = BufWriter::new(made);
        let mut to = from;
        write_line(&mut out, &Header { kith_audit_archive: FORMAT_VERSION, from: from.to_string() })
            .map_err(file_error)?;
        while !page.is_empty() && to.links - from.links < MAX_LINKS {
            for link in &page {
                write_line(&mut out, link).map_err(file_error)?;
            }
            // Verifies the links that were written. The next page starts after the last verified link.
            to = app.db.check_archived_audit(to, page).await?;
            page = app.db.audit_links_after(to, before, PAGE_LINKS).await?;
        }
        let done = out.into_inner().map_err(io::IntoInnerError::into_error).map_err(file_error)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        let sync = move || done.sync_all().and_then(|()| File::open(folder)?.sync_all());
        tokio::task::spawn_blocking(sync).await.map_err(io::Error::other).flatten().map_err(file_error)?;
        Ok(Archive { from, to, more: !page.is_empty() })
    };
    let written = written.await;
    if written.is_err() {
        // The file is incomplete, and all links are still in the database, so the file can be removed.
        let _ = std::fs::remove_file(file);
    }
    written
}

fn write_line(out: &mut impl io::Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Recomputes and checks all links in `file`.
///
/// # Errors
/// Returns [`ArchiveError::Store`] with the first link that does not match, and [`ArchiveError::File`] if the
/// file cannot be read or is not an archive.
pub async fn verify(db: &Store, file: &Path) -> Result<Archive, ArchiveError> {
    let path = file.display().to_string();
    let file_error = |source| ArchiveError::File { path: path.clone(), source };
    let no_archive =
        |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not an audit archive: {why}"));
    let mut lines = BufReader::new(File::open(file).map_err(file_error)?).lines();
    let header =
        lines.next().ok_or_else(|| file_error(no_archive("the file is empty")))?.map_err(file_error)?;
    let header: Header = serde_json::from_str(&header).map_err(|error| file_error(error.into()))?;
    if header.kith_audit_archive != FORMAT_VERSION {
        return Err(file_error(no_archive("unsupported format version")));
    }
    let from: AuditHead = header.from.parse().map_err(|why| file_error(no_archive(why)))?;
    let mut to = from;
    loop {
        let page: Result<Vec<ArchivedLink>, io::Error> = lines
            .by_ref()
            .take(PAGE_LINKS as usize)
            .map(|line| line.and_then(|line| serde_json::from_str(&line).map_err(io::Error::from)))
            .collect();
        let page = page.map_err(file_error)?;
        if page.is_empty() {
            return Ok(Archive { from, to, more: false });
        }
        to = db.check_archived_audit(to, page).await?;
    }
}
