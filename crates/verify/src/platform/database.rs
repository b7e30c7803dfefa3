//! Checks of the database: its schema, its indexes, the durations of statements, and the connection pool.

use std::time::Duration;

use futures_util::future::join_all;
use kith_kernel::{Clock as _, SystemClock};
use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::exposition::MetricsScrape;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "DAT-01",
        description: "compares migrations, tables, columns, keys and checks with those of this build's migrations",
        remediation: "run `kith migrate status` for the applied migrations; revert manual changes manually",
        runs_last: false,
        run: |run| Box::pin(schema(run)),
    },
    Check {
        row: "DAT-03",
        description: "compares the indexes with those of this build's migrations",
        remediation: "recreate the missing index as in the module's migrations",
        runs_last: false,
        run: |run| Box::pin(indexes(run)),
    },
    Check {
        row: "DAT-04",
        description: "reads the durations of all statements since the server started, without waits for locks and \
               commits",
        remediation: "look at the named statements, at their plans, and at the disk",
        runs_last: false,
        run: |run| Box::pin(check_statement_times(run)),
    },
    Check {
        row: "DAT-05",
        description: "reads the 20 statements with the largest total time",
        remediation: "look at the plans of the named statements, and waive the row for those that may be slow",
        runs_last: false,
        run: |run| Box::pin(check_statement_review(run)),
    },
    Check {
        row: "DAT-06",
        description: "sends 64 concurrent requests, and reads the gauges of the pool during and after them",
        remediation: "raise database.write_threads and read_threads, or max_connections of the server",
        runs_last: true,
        run: |run| Box::pin(pool(run)),
    },
];

const BUDGET_US: u64 = 100_000;
/// Minimum number of runs of a statement for which the 95th percentile is used.
const MIN_RUNS_FOR_P95: u64 = 20;
const BURST: usize = 64;
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn database(run: &Run) -> Result<Value, Shortfall> {
    let database = run.facts().await?["database"].clone();
    if database.is_object() {
        Ok(database)
    } else {
        Err(Shortfall::fails("the server does not report its database"))
    }
}

pub(super) fn is_sqlite(database: &Value) -> bool {
    database["engine"] == "sqlite"
}

pub(super) fn join_names(of: &Value) -> Vec<&str> {
    of.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn ensure_none(differences: &Value, what: &str) -> Result<(), Shortfall> {
    if !differences.is_array() {
        return Err(Shortfall::fails(format!("the server does not report the comparison of its {what}")));
    }
    match &*join_names(differences) {
        [] => Ok(()),
        [first, others @ ..] => Err(Shortfall::fails(match others.len() {
            0 => (*first).to_owned(),
            more => format!("{first}; and {more} more"),
        })),
    }
}

async fn schema(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let migrations: Vec<_> = facts["migrations"].as_array().into_iter().flatten().collect();
    if migrations.is_empty() {
        return Err(Shortfall::fails("the server reports no migrations"));
    }
    if let Some(other) = migrations.iter().find(|one| one["state"] != "applied") {
        let (name, state) = (other["name"].as_str().unwrap_or_default(), other["state"].as_str());
        return Err(Shortfall::fails(format!("migration {name} is {}", state.unwrap_or("unknown"))));
    }
    let schema = &facts["database"]["schema"];
    ensure_none(&schema["differences"], "schema")?;
    if schema["digest"] != schema["expected_digest"] || !schema["digest"].is_string() {
        return Err(Shortfall::fails(
            "the digest of the schema differs from that of this build's migrations",
        ));
    }
    run.record("migrations", migrations.len());
    run.record("digest", schema["digest"].clone());
    Ok(format!(
        "{} migrations are applied with the texts of this build, and {} tables match them",
        migrations.len(),
        schema["tables"]
    ))
}

async fn indexes(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    let schema = &database["schema"];
    let indexes = schema["indexes"].as_u64().unwrap_or_default();
    run.record("indexes", indexes);
    run.record("unused_indexes", database["unused_indexes"].clone());
    run.record("scans_of_large_tables", database["scans_of_large_tables"].clone());
    let missing: Vec<_> = join_names(&schema["index_differences"])
        .into_iter()
        .filter(|one| !one.ends_with(" is unexpected"))
        .map(Value::from)
        .collect();
    if !schema["index_differences"].is_array() {
        return Err(Shortfall::fails("the server does not report the comparison of its indexes"));
    }
    ensure_none(&Value::from(missing), "indexes")?;
    // A unique index counts as a key, and keys are part of the schema comparison.
    ensure_none(&keys_missing(&schema["differences"]), "keys")?;
    let large = database["scans_of_large_tables"].as_array().map_or(0, Vec::len);
    let scans = if is_sqlite(&database) {
        "SQLite does not count scans".to_owned()
    } else {
        format!("{large} tables of more than 10 000 rows had a sequential scan")
    };
    Ok(format!("all {indexes} indexes of this build's migrations exist; {scans}"))
}

fn keys_missing(differences: &Value) -> Value {
    join_names(differences).into_iter().filter(|one| one.contains(" lacks UNIQUE")).map(Value::from).collect()
}

/// Returns the statements in the list named `which` of the facts, and the number of statements that the
/// server knows.
async fn statements(run: &Run, which: &str) -> Result<(Vec<Value>, u64), Shortfall> {
    let database = database(run).await?;
    let statements = &database["statements"];
    match (statements[which].as_array(), statements["known"].as_u64()) {
        (Some(listed), Some(known)) if !listed.is_empty() => Ok((listed.clone(), known)),
        _ => Err(Shortfall::unmeasured(
            "no statement has run yet",
            "run it again after the server has been used",
        )),
    }
}

pub(super) fn count(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_default()
}

/// Returns the 95th percentile of a statement's duration, or the mean if it ran fewer than 20 times.
fn typical_duration_us(statement: &Value) -> u64 {
    count(statement, if count(statement, "count") >= MIN_RUNS_FOR_P95 { "p95_us" } else { "mean_us" })
}

fn check_budget(listed: &[Value]) -> Result<(), Shortfall> {
    let slow: Vec<_> = listed
        .iter()
        // The duration of a single run may be an outlier.
        .filter(|one| count(one, "count") > 1 && typical_duration_us(one) > BUDGET_US)
        .map(|one| {
            let text: String = one["statement"].as_str().unwrap_or_default().chars().take(120).collect();
            format!("{} ms, {} runs: {text}", typical_duration_us(one) / 1_000, one["count"])
        })
        .collect();
    match &*slow {
        [] => Ok(()),
        [first, ..] => {
            Err(Shortfall::fails(format!("{} statements take more than 100 ms; {first}", slow.len())))
        }
    }
}

async fn check_statement_times(run: &Run) -> Result<String, Shortfall> {
    // Causes some common statements, so that a server that has just started has measurements.
    let account = run.account("settings").await?;
    for name in ["A", "B"] {
        for path in ["/api/v1/me", "/api/v1/partners/current", "/api/v1/partners/requests"] {
            account.client.get(path).await?.expect(200)?;
        }
        rename(&account, &run.marker(name)).await?;
    }
    let (listed, known) = statements(run, "slowest").await?;
    run.record("slowest", listed.iter().take(5).cloned().collect::<Vec<_>>());
    check_budget(&listed)?;
    let slowest = listed.iter().map(typical_duration_us).max().unwrap_or_default();
    Ok(format!(
        "of {known} statements none usually takes more than 100 ms; the slowest takes {} ms",
        slowest.div_ceil(1_000)
    ))
}

/// Changes the display name of a synthetic account.
pub(super) async fn rename(account: &SyntheticAccount, name: &str) -> Result<(), Shortfall> {
    let me = account.client.get("/api/v1/me").await?.expect(200)?;
    let tag = me.header("etag").unwrap_or("*").to_owned();
    let name: String = name.chars().take(20).collect();
    let patch = account.client.with("if-match", &tag);
    patch.patch("/api/v1/me", json!({ "display_name": name })).await?.expect(200).map(drop)
}

async fn check_statement_review(run: &Run) -> Result<String, Shortfall> {
    let (listed, known) = statements(run, "by_total_time").await?;
    run.record("by_total_time", listed.clone());
    check_budget(&listed)?;
    let first = listed[0]["statement"].as_str().unwrap_or_default();
    Ok(format!(
        "the {} of {known} statements with the largest total time take at most 100 ms; the first is: {first}",
        listed.len()
    ))
}

async fn pool(run: &Run) -> Result<String, Shortfall> {
    let account = run.account("settings").await?;
    let before = MetricsScrape::now(run).await?;
    let burst = join_all((0..BURST).map(|_| account.client.get("/api/v1/me")));
    let watch = async {
        let mut max = (0.0_f64, 0.0_f64);
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..5 {
            interval.tick().await;
            let scrape = MetricsScrape::now(run).await?;
            let (queued, running) = gauges(&scrape)?;
            max = (max.0.max(queued), max.1.max(running));
        }
        Ok::<_, Shortfall>(max)
    };
    let (responses, max) = tokio::join!(burst, watch);
    let (max_queued, max_running) = max?;
    for response in responses {
        response?.expect(200)?;
    }
    let after = scrape_without_queue(run).await?;
    for name in ["kith_store_refused_busy_total", "kith_store_dropped_late_total"] {
        let grown = after.get(name, &[])? - before.get(name, &[])?;
        if grown > 0.0 {
            return Err(Shortfall::fails(format!(
                "{name} increased by {grown} under {BURST} concurrent requests"
            )));
        }
    }
    run.record("max_queued", max_queued);
    run.record("max_running", max_running);
    let room = connections(run).await?;
    Ok(format!(
        "{BURST} concurrent requests succeeded without a timeout; afterwards the queue is empty (at most \
         {max_queued} waited); {room}"
    ))
}

fn gauges(scrape: &MetricsScrape) -> Result<(f64, f64), Shortfall> {
    Ok((scrape.get("kith_store_queued", &[])?, scrape.get("kith_store_running", &[])?))
}

/// Returns the first scrape of the metrics in which no statement waits for the database.
async fn scrape_without_queue(run: &Run) -> Result<MetricsScrape, Shortfall> {
    let begin = SystemClock.now();
    let mut interval = tokio::time::interval(Duration::from_millis(50));
    loop {
        interval.tick().await;
        let scrape = MetricsScrape::now(run).await?;
        let (queued, _) = gauges(&scrape)?;
        if queued == 0.0 {
            return Ok(scrape);
        }
        if SystemClock.now().since(begin) > SETTLES_WITHIN {
            let reason = format!(
                "{queued} requests still wait for the database {} s after the load",
                SETTLES_WITHIN.as_secs()
            );
            return Err(Shortfall::fails(reason));
        }
    }
}

/// Checks that the database server allows as many connections as all nodes together may open.
async fn connections(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    let Some(size) = database["pool"]["size"].as_u64() else {
        return Ok("SQLite has one writing connection and no maximum of connections".to_owned());
    };
    let server = &database["server"];
    let max = count(server, "max_connections").saturating_sub(count(server, "reserved_connections"));
    let nodes = 1 + run.deployment().target().other_nodes.len() as u64;
    run.record("pool_size", size);
    run.record("server_maximum", max);
    if size * nodes >= max {
        let reason =
            format!("{nodes} nodes open {size} connections each, but the database server allows {max}");
        return Err(Shortfall::fails(reason));
    }
    Ok(format!("{nodes} nodes open at most {size} connections each; the database server allows {max}"))
}
