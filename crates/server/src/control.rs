//! Commands that are given on the machine itself: done by the server that holds the data folder, asked through its
//! socket, or without one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use kith_accounts::accounts::{Email, administration, find_by_email, first_admin};
use kith_automation::jobs::{self, Order};
use kith_automation::schedules::{self, ScheduleOrder, ScheduleTold};
use kith_kernel::uuid::Uuid;
use kith_kernel::{ApiKeyId, FieldError, Problem, Timestamp, UserId, days, problems};
use kith_platform::audit::archive::{self, Archive};
use kith_platform::audit::head;
use kith_platform::auth::api_keys::{self, ApiKey};
use kith_platform::auth::{ResealedColumn, Rotation, reseal};
use kith_platform::config::Config;
use kith_platform::consumers::operating::{self, ConsumerCommand, ConsumerReply};
use kith_platform::{App, store_problem};
use kith_store::{
    AuditChain, AuditHead, ControlHandler, ControlSocket, EngineKind, MigrationState, MigrationStatus,
    OpenError, control_call,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::start::{self, Seams, StartError};

/// API keys that a list on the command line shows at most.
const LISTED_MOST: i64 = 1_000;

/// A command. Not `Debug`: it may hold a password.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    CreateAdmin {
        email: String,
        display_name: String,
        password: String,
    },
    /// Makes the account with an address an administrator, if there is one.
    PromoteAdmin {
        email: String,
    },
    /// Settles that an address is its owner's.
    VerifyEmail {
        email: String,
    },
    /// Takes an address that is not proven away from the account that has it.
    ReleaseEmail {
        email: String,
    },
    /// At once: every token that is out ends.
    RotateKeys {
        at_once: bool,
    },
    /// Seal everything under the present secret.
    ResealKeys,
    CreateApiKey {
        /// The address of the administrator whose key it is.
        admin: String,
        name: String,
        scopes: Vec<String>,
        lifetime_s: Option<u64>,
    },
    ListApiKeys,
    Jobs {
        order: Order,
    },
    RevokeApiKey {
        id: ApiKeyId,
    },
    Schedules(ScheduleOrder),
    Consumers(ConsumerCommand),
    MigrateStatus,
    /// Where the server can be asked.
    Address,
    AuditVerify {
        /// A head that the chain must contain.
        expected: Option<String>,
        /// How many of the first links may be sealed without a key.
        most_unkeyed: i64,
    },
    AuditAcceptHead,
    AuditArchive {
        older_than_days: u16,
        /// An absolute path.
        file: PathBuf,
    },
    AuditVerifyArchive {
        /// An absolute path.
        file: PathBuf,
    },
    /// None asks only.
    LogLevel {
        level: Option<String>,
    },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    AdminCreated {
        user_id: UserId,
    },
    /// None if no account has the address.
    AdminPromoted {
        user_id: Option<UserId>,
    },
    EmailVerified {
        user_id: UserId,
        at: Option<Timestamp>,
    },
    EmailReleased {
        user_id: UserId,
    },
    KeysRotated(KeysRotated),
    KeysResealed(Vec<ResealedColumn>),
    ApiKeyCreated(RevealedKey),
    ApiKeys(Vec<ApiKey>),
    ApiKeyRevoked,
    Lines(Vec<String>),
    Schedules(ScheduleTold),
    Consumers(ConsumerReply),
    Migrations(Vec<Line>),
    LogLevel(String),
    Address(String),
    Audit(AuditReport),
    AuditHeadAccepted(String),
    AuditArchive(ArchiveReport),
    Refused(String),
}

/// An API key itself. No message can show it by mistake.
#[derive(Serialize, Deserialize)]
pub(crate) struct RevealedKey(String);

impl RevealedKey {
    /// For the terminal of whoever made it, and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RevealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What became of the signing keys.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeysRotated {
    pub key_id: String,
    pub signs_from: Timestamp,
    pub others_retire_at: Timestamp,
    /// Whether this had been asked for before.
    pub under_way: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    name: String,
    applied_at: Option<Timestamp>,
    known: bool,
}

/// What a chain that holds comes to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditReport {
    /// How many entries it seals.
    pub links: i64,
    /// The number of links, a colon and the last link's hash in hexadecimal digits.
    pub head: String,
    /// How many of the first links were sealed without a key, by a version that had none.
    pub unkeyed: i64,
    /// How many of the first links are in archives.
    pub archived: i64,
}

impl From<AuditChain> for AuditReport {
    fn from(AuditChain { links, head: hash, unkeyed, archived }: AuditChain) -> Self {
        let head = AuditHead { links, hash }.to_string();
        Self { links, head, unkeyed, archived: archived.links }
    }
}

/// What an archive of the audit log holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ArchiveReport {
    /// Number of links.
    pub links: i64,
    /// The head behind which it begins.
    pub from: String,
    /// The head at its end.
    pub to: String,
    /// Whether links as old are left in the database.
    pub more: bool,
}

impl From<Archive> for ArchiveReport {
    fn from(archive: Archive) -> Self {
        let Archive { from, to, more } = archive;
        Self { links: archive.links(), from: from.to_string(), to: to.to_string(), more }
    }
}

/// Listens in the data folder, if there is one that this server holds.
pub(crate) fn listen(app: &App, addr: SocketAddr) -> io::Result<Option<ControlSocket>> {
    if app.db.kind() != EngineKind::Sqlite {
        return Ok(None);
    }
    let folder = app.config.data.folder.clone();
    let app = app.clone();
    let handler: ControlHandler = Arc::new(move |request| {
        let app = app.clone();
        Box::pin(async move { serde_json::to_value(answer(&app, addr, request).await).unwrap_or_default() })
    });
    ControlSocket::listen(&folder, handler).map(Some)
}

async fn answer(app: &App, addr: SocketAddr, request: Value) -> Reply {
    match serde_json::from_value(request) {
        Ok(Command::Address) => Reply::Address(format!("http://{}", reachable(addr))),
        Ok(command) => perform(app, command).await,
        Err(error) => Reply::Refused(format!("the running server does not know this command: {error}")),
    }
}

async fn perform(app: &App, command: Command) -> Reply {
    match command {
        Command::CreateAdmin { email, display_name, password } => {
            let made = first_admin::create_admin(app, &email, &display_name, &password).await;
            reply(made.map_err(in_words), |user| Reply::AdminCreated { user_id: user.id })
        }
        Command::PromoteAdmin { email } => {
            let ctx = app.system_ctx("command_line");
            let promoted = administration::promote_address(app, &ctx, &email).await.map_err(in_words);
            reply(promoted, |account| Reply::AdminPromoted { user_id: account.map(|account| account.id) })
        }
        Command::VerifyEmail { email } => {
            let ctx = app.system_ctx("command_line");
            let verified = administration::verify_address(app, &ctx, &email).await.map_err(in_words);
            reply(verified, |account| Reply::EmailVerified {
                user_id: account.id,
                at: account.email_verified_at,
            })
        }
        Command::ReleaseEmail { email } => {
            let ctx = app.system_ctx("command_line");
            let released = administration::release_address(app, &ctx, &email).await.map_err(in_words);
            reply(released, |account| Reply::EmailReleased { user_id: account.id })
        }
        Command::RotateKeys { at_once } => {
            let ctx = app.system_ctx("command_line");
            reply(app.tokens.rotate(app, &ctx, at_once).await, |rotation| Reply::KeysRotated(rotation.into()))
        }
        Command::ResealKeys => reply(reseal(app).await, Reply::KeysResealed),
        Command::CreateApiKey { admin, name, scopes, lifetime_s } => {
            let made = create_api_key(app, &admin, &name, &scopes, lifetime_s.map(Duration::from_secs)).await;
            reply(made.map_err(in_words), Reply::ApiKeyCreated)
        }
        Command::Jobs { order } => reply(jobs::carry_out(app, order).await.map_err(in_words), Reply::Lines),
        Command::ListApiKeys => {
            let ctx = app.system_ctx("command_line");
            let last = ApiKeyId(Uuid::max());
            reply(app.db.read(move |q| api_keys::list(q, &ctx, last, LISTED_MOST)).await, Reply::ApiKeys)
        }
        Command::RevokeApiKey { id } => {
            let ctx = app.system_ctx("command_line");
            let revoked = app.write(&ctx, move |tx, ctx| api_keys::revoke(tx, ctx, id)).await;
            reply(revoked, |()| Reply::ApiKeyRevoked)
        }
        Command::Schedules(order) => {
            let ctx = app.system_ctx("command_line");
            reply(schedules::carry_out(app, &ctx, order).await.map_err(in_words), Reply::Schedules)
        }
        Command::Consumers(command) => reply(operating::execute(app, command).await, Reply::Consumers),
        Command::MigrateStatus => {
            reply(app.migrations().await, |all| Reply::Migrations(all.into_iter().map(Line::from).collect()))
        }
        // It is the server that knows, and here there may be none.
        Command::Address => Reply::Refused("no server runs here".to_owned()),
        Command::AuditVerify { expected, most_unkeyed } => {
            reply(verify_audit(app, expected, most_unkeyed).await, |chain| Reply::Audit(chain.into()))
        }
        Command::AuditAcceptHead => {
            let ctx = app.system_ctx("command_line");
            reply(head::accept(app, &ctx).await, |head| Reply::AuditHeadAccepted(head.to_string()))
        }
        Command::AuditArchive { older_than_days, file } => {
            let ctx = app.system_ctx("command_line");
            let before = ctx.now - days(u64::from(older_than_days));
            reply(archive::archive(app, &ctx, before, &file).await, |made| Reply::AuditArchive(made.into()))
        }
        Command::AuditVerifyArchive { file } => {
            reply(archive::verify(&app.db, &file).await, |held| Reply::AuditArchive(held.into()))
        }
        Command::LogLevel { level } => {
            let set = level.map_or(Ok(()), |level| app.log_level.set(&level));
            reply(set.map_err(|error| format!("this {error}")), |()| Reply::LogLevel(app.log_level.get()))
        }
    }
}

async fn verify_audit(app: &App, expected: Option<String>, most_unkeyed: i64) -> Result<AuditChain, String> {
    let expected = expected.map(|text| text.parse()).transpose().map_err(str::to_owned)?;
    let verified = head::verify(&app.db, app.audit_head.file(), expected, most_unkeyed).await;
    verified.map_err(|error| error.to_string())
}

async fn create_api_key(
    app: &App,
    admin: &str,
    name: &str,
    scopes: &[String],
    lifetime: Option<Duration>,
) -> Result<RevealedKey, Problem> {
    let address = Email::key_of(admin);
    let maker = app.db.read(move |q| find_by_email(q, &address)).await.map_err(store_problem)?;
    let nobody = || Problem::new(&problems::NOT_FOUND, "Nobody has this address.");
    let (_, text) = api_keys::create_for(app, maker.ok_or_else(nobody)?, name, scopes, lifetime).await?;
    Ok(RevealedKey(text))
}

/// An address on which this machine can be asked that listens on `addr`.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

fn reply<T, E: std::fmt::Display>(done: Result<T, E>, reply: impl FnOnce(T) -> Reply) -> Reply {
    done.map_or_else(|error| Reply::Refused(error.to_string()), reply)
}

/// A problem as somebody at a terminal is told it: its faults one by one, if it has any.
fn in_words(problem: Problem) -> String {
    let told = |fault: &FieldError| format!("{}: {}", fault.pointer.trim_start_matches('/'), fault.detail);
    match &problem.errors[..] {
        [] if problem.detail.is_empty() => problem.code.title.to_owned(),
        [] => format!("{}. {}", problem.code.title, problem.detail),
        faults => faults.iter().map(told).collect::<Vec<_>>().join(" "),
    }
}

/// Does a command wherever it can be done: by the server that holds the data folder, or here if none does.
pub(crate) async fn run(config: Config, command: Command) -> Result<Reply, anyhow::Error> {
    let folder = config.data.folder.clone();
    match start::open(config, Seams::default()).await {
        Ok(app) => {
            let reply = perform(&app, command).await;
            app.db.close().await;
            match reply {
                Reply::Refused(why) => Err(anyhow!(why)),
                reply => Ok(reply),
            }
        }
        Err(StartError::Open(error @ OpenError::FolderInUse { .. })) => {
            ask(&folder, command).await?.ok_or_else(|| error.into())
        }
        Err(error) => Err(error.into()),
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

/// Where the server that holds `folder` can be asked; None if none answers there.
pub(crate) async fn ask_address(folder: &Path) -> io::Result<Option<String>> {
    match ask(folder, Command::Address).await? {
        Some(Reply::Address(address)) => Ok(Some(address)),
        Some(other) => Err(misunderstood(&other)),
        None => Ok(None),
    }
}

/// Has the server that holds `folder` recompute its audit chain; None if none answers there.
pub(crate) async fn ask_audit(
    folder: &Path,
    expected: Option<AuditHead>,
    most_unkeyed: i64,
) -> io::Result<Option<AuditReport>> {
    let expected = expected.map(|head| head.to_string());
    match ask(folder, Command::AuditVerify { expected, most_unkeyed }).await? {
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

pub(crate) fn misunderstood(reply: &Reply) -> io::Error {
    io::Error::other(format!("the running server answered something else: {reply:?}"))
}

impl From<Rotation> for KeysRotated {
    fn from(Rotation { key_id, signs_from, others_retire_at, under_way }: Rotation) -> Self {
        Self { key_id, signs_from, others_retire_at, under_way }
    }
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
