//! Access to the process and the log of the server, if it runs on this machine.

use std::path::PathBuf;

use kith_readiness::{Run, Shortfall};

/// Returns the process id of the server, or `None` if it runs on another machine.
pub(super) async fn local_process_id(run: &Run) -> Result<Option<u64>, Shortfall> {
    let process = run.facts().await?["process"].clone();
    let here = run.deployment().target().machine.as_deref();
    let is_here = here.is_some() && process["machine"].as_str() == here;
    Ok(process["id"].as_u64().filter(|_| is_here))
}

pub(super) async fn is_local(run: &Run) -> Result<bool, Shortfall> {
    local_process_id(run).await.map(|process| process.is_some())
}

/// Returns the log file of the server. It is the file given on the command line, or the target of the
/// server's standard error.
pub(super) async fn log_file(run: &Run) -> Result<PathBuf, Shortfall> {
    if let Some(named) = &run.deployment().target().logs {
        return Ok(named.clone());
    }
    let stderr = match local_process_id(run).await {
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
