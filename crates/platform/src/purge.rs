//! Purging for good. It is never one step: what would go is counted, too much at once stops it, and a manifest is on the
//! disk first.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;

use crate::{App, UpkeepError};

/// In the data folder, kept with the backups: what was purged since.
const FOLDER: &str = "purges";

/// Stops if more is due at once than `key` of the configuration allows: then something is wrong.
///
/// # Errors
/// What to look into.
pub fn check_count(due: usize, most: u16, what: &str, key: &str) -> Result<(), UpkeepError> {
    if due <= usize::from(most) {
        return Ok(());
    }
    Err(format!(
        "more than {most} {what} are due to be purged at once, which `{key}` does not allow; none was. Look into it, and \
         raise the limit if it is right"
    )
    .into())
}

/// Writes the manifest of a purge that is about to be made where a power cut does not lose it, and returns its text.
///
/// # Errors
/// The disk's; nothing may be purged then.
pub async fn keep_manifest(
    app: &App,
    name: &str,
    manifest: &(impl Serialize + Sync),
) -> Result<String, UpkeepError> {
    let text = serde_json::to_string(manifest)?;
    let (folder, file, line) = (app.config.data.folder.join(FOLDER), format!("{name}.json"), text.clone());
    let kept = tokio::task::spawn_blocking(move || keep(&folder, &file, &line)).await?;
    kept.map_err(|error| {
        format!("the manifest of a purge cannot be written, so nothing is purged: {error}")
    })?;
    Ok(text)
}

fn keep(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(name);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}
