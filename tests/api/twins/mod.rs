//! GAT-01: each check fails on a deployment with the fault that it detects. A twin is a server with one
//! broken setting, table or response.
//!
//! By default, each twin is judged by its own row only. `KITH_TWINS=all` judges every twin by all fast rows
//! and writes `docs/twins.md`. `KITH_TWINS=JOB-01,JOB-02` judges only the twins of these rows and keeps the
//! other lines of the page.

mod account_twins;
mod deployment;
mod operations_twins;
mod platform_twins;
mod proxy;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::LazyLock;

use futures_util::{StreamExt as _, stream};
use kith_platform::config::Config;
use kith_readiness::{Catalogue, Gate, ProofMethod, RowOutcome};
use kith_store::EngineKind;
use kith_verify::checks;

use crate::support::Engine;
use deployment::judge;
use proxy::{ObservedTraffic, ProxiedRequest, ProxiedResponse};

/// Number of deployments that are judged concurrently.
const AT_ONCE: usize = 6;
/// Row whose check waits for 15 seconds.
const SLOW: &str = "DRV-01";

/// All twins.
static TWINS: LazyLock<Vec<&Twin>> = LazyLock::new(|| {
    [platform_twins::TWINS, operations_twins::TWINS, account_twins::TWINS].into_iter().flatten().collect()
});

/// Server with one fault, and the row that must detect it.
pub struct Twin {
    /// Row id.
    row: &'static str,
    /// Description of the fault. It completes a sentence that begins with "a deployment".
    fault_description: &'static str,
    /// Fault.
    fault: InjectedFault,
}

/// Fault of a server.
pub enum InjectedFault {
    /// Changed setting.
    Setting(fn(&mut Config)),
    /// Statements executed on its database after the start. Empty if the engine cannot have the fault.
    Database(fn(EngineKind) -> &'static [&'static str]),
    /// Change of a request before it reaches the server.
    Request(fn(&ObservedTraffic, &mut ProxiedRequest)),
    /// Change of a response.
    Response(fn(&ProxiedRequest, &mut ProxiedResponse)),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_twin_fails_its_row_on_sqlite() {
    each_twin_fails_its_row(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_twin_fails_its_row_on_postgres() {
    if Engine::Postgres.is_chosen() {
        each_twin_fails_its_row(Engine::Postgres).await;
    }
}

async fn each_twin_fails_its_row(engine: Engine) {
    let twins = TWINS.iter().filter(|twin| requested_rows().is_none() && twin.exists_on(engine));
    let judged = stream::iter(twins).map(async |twin| (twin, judge(engine, &twin.fault, &[twin.row]).await));
    let wrong = judged.buffered(AT_ONCE).filter_map(async |(twin, found)| {
        let result = &found[0];
        let message = format!(
            "{} on a deployment {}: {} ({})",
            twin.row,
            twin.fault_description,
            result.result.name(),
            result.reason
        );
        eprintln!("{message}");
        (result.result != RowOutcome::Fail).then_some(message)
    });
    let wrong: Vec<_> = wrong.collect().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// On an intact deployment the same rows pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intact_deployment_passes_all_rows() {
    let rows: BTreeSet<_> = TWINS.iter().map(|twin| twin.row).collect();
    let rows: Vec<_> = rows.into_iter().collect();
    for engine in [Engine::Sqlite, Engine::Postgres].into_iter().filter(|engine| engine.is_chosen()) {
        let found = judge(engine, &InjectedFault::Setting(|_| {}), &rows).await;
        let red = found
            .iter()
            .filter(|row| row.result != RowOutcome::Pass && row.result != RowOutcome::NotApplicable);
        let red: Vec<_> =
            red.map(|row| format!("{} {}: {}", row.id, row.result.name(), row.reason)).collect();
        assert!(red.is_empty(), "{engine:?}: {red:#?}");
    }
}

/// The catalogue names the twin of each row.
#[test]
fn catalogue_names_all_twins() {
    let catalogue = Catalogue::built_in();
    for row in &catalogue.rows {
        let twin = TWINS.iter().find(|twin| twin.row == row.id).map(|twin| twin.fault_description);
        assert_eq!(row.twin.as_deref(), twin, "{}", row.id);
    }
    let unmatched: Vec<_> =
        TWINS.iter().filter(|twin| catalogue.find(twin.row).is_none()).map(|twin| twin.row).collect();
    assert!(unmatched.is_empty(), "{unmatched:?}");
}

/// `docs/twins.md` lists exactly these twins.
#[test]
fn twins_page_is_current() {
    const PAGE: &str = include_str!("../../../docs/twins.md");
    let shown: Vec<_> =
        PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| row")).collect();
    let twins: Vec<_> = TWINS.iter().filter(|twin| twin.exists_on(Engine::Sqlite)).collect();
    assert_eq!(shown.len(), twins.len(), "regenerate the page: {}", PAGE.lines().next().unwrap_or_default());
    for (line, twin) in shown.iter().zip(twins) {
        assert!(line.starts_with(&format!("| {} | {} | ", twin.row, twin.fault_description)), "{line}");
    }
}

/// Each live row of the beta gate has a twin.
#[test]
fn beta_checks_have_twins() {
    let catalogue = Catalogue::built_in();
    let live = catalogue
        .rows
        .iter()
        .filter(|row| row.gate == Gate::Beta && row.proved_by.contains(&ProofMethod::Live));
    let without: Vec<_> = live.filter(|row| row.twin.is_none()).map(|row| &*row.id).collect();
    let excused: Vec<_> = WITHOUT_A_TWIN.iter().map(|(row, _)| *row).collect();
    assert_eq!(without, excused);
}

/// Beta rows without a twin, with the reason.
const WITHOUT_A_TWIN: &[(&str, &str)] = &[
    ("SEC-09", "needs a public address with TLS"),
    ("SEC-10", "needs a public address with TLS"),
    ("SEC-19", "needs a second machine from which the database is open"),
    ("OBS-01", "broken in verify.rs, on a process with a log of its own"),
    ("OBS-02", "broken in verify.rs, on a process with a log of its own"),
    ("DEP-02", "broken in verify.rs, on a process of another build"),
    ("DRV-17", "broken in verify.rs, on a process that does not sync"),
];

/// Each live row has a check, and each check belongs to a live row.
#[test]
fn live_rows_match_checks() {
    let catalogue = Catalogue::built_in();
    let live: BTreeSet<_> = catalogue
        .rows
        .iter()
        .filter(|row| row.proved_by.contains(&ProofMethod::Live))
        .map(|row| row.id.clone())
        .collect();
    let checks = checks();
    let measured: BTreeSet<_> = checks.iter().map(|check| check.row.to_owned()).collect();
    assert_eq!(measured.len(), checks.len(), "two checks belong to the same row");
    assert_eq!(live, measured);
}

/// Returns the value of `KITH_TWINS`.
fn requested_rows() -> Option<String> {
    std::env::var("KITH_TWINS").ok()
}

impl Twin {
    fn exists_on(&self, engine: Engine) -> bool {
        match self.fault {
            InjectedFault::Database(statements) => !statements(deployment::kind(engine)).is_empty(),
            _ => true,
        }
    }
}

/// Judges all fast rows on all twins and writes the table. Takes long, so it runs only on request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_table_of_twins() {
    let Some(requested) = requested_rows() else { return };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/twins.md");
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let kept = |twin: &Twin| {
        let named = requested == "all" || requested.split(',').any(|row| row == twin.row);
        let begins = format!("| {} | {} |", twin.row, twin.fault_description);
        before.lines().find(|line| !named && line.starts_with(&begins)).map(str::to_owned)
    };
    let quick =
        checks().into_iter().filter(|check| !check.runs_last && check.row != SLOW).map(|check| check.row);
    let quick: Vec<_> = quick.collect();
    let red = async |fault: &InjectedFault, row: &'static str| {
        let rows: Vec<_> = quick.iter().copied().filter(|other| *other != row).chain([row]).collect();
        let found = judge(Engine::Sqlite, fault, &rows).await;
        let red = found.into_iter().filter(|row| row.result == RowOutcome::Fail).map(|row| row.id);
        red.collect::<BTreeSet<_>>()
    };
    let whole = red(&InjectedFault::Setting(|_| {}), "API-11").await;
    let mut page = format!(
        "<!-- Generated by `KITH_TWINS=all cargo xtask test --sqlite-only -- -p kith --test api write_table_of_twins`. -->\n\
         # Twins: each check, tested against a broken deployment\n\n\
         Each deployment is broken in one way and judged by its own row and by all {} fast rows.\n\n\
         | row | a deployment … | other rows that fail |\n|---|---|---|\n",
        quick.len()
    );
    let twins = TWINS.iter().filter(|twin| twin.exists_on(Engine::Sqlite));
    let mut judged = pin!(
        stream::iter(twins)
            .map(async |twin| match kept(twin) {
                Some(line) => (twin, Err(line)),
                None => (twin, Ok(red(&twin.fault, twin.row).await)),
            })
            .buffered(AT_ONCE)
    );
    while let Some((twin, red)) = judged.next().await {
        let red = match red {
            Ok(red) => red,
            Err(line) => {
                let _ = writeln!(page, "{line}");
                continue;
            }
        };
        assert!(red.contains(twin.row), "{} fails on a deployment {}", twin.row, twin.fault_description);
        let others: Vec<_> =
            red.iter().filter(|row| *row != twin.row && !whole.contains(*row)).cloned().collect();
        eprintln!(
            "{} fails on a deployment {}; other rows that fail: {others:?}",
            twin.row, twin.fault_description
        );
        let _ = writeln!(page, "| {} | {} | {} |", twin.row, twin.fault_description, others.join(", "));
    }
    std::fs::write(path, page).expect("the page is written");
}
