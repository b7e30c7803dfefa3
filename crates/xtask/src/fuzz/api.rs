//! `cargo xtask fuzz api`: runs schemathesis against a server with valid and invalid requests generated from
//! its OpenAPI document.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::json;

use crate::evidence::{self, EvidenceOutcome, EvidenceRow, Tests, Trials};
use crate::kith::{self, Kith, Start};
use crate::mode::Mode;
use crate::workspace::{root, run, succeeds};

/// Folder of the schemathesis configuration, and the virtual environment in which it is installed.
const FOLDER: &str = "tests/fuzz";
const VENV: &str = "target/schemathesis";
/// Roles of the users that send every operation.
const ROLES: [&str; 2] = ["user", "admin"];

/// Results of a run by operation.
type Seen = BTreeMap<String, Operation>;

/// Results of one operation of the OpenAPI document.
#[derive(Debug, Deserialize)]
struct Operation {
    /// Permissions that the OpenAPI document requires for the operation.
    permissions: Vec<String>,
    /// Number of responses by status.
    statuses: BTreeMap<u16, u32>,
    /// Number of responses that reject the access token, although it should be valid.
    signed_out: u32,
}

impl Operation {
    fn succeeded(&self) -> bool {
        self.statuses.keys().any(|status| (200..400).contains(status))
    }
}

/// Runs schemathesis once for each role. Each run has its own server.
///
/// # Errors
/// Returns an error if a response is undeclared, is a 5xx other than 503 with Retry-After, or accepts invalid
/// input. Also returns an error if an operation never succeeds, or succeeds for a user without its
/// permission.
#[expect(clippy::disallowed_methods, reason = "reports the duration")]
pub fn fuzz() -> Result<()> {
    if !is_installed(&root()?) {
        bail!("schemathesis is not installed: run `cargo xtask setup`");
    }
    let binary = kith::build(Mode::SMOKE)?;
    let started = Instant::now();
    // One process of schemathesis uses a whole core.
    let binary = &binary;
    let [by_user, by_admin] = thread::scope(|scope| {
        let asking = ROLES.map(|role| scope.spawn(move || ask(binary, role)));
        asking.map(|asking| asking.join().expect("no panic"))
    });
    report(&by_user?, &by_admin?, started)
}

/// Runs schemathesis as a user with this role against a new server and returns the results.
fn ask(binary: &Path, role: &str) -> Result<Seen> {
    let root = root()?;
    let folder = tempfile::tempdir()?;
    let (data, seen) = (folder.path().join("data"), folder.path().join("seen.json"));
    let kith = Kith::start(&Start {
        binary: binary.to_owned(),
        data: data.clone(),
        log: folder.path().join("log"),
        ..Start::default()
    })?;
    let url = format!("http://{}", kith.address);
    let mut asked = Command::new(root.join(VENV).join("bin/st"));
    asked.current_dir(root.join(FOLDER)).args(["--config-file", "schemathesis.toml", "run"]);
    asked.arg(format!("{url}/openapi.json")).env("PYTHONDONTWRITEBYTECODE", "1").env("KITH_FUZZ_ROLE", role);
    asked.env("KITH_FUZZ_URL", &url).env("KITH_FUZZ_DATA", &data).env("KITH_FUZZ_SEEN", &seen);
    let asked = asked.output().context("cannot run schemathesis")?;
    let output = [asked.stdout, asked.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("\n=== schemathesis as {role}\n{}", output.concat());
    if !asked.status.success() {
        bail!("schemathesis as {role} ended with {}", asked.status);
    }
    let status = kith.stop()?;
    if !status.success() {
        bail!("the server ended with {status}");
    }
    let seen = fs::read_to_string(&seen).context("schemathesis wrote no report of the operations")?;
    serde_json::from_str(&seen).context("cannot read the report of schemathesis")
}

/// Installs schemathesis, if it is missing or has another version.
pub fn install() -> Result<()> {
    let root = root()?;
    if is_installed(&root) {
        return Ok(());
    }
    let (venv, wanted) = (root.join(VENV), requirements(&root));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&wanted))?;
    fs::copy(wanted, installed(&root))?;
    Ok(())
}

/// Returns true if Python with `venv` and `ensurepip` is available.
pub fn has_python() -> bool {
    succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"]))
}

fn requirements(root: &Path) -> PathBuf {
    root.join(FOLDER).join("requirements.txt")
}

/// Returns the path of a copy of the requirements file that was used for the installation.
fn installed(root: &Path) -> PathBuf {
    root.join(VENV).join("requirements.txt")
}

fn is_installed(root: &Path) -> bool {
    let wanted = fs::read(requirements(root)).ok();
    wanted.is_some() && wanted == fs::read(installed(root)).ok()
}

/// Prints the results and fails if there are violations.
fn report(by_user: &Seen, by_admin: &Seen, started: Instant) -> Result<()> {
    let all = || by_user.values().chain(by_admin.values());
    let cases: u32 = all().flat_map(|operation| operation.statuses.values()).sum();
    let took = started.elapsed().as_secs();
    println!(
        "fuzz: {} operations by {ROLES:?}, {cases} responses, all as declared, in {took} s",
        by_admin.len()
    );
    let faults = faults(by_user, by_admin);
    if !faults.is_empty() {
        bail!("{}; fixed requests of operations are in {FOLDER}/hooks.py", faults.join("; "));
    }
    let operations = by_admin.len();
    let row = EvidenceRow {
        id: "API-01",
        result: EvidenceOutcome::Pass,
        figures: json!({ "operations": operations, "answers": cases, "seconds": took }),
        summary: format!(
            "{operations} operations called as user and as administrator, {cases} responses, all as declared"
        ),
    };
    let what = "responses to valid and invalid requests are as documented and never 5xx".to_owned();
    let trials = vec![Trials { row: "API-01".to_owned(), what, trials: cases.into() }];
    evidence::write_with_tests("cargo xtask fuzz", &[row], &Tests { trials, ..Tests::default() })
}

fn faults(by_user: &Seen, by_admin: &Seen) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names: Vec<_> = by_user.keys().chain(by_admin.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (Some(user), Some(admin)) = (by_user.get(name), by_admin.get(name)) else {
            faults.push(format!("{name} was not called by both roles"));
            continue;
        };
        let permitted = user.permissions.is_empty();
        if !(admin.succeeded() || permitted && user.succeeded()) {
            faults.push(format!("{name} never succeeded"));
        }
        if !permitted && (user.succeeded() || !user.statuses.contains_key(&403)) {
            faults.push(format!("{name} is not forbidden for users"));
        }
        if user.signed_out + admin.signed_out > 0 {
            faults.push(format!("{name} rejected valid tokens"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Seen {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn missing_successes_and_rejections_are_reported() {
        let user = seen(
            r#"{"all": {"permissions": [], "statuses": {"422": 5}, "signed_out": 0},
                "few": {"permissions": ["p"], "statuses": {"403": 1}, "signed_out": 0},
                "open": {"permissions": ["p"], "statuses": {"200": 1, "403": 1}, "signed_out": 0},
                "once": {"permissions": [], "statuses": {"201": 1}, "signed_out": 0}}"#,
        );
        let admin = seen(
            r#"{"all": {"permissions": [], "statuses": {"401": 5}, "signed_out": 2},
                "few": {"permissions": ["p"], "statuses": {"308": 1, "404": 1}, "signed_out": 0},
                "open": {"permissions": ["p"], "statuses": {"200": 1}, "signed_out": 0},
                "once": {"permissions": [], "statuses": {"403": 1}, "signed_out": 0}}"#,
        );
        let named = ["all never succeeded", "all rejected valid tokens", "open is not forbidden for users"];
        assert_eq!(faults(&user, &admin), named);
    }
}
