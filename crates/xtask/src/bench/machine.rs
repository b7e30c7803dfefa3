//! Measurements of the machine: processor, fsync rate of the disk, CPU time and memory of processes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::load::now;

/// Default duration of the fsync measurement.
pub const FSYNC_FOR: Duration = Duration::from_secs(3);

/// Returns a description of the machine: processor, cores, memory and kernel.
pub fn describe() -> Result<Value> {
    let field = |file: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        Ok(line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned())
    };
    Ok(json!({
        "processor": field("/proc/cpuinfo", "model name")?,
        "cores": cores()?,
        "memory": field("/proc/meminfo", "MemTotal")?,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
    }))
}

/// Returns the number of cores of the machine, including those this process may not use.
pub fn cores() -> Result<usize> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    Ok(text.lines().filter(|line| line.starts_with("processor")).count())
}

/// fsync performance of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Fsync {
    /// Number of sequential fsyncs per second.
    pub rate: f64,
    /// 99th percentile of the duration of an fsync, in milliseconds.
    pub p99_ms: f64,
}

/// Writes blocks of 4 KiB sequentially to a file in `folder`, with fdatasync after each, for `length`.
pub fn fsync(folder: &Path, length: Duration) -> Result<Fsync> {
    let path = folder.join("fsync");
    let file = File::options().create(true).truncate(true).write(true).open(&path)?;
    let block = [0x5a; 4096];
    let blocks = 256;
    (0..blocks).try_for_each(|n| file.write_all_at(&block, n * 4096))?;
    file.sync_all()?;
    let (began, mut took) = (now(), Vec::new());
    while began.elapsed() < length {
        let before = now();
        file.write_all_at(&block, (took.len() as u64 % blocks) * 4096)?;
        file.sync_data()?;
        took.push(before.elapsed());
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    took.sort_unstable();
    let p99 = took[(took.len() * 99 / 100).min(took.len() - 1)];
    Ok(Fsync { rate, p99_ms: p99.as_secs_f64() * 1e3 })
}

/// Returns the CPU time of a process in seconds.
pub fn cpu_s(pid: u32) -> Result<f64> {
    let stat = Stat::of(pid)?;
    Ok(stat.own_ticks as f64 / ticks_per_s())
}

/// Returns the CPU time of a process and its children in seconds. Children that have ended are included.
pub fn cpu_with_children_s(pid: u32) -> Result<f64> {
    let parent = Stat::of(pid)?;
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A child that ends during the loop is skipped, because its time is added to that of the parent.
    let children = pids.filter_map(|child| Stat::of(child).ok()).filter(|child| child.parent == pid);
    let ticks = parent.own_ticks + parent.reaped_ticks + children.map(|child| child.own_ticks).sum::<u64>();
    Ok(ticks as f64 / ticks_per_s())
}

/// Returns the peak resident memory of a process in megabytes.
pub fn peak_memory_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

fn ticks_per_s() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    reaped_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
            .context("/proc/PID/stat reads otherwise")
    }

    /// Parses the fields. The program name may contain spaces and parentheses, so fields are counted from the
    /// last parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<_> = text.rsplit_once(") ")?.1.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let parent = u32::try_from(number(1)?).ok()?;
        Some(Self { parent, own_ticks: number(11)? + number(12)?, reaped_ticks: number(13)? + number(14)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_stat_with_unusual_program_name_is_parsed() {
        let stat = "42 (a) (b c)) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 5 6 7";
        let expected = Stat { parent: 7, own_ticks: 120, reaped_ticks: 4 };
        assert_eq!(Stat::parse(stat), Some(expected));
    }

    #[test]
    fn cpu_time_and_memory_of_busy_process_are_measured() {
        let (pid, began) = (std::process::id(), now());
        let before = cpu_with_children_s(pid).unwrap();
        while cpu_s(pid).unwrap() - before < 0.02 {
            assert!(began.elapsed() < Duration::from_secs(30), "no processor time is measured");
        }
        assert!(peak_memory_mb(pid).unwrap() > 1.0);
    }
}
