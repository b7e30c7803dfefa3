//! Judges a deployment row by row: runs checks, combines them with artefacts and declarations, and deletes
//! the synthetic accounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use kith_kernel::Clock;
use serde::Serialize;
use serde_json::Value;

use crate::artefact::{Artefact, Holds};
use crate::catalogue::By;
use crate::client::in_ms;
use crate::evidence::{Evidence, Notes};
use crate::{
    Artefacts, Catalogue, Check, Checked, Declared, Deployment, Gate, Outcome, Report, Row, RowResult, Run,
    Shortfall, score,
};

/// Tolerated lead of another machine's clock over this one's.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Timeout of each check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(240);
/// Remediation for a check that timed out.
const TIMEOUT_REMEDIATION: &str = "find out why the deployment responds slowly, and try again";

/// Input of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rows to judge.
    pub catalogue: Catalogue,
    /// Checks that measure rows on the running deployment.
    pub checks: Vec<&'static Check>,
    /// Artefacts of repository commands.
    pub artefacts: Artefacts,
    /// Declarations of operators: checks, attestations and waivers.
    pub declared: Declared,
    /// Ids of the rows to judge. Empty means all.
    pub only: Vec<String>,
    /// Gate to judge.
    pub gate: Gate,
}

/// Progress of a run.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// The judgement of a row begins.
    Begins {
        /// Row to be judged.
        row: &'a Row,
        /// Position of the row, from 1.
        n: usize,
        /// Total number of rows.
        of: usize,
    },
    /// A row has been judged.
    Ends(&'a RowResult),
    /// The synthetic accounts are being deleted.
    CleansUp,
}

/// Build and configuration that the deployment reports.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Identity {
    /// Version, followed by `+` and the commit it was built from.
    pub build: String,
    /// Digest of the configuration, if an administrator could read it.
    pub configuration: Option<String>,
    /// Commit, if the version contains one.
    #[serde(skip)]
    pub commit: Option<String>,
}

/// Result of judging a row by one method.
struct Part {
    outcome: Outcome,
    why: String,
    mend: Option<String>,
    evidence: Option<Evidence>,
}

impl Part {
    fn new(outcome: Outcome, why: impl Into<String>) -> Self {
        Self { outcome, why: why.into(), mend: None, evidence: None }
    }

    fn with_mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// Judges the rows of `plan` on `deployment` one by one, then deletes the synthetic accounts. If `stop`
/// becomes true, the current row is completed, no further row is judged, and the accounts are deleted.
pub async fn verify(
    plan: &Plan,
    deployment: Deployment,
    clock: &dyn Clock,
    progress: &(dyn Fn(Progress<'_>) + Sync),
    stop: &AtomicBool,
) -> Report {
    let began = clock.now();
    let judge =
        Judge { plan, identity: identify(&deployment).await, deployment: Arc::new(deployment), clock };
    let rows: Vec<_> = plan.catalogue.rows.iter().filter(|row| plan.is_chosen(row)).collect();
    let mut order = rows.clone();
    order.sort_by_key(|row| {
        (row.by.contains(&By::Rows), plan.check_of(&row.id).is_some_and(|check| check.last))
    });
    let mut results = Vec::new();
    for (n, row) in order.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        progress(Progress::Begins { row, n: n + 1, of: order.len() });
        let result = judge.row(row, &results).await;
        progress(Progress::Ends(&result));
        results.push(result);
    }
    progress(Progress::CleansUp);
    let left_behind = judge.deployment.clean_up().await;
    let place = |result: &RowResult| rows.iter().position(|row| row.id == result.id);
    results.sort_by_key(place);
    Report {
        target: judge.deployment.target().url.clone(),
        checks: plan.fingerprint(),
        identity: judge.identity,
        began,
        ended: clock.now(),
        gate: score::GateVerdict::of(plan.gate, &results),
        scores: score::Scores::of(&plan.catalogue, &results),
        left_out: plan.catalogue.rows.len() - results.len(),
        rows: results,
        left_behind,
    }
}

/// Reads build and configuration. Fields that cannot be read stay empty.
async fn identify(deployment: &Deployment) -> Identity {
    let notes = Notes::default();
    let build = match deployment.client(notes.clone()).get("/api/health").await {
        Ok(answer) => answer.text_at("/releaseId").unwrap_or_default(),
        Err(_) => String::new(),
    };
    let facts = match deployment.admin_token(&notes).await {
        Ok(token) => deployment.client(notes).with_token(&token).get("/api/v1/admin/facts").await.ok(),
        Err(_) => None,
    };
    let digest = |facts: Value| facts.pointer("/configuration/digest")?.as_str().map(str::to_owned);
    Identity {
        commit: build.split_once('+').map(|(_, commit)| commit.to_owned()).filter(|commit| is_commit(commit)),
        configuration: facts.and_then(|answer| digest(answer.json())),
        build,
    }
}

impl Plan {
    /// Returns a fingerprint of rows and checks: SHA-256 over the rows and the descriptions of the checks. A
    /// report with another fingerprint is stale.
    pub fn fingerprint(&self) -> String {
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut add = |text: &str| {
            digest.update(&(text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        };
        for row in &self.catalogue.rows {
            [&row.id, &row.what, &row.check].into_iter().for_each(|text| add(text));
            row.tests.iter().for_each(|test| add(test));
        }
        for check in &self.checks {
            [check.row, check.does].into_iter().for_each(&mut add);
        }
        let hash = digest.finish();
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hash}")
    }

    fn is_chosen(&self, row: &Row) -> bool {
        self.only.is_empty() || self.only.contains(&row.id)
    }

    fn check_of(&self, row: &str) -> Option<&'static Check> {
        self.checks.iter().find(|check| check.row == row).copied()
    }
}

struct Judge<'a> {
    plan: &'a Plan,
    identity: Identity,
    deployment: Arc<Deployment>,
    clock: &'a dyn Clock,
}

impl Judge<'_> {
    async fn row(&self, row: &Row, others: &[RowResult]) -> RowResult {
        let mut parts = Vec::new();
        for by in &row.by {
            parts.push(match by {
                By::Live => self.live(row).await,
                By::Tests => self.tests(row),
                By::Artefact => self.artefact(row),
                By::Attestation => Part::new(Outcome::Unknown, "no attestation was given")
                    .with_mend("add an attestation with an owner to a file for --checks"),
                By::Rows if self.plan.only.is_empty() => sum_up(row, others),
                By::Rows => {
                    Part::new(Outcome::Unknown, "not all of the rows that it summarizes were selected")
                        .with_mend("judge all rows: omit --only and --area")
                }
            });
        }
        if let Some(waits) = &row.waits {
            let part = Part::new(Outcome::NotYet, format!("not implemented yet: requires {waits}"));
            parts.push(part.with_mend(
                "wait for a later version, or waive the row with a reason, an owner and an end date",
            ));
        }
        let live = row.by.iter().position(|by| *by == By::Live).map(|at| parts[at].outcome);
        let mut result = RowResult { live, ..combine(row, parts) };
        for evidence in &mut result.evidence {
            evidence.target.clone_from(&self.deployment.target().url);
            evidence.build.clone_from(&self.identity.build);
            evidence.configuration.clone_from(&self.identity.configuration);
        }
        self.plan.declared.apply(row, &mut result, self.clock.now());
        result
    }

    #[expect(clippy::disallowed_methods, reason = "the duration of a check is measured in real time")]
    async fn live(&self, row: &Row) -> Part {
        let at = self.clock.now();
        let notes = Notes::default();
        let run = Run::new(Arc::clone(&self.deployment), notes.clone());
        let declared = self.plan.declared.check_of(&row.id);
        let (does, mend, checked): (_, _, Checked<'_>) = match (self.plan.check_of(&row.id), declared) {
            (_, Some(declared)) => (declared.does(), declared.mend(), Box::pin(declared.run(&run))),
            (Some(check), None) => (check.does.to_owned(), check.mend.to_owned(), (check.run)(&run)),
            (None, None) => return Part::new(Outcome::Unknown, "this build has no check for it"),
        };
        let began = Instant::now();
        let found = match tokio::time::timeout(CHECK_TIMEOUT, checked).await {
            Ok(found) => found,
            Err(_) => Err(Shortfall::unmeasured(
                format!("the check took longer than {} s", CHECK_TIMEOUT.as_secs()),
                TIMEOUT_REMEDIATION,
            )),
        };
        let part = match found {
            Ok(found) => Part::new(Outcome::Pass, found),
            Err(Shortfall::Fails(found)) => Part::new(Outcome::Fail, found).with_mend(mend),
            Err(Shortfall::Unmeasured { why, mend }) => Part::new(Outcome::Unknown, why).with_mend(mend),
            Err(Shortfall::NotApplicable(why)) => Part::new(Outcome::NotApplicable, why),
        };
        Part { evidence: Some(notes.into_evidence(&does, at, in_ms(began.elapsed()))), ..part }
    }

    fn artefact(&self, row: &Row) -> Part {
        let obtain = row.obtain.as_deref().unwrap_or_default();
        let Some((artefact, measured)) = self.plan.artefacts.of_row(&row.id) else {
            return Part::new(Outcome::Unknown, format!("no artefact of `{obtain}` covers this row"))
                .with_mend(format!(
                    "run `{obtain}` at the running commit, and name its folder with --evidence"
                ));
        };
        let part = match measured.result {
            Holds::Pass => Part::new(Outcome::Pass, measured.summary.clone()),
            Holds::Fail => Part::new(Outcome::Fail, measured.summary.clone())
                .with_mend(format!("fix the findings of `{}`, and run it again", artefact.tool)),
        };
        let figures = measured.figures.clone();
        let part =
            Part { evidence: Some(Evidence::new("artefact", &artefact.tool, artefact.at, figures)), ..part };
        self.if_it_counts(row, artefact, part)
    }

    fn tests(&self, row: &Row) -> Part {
        const RUN: &str =
            "run `cargo xtask test` at the running commit, and name target/evidence with --evidence";
        let Some(artefact) = self.plan.artefacts.of_tests() else {
            return Part::new(Outcome::Unknown, "no test results were given").with_mend(RUN);
        };
        let part = named_tests(row, artefact);
        let figures = serde_json::Map::from_iter([("tests".to_owned(), row.tests.clone().into())]);
        let seen = Evidence::new("tests", &artefact.tool, artefact.at, figures);
        self.if_it_counts(row, artefact, Part { evidence: Some(seen), ..part })
    }

    /// Returns `part`, or another outcome if the artefact belongs to another build, is too old, or is from
    /// the future.
    fn if_it_counts(&self, row: &Row, artefact: &Artefact, part: Part) -> Part {
        let again = format!("run `{}` again at the running commit", artefact.tool);
        let now = self.clock.now();
        if artefact.at > now + MAX_CLOCK_SKEW {
            let why = format!(
                "the artefact of `{}` has the date {}, which is in the future",
                artefact.tool, artefact.at
            );
            return Part { outcome: Outcome::Unknown, why, mend: Some(again), ..part };
        }
        if let Some(age) = row.artefact_age() {
            if now.since(artefact.at) > age {
                let why = format!(
                    "the artefact of `{}` is from {}, older than {} h",
                    artefact.tool,
                    artefact.at,
                    age.as_secs() / 3_600
                );
                return Part { outcome: Outcome::Stale, why, mend: Some(again), ..part };
            }
            if !row.is_bound_to_build() {
                return part;
            }
        }
        let made_of = if artefact.dirty {
            format!("{} with uncommitted changes", artefact.commit)
        } else {
            artefact.commit.clone()
        };
        match &self.identity.commit {
            None => {
                let why = "the deployment does not report the commit of its build";
                let mend = "deploy a release build of a clone of the repository";
                Part { outcome: Outcome::Unknown, why: why.to_owned(), mend: Some(mend.to_owned()), ..part }
            }
            // The commit of a build with uncommitted changes ends with `.dirty`.
            Some(commit) if artefact.dirty || !artefact.commit.starts_with(&**commit) => {
                let why =
                    format!("the artefact of `{}` is for {made_of}, but {commit} is running", artefact.tool);
                Part { outcome: Outcome::Stale, why, mend: Some(again), ..part }
            }
            Some(_) => part,
        }
    }
}

/// Returns the result of the tests that a row names.
fn named_tests(row: &Row, artefact: &Artefact) -> Part {
    const RERUN_TESTS: &str = "fix the failed tests, and run `cargo xtask test` again";
    if !artefact.complete {
        return Part::new(Outcome::Fail, "the test run did not complete").with_mend(RERUN_TESTS);
    }
    let mut passed = 0;
    for part_of_name in &row.tests {
        let named: Vec<_> = artefact.tests.iter().filter(|(name, _)| name.contains(part_of_name)).collect();
        if let Some((name, outcome)) = named.iter().find(|(_, outcome)| *outcome != "ok") {
            return Part::new(Outcome::Fail, format!("the test {name}: {outcome}")).with_mend(RERUN_TESTS);
        }
        if named.is_empty() {
            return Part::new(Outcome::Unknown, format!("no test named {part_of_name} was run"))
                .with_mend(RERUN_TESTS);
        }
        passed += named.len();
    }
    Part::new(Outcome::Pass, format!("{passed} tests passed"))
}

/// Returns true for a Git commit hash, optionally followed by `.dirty`.
fn is_commit(text: &str) -> bool {
    let hash = text.strip_suffix(".dirty").unwrap_or(text);
    (7..=64).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the result of a row that summarizes other rows.
fn sum_up(row: &Row, others: &[RowResult]) -> Part {
    let words: Vec<_> = row.of.as_deref().unwrap_or_default().split(' ').collect();
    // Sorts rows by the position of the word that names them.
    let place = |other: &RowResult| {
        words.iter().position(|word| match *word {
            "beta" => other.gate == Gate::Beta,
            "production" => other.gate <= Gate::Production,
            // Rows that were measured on the running deployment and block at least the gate of this row.
            "live" => other.gate <= row.gate && other.evidence.iter().any(|evidence| evidence.kind == "live"),
            id => other.id == id || other.id.split('-').next() == Some(id),
        })
    };
    let mut among: Vec<_> = others.iter().filter(|other| place(other).is_some()).collect();
    among.sort_by_key(|other| place(other));
    let missing: Vec<_> = among.iter().filter(|other| !other.result.opens()).collect();
    let failed =
        missing.iter().filter(|other| matches!(other.result, Outcome::Fail | Outcome::NotYet)).count();
    match (among.len(), missing.len()) {
        (0, _) => Part::new(Outcome::Unknown, "none of the rows that it summarizes was judged")
            .with_mend("judge all rows: omit --only and --area"),
        (all, 0) => Part::new(Outcome::Pass, format!("all {all} rows that it summarizes hold")),
        (all, some) => {
            let outcome = if failed > 0 { Outcome::Fail } else { Outcome::Unknown };
            let ids: Vec<_> = missing.iter().take(8).map(|other| &*other.id).collect();
            let dots = if some > ids.len() { ", …" } else { "" };
            Part::new(outcome, format!("{some} of {all} rows do not hold: {}{dots}", ids.join(", ")))
                .with_mend("fix these rows")
        }
    }
}

/// Combines the methods of a row: the worst outcome decides. Methods that do not apply are ignored unless all
/// do not apply.
fn combine(row: &Row, mut parts: Vec<Part>) -> RowResult {
    let mut evidence = Vec::new();
    if parts.iter().any(|part| part.outcome != Outcome::NotApplicable) {
        parts.retain(|part| part.outcome != Outcome::NotApplicable);
    }
    let mut worst: Option<Part> = None;
    for mut part in parts {
        evidence.extend(part.evidence.take());
        worst = Some(match worst {
            Some(worst) if worst.outcome >= part.outcome => Part { why: both(&worst, &part), ..worst },
            Some(worst) => Part { why: both(&part, &worst), ..part },
            None => part,
        });
    }
    let Part { outcome, why, mend, .. } =
        worst.unwrap_or_else(|| Part::new(Outcome::Unknown, "the catalogue names no method for this row"));
    RowResult {
        id: row.id.clone(),
        what: row.what.clone(),
        gate: row.gate,
        result: outcome,
        live: None,
        why,
        mend,
        twin: row.twin.clone(),
        evidence,
    }
}

/// Joins both reasons if both passed. Otherwise returns the worse one.
fn both(worse: &Part, better: &Part) -> String {
    if worse.outcome == Outcome::Pass { format!("{}; {}", worse.why, better.why) } else { worse.why.clone() }
}
