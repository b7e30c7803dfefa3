//! Checks of the database: schema, indexes, statement times and connection pool.

use std::time::Duration;

use futures_util::future::join_all;
use kith_kernel::{Clock as _, SystemClock};
use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::exposition::MetricsScrape;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "DAT-01",
        description: "compares migrations, tables, columns, keys and checks with what this build's migrations make",
        remediation: "`kith migrate status` says what is applied; undo by hand what was done by hand",
        runs_last: false,
        run: |run| Box::pin(schema(run)),
    },
    Check {
        row: "DAT-03",
        description: "compares the indexes with those that this build's migrations make",
        remediation: "make the missing index again, as it stands in the module's migrations",
        runs_last: false,
        run: |run| Box::pin(indexes(run)),
    },
    Check {
        row: "DAT-04",
        description: "reads how long each statement took since the server started, without waits for locks and commits",
        remediation: "look at the statements it names, at their plans, and at the disk",
        runs_last: false,
        run: |run| Box::pin(check_statement_times(run)),
    },
    Check {
        row: "DAT-05",
        description: "reads the 20 statements on which most time went",
        remediation: "look at the plans of the statements it names, and waive the row for those that may be slow",
        runs_last: false,
        run: |run| Box::pin(check_statement_review(run)),
    },
    Check {
        row: "DAT-06",
        description: "asks 64 times at once, and reads the gauges of the pool meanwhile and afterwards",
        remediation: "raise database.write_threads and read_threads, or max_connections of the server",
        runs_last: true,
        run: |run| Box::pin(pool(run)),
    },
];

const BUDGET_US: u64 = 100_000;
/// Minimum number of runs from which the 95th percentile is used.
const MIN_RUNS_FOR_P95: u64 = 20;
const BURST: usize = 64;
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn database(run: &Run) -> Result<Value, Shortfall> {
    let database = run.facts().await?["database"].clone();
    if database.is_object() {
        Ok(database)
    } else {
        Err(Shortfall::fails("the server says nothing of its database"))
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
        return Err(Shortfall::fails(format!("the server does not compare its {what}")));
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
        return Err(Shortfall::fails("the server names no migrations"));
    }
    if let Some(other) = migrations.iter().find(|one| one["state"] != "applied") {
        let (name, state) = (other["name"].as_str().unwrap_or_default(), other["state"].as_str());
        return Err(Shortfall::fails(format!("migration {name} is {}", state.unwrap_or("not told"))));
    }
    let schema = &facts["database"]["schema"];
    ensure_none(&schema["differences"], "schema")?;
    if schema["digest"] != schema["expected_digest"] || !schema["digest"].is_string() {
        return Err(Shortfall::fails("the digest of the schema is not the one of this build's migrations"));
    }
    run.record("migrations", migrations.len());
    run.record("digest", schema["digest"].clone());
    Ok(format!(
        "{} migrations are applied with this build's texts, and {} tables are as they make them",
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
        .filter(|one| !one.ends_with("nobody's"))
        .map(Value::from)
        .collect();
    if !schema["index_differences"].is_array() {
        return Err(Shortfall::fails("the server does not compare its indexes"));
    }
    ensure_none(&Value::from(missing), "indexes")?;
    // Unique indexes belong to keys, which are part of the schema comparison.
    ensure_none(&keys_missing(&schema["differences"]), "keys")?;
    let large = database["scans_of_large_tables"].as_array().map_or(0, Vec::len);
    let scans = if is_sqlite(&database) {
        "SQLite counts no scans".to_owned()
    } else {
        format!("{large} tables of more than 10 000 rows were read from end to end at some time")
    };
    Ok(format!("all {indexes} indexes of this build's migrations are there; {scans}"))
}

fn keys_missing(differences: &Value) -> Value {
    join_names(differences).into_iter().filter(|one| one.contains(" lacks UNIQUE")).map(Value::from).collect()
}

/// Returns the statements of a list in the facts, and the number of known statements.
async fn statements(run: &Run, which: &str) -> Result<(Vec<Value>, u64), Shortfall> {
    let database = database(run).await?;
    let statements = &database["statements"];
    match (statements[which].as_array(), statements["known"].as_u64()) {
        (Some(listed), Some(known)) if !listed.is_empty() => Ok((listed.clone(), known)),
        _ => Err(Shortfall::unmeasured("no statement has run yet", "judge again after some use")),
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
        // A single run may be an outlier.
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
    // Runs common statements, so that a fresh server has measurements.
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
        "of {known} statements none takes more than 100 ms as a rule; the slowest {} ms",
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
        "the {} of {known} statements on which most time went are within 100 ms; most went on: {first}",
        listed.len()
    ))
}

async fn pool(run: &Run) -> Result<String, Shortfall> {
    let account = run.account("settings").await?;
    let before = MetricsScrape::now(run).await?;
    let burst = join_all((0..BURST).map(|_| account.client.get("/api/v1/me")));
    let watch = async {
        let mut most = (0.0_f64, 0.0_f64);
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..5 {
            looks.tick().await;
            let scrape = MetricsScrape::now(run).await?;
            let (queued, running) = gauges(&scrape)?;
            most = (most.0.max(queued), most.1.max(running));
        }
        Ok::<_, Shortfall>(most)
    };
    let (responses, most) = tokio::join!(burst, watch);
    let (most_queued, most_running) = most?;
    for response in responses {
        response?.expect(200)?;
    }
    let after = scrape_without_queue(run).await?;
    for name in ["kith_store_refused_busy_total", "kith_store_dropped_late_total"] {
        let grown = after.get(name, &[])? - before.get(name, &[])?;
        if grown > 0.0 {
            return Err(Shortfall::fails(format!("{name} grew by {grown} under {BURST} requests at once")));
        }
    }
    run.record("most_queued", most_queued);
    run.record("most_running", most_running);
    let room = connections(run).await?;
    Ok(format!(
        "{BURST} requests at once were answered, none waited in vain, and afterwards nobody waits (at most {most_queued} did); {room}"
    ))
}

fn gauges(scrape: &MetricsScrape) -> Result<(f64, f64), Shortfall> {
    Ok((scrape.get("kith_store_queued", &[])?, scrape.get("kith_store_running", &[])?))
}

/// Returns the first scrape after which no statement waits for the database.
async fn scrape_without_queue(run: &Run) -> Result<MetricsScrape, Shortfall> {
    let begin = SystemClock.now();
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let scrape = MetricsScrape::now(run).await?;
        let (queued, _) = gauges(&scrape)?;
        if queued == 0.0 {
            return Ok(scrape);
        }
        if SystemClock.now().since(begin) > SETTLES_WITHIN {
            let reason =
                format!("{queued} still wait for the database {} s after the load", SETTLES_WITHIN.as_secs());
            return Err(Shortfall::fails(reason));
        }
    }
}

/// Checks that the server allows as many connections as all nodes may open.
async fn connections(run: &Run) -> Result<String, Shortfall> {
    let database = database(run).await?;
    let Some(size) = database["pool"]["size"].as_u64() else {
        return Ok("SQLite has one connection that writes, and no maximum to run into".to_owned());
    };
    let server = &database["server"];
    let most = count(server, "max_connections").saturating_sub(count(server, "reserved_connections"));
    let nodes = 1 + run.deployment().target().other_nodes.len() as u64;
    run.record("pool_size", size);
    run.record("server_maximum", most);
    if size * nodes >= most {
        let reason = format!("{nodes} nodes open {size} connections each, and the server has {most}");
        return Err(Shortfall::fails(reason));
    }
    Ok(format!("{nodes} nodes open at most {size} connections each, of {most}"))
}
