//! What the process takes of the machine. A figure that this system does not give is None, never a guess.

use std::path::Path;

/// Resident memory of this process.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

/// Bytes free to us on the disk that holds `path`, and bytes in all.
pub fn disk_free(path: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_memory_and_a_disk() {
        assert!(resident_bytes().is_none_or(|bytes| bytes > 100_000));
        let (free, all) = disk_free(Path::new(".")).unwrap();
        assert!(free <= all && all > 0);
        assert_eq!(disk_free(Path::new("/no/such/path")), None);
    }
}
