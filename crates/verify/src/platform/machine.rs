//! Whether the server runs on the machine that judges it, where the kernel can be asked about it.

use std::path::PathBuf;

use kith_readiness::{Run, Shortfall};

/// The server's process, if it is one of this machine's.
pub(super) async fn process_here(run: &Run) -> Result<Option<u64>, Shortfall> {
    let process = run.facts().await?["process"].clone();
    let here = run.deployment().target().machine.as_deref();
    let is_here = here.is_some() && process["machine"].as_str() == here;
    Ok(process["id"].as_u64().filter(|_| is_here))
}

pub(super) async fn is_here(run: &Run) -> Result<bool, Shortfall> {
    process_here(run).await.map(|process| process.is_some())
}

/// The server's log, as a file: the one that was named, or where its standard error goes.
pub(super) async fn log_file(run: &Run) -> Result<PathBuf, Shortfall> {
    if let Some(named) = &run.deployment().target().logs {
        return Ok(named.clone());
    }
    let stderr = match process_here(run).await {
        Ok(Some(process)) => std::fs::read_link(format!("/proc/{process}/fd/2")).ok(),
        _ => None,
    };
    stderr.filter(|file| file.is_file()).ok_or_else(|| {
        Shortfall::unmeasured(
            "the server's log was not given",
            "write it to a file (`kith serve 2>kith.log`) and name that with --logs",
        )
    })
}
