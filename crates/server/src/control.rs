//! What a running server answers to commands that come through the socket in its data folder, and how they ask.

use std::io;
use std::path::Path;
use std::sync::Arc;

use kith_kernel::Timestamp;
use kith_platform::App;
use kith_store::{
    AuditChain, ControlHandler, ControlSocket, EngineKind, MigrationState, MigrationStatus, control_call,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum Command {
    MigrateStatus,
    AuditVerify,
    /// None asks only.
    LogLevel {
        level: Option<String>,
    },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Migrations(Vec<Line>),
    LogLevel(String),
    Audit(AuditReport),
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    name: String,
    applied_at: Option<Timestamp>,
    known: bool,
}

/// What a chain that holds comes to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditReport {
    /// How many entries it seals.
    pub links: i64,
    /// The last link's hash, in hexadecimal digits.
    pub head: String,
}

impl From<AuditChain> for AuditReport {
    fn from(AuditChain { links, head }: AuditChain) -> Self {
        Self { links, head: head.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

/// Listens in the data folder, if there is one that this server holds.
pub(crate) fn listen(app: &App) -> io::Result<Option<ControlSocket>> {
    if app.db.kind() != EngineKind::Sqlite {
        return Ok(None);
    }
    let folder = app.config.data.folder.clone();
    let app = app.clone();
    let handler: ControlHandler = Arc::new(move |request| {
        let app = app.clone();
        Box::pin(async move { serde_json::to_value(answer(&app, request).await).unwrap_or_default() })
    });
    ControlSocket::listen(&folder, handler).map(Some)
}

async fn answer(app: &App, request: Value) -> Reply {
    match serde_json::from_value(request) {
        Ok(Command::MigrateStatus) => match app.migrations().await {
            Ok(all) => Reply::Migrations(all.into_iter().map(Line::from).collect()),
            Err(error) => Reply::Refused(error.to_string()),
        },
        Ok(Command::AuditVerify) => match app.db.verify_audit().await {
            Ok(chain) => Reply::Audit(chain.into()),
            Err(error) => Reply::Refused(error.to_string()),
        },
        Ok(Command::LogLevel { level }) => match level.map_or(Ok(()), |level| app.log_level.set(&level)) {
            Ok(()) => Reply::LogLevel(app.log_level.get()),
            Err(error) => Reply::Refused(format!("this {error}")),
        },
        Err(error) => Reply::Refused(format!("the running server does not know this command: {error}")),
    }
}

/// Asks the server that holds `folder` how its migrations stand; None if none answers there.
pub(crate) async fn ask_migrations(folder: &Path) -> io::Result<Option<Vec<MigrationStatus>>> {
    match ask(folder, Command::MigrateStatus).await? {
        Some(Reply::Migrations(lines)) => Ok(Some(lines.into_iter().map(MigrationStatus::from).collect())),
        Some(other) => Err(misunderstood(&other)),
        None => Ok(None),
    }
}

/// Has the server that holds `folder` recompute its audit chain; None if none answers there.
pub(crate) async fn ask_audit(folder: &Path) -> io::Result<Option<AuditReport>> {
    match ask(folder, Command::AuditVerify).await? {
        Some(Reply::Audit(report)) => Ok(Some(report)),
        Some(other) => Err(misunderstood(&other)),
        None => Ok(None),
    }
}

/// Asks the server that holds `folder` what it logs, after changing it if `level` says so; None if none answers there.
pub(crate) async fn ask_log_level(folder: &Path, level: Option<String>) -> io::Result<Option<String>> {
    match ask(folder, Command::LogLevel { level }).await? {
        Some(Reply::LogLevel(level)) => Ok(Some(level)),
        Some(other) => Err(misunderstood(&other)),
        None => Ok(None),
    }
}

/// What the server that holds `folder` answers; None if none does. A refusal is an error.
async fn ask(folder: &Path, command: Command) -> io::Result<Option<Reply>> {
    let Some(reply) = control_call(folder, &serde_json::to_value(command)?).await? else { return Ok(None) };
    match serde_json::from_value(reply)? {
        Reply::Refused(why) => Err(io::Error::other(why)),
        reply => Ok(Some(reply)),
    }
}

fn misunderstood(reply: &Reply) -> io::Error {
    io::Error::other(format!("the running server answered something else: {reply:?}"))
}

impl From<MigrationStatus> for Line {
    fn from(status: MigrationStatus) -> Self {
        let applied_at = match status.state {
            MigrationState::Applied { at } => Some(at),
            _ => None,
        };
        Self { name: status.name, applied_at, known: status.state != MigrationState::Unknown }
    }
}

impl From<Line> for MigrationStatus {
    fn from(line: Line) -> Self {
        let state = match (line.applied_at, line.known) {
            (Some(at), _) => MigrationState::Applied { at },
            (None, true) => MigrationState::Pending,
            (None, false) => MigrationState::Unknown,
        };
        Self { name: line.name, state }
    }
}
