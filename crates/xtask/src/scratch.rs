//! Temporary folder for the databases of tests, in memory if enough memory is free.
//!
//! A PostgreSQL database consists of about four hundred files. If each test creates and removes a database on
//! disk, ext4 spends a quarter of the CPU time on finding free inodes, and each SQLite commit waits for the
//! disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::statvfs;

/// Mount point of Linux's in-memory file system.
const MEMORY: &str = "/dev/shm";
/// Minimum free space of the in-memory file system in bytes. The suite uses a few hundred megabytes.
const MIN_FREE_BYTES: u64 = 3 << 30;
const PREFIX: &str = "kith-tests-";

/// Folder that is removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates the folder of this process in memory, or else in the system's temporary folder. Removes
    /// folders that killed processes left behind.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn new() -> Result<Self> {
        let memory = Path::new(MEMORY);
        remove_orphans(memory)?;
        let parent = if has_room(memory) { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Permissions are not restricted, because the user `postgres`, who runs the server, needs access to a
        // folder inside.
        Ok(Self(folder))
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An entry that cannot be removed is removed by the next run.
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
        // This number is larger than any process id.
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
