//! Resource usage of the process, and resources of the machine. If the system does not provide a value, it is
//! `None`; values are never estimated.

use std::path::Path;

use sha2::{Digest, Sha256};

/// Returns the resident memory of this process in bytes.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

/// Returns the free and the total bytes of the disk that contains `path`. Free bytes are those that this
/// process can use.
pub fn disk_free(path: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
}

/// Returns a digest of the boot id and the PID namespace. Two processes with the same digest can compare
/// their process ids. With different digests, they cannot.
pub fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let numbers = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let digest =
        Sha256::new().chain_update(boot).chain_update(numbers.to_string_lossy().as_bytes()).finalize();
    Some(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Measured value of a resource, with its name and description. The name has no prefix `kith_`.
pub(super) struct ResourceMetric {
    pub name: &'static str,
    pub help: &'static str,
    pub value: f64,
    /// True for a counter, false for a gauge.
    pub is_counter: bool,
}

/// Returns the memory, processor, disk and network usage of this process and of the machine. Contains only
/// the values that Linux provides.
pub(super) fn resource_metrics() -> Vec<ResourceMetric> {
    let (status, io) = (read("/proc/self/status"), read("/proc/self/io"));
    let (memory, net) = (read("/proc/meminfo"), read("/proc/self/net/dev"));
    let (own_cpu, all_cpu) = (read("/proc/self/stat"), read("/proc/stat"));
    let gauge = |name, help, value: Option<f64>| {
        Some(ResourceMetric { name, help, value: value?, is_counter: false })
    };
    let counter =
        |name, help, value: Option<f64>| Some(ResourceMetric { name, help, value: value?, is_counter: true });
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64);
    [
        // The system allocator has no statistics. The closest value that the kernel reports is the anonymous
        // memory.
        gauge(
            "process_anonymous_memory_bytes",
            "Anonymous memory: allocator and stacks",
            kib(&status, "RssAnon"),
        ),
        gauge("process_memory_peak_bytes", "Peak resident memory of this process", kib(&status, "VmHWM")),
        gauge("process_threads", "Threads of this process", field(&status, "Threads")),
        gauge("process_open_files", "Open files and sockets of this process", open),
        counter("process_cpu_seconds", "Processor time of this process", process_cpu_s(&own_cpu)),
        counter("process_disk_read_bytes", "Bytes read from disk by this process", field(&io, "read_bytes")),
        counter(
            "process_disk_written_bytes",
            "Bytes written to disk by this process",
            field(&io, "write_bytes"),
        ),
        gauge("host_memory_bytes", "Total memory of the host", kib(&memory, "MemTotal")),
        gauge("host_memory_available_bytes", "Available memory of the host", kib(&memory, "MemAvailable")),
        counter("host_cpu_busy_seconds", "Busy processor time of the host", host_cpu_s(&all_cpu, true)),
        counter("host_cpu_idle_seconds", "Idle processor time of the host", host_cpu_s(&all_cpu, false)),
        counter(
            "host_network_received_bytes",
            "Bytes received by the host, without loopback",
            network(&net, 0),
        ),
        counter("host_network_sent_bytes", "Bytes sent by the host, without loopback", network(&net, 8)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Returns the number that follows `name:` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    values.split_whitespace().next()?.parse().ok()
}

fn kib(text: &str, name: &str) -> Option<f64> {
    field(text, name).map(|kib| kib * 1024.0)
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Returns user plus system time in seconds. In the file, they follow the program name, which is in
/// parentheses and can contain any characters (proc(5)).
fn process_cpu_s(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / ticks_per_second())
}

/// Returns busy or idle time in seconds, from the first line: user, nice, system, idle, iowait, irq, softirq,
/// steal (proc(5)). User time includes guest time.
fn host_cpu_s(stat: &str, busy: bool) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times = line.split_whitespace().take(8).map(|time| time.parse::<f64>().unwrap_or(0.0));
    let of_kind = times.enumerate().filter(|(at, _)| [3, 4].contains(at) != busy).map(|(_, time)| time);
    Some(of_kind.sum::<f64>() / ticks_per_second())
}

/// Returns the sum of column `at` over all devices except loopback. Column 0 is received bytes, column 8 is
/// sent bytes.
fn network(dev: &str, at: usize) -> Option<f64> {
    let devices = dev.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let bytes = devices.filter_map(|(_, columns)| columns.split_whitespace().nth(at)?.parse::<f64>().ok());
    (!dev.is_empty()).then(|| bytes.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_process_reports_memory_and_disk() {
        assert!(resident_bytes().is_none_or(|bytes| bytes > 100_000));
        let (free, all) = disk_free(Path::new(".")).unwrap();
        assert!(free <= all && all > 0);
        assert_eq!(disk_free(Path::new("/no/such/path")), None);
    }

    #[test]
    fn proc_files_are_parsed() {
        let stat = "17 (a ) b) S 1 17 17 0 -1 4194304 90 0 0 0 250 150 0 0 20 0 1 0 5 6 7\n";
        assert_eq!(process_cpu_s(stat), Some(400.0 / ticks_per_second()));
        let all = "cpu  100 1 50 800 40 3 2 4 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(host_cpu_s(all, true), Some(160.0 / ticks_per_second()));
        assert_eq!(host_cpu_s(all, false), Some(840.0 / ticks_per_second()));
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n  \
                   eth0: 70 1 0 0 0 0 0 0 80 1 0 0 0 0 0 0\n  eth1:7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n";
        assert_eq!((network(dev, 0), network(dev, 8), network("", 0)), (Some(77.0), Some(88.0), None));
        assert_eq!(kib("VmHWM:\t    2048 kB\nRssAnon: 1 kB\n", "VmHWM"), Some(2_097_152.0));
    }
}
