//! Archives of the audit log: the oldest entries with the links that seal them, moved from the database into a file.

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

/// The first line of a file: what it is, and behind which link it begins.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kith_audit_archive: u8,
    from: String,
}

/// The version of the format.
const FORMAT: u8 = 1;
/// Links read at once.
const PAGE: i64 = 1_000;
/// Links of one archive at most, so that a run takes seconds.
const MOST_LINKS: i64 = 100_000;
/// How long to wait until the entry that records an archive is sealed.
const SEAL_PATIENCE: Duration = Duration::from_secs(30);

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The link behind which it begins.
    pub from: AuditHead,
    /// Its last link.
    pub to: AuditHead,
    /// Whether links as old are left, because one archive holds [`MOST_LINKS`] at most.
    pub more: bool,
}

impl Archive {
    /// Number of its links.
    pub fn links(&self) -> i64 {
        self.to.links - self.from.links
    }
}

/// Why nothing was archived, or why an archive does not hold.
#[derive(Debug, ThisError)]
pub enum ArchiveError {
    /// The database does not answer, or the chain does not hold.
    #[error(transparent)]
    Store(#[from] Error),
    /// The role that owns the tables cannot be used.
    #[error("the links are in {file} and still in the database: {source}")]
    NotRemoved {
        /// The archive.
        file: String,
        /// Why.
        source: OpenError,
    },
    /// The file cannot be written or read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No entry is so old, apart from the newest.
    #[error("no audit entry is as old as that")]
    Nothing,
    /// The entry that records the archive has no link yet.
    #[error(
        "the entry that records the archive is not sealed yet; the links are in {0} and still in the database"
    )]
    NotSealed(String),
}

/// Moves entries from before `before` into `file`, which must not exist yet: the oldest, [`MOST_LINKS`] at most. An entry of
/// the chain records the last link that was moved. Their personal details are removed and not archived.
///
/// # Errors
/// [`ArchiveError`]. If links are in the file and still in the database, another run archives them again.
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
    let mut looks = tokio::time::interval(Duration::from_millis(250));
    let sealed = async {
        while !app.db.is_audit_archive_recorded(archive.to).await? {
            looks.tick().await;
        }
        Ok::<_, Error>(())
    };
    let waited = tokio::time::timeout(SEAL_PATIENCE, sealed).await;
    waited.map_err(|_| ArchiveError::NotSealed(path.clone()))??;
    let removed = app.db.remove_archived_audit(app.config.store_options(), archive.to).await;
    removed.map_err(|source| ArchiveError::NotRemoved { file: path, source })?;
    Ok(archive)
}

async fn write(app: &App, before: Timestamp, file: &Path) -> Result<Archive, ArchiveError> {
    let cannot = |source| ArchiveError::File { path: file.display().to_string(), source };
    let from = app.db.archived_audit().await?;
    let mut page = app.db.audit_links_behind(from, before, PAGE).await?;
    if page.is_empty() {
        return Err(ArchiveError::Nothing);
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(cannot)?;
    let written = async {
        let mut out = BufWriter::new(made);
        let mut to = from;
        line(&mut out, &Header { kith_audit_archive: FORMAT, from: from.to_string() }).map_err(cannot)?;
        while !page.is_empty() && to.links - from.links < MOST_LINKS {
            for link in &page {
                line(&mut out, link).map_err(cannot)?;
            }
            // What was written is what is checked, and what the next page follows.
            to = app.db.check_archived_audit(to, page).await?;
            page = app.db.audit_links_behind(to, before, PAGE).await?;
        }
        let done = out.into_inner().map_err(io::IntoInnerError::into_error).map_err(cannot)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        let sync = move || done.sync_all().and_then(|()| File::open(folder)?.sync_all());
        tokio::task::spawn_blocking(sync).await.map_err(io::Error::other).flatten().map_err(cannot)?;
        Ok(Archive { from, to, more: !page.is_empty() })
    };
    let written = written.await;
    if written.is_err() {
        // It holds a part at most, and everything is still in the database.
        let _ = std::fs::remove_file(file);
    }
    written
}

fn line(out: &mut impl io::Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Recomputes the links in `file`.
///
/// # Errors
/// [`ArchiveError::Store`] names the first link that does not fit; [`ArchiveError::File`] if it is no archive.
pub async fn verify(db: &Store, file: &Path) -> Result<Archive, ArchiveError> {
    let path = file.display().to_string();
    let cannot = |source| ArchiveError::File { path: path.clone(), source };
    let no_archive =
        |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no audit archive: {why}"));
    let mut lines = BufReader::new(File::open(file).map_err(cannot)?).lines();
    let header = lines.next().ok_or_else(|| cannot(no_archive("it is empty")))?.map_err(cannot)?;
    let header: Header = serde_json::from_str(&header).map_err(|error| cannot(error.into()))?;
    if header.kith_audit_archive != FORMAT {
        return Err(cannot(no_archive("its format is another")));
    }
    let from: AuditHead = header.from.parse().map_err(|why| cannot(no_archive(why)))?;
    let mut to = from;
    loop {
        let page: Result<Vec<ArchivedLink>, io::Error> = lines
            .by_ref()
            .take(PAGE as usize)
            .map(|line| line.and_then(|line| serde_json::from_str(&line).map_err(io::Error::from)))
            .collect();
        let page = page.map_err(cannot)?;
        if page.is_empty() {
            return Ok(Archive { from, to, more: false });
        }
        to = db.check_archived_audit(to, page).await?;
    }
}
