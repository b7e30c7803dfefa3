//! `cargo xtask openapi`: writes the generated OpenAPI document to `docs/openapi.json`, or compares it with
//! this file.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::kith;
use crate::mode::Mode;
use crate::workspace::root;

/// Options of `cargo xtask openapi`.
#[derive(clap::Args)]
pub struct Args {
    /// Fail if the document in the repository differs from the generated one
    #[arg(long)]
    pub check: bool,
}

/// Writes or compares `docs/openapi.json`.
pub fn openapi(args: &Args) -> Result<()> {
    let mut command = Command::new(kith::build(Mode::SMOKE)?);
    let printed = command.arg("openapi").stderr(Stdio::inherit()).output().context("cannot run kith")?;
    if !printed.status.success() {
        bail!("`kith openapi` failed ({})", printed.status);
    }
    // The document is printed over several lines, so that differences are readable.
    let document: Value =
        serde_json::from_slice(&printed.stdout).context("`kith openapi` printed no JSON")?;
    let document = serde_json::to_string_pretty(&document)? + "\n";
    let path = root()?.join("docs/openapi.json");
    if !args.check {
        fs::create_dir_all(path.parent().expect("the path has a folder"))?;
        fs::write(&path, document).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
        return Ok(());
    }
    let kept = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if kept != document {
        bail!("docs/openapi.json is not what the code generates: run `cargo xtask openapi` and commit it");
    }
    Ok(())
}
