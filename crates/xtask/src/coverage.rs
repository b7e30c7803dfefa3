//! `cargo xtask coverage`: measures the line coverage of the shipped code by module. Fails if it is too low.
//!
//! Tests, test support code and `crates/xtask` are not counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::mode::Mode;
use crate::setup::apt_get;
use crate::test::Databases;
use crate::workspace::{cargo, root, run, succeeds};

/// Minimum coverage of all lines.
const MIN_COVERAGE: f64 = 0.80;
/// Minimum coverage of each module.
const MIN_MODULE_COVERAGE: f64 = 0.70;
/// Path of the trace file, which lists the covered lines (format: geninfo(1), "FILES").
const TRACE: &str = "target/coverage.info";
/// Debian package of LLVM. Its tools can read the profiles of this compiler, because the raw format has not
/// changed since LLVM 19.
const TOOLS: &str = "llvm-19";
const TOOLS_VERSION: &str = "19";
/// Crate that a smoke run measures, and the folder for its profiles.
const SMOKE_CRATE: &str = "kith-kernel";
const SMOKE_PROFILES: &str = "target/coverage-smoke";
/// Folders whose code is not part of the product.
const UNCOUNTED: &[&str] = &["crates/xtask/"];
/// Folder whose code runs only with a PostgreSQL server.
const POSTGRES: &str = "crates/store/src/postgres/";

/// Options of `cargo xtask coverage`.
#[derive(clap::Args)]
pub struct Args {
    /// Run without PostgreSQL, leave out its code, and do not check the minimum
    #[arg(long)]
    sqlite_only: bool,
    /// Only report the results of an earlier run
    #[arg(long)]
    report_only: bool,
    #[command(flatten)]
    mode: Mode,
}

/// Numbers of covered lines and of all lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct LineCounts {
    covered: u32,
    all: u32,
}

impl LineCounts {
    fn share(self) -> f64 {
        if self.all == 0 { 1.0 } else { f64::from(self.covered) / f64::from(self.all) }
    }

    fn add(&mut self, other: Self) {
        self.covered += other.covered;
        self.all += other.all;
    }
}

/// Runs the suite and reports the coverage.
///
/// # Errors
/// Returns an error if a test fails or the coverage is too low.
pub fn coverage(args: &Args) -> Result<()> {
    if args.mode.is_smoke() {
        return measure_smoke_crate();
    }
    if !args.report_only {
        measure(args)?;
    }
    let trace = fs::read_to_string(root()?.join(TRACE)).context("cannot read what was measured")?;
    let modules = by_module(&root()?, &trace, args.sqlite_only)?;
    report(&modules, args.sqlite_only)
}

/// Installs missing tools.
pub fn install() -> Result<()> {
    if !succeeds(cargo()?.args(["llvm-cov", "--version"])) {
        eprintln!("\nbuilding cargo-llvm-cov, once");
        run(cargo()?.args(["install", "cargo-llvm-cov", "--locked", "--debug"]))?;
    }
    if own_tools().is_none() && system_tools().is_none() {
        if !Path::new("/usr/bin/apt-get").exists() {
            bail!(
                "neither rustup's llvm-tools nor LLVM {TOOLS_VERSION} is installed: `rustup component add llvm-tools`"
            );
        }
        run(apt_get().args(["install", "-y", "--no-install-recommends", TOOLS]))?;
    }
    Ok(())
}

/// Returns the folder of the `llvm-cov` and `llvm-profdata` that belong to this compiler (a rustup
/// component), if they are installed.
fn own_tools() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).parent()?.join("bin");
    folder.join("llvm-profdata").exists().then_some(folder)
}

/// Returns the paths of the system's `llvm-cov` and `llvm-profdata`, if they are installed.
fn system_tools() -> Option<[PathBuf; 2]> {
    let paths =
        ["llvm-cov", "llvm-profdata"].map(|tool| PathBuf::from(format!("/usr/bin/{tool}-{TOOLS_VERSION}")));
    paths.iter().all(|path| path.exists()).then_some(paths)
}

fn llvm_cov() -> Result<Command> {
    let mut command = cargo()?;
    command.arg("llvm-cov");
    if let (None, Some([cov, profdata])) = (own_tools(), system_tools()) {
        command.env("LLVM_COV", cov).env("LLVM_PROFDATA", profdata);
    }
    Ok(command)
}

fn measure(args: &Args) -> Result<()> {
    install()?;
    // Removes the profiles of earlier builds, which would be counted as well.
    run(llvm_cov()?.args(["clean", "--workspace"]))?;
    let mut suite = llvm_cov()?;
    suite.args(["--no-report", "--locked", "--workspace", "--exclude", "kith-xtask"]);
    let databases = Databases::start(args.sqlite_only)?;
    databases.set_environment(&mut suite);
    run(&mut suite)?;
    drop(databases);
    run(llvm_cov()?.args(["report", "--lcov", "--output-path", TRACE]))
}

/// Builds the tests of one small crate with instrumentation, runs them, and counts the covered lines. Does
/// not need cargo-llvm-cov. If LLVM's tools are not installed, no lines are counted.
fn measure_smoke_crate() -> Result<()> {
    let root = root()?;
    let profiles = root.join(SMOKE_PROFILES);
    if profiles.exists() {
        fs::remove_dir_all(&profiles)?;
    }
    let binary = instrumented_tests()?;
    run(Command::new(&binary).env("LLVM_PROFILE_FILE", profiles.join("%p-%m.profraw")))?;
    let mut written = Vec::new();
    for entry in fs::read_dir(&profiles).context("the instrumented tests wrote no profile")? {
        let path = entry?.path();
        ensure!(fs::metadata(&path)?.len() > 0, "{} is empty", path.display());
        written.push(path);
    }
    println!("the tests of {SMOKE_CRATE} wrote {} profiles", written.len());
    let tools = own_tools().map(|folder| [folder.join("llvm-cov"), folder.join("llvm-profdata")]);
    let Some([cov, profdata]) = tools.or_else(system_tools) else {
        println!("LLVM's tools are not installed: no line was counted");
        return Ok(());
    };
    let merged = profiles.join("merged");
    run(Command::new(profdata).args(["merge", "-sparse", "-o"]).arg(&merged).args(&written))?;
    let mut export = Command::new(cov);
    export.args(["export", "--format=lcov", "--instr-profile"]).arg(&merged).arg(&binary);
    let trace = export.output().context("cannot run llvm-cov")?;
    ensure!(trace.status.success(), "llvm-cov: {}", String::from_utf8_lossy(&trace.stderr));
    let modules = by_module(&root, &String::from_utf8_lossy(&trace.stdout), true)?;
    for (module, lines) in &modules {
        println!("{}", line(module, *lines));
    }
    ensure!(modules.values().any(|lines| lines.covered > 0), "no line is counted as covered");
    Ok(())
}

/// Builds the test binary of [`SMOKE_CRATE`] with instrumentation and returns its path. Dependencies are not
/// instrumented.
fn instrumented_tests() -> Result<PathBuf> {
    let mut build = cargo()?;
    build.args(["rustc", "--locked", "-p", SMOKE_CRATE, "--lib", "--profile", "test"]);
    build.args(["--message-format", "json-render-diagnostics", "--", "-C", "instrument-coverage"]);
    let done = build.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(done.status.success(), "the tests of {SMOKE_CRATE} do not build with instruments");
    let messages = String::from_utf8_lossy(&done.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs.next_back().context("cargo does not report the paths of the tests")
}

/// Counts the lines of each module in a trace. The trace consists of `SF:` (a file), `DA:line,count` and
/// `end_of_record`.
fn by_module(root: &Path, trace: &str, sqlite_only: bool) -> Result<BTreeMap<String, LineCounts>> {
    let mut modules = BTreeMap::<String, LineCounts>::new();
    for record in trace.split("end_of_record") {
        let Some(path) = record.lines().find_map(|line| line.strip_prefix("SF:")) else { continue };
        let Ok(path) = Path::new(path).strip_prefix(root) else { continue };
        let path = path.to_string_lossy();
        let Some(module) = module_of(&path).filter(|_| !(sqlite_only && path.starts_with(POSTGRES))) else {
            continue;
        };
        let text = fs::read_to_string(root.join(&*path)).with_context(|| format!("cannot read {path}"))?;
        modules.entry(module).or_default().add(count(record, tests_from(&text)));
    }
    Ok(modules)
}

/// Returns the module to which a shipped file belongs: its crate and the first folder in it. Returns `None`
/// for tests and test support.
fn module_of(path: &str) -> Option<String> {
    let (krate, file) = path.strip_prefix("crates/")?.split_once("/src/")?;
    let for_tests = |part: &str| {
        let name = part.trim_end_matches(".rs");
        ["tests", "testing", "fuzzing"].contains(&name) || name.ends_with("_tests")
    };
    if UNCOUNTED.iter().any(|prefix| path.starts_with(prefix)) || file.split('/').any(for_tests) {
        return None;
    }
    let folder = file.split_once('/').map(|(folder, _)| folder);
    Some(folder.map_or(krate.to_owned(), |folder| format!("{krate}/{folder}")))
}

/// Returns the line at which the test module of a file begins. The test module is always at the end.
fn tests_from(text: &str) -> usize {
    let begins = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {");
    let lines: Vec<_> = text.lines().collect();
    lines.windows(2).position(begins).map_or(usize::MAX, |at| at + 1)
}

fn count(record: &str, before: usize) -> LineCounts {
    let lines = record.lines().filter_map(|line| {
        let (number, count) = line.strip_prefix("DA:")?.split_once(',')?;
        let number: usize = number.parse().ok()?;
        (number < before).then_some(count != "0")
    });
    lines.fold(LineCounts::default(), |sum, covered| LineCounts {
        covered: sum.covered + u32::from(covered),
        all: sum.all + 1,
    })
}

/// Prints the coverage and checks it against the minimum. Without PostgreSQL some tests have not run, so
/// nothing is checked.
fn report(modules: &BTreeMap<String, LineCounts>, sqlite_only: bool) -> Result<()> {
    let mut whole = LineCounts::default();
    for (module, lines) in modules {
        println!("{}", line(module, *lines));
        whole.add(*lines);
    }
    println!("{}", line("everything", whole));
    if sqlite_only {
        println!("without PostgreSQL nothing is judged and no evidence is written");
        return Ok(());
    }
    let percent = whole.share() * 100.0;
    let low: Vec<_> = modules.iter().filter(|(_, lines)| lines.share() < MIN_MODULE_COVERAGE).collect();
    let low: Vec<_> = low.into_iter().map(|(module, _)| module.as_str()).collect();
    let enough = whole.all > 0 && whole.share() >= MIN_COVERAGE;
    evidence::write("cargo xtask coverage", &rows(modules, whole, enough, low.is_empty()))?;
    if !enough {
        bail!("the tests run {percent:.1} % of all lines, which is less than {:.0} %", MIN_COVERAGE * 100.0);
    }
    if !low.is_empty() {
        bail!("less than {:.0} % of {} is run by tests", MIN_MODULE_COVERAGE * 100.0, low.join(", "));
    }
    Ok(())
}

fn line(name: &str, lines: LineCounts) -> String {
    format!("{name:<24} {:>6} of {:>6} lines {:>6.1} %", lines.covered, lines.all, lines.share() * 100.0)
}

fn rows(
    modules: &BTreeMap<String, LineCounts>,
    whole: LineCounts,
    enough: bool,
    none_low: bool,
) -> [EvidenceRow; 2] {
    let percent = whole.share() * 100.0;
    let figures = json!({ "lines": whole, "percent": percent, "modules": modules });
    let least = modules.iter().min_by(|one, other| one.1.share().total_cmp(&other.1.share()));
    let least = least
        .map(|(module, lines)| format!("{module} with {:.1} %", lines.share() * 100.0))
        .unwrap_or_default();
    [
        EvidenceRow {
            id: "TST-02",
            result: EvidenceOutcome::of(enough),
            figures: figures.clone(),
            summary: format!("The tests run {percent:.1} % of {} lines.", whole.all),
        },
        EvidenceRow {
            id: "TST-03",
            result: EvidenceOutcome::of(whole.all > 0 && none_low),
            figures,
            summary: format!("Of {} modules the least covered is {least}.", modules.len()),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_files_belong_to_modules_and_test_files_do_not() {
        for (path, module) in [
            ("crates/bonds/src/spaces/http/items.rs", Some("bonds/spaces")),
            ("crates/platform/src/app.rs", Some("platform")),
            ("crates/platform/src/config/tests.rs", None),
            ("crates/platform/src/http/edge_tests.rs", None),
            ("crates/store/src/testing/server.rs", None),
            ("crates/kernel/src/fuzzing.rs", None),
            ("crates/xtask/src/main.rs", None),
            ("tests/api/main.rs", None),
        ] {
            assert_eq!(module_of(path).as_deref(), module, "{path}");
        }
    }

    #[test]
    fn lines_before_test_module_are_counted() {
        let text = "fn a() {}\nfn b() {}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        let record = "SF:a.rs\nDA:1,5\nDA:2,0\nDA:6,1\n";
        assert_eq!(count(record, tests_from(text)), LineCounts { covered: 1, all: 2 });
        assert_eq!(count(record, tests_from("fn a() {}\n")), LineCounts { covered: 2, all: 3 });
    }
}
