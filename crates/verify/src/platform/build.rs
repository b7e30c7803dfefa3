//! Checks of the running build, of its clock, and of unexpected restarts.

use kith_kernel::{Clock as _, SystemClock};
use kith_readiness::{Check, Client, Run, Shortfall};

use super::exposition::MetricsScrape;
use super::machine::is_local;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "DEP-02",
        description: "reads the commit of the running build, and whether it includes uncommitted changes",
        remediation: "deploy a release build of a clean clone (`cargo build --release -p kith`), or set KITH_COMMIT \
               to the commit",
        runs_last: false,
        run: |run| Box::pin(check_release(run)),
    },
    Check {
        row: "DRV-22",
        description: "reads the time of each node, and compares it with the clocks of this machine and of the database",
        remediation: "synchronize the clocks of all machines with NTP; in development mode reset the clock",
        runs_last: false,
        run: |run| Box::pin(check_clock(run)),
    },
    Check {
        row: "DRV-31",
        description: "reads the uptime, the starts and unclean stops of servers within a day, and the panics",
        remediation: "look in the log for `panicked` and for the lines before each start",
        runs_last: false,
        run: |run| Box::pin(check_restarts(run)),
    },
];

const MAX_CLOCK_OFFSET_MS: i64 = 500;
/// Number of crashes within a day that counts as a crash loop. A single crash may be a power failure.
const CRASH_LOOP_STARTS: i64 = 3;

async fn check_release(run: &Run) -> Result<String, Shortfall> {
    let health = run.anonymous().get("/api/health").await?.expect_any(&[200, 503])?;
    let release = health.text_at("/releaseId")?;
    run.record("release", release.clone());
    let Some((version, commit)) = release.split_once('+') else {
        return Err(Shortfall::fails(format!("the server reports the build {release} without a commit")));
    };
    if let Some(commit) = commit.strip_suffix(".dirty") {
        return Err(Shortfall::fails(format!("the build is from {commit} with uncommitted changes")));
    }
    let is_commit = (7..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_commit {
        return Err(Shortfall::fails(format!("{commit} is not a commit")));
    }
    Ok(format!("version {version}, built from commit {commit} without uncommitted changes"))
}

async fn check_clock(run: &Run) -> Result<String, Shortfall> {
    let admin = run.admin().await?;
    let others = run.deployment().target().other_nodes.clone();
    let nodes: Vec<_> = std::iter::once(admin.base().to_owned()).chain(others).collect();
    let mut worst = 0;
    for node in &nodes {
        let (off, in_doubt) = offset(&admin.with_base_url(node)).await?;
        if off.abs() + in_doubt > MAX_CLOCK_OFFSET_MS {
            let reason = format!(
                "the clock of {node} differs by {off} ms from this machine's, with an uncertainty of \
                 {in_doubt} ms"
            );
            return Err(if off.abs() - in_doubt > MAX_CLOCK_OFFSET_MS {
                Shortfall::fails(reason)
            } else {
                Shortfall::unmeasured(reason, "run it on a machine closer to the server")
            });
        }
        worst = worst.max(off.abs());
        let health = admin.with_base_url(node).get("/api/health").await?.expect(200)?.json();
        let skew = health["checks"]["clock:skew"][0]["observedValue"].as_i64();
        if let Some(skew) = skew {
            run.record("off_the_databases_clock_ms", skew);
            if skew.abs() > MAX_CLOCK_OFFSET_MS {
                return Err(Shortfall::fails(format!(
                    "the clock of {node} differs by {skew} ms from the database's"
                )));
            }
        }
    }
    run.record("nodes", nodes.len());
    run.record("off_this_machines_clock_ms", worst);
    let same = if is_local(run).await? {
        "; the server runs on this machine, so the machine's own clock is not verified"
    } else {
        ""
    };
    Ok(format!("the clocks of {} nodes differ by at most {worst} ms from this machine's{same}", nodes.len()))
}

/// Returns the offset of the server's clock from this machine's clock, and half of the round-trip time. Both
/// are in milliseconds.
async fn offset(client: &Client) -> Result<(i64, i64), Shortfall> {
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..3 {
        let sent_at = SystemClock.now();
        let response = client.get("/api/v1/admin/facts").await?.expect(200)?;
        let received_at = SystemClock.now();
        let server_ms = response.json()["clock"]["kith"].as_i64();
        let server_ms = server_ms.ok_or_else(|| Shortfall::fails("the server does not report its time"))?;
        // Assumes that the server read its clock at the middle of the round trip.
        let half = (received_at.as_millis() - sent_at.as_millis()) / 2 + 1;
        let off = server_ms - sent_at.as_millis() - half;
        if best.is_none_or(|(_, known)| half < known) {
            best = Some((off, half));
        }
    }
    best.ok_or_else(|| Shortfall::fails("the server does not report its time"))
}

async fn check_restarts(run: &Run) -> Result<String, Shortfall> {
    let scrape = MetricsScrape::now(run).await?;
    let (uptime, panics) = (scrape.get("kith_uptime_seconds", &[])?, scrape.get("kith_panics_total", &[])?);
    let starts = run.facts().await?["process"]["starts"].clone();
    let number = |key: &str| {
        let lacks = || Shortfall::fails(format!("the server does not report its starts ({key})"));
        starts[key].as_i64().ok_or_else(lacks)
    };
    let (started, unclean_stops) = (number("within_24_h")?, number("unclean_stops")?);
    run.record("uptime_s", uptime);
    run.record("panics", panics);
    run.record("starts_within_24_h", started);
    run.record("unclean_stops_within_24_h", unclean_stops);
    if panics > 0.0 {
        return Err(Shortfall::fails(format!("{panics} panics since the start {uptime} s ago")));
    }
    if unclean_stops >= CRASH_LOOP_STARTS {
        return Err(Shortfall::fails(format!(
            "of {started} servers started within a day {unclean_stops} stopped uncleanly"
        )));
    }
    Ok(format!(
        "up for {uptime} s without a panic; {started} starts within a day, {unclean_stops} of them stopped \
         uncleanly"
    ))
}
