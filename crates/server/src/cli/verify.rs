//! `kith verify`: judges row by row whether a deployment is ready, with evidence for each outcome.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use kith_kernel::SystemClock;
use kith_platform::config::Config;
use kith_platform::telemetry::machine;
use kith_readiness::report::Format;
use kith_readiness::{
    AdminAccess, Artefacts, Catalogue, Declared, Deployment, EvidenceKey, Plan, Progress,
    SIGNED_EVIDENCE_FILE, Target, verify,
};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};
use crate::modules;

const EXIT_UNMEASURED: u8 = 2;
const PASSWORD: &str = "KITH_VERIFY_PASSWORD";
const EVIDENCE_FOLDER: &str = "target/evidence";
/// Public key that verifies the evidence of releases, from `KITH_EVIDENCE_KEY` at build time.
const EVIDENCE_KEY: Option<&str> = option_env!("KITH_EVIDENCE_KEY");

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    settings: Settings,
    /// URL of the deployment [default: the server that uses the data folder or listens at the configured
    /// address]
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// URL of another node of the same deployment; repeat for several
    #[arg(long = "node", value_name = "URL")]
    nodes: Vec<String>,
    /// Gate to judge
    #[arg(long, value_enum, default_value = "beta")]
    gate: Gate,
    /// Only rows of this area, given by its id such as SEC or by a word of its name; repeat for several
    #[arg(long = "area", value_name = "AREA")]
    areas: Vec<String>,
    /// Only this row, given by its id; repeat for several
    #[arg(long = "only", value_name = "ID")]
    only: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "terminal")]
    format: ReportFormat,
    /// E-mail address of an administrator, whose password is read from KITH_VERIFY_PASSWORD
    ///
    /// Without this flag, a synthetic administrator is created for the run if this is the server's own
    /// machine. It is deleted after the run.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Additional certificate authority to trust (PEM file)
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    /// Log file of the server, with JSON lines
    #[arg(long, value_name = "FILE")]
    logs: Option<PathBuf>,
    /// Folder with the evidence of `cargo xtask` commands, or file with the signed evidence of a release
    /// [default: target/evidence, and kith-evidence.json beside this program]
    #[arg(long, value_name = "FOLDER|FILE")]
    evidence: Option<PathBuf>,
    /// Public key that verifies signed evidence, in base64 [default: the key of this build]
    #[arg(long, value_name = "KEY")]
    evidence_key: Option<String>,
    /// File with declared checks, attestations and waivers (TOML); repeat for several
    #[arg(long = "checks", value_name = "FILE")]
    checks: Vec<PathBuf>,
    /// Judge only the rows declared by --checks, for services other than Kith
    #[arg(long, requires = "checks", requires = "target")]
    only_declared: bool,
    /// Print the rows with their checks and gates, without judging them
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Gate {
    /// Rows required before the first users
    Beta,
    /// Rows required before general availability, including those of beta
    Production,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReportFormat {
    /// Text for a terminal
    Terminal,
    /// JSON for programs
    Json,
    /// Markdown for a repository
    Markdown,
    /// Self-contained HTML page
    Html,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        // An invalid declaration is an error of the command (exit code 2), not a result of a row.
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(error) => {
                eprintln!("kith: {}", super::format_error_chain(&error));
                return Err(Failure::AlreadyReported(EXIT_UNMEASURED));
            }
        };
        if self.list {
            return print(&plan.catalogue.to_markdown());
        }
        let form = self.format;
        let code = runtime()?.block_on(async {
            let deployment =
                Deployment::new(self.target().await?).context("cannot connect to the deployment")?;
            let report =
                verify(&plan, deployment, &SystemClock, &show_progress, &*stop_flag_on_signal()?).await;
            let format = match form {
                ReportFormat::Terminal => Format::Terminal { colour: stdout().is_terminal() },
                ReportFormat::Json => Format::Json,
                ReportFormat::Markdown => Format::Markdown,
                ReportFormat::Html => Format::Html,
            };
            print(&report.to_text(format))?;
            Ok::<_, Failure>(report.gate.exit_code)
        });
        match code {
            Ok(0) => Ok(()),
            Ok(code) => Err(Failure::AlreadyReported(code)),
            Err(Failure::Other(error)) => {
                eprintln!("kith: {}", super::format_error_chain(&error));
                Err(Failure::AlreadyReported(EXIT_UNMEASURED))
            }
            Err(other) => Err(other),
        }
    }

    fn plan(&self) -> Result<Plan, anyhow::Error> {
        let mut catalogue = if self.only_declared { Catalogue::default() } else { Catalogue::built_in() };
        let mut declared = Declared::default();
        for file in &self.checks {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            declared.add(&text, &mut catalogue).with_context(|| file.display().to_string())?;
        }
        let mut only = self.only.clone();
        for id in &only {
            catalogue
                .find(id)
                .ok_or_else(|| anyhow!("unknown row {id}; `kith verify --list` prints all rows"))?;
        }
        for area in &self.areas {
            let word = area.to_lowercase();
            let is_selected = |known: &&kith_readiness::Area| {
                known.id.eq_ignore_ascii_case(area) || known.name.to_lowercase().contains(&word)
            };
            let selected: Vec<_> = catalogue.areas.iter().filter(is_selected).collect();
            if selected.is_empty() {
                let areas: Vec<_> = catalogue.areas.iter().map(|area| &*area.id).collect();
                return Err(anyhow!("unknown area {area}; expected one of: {}", areas.join(", ")));
            }
            let of_area =
                |row: &&kith_readiness::CatalogueRow| selected.iter().any(|area| area.id == row.area());
            only.extend(catalogue.rows.iter().filter(of_area).map(|row| row.id.clone()));
        }
        Ok(Plan {
            catalogue,
            checks: kith_verify::checks(),
            artefacts: self.artefacts()?,
            declared,
            only,
            gate: match self.gate {
                Gate::Beta => kith_readiness::Gate::Beta,
                Gate::Production => kith_readiness::Gate::Production,
            },
        })
    }

    /// Reads the evidence of the build. A local folder contains unsigned evidence, the file of a release
    /// signed evidence.
    fn artefacts(&self) -> Result<Artefacts, anyhow::Error> {
        let beside_binary = || Some(std::env::current_exe().ok()?.parent()?.join(SIGNED_EVIDENCE_FILE));
        let (folder, file, is_asked) = match &self.evidence {
            None => {
                (Some(PathBuf::from(EVIDENCE_FOLDER)), beside_binary().filter(|file| file.is_file()), false)
            }
            Some(path) if path.is_file() => (None, Some(path.clone()), true),
            Some(path) => (Some(path.clone()), None, true),
        };
        let artefacts = folder.map_or_else(|| Ok(Artefacts::default()), |folder| Artefacts::read(&folder))?;
        let Some(file) = file else { return Ok(artefacts) };
        let Some(key) = self.evidence_key.as_deref().or(EVIDENCE_KEY) else {
            if is_asked {
                return Err(anyhow!("this build has no key for signed evidence; set --evidence-key"));
            }
            eprintln!(
                "kith: {} is ignored: this build has no key for it; set --evidence-key",
                file.display()
            );
            return Ok(artefacts);
        };
        Ok(artefacts.merge(EvidenceKey::parse(key)?.read(&file)?))
    }

    async fn target(self) -> Result<Target, Failure> {
        let authority = self.authority.as_deref().map(read).transpose()?;
        let is_here = self.target.is_none() || self.settings.is_given();
        let given = match self.admin {
            Some(email) => Some(AdminAccess { email, password: password()?, is_synthetic: false }),
            None => None,
        };
        let (mut url, mut admin, mut configuration) = (self.target, given, None);
        if is_here {
            // The configuration is compared only if a configuration file is given. Flags of `kith serve` are
            // not recorded anywhere.
            let is_selected = self.settings.config.is_some();
            let config = self.settings.load(Vec::new())?;
            configuration = is_selected.then(|| config.digest());
            if url.is_none() {
                url = Some(address(&config).await?);
            }
            if admin.is_none() {
                admin = create_synthetic_admin(config).await;
            }
        }
        let (own, machine) = (Some(modules::own_build()), machine());
        let url = url.unwrap_or_default();
        Ok(Target {
            url,
            other_nodes: self.nodes,
            authority,
            admin,
            logs: self.logs,
            configuration,
            own_build: own,
            machine,
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, anyhow::Error> {
    std::fs::read(file).with_context(|| file.display().to_string())
}

fn password() -> Result<String, anyhow::Error> {
    if let Ok(file) = std::env::var(format!("{PASSWORD}_FILE")) {
        return Ok(std::fs::read_to_string(&file).context(file)?.trim_end().to_owned());
    }
    std::env::var(PASSWORD)
        .map_err(|_| anyhow!("set {PASSWORD} or {PASSWORD}_FILE to the administrator's password"))
}

/// Returns a flag that the first SIGTERM or SIGINT sets. The run then ends after the current check and
/// deletes the synthetic accounts. A second signal ends the process immediately.
fn stop_flag_on_signal() -> Result<Arc<AtomicBool>, anyhow::Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let flag = Arc::clone(&stop);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                flag.store(true, Ordering::Relaxed);
                eprintln!(
                    "kith: finishing the current check and deleting the synthetic accounts; repeat the \
                     signal to stop immediately"
                );
            } else {
                std::process::exit(i32::from(EXIT_UNMEASURED));
            }
        }
    });
    Ok(stop)
}

/// Returns the URL of the server. On SQLite it is that of the server that uses the data folder; fails if
/// there is none. On PostgreSQL it is made from the configured address.
async fn address(config: &Config) -> Result<String, anyhow::Error> {
    if !config.is_sqlite() {
        return Ok(format!("http://{}", config.server.listen));
    }
    let folder = &config.data.folder;
    let none = || {
        let folder = folder.display();
        anyhow!("no server runs on {folder}; start one with `kith serve`, or name one with --target")
    };
    control::get_address(folder)
        .await
        .context("the server that runs on the data folder returned an error")?
        .ok_or_else(none)
}

/// Creates a synthetic administrator for this run. Returns `None` if this fails. Rows that need an
/// administrator are then unmeasured.
async fn create_synthetic_admin(config: Config) -> Option<AdminAccess> {
    let access = AdminAccess::synthetic();
    let order = Order::CreateAdmin {
        email: access.email.clone(),
        display_name: "kith verify".to_owned(),
        password: access.password.clone(),
    };
    match control::run(config, order).await {
        Ok(Reply::AdminCreated { .. }) => Some(access),
        Ok(_) => None,
        Err(error) => {
            eprintln!(
                "kith: cannot create a synthetic administrator for this run: {}",
                super::format_error_chain(&error)
            );
            None
        }
    }
}

/// Shows the progress of the run on one line of the terminal. Does nothing without a terminal.
fn show_progress(progress: Progress<'_>) {
    if !stderr().is_terminal() {
        return;
    }
    let line = match progress {
        Progress::RowStarted { row, n, total } => {
            format!("\r\x1b[K[{n}/{total}] {} {}", row.id, first_60_chars(&row.requirement))
        }
        Progress::RowFinished(_) => "\r\x1b[K".to_owned(),
        Progress::CleaningUp => "\r\x1b[Kdeleting the synthetic accounts\r\x1b[K".to_owned(),
    };
    let _ = write!(stderr(), "{line}");
}

fn first_60_chars(text: &str) -> String {
    text.chars().take(60).collect()
}
