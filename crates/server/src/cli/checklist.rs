//! `kith checklist lint`: reports contradictions in readiness checklists. Reads only the files that are
//! given.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use kith_checklist::{ChecklistReport, lint};
use serde::Serialize;

use super::{EXIT_FAILURE, EXIT_INVALID_INPUT, Failure, fail, format_error_chain, print};

/// Maximum size of a file in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Checklist {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count boxes of Markdown checklists, recompute stated scores, and report contradictions
    ///
    /// Exit code 0: no findings; 1: there are findings; 2: a file could not be read.
    Lint {
        /// Checklist files; `-` reads standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Output format
        #[arg(long, value_enum, default_value = "terminal")]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One line per finding, in the format that compilers use
    Terminal,
    /// One JSON object for all files
    Json,
    /// Markdown with tables, for example for a comment
    Markdown,
}

/// Report on one file, for JSON output.
#[derive(Debug, Serialize)]
struct LintedFile {
    file: String,
    #[serde(flatten)]
    report: ChecklistReport,
}

impl Checklist {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Lint { files, format } = self.command;
        let mut linted = Vec::new();
        let mut all_read = true;
        for path in files {
            match read(&path) {
                Ok(bytes) => linted.push(LintedFile { file: name(&path), report: lint(&bytes) }),
                Err(error) => {
                    fail(&format_error_chain(&error), EXIT_INVALID_INPUT);
                    all_read = false;
                }
            }
        }
        print(&format_findings(&linted, format)?)?;
        match linted.iter().all(|one| one.report.findings.is_empty()) {
            _ if !all_read => Err(Failure::AlreadyReported(EXIT_INVALID_INPUT)),
            true => Ok(()),
            false => Err(Failure::AlreadyReported(EXIT_FAILURE)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, anyhow::Error> {
    let open = || -> std::io::Result<Box<dyn Read>> {
        Ok(if path.as_os_str() == "-" { Box::new(std::io::stdin()) } else { Box::new(File::open(path)?) })
    };
    let cannot = || format!("cannot read {}", name(path));
    let mut bytes = Vec::new();
    open().and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).with_context(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(anyhow!("larger than {} MiB", MAX_FILE_BYTES >> 20)).with_context(cannot);
    }
    Ok(bytes)
}

/// Returns the path as it was given, with control characters replaced.
fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "standard input".to_owned();
    }
    path.to_string_lossy().replace(char::is_control, "\u{fffd}")
}

fn format_findings(linted: &[LintedFile], format: Format) -> Result<String, anyhow::Error> {
    let each = |format: fn(&ChecklistReport, &str) -> String| {
        let texts: Vec<_> = linted.iter().map(|one| format(&one.report, &one.file)).collect();
        texts.join("\n").trim_end().to_owned()
    };
    match format {
        Format::Terminal => Ok(each(ChecklistReport::to_terminal)),
        Format::Markdown => Ok(each(ChecklistReport::to_markdown)),
        Format::Json => Ok(serde_json::to_string_pretty(&serde_json::json!({ "files": linted }))?),
    }
}
