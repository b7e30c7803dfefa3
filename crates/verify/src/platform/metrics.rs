//! Checks of metrics: their format, the access to them, and that they match the traffic.

use std::time::Duration;

use kith_readiness::{Check, Run, Shortfall};
use serde_json::Value;

use super::database::rename;
use super::exposition::{METRICS, MetricsScrape};
use super::machine::local_process_id;
use crate::networks::ListedNetwork;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "OBS-05",
        description: "reads the metrics five times, requests unknown paths, counts series, and reads the networks \
               that may read metrics",
        remediation: "list only private networks in server.metrics_addresses, and each proxy in front in \
               server.trusted_proxies",
        runs_last: false,
        run: |run| Box::pin(check_metrics_format(run)),
    },
    Check {
        row: "OBS-08",
        description: "calls one route 20 times with success and 7 times without, and reads its series before and after",
        remediation: "check whether requests and metrics reach the same node; verify each node separately",
        runs_last: false,
        run: |run| Box::pin(check_request_metrics(run)),
    },
    Check {
        row: "OBS-09",
        description: "writes and reads data, and compares the metrics of the pool and of statements",
        remediation: "check whether requests and metrics reach the same node; verify each node separately",
        runs_last: false,
        run: |run| Box::pin(pool(run)),
    },
    Check {
        row: "OBS-11",
        description: "reads the memory, CPU, disk and network metrics, and compares memory with the kernel's figure \
               for the process",
        remediation: "check that the server can read /proc",
        runs_last: false,
        run: |run| Box::pin(check_memory_metric(run)),
    },
];

const SCRAPE_WITHIN: Duration = Duration::from_millis(200);
/// Number of requests that are sent to paths that do not exist.
const UNKNOWN_PATHS: usize = 10;
const MAX_SERIES: usize = 20_000;
const SUCCESSES: u32 = 20;
const REJECTED_REQUESTS: u32 = 7;
/// Maximum difference between two readings of the memory use, in percent.
const MAX_DIFFERENCE_PERCENT: f64 = 5.0;

async fn check_metrics_format(run: &Run) -> Result<String, Shortfall> {
    let mut first = MetricsScrape::now(run).await?;
    // Other traffic can create new series too. Such series grow only once, so the smallest growth of three
    // rounds counts.
    let mut grown = usize::MAX;
    for round in 0..3 {
        for n in 0..UNKNOWN_PATHS {
            let unknown_path = format!("/api/v1/{}/{round}-{n}", run.marker("nowhere"));
            run.anonymous().get(&unknown_path).await?.expect(404)?;
        }
        let after = MetricsScrape::now(run).await?;
        grown = grown.min(after.series().saturating_sub(first.series()));
        first = after;
        if grown < UNKNOWN_PATHS {
            break;
        }
    }
    let mut duration = Vec::new();
    let mut series = first.series();
    for _ in 0..5 {
        let scrape = MetricsScrape::now(run).await?;
        duration.push(scrape.duration);
        series = scrape.series();
    }
    duration.sort_unstable();
    let median = duration[duration.len() / 2];
    run.record("series", series);
    run.record("families", first.families.len());
    run.record("scrape_ms", u64::try_from(median.as_millis()).unwrap_or(u64::MAX));
    // A few new series may come from other traffic.
    if grown >= UNKNOWN_PATHS {
        return Err(Shortfall::fails(format!("{UNKNOWN_PATHS} unknown paths created {grown} new series")));
    }
    if series > MAX_SERIES {
        return Err(Shortfall::fails(format!("{series} series are more than {MAX_SERIES}")));
    }
    if median >= SCRAPE_WITHIN {
        return Err(Shortfall::fails(format!("reading them took {} ms", median.as_millis())));
    }
    let open = check_metrics_access(run).await?;
    Ok(format!(
        "{series} series of {} families, none twice, read in {} ms; {open}",
        first.families.len(),
        median.as_millis()
    ))
}

/// Checks which addresses may read metrics. Compares the settings, and sends a request with a forged address.
async fn check_metrics_access(run: &Run) -> Result<String, Shortfall> {
    let settings = run.facts().await?["configuration"]["settings"]["server"].clone();
    if !settings["metrics_addresses"].is_array() {
        return Err(Shortfall::fails("metrics are public"));
    }
    let listed = ListedNetwork::all(&settings["metrics_addresses"]);
    // Addresses outside of private networks: some reserved for documentation (RFC 5737, RFC 3849), and some
    // well-known public ones.
    for outside in ["203.0.113.9", "8.8.8.8", "1.0.0.1", "2001:db8::9", "2606:4700:4700::1111"] {
        if outside.parse().is_ok_and(|ip| listed.iter().any(|network| network.contains(ip))) {
            return Err(Shortfall::fails(format!("server.metrics_addresses opens metrics to {outside}")));
        }
    }
    // All requests that come through a proxy on the same machine seem to come from loopback, unless the proxy
    // is configured as trusted.
    let url: Option<http::Uri> = run.deployment().target().url.parse().ok();
    let host = url.as_ref().and_then(|url| url.host()).unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback =
        |host: &str| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let listens_here = settings["listen"]
        .as_str()
        .and_then(|listen| listen.parse::<std::net::SocketAddr>().ok())
        .is_some_and(|listen| listen.ip().is_loopback());
    let knows_no_proxy = settings["trusted_proxies"].as_array().is_none_or(Vec::is_empty);
    if !is_loopback(host) && listens_here && knows_no_proxy {
        return Err(Shortfall::fails(format!(
            "metrics are public at {host}: the proxy in front is not in server.trusted_proxies"
        )));
    }
    let response = run.anonymous().with("x-forwarded-for", "203.0.113.9").get(METRICS).await?;
    let forged_result =
        if response.status == 403 { ", and rejected for 203.0.113.9 behind a trusted proxy" } else { "" };
    Ok(format!("open to {} networks, none of them public{forged_result}", listed.len()))
}

async fn check_request_metrics(run: &Run) -> Result<String, Shortfall> {
    let account = run.account("settings").await?;
    let route = ("route", "/api/v1/me");
    let read = async || {
        let scrape = MetricsScrape::now(run).await?;
        let count =
            |status| scrape.get("kith_http_requests_total", &[("method", "GET"), route, ("status", status)]);
        let time = |name| scrape.get(name, &[("method", "GET"), route]);
        Ok::<_, Shortfall>([
            count("2xx")?,
            count("4xx")?,
            time("kith_http_request_duration_seconds_count")?,
            time("kith_http_request_duration_seconds_sum")?,
        ])
    };
    let before = read().await?;
    for _ in 0..SUCCESSES {
        account.client.get("/api/v1/me").await?.expect(200)?;
    }
    for _ in 0..REJECTED_REQUESTS {
        run.anonymous().get("/api/v1/me").await?.expect(401)?;
    }
    let after = read().await?;
    let moved: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    run.record("moved", moved.clone());
    let sent = [SUCCESSES, REJECTED_REQUESTS, SUCCESSES + REJECTED_REQUESTS].map(f64::from);
    let names = ["responses with 2xx", "responses with 4xx", "times taken"];
    for ((moved, sent), name) in moved.iter().zip(sent).zip(names) {
        // Other traffic may increase the counter further.
        if *moved < sent {
            return Err(Shortfall::fails(format!("{name} increased by {moved} for {sent} requests")));
        }
    }
    if moved[3] <= 0.0 {
        return Err(Shortfall::fails("the total duration did not increase"));
    }
    Ok(format!(
        "{SUCCESSES} successes increased 2xx by {}, {REJECTED_REQUESTS} rejections increased 4xx by {}, and \
         all of them the durations by {}",
        moved[0], moved[1], moved[2]
    ))
}

async fn pool(run: &Run) -> Result<String, Shortfall> {
    let account = run.account("settings").await?;
    let before = MetricsScrape::now(run).await?;
    rename(&account, &run.marker("Somebody")).await?;
    let after = MetricsScrape::now(run).await?;
    for series in [
        "kith_store_commits_total",
        "kith_store_reads_total",
        "kith_store_statement_duration_seconds_count",
        "kith_store_statement_duration_seconds_sum",
    ] {
        let moved = after.get(series, &[])? - before.get(series, &[])?;
        run.record(series, moved);
        if moved <= 0.0 {
            return Err(Shortfall::fails(format!("a write and several reads did not increase {series}")));
        }
    }
    let count = after.get("kith_store_statement_duration_seconds_count", &[])?;
    let last = after.get("kith_store_statement_duration_seconds_bucket", &[("le", "+Inf")])?;
    if count > last {
        return Err(Shortfall::fails(format!(
            "the histogram counts {count} statements, but its last bucket {last}"
        )));
    }
    for gauge in ["kith_store_queued", "kith_store_running"] {
        let value = after.get(gauge, &[])?;
        if !(0.0..100_000.0).contains(&value) {
            return Err(Shortfall::fails(format!("{gauge} is {value}")));
        }
    }
    let size = after.find("kith_store_pool_size", &[]);
    let size = size
        .map_or("one writing connection (SQLite)".to_owned(), |size| format!("{size} connections at most"));
    Ok(format!("commits, reads and the histogram of {count} statements increased; {size}"))
}

async fn check_memory_metric(run: &Run) -> Result<String, Shortfall> {
    let scrape = MetricsScrape::now(run).await?;
    for (series, least) in [
        ("kith_resident_memory_bytes", 1_000_000.0),
        ("kith_process_anonymous_memory_bytes", 100_000.0),
        ("kith_process_cpu_seconds_total", 0.0),
        ("kith_process_disk_written_bytes_total", 0.0),
        ("kith_process_open_files", 3.0),
        ("kith_disk_free_bytes", 0.0),
        ("kith_host_memory_bytes", 1_000_000.0),
        ("kith_host_memory_available_bytes", 0.0),
        ("kith_host_cpu_busy_seconds_total", 0.0),
        ("kith_host_network_received_bytes_total", 0.0),
        ("kith_host_network_sent_bytes_total", 0.0),
    ] {
        let value = scrape.get(series, &[])?;
        run.record(series, value);
        if value < least {
            return Err(Shortfall::fails(format!("{series} has the impossible value {value}")));
        }
    }
    let reported = scrape.get("kith_resident_memory_bytes", &[])?;
    if reported > scrape.get("kith_host_memory_bytes", &[])? {
        return Err(Shortfall::fails("the process has more memory than the machine"));
    }
    let Some(process) = local_process_id(run).await? else {
        return Err(Shortfall::unmeasured(
            "all series are present, but the server runs on another machine, so its memory could not be \
             compared",
            "run `kith verify` on the server's machine",
        ));
    };
    compare(run, process).await
}

/// Returns the resident memory of a process in bytes, as the kernel of this machine reports it (proc(5)).
fn resident_bytes_of(process: u64) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Compares the memory use in the metrics with that reported by the kernel. Tries several times, because
/// memory use changes between the two readings.
async fn compare(run: &Run, process: u64) -> Result<String, Shortfall> {
    let mut apart = f64::INFINITY;
    for _ in 0..5 {
        let reported = MetricsScrape::now(run).await?.get("kith_resident_memory_bytes", &[])?;
        let Some(kernel) = resident_bytes_of(process) else {
            return Err(Shortfall::unmeasured(
                format!("the kernel does not report process {process}"),
                "run `kith verify` as a user who sees the server's process",
            ));
        };
        let kernel = kernel as f64;
        let found = (reported - kernel).abs() / kernel * 100.0;
        if found < apart {
            apart = found;
            run.record("told_bytes", reported);
            run.record("kernel_bytes", kernel);
        }
    }
    run.record("apart_percent", Value::from(apart));
    if apart > MAX_DIFFERENCE_PERCENT {
        return Err(Shortfall::fails(format!(
            "memory differs by {apart:.1} % from the kernel's figure for process {process}"
        )));
    }
    Ok(format!(
        "memory, CPU, disk and network are reported; memory differs by {apart:.1} % from the kernel's figure"
    ))
}
