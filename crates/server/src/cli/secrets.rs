//! `kith secrets`: generates secrets, as environment variables or in files.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use kith_kernel::SystemRandom;
use kith_platform::config::generated_secrets;
use kith_store::create_folder;

use super::{Failure, print};

#[derive(Debug, Args)]
pub(super) struct Secrets {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate all secrets that production mode requires
    Generate {
        /// Output format
        #[arg(long, value_enum, default_value = "env")]
        format: Format,
        /// Folder for the files; existing files are not overwritten
        #[arg(required_if_eq("format", "files"))]
        folder: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines of the form NAME=secret
    Env,
    /// One file per secret (mode 0600), and lines of the form NAME_FILE=path
    Files,
}

impl Secrets {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Generate { format, folder } = self.command;
        let secrets = generated_secrets(&SystemRandom);
        match folder.filter(|_| format == Format::Files) {
            None => secrets.iter().try_for_each(|(name, secret)| print(&format!("{name}={secret}"))),
            Some(folder) => {
                create_folder(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
                let folder = folder.canonicalize().context("cannot find the folder")?;
                secrets.iter().try_for_each(|(name, secret)| {
                    let path = folder.join(name.to_ascii_lowercase());
                    write_files(&path, secret)
                        .with_context(|| format!("cannot create {}", path.display()))?;
                    print(&format!("{name}_FILE={}", path.display()))
                })
            }
        }
    }
}

fn write_files(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()
}
