//! Where tests keep their databases: in memory, if there is enough.
//!
//! A PostgreSQL database is some four hundred files. Where each test makes one and removes it, ext4 alone takes a quarter of
//! all processor time to find free inodes, and each commit of SQLite waits for the disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::statvfs;

/// The file system in memory that Linux has.
const MEMORY: &str = "/dev/shm";
/// Free bytes that it must have. The suite uses a few hundred megabytes.
const MIN_FREE_BYTES: u64 = 3 << 30;
const PREFIX: &str = "kith-tests-";

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder of this process, in memory or among the system's temporary folders, and removes those of processes that
    /// were killed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let memory = Path::new(MEMORY);
        remove_orphans(memory)?;
        let parent = if has_room(memory) { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // The user `postgres`, as whom a server runs, has to get to its own folder in here.
        Ok(Self(folder))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn has_room(memory: &Path) -> bool {
    statvfs(memory).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= MIN_FREE_BYTES)
}

fn remove_orphans(parent: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).filter(|pid| pid.parse::<u32>().is_ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_ended_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        // No process has a number so large.
        let names =
            [format!("{PREFIX}4294967295"), format!("{PREFIX}{}", std::process::id()), "other".to_owned()];
        for name in &names {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        remove_orphans(parent.path()).unwrap();
        let is_there = names.map(|name| parent.path().join(name).exists());
        assert_eq!(is_there, [false, true, true]);
    }
}
