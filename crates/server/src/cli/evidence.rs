//! `kith evidence`: signs the results that `cargo xtask` commands recorded for a build, such as those of the
//! tests. `kith verify` reads the signed file beside the binary, so operators do not need the source tree.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use kith_kernel::{Random as _, SystemRandom};
use kith_readiness::{Artefacts, SIGNED_EVIDENCE_FILE, sign_evidence};

use super::{Failure, print};

#[derive(Debug, Args)]
pub(super) struct Evidence {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a new signing key to a file (mode 0600), and print its public key
    Key {
        /// File to create; must not exist
        file: PathBuf,
    },
    /// Sign the evidence in a folder; `kith verify` reads the signed file beside the binary
    Sign {
        /// File with the signing key, from `kith evidence key`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Folder with the evidence of `cargo xtask` commands
        #[arg(long, value_name = "FOLDER", default_value = "target/evidence")]
        from: PathBuf,
        /// Signed file to write
        #[arg(long, value_name = "FILE", default_value = SIGNED_EVIDENCE_FILE)]
        to: PathBuf,
    },
}

impl Evidence {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Key { file } => make_key(&file)?,
            Command::Sign { key, from, to } => sign(&key, &from, &to)?,
        }
        Ok(())
    }
}

fn make_key(file: &std::path::Path) -> Result<(), anyhow::Error> {
    let mut seed = [0; 32];
    SystemRandom.fill(&mut seed);
    let key_file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut key_file = key_file.with_context(|| format!("cannot create {}", file.display()))?;
    key_file.write_all(BASE64.encode(seed).as_bytes()).context("cannot write the key")?;
    let (_, public) = sign_evidence(&[], &seed)?;
    print(&public.to_text()).map_err(|_| anyhow::anyhow!("cannot print the public key"))
}

fn sign(key: &std::path::Path, from: &std::path::Path, to: &std::path::Path) -> Result<(), anyhow::Error> {
    let seed = std::fs::read_to_string(key).with_context(|| format!("cannot read {}", key.display()))?;
    let seed = BASE64.decode(seed.trim()).context("the key is not base64")?;
    let artefacts = Artefacts::read(from)?;
    anyhow::ensure!(!artefacts.all().is_empty(), "{} contains no evidence", from.display());
    let (text, public) = sign_evidence(artefacts.all(), &seed)?;
    std::fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))?;
    let count = artefacts.all().len();
    let line = format!("{count} artefacts signed in {}; public key {}", to.display(), public.to_text());
    print(&line).map_err(|_| anyhow::anyhow!("cannot print"))
}
