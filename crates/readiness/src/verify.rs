//! Judges a deployment row by row: runs checks, combines their results with artefacts and declarations, and
//! deletes the synthetic accounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use kith_kernel::Clock;
use serde::Serialize;
use serde_json::Value;

use crate::artefact::{Artefact, MeasurementResult};
use crate::catalogue::ProofMethod;
use crate::client::as_millis_u64;
use crate::evidence::{Evidence, EvidenceRecorder};
use crate::method_result::{MethodResult, combine, judge_named_tests, summarize};
use crate::{
    Artefacts, Catalogue, CatalogueRow, Check, CheckFuture, Declared, Deployment, Gate, ReadinessReport,
    RowOutcome, RowResult, Run, Shortfall, score,
};

/// Maximum time by which an artefact may seem to be from the future, because the clock of another machine is
/// ahead.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Timeout of each check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(240);
/// Remediation of a check that exceeded its timeout.
const TIMEOUT_REMEDIATION: &str = "find out why the deployment responds slowly, and try again";

/// Input of a run: the rows to judge, and how to measure them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Catalogue that contains the rows.
    pub catalogue: Catalogue,
    /// Checks that measure rows on the running deployment.
    pub checks: Vec<&'static Check>,
    /// Artefacts of repository commands.
    pub artefacts: Artefacts,
    /// Declarations of operators: checks, attestations and waivers.
    pub declared: Declared,
    /// Ids of the rows to judge. If empty, all rows are judged.
    pub only: Vec<String>,
    /// Gate to judge.
    pub gate: Gate,
}

/// Event during a run, for display of its progress.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A row is about to be judged.
    RowStarted {
        /// Row to be judged.
        row: &'a CatalogueRow,
        /// Position of the row in the run, from 1.
        n: usize,
        /// Number of rows that are judged in the run.
        total: usize,
    },
    /// A row has been judged.
    RowFinished(&'a RowResult),
    /// The synthetic accounts are being deleted.
    CleaningUp,
}

/// Build and configuration that the deployment reports.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Identity {
    /// Version, followed by `+` and the commit from which it was built.
    pub build: String,
    /// Digest of the configuration, if an administrator could read it.
    pub configuration: Option<String>,
    /// Commit, if the version contains one.
    #[serde(skip)]
    pub commit: Option<String>,
}

/// Judges the rows of `plan` on `deployment` one after the other, then deletes the synthetic accounts. If
/// `stop` becomes true, the current row is completed, no further row is judged, and the accounts are deleted.
pub async fn verify(
    plan: &Plan,
    deployment: Deployment,
    clock: &dyn Clock,
    progress: &(dyn Fn(Progress<'_>) + Sync),
    stop: &AtomicBool,
) -> ReadinessReport {
    let started_at = clock.now();
    let judge =
        Judge { plan, identity: identify(&deployment).await, deployment: Arc::new(deployment), clock };
    let rows: Vec<_> = plan.catalogue.rows.iter().filter(|row| plan.is_chosen(row)).collect();
    let mut order = rows.clone();
    order.sort_by_key(|row| {
        (
            row.proved_by.contains(&ProofMethod::Rows),
            plan.check_of(&row.id).is_some_and(|check| check.runs_last),
        )
    });
    let mut results = Vec::new();
    for (n, row) in order.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        progress(Progress::RowStarted { row, n: n + 1, total: order.len() });
        let result = judge.row(row, &results).await;
        progress(Progress::RowFinished(&result));
        results.push(result);
    }
    progress(Progress::CleaningUp);
    let undeleted_accounts = judge.deployment.clean_up().await;
    let position = |result: &RowResult| rows.iter().position(|row| row.id == result.id);
    results.sort_by_key(position);
    ReadinessReport {
        target: judge.deployment.target().url.clone(),
        checks: plan.fingerprint(),
        identity: judge.identity,
        started_at,
        ended_at: clock.now(),
        gate: score::GateVerdict::of(plan.gate, &results),
        scores: score::Scores::of(&plan.catalogue, &results),
        not_judged: plan.catalogue.rows.len() - results.len(),
        rows: results,
        undeleted_accounts,
    }
}

/// Reads the build and configuration of the deployment. Fields that cannot be read are empty.
async fn identify(deployment: &Deployment) -> Identity {
    let notes = EvidenceRecorder::default();
    let build = match deployment.client(notes.clone()).get("/api/health").await {
        Ok(response) => response.text_at("/releaseId").unwrap_or_default(),
        Err(_) => String::new(),
    };
    let facts = match deployment.admin_token(&notes).await {
        Ok(token) => deployment.client(notes).with_token(&token).get("/api/v1/admin/facts").await.ok(),
        Err(_) => None,
    };
    let digest = |facts: Value| facts.pointer("/configuration/digest")?.as_str().map(str::to_owned);
    Identity {
        commit: build.split_once('+').map(|(_, commit)| commit.to_owned()).filter(|commit| is_commit(commit)),
        configuration: facts.and_then(|response| digest(response.json())),
        build,
    }
}

impl Plan {
    /// Returns a fingerprint of the plan: the SHA-256 of the rows and of the descriptions of the checks. A
    /// report with another fingerprint is out of date.
    pub fn fingerprint(&self) -> String {
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut add = |text: &str| {
            digest.update(&(text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        };
        for row in &self.catalogue.rows {
            [&row.id, &row.requirement, &row.check].into_iter().for_each(|text| add(text));
            row.tests.iter().for_each(|test| add(test));
        }
        for check in &self.checks {
            [check.row, check.description].into_iter().for_each(&mut add);
        }
        let hash = digest.finish();
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hash}")
    }

    fn is_chosen(&self, row: &CatalogueRow) -> bool {
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
    async fn row(&self, row: &CatalogueRow, others: &[RowResult]) -> RowResult {
        let mut parts = Vec::new();
        for method in &row.proved_by {
            parts.push(match method {
                ProofMethod::Live => self.live(row).await,
                ProofMethod::Tests => self.tests(row),
                ProofMethod::Artefact => self.artefact(row),
                ProofMethod::Attestation => {
                    MethodResult::new(RowOutcome::Unknown, "no attestation was given")
                        .with_remediation("add an attestation with an owner to a file for --checks")
                }
                ProofMethod::Rows if self.plan.only.is_empty() => summarize(row, others),
                ProofMethod::Rows => MethodResult::new(
                    RowOutcome::Unknown,
                    "not all of the rows that it summarizes were selected",
                )
                .with_remediation("judge all rows: omit --only and --area"),
            });
        }
        if let Some(awaits) = &row.awaits {
            let result =
                MethodResult::new(RowOutcome::NotYet, format!("not implemented yet: requires {awaits}"));
            parts.push(result.with_remediation(
                "wait for a later version, or waive the row with a reason, an owner and an end date",
            ));
        }
        let live =
            row.proved_by.iter().position(|method| *method == ProofMethod::Live).map(|at| parts[at].outcome);
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
    async fn live(&self, row: &CatalogueRow) -> MethodResult {
        let at = self.clock.now();
        let notes = EvidenceRecorder::default();
        let run = Run::new(Arc::clone(&self.deployment), notes.clone());
        let declared = self.plan.declared.check_of(&row.id);
        let (description, remediation, checked): (_, _, CheckFuture<'_>) =
            match (self.plan.check_of(&row.id), declared) {
                (_, Some(declared)) => {
                    (declared.description(), declared.remediation(), Box::pin(declared.run(&run)))
                }
                (Some(check), None) => {
                    (check.description.to_owned(), check.remediation.to_owned(), (check.run)(&run))
                }
                (None, None) => {
                    return MethodResult::new(RowOutcome::Unknown, "this build has no check for it");
                }
            };
        let began = Instant::now();
        let found = match tokio::time::timeout(CHECK_TIMEOUT, checked).await {
            Ok(found) => found,
            Err(_) => Err(Shortfall::unmeasured(
                format!("the check took longer than {} s", CHECK_TIMEOUT.as_secs()),
                TIMEOUT_REMEDIATION,
            )),
        };
        let result = match found {
            Ok(found) => MethodResult::new(RowOutcome::Pass, found),
            Err(Shortfall::Fails(found)) => {
                MethodResult::new(RowOutcome::Fail, found).with_remediation(remediation)
            }
            Err(Shortfall::Unmeasured { reason, remediation }) => {
                MethodResult::new(RowOutcome::Unknown, reason).with_remediation(remediation)
            }
            Err(Shortfall::NotApplicable(reason)) => MethodResult::new(RowOutcome::NotApplicable, reason),
        };
        MethodResult {
            evidence: Some(notes.into_evidence(&description, at, as_millis_u64(began.elapsed()))),
            ..result
        }
    }

    fn artefact(&self, row: &CatalogueRow) -> MethodResult {
        let artefact_command = row.artefact_command.as_deref().unwrap_or_default();
        let Some((artefact, measured)) = self.plan.artefacts.find_row(&row.id) else {
            return MethodResult::new(
                RowOutcome::Unknown,
                format!("no artefact of `{artefact_command}` covers this row"),
            )
            .with_remediation(format!(
                "run `{artefact_command}` at the running commit, and name its folder with --evidence"
            ));
        };
        let result = match measured.result {
            MeasurementResult::Pass => MethodResult::new(RowOutcome::Pass, measured.summary.clone()),
            MeasurementResult::Fail => MethodResult::new(RowOutcome::Fail, measured.summary.clone())
                .with_remediation(format!("fix the findings of `{}`, and run it again", artefact.tool)),
        };
        let figures = measured.figures.clone();
        let result = MethodResult {
            evidence: Some(Evidence::new("artefact", &artefact.tool, artefact.at, figures)),
            ..result
        };
        self.reject_stale(row, artefact, result)
    }

    fn tests(&self, row: &CatalogueRow) -> MethodResult {
        const RUN: &str =
            "run `cargo xtask test` at the running commit, and name target/evidence with --evidence";
        let Some(artefact) = self.plan.artefacts.find_tests() else {
            return MethodResult::new(RowOutcome::Unknown, "no test results were given")
                .with_remediation(RUN);
        };
        let result = judge_named_tests(row, artefact);
        let figures = serde_json::Map::from_iter([("tests".to_owned(), row.tests.clone().into())]);
        let evidence = Evidence::new("tests", &artefact.tool, artefact.at, figures);
        self.reject_stale(row, artefact, MethodResult { evidence: Some(evidence), ..result })
    }

    /// Returns `result` if the artefact is usable for the row. Otherwise returns another outcome, because the
    /// artefact belongs to another build, is too old, or is from the future.
    fn reject_stale(&self, row: &CatalogueRow, artefact: &Artefact, result: MethodResult) -> MethodResult {
        let rerun = format!("run `{}` again at the running commit", artefact.tool);
        let now = self.clock.now();
        if artefact.at > now + MAX_CLOCK_SKEW {
            let reason = format!(
                "the artefact of `{}` has the date {}, which is in the future",
                artefact.tool, artefact.at
            );
            return MethodResult { outcome: RowOutcome::Unknown, reason, remediation: Some(rerun), ..result };
        }
        if let Some(age) = row.artefact_age() {
            if now.since(artefact.at) > age {
                let reason = format!(
                    "the artefact of `{}` is from {}, older than {} h",
                    artefact.tool,
                    artefact.at,
                    age.as_secs() / 3_600
                );
                return MethodResult {
                    outcome: RowOutcome::Stale,
                    reason,
                    remediation: Some(rerun),
                    ..result
                };
            }
            if !row.is_bound_to_build() {
                return result;
            }
        }
        let built_from = if artefact.dirty {
            format!("{} with uncommitted changes", artefact.commit)
        } else {
            artefact.commit.clone()
        };
        match &self.identity.commit {
            None => {
                let reason = "the deployment does not report the commit of its build";
                let remediation = "deploy a release build of a clone of the repository";
                MethodResult {
                    outcome: RowOutcome::Unknown,
                    reason: reason.to_owned(),
                    remediation: Some(remediation.to_owned()),
                    ..result
                }
            }
            // If a build had uncommitted changes, its commit ends with `.dirty`.
            Some(commit) if artefact.dirty || !artefact.commit.starts_with(&**commit) => {
                let reason = format!(
                    "the artefact of `{}` is for {built_from}, but {commit} is running",
                    artefact.tool
                );
                MethodResult { outcome: RowOutcome::Stale, reason, remediation: Some(rerun), ..result }
            }
            Some(_) => result,
        }
    }
}

/// Returns true if `text` is a Git commit hash, optionally followed by `.dirty`.
fn is_commit(text: &str) -> bool {
    let hash = text.strip_suffix(".dirty").unwrap_or(text);
    (7..=64).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}
