//! `kith checklist lint`: where a readiness checklist contradicts itself. It reads files and touches nothing of Kith's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use kith_checklist::{Report, lint};
use serde::Serialize;

use super::{FAILURE, Failure, WRONG_INPUT, fail, in_one_line, print};

/// Larger files are no checklists.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Checklist {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count the boxes of Markdown checklists, recompute the scores they state, and find where they contradict
    /// themselves; exit code 0: nothing found, 1: something found, 2: a file could not be read
    Lint {
        /// Checklists; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// In which form
        #[arg(long, value_enum, default_value = "terminal")]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Lines as compilers print them
    Terminal,
    /// One object for all files
    Json,
    /// Tables, to be put into a comment
    Markdown,
}

/// One file, as JSON tells of it.
#[derive(Debug, Serialize)]
struct Linted {
    file: String,
    #[serde(flatten)]
    report: Report,
}

impl Checklist {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Lint { files, format } = self.command;
        let mut linted = Vec::new();
        let mut all_read = true;
        for path in files {
            match read(&path) {
                Ok(bytes) => linted.push(Linted { file: name(&path), report: lint(&bytes) }),
                Err(error) => {
                    fail(&in_one_line(&error), WRONG_INPUT);
                    all_read = false;
                }
            }
        }
        print(&told(&linted, format)?)?;
        match linted.iter().all(|one| one.report.findings.is_empty()) {
            _ if !all_read => Err(Failure::Told(WRONG_INPUT)),
            true => Ok(()),
            false => Err(Failure::Told(FAILURE)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, anyhow::Error> {
    let open = || -> std::io::Result<Box<dyn Read>> {
        Ok(if path.as_os_str() == "-" { Box::new(std::io::stdin()) } else { Box::new(File::open(path)?) })
    };
    let cannot = || format!("cannot read {}", name(path));
    let mut bytes = Vec::new();
    open().and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).with_context(cannot)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(anyhow!("larger than {} MiB", MOST_BYTES >> 20)).with_context(cannot);
    }
    Ok(bytes)
}

/// As it was typed, without what a terminal would obey.
fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "standard input".to_owned();
    }
    path.to_string_lossy().replace(char::is_control, "\u{fffd}")
}

fn told(linted: &[Linted], format: Format) -> Result<String, anyhow::Error> {
    let each = |tell: fn(&Report, &str) -> String| {
        let texts: Vec<_> = linted.iter().map(|one| tell(&one.report, &one.file)).collect();
        texts.join("\n").trim_end().to_owned()
    };
    match format {
        Format::Terminal => Ok(each(Report::to_terminal)),
        Format::Markdown => Ok(each(Report::to_markdown)),
        Format::Json => Ok(serde_json::to_string_pretty(&serde_json::json!({ "files": linted }))?),
    }
}
