//! Executes commands of the command line. They run in the server that uses the data folder, through its
//! control socket. If there is no such server, they run in this process.

mod messages;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use kith_accounts::accounts::{Email, administration, find_by_email, first_admin};
use kith_automation::jobs;
use kith_automation::schedules;
use kith_kernel::uuid::Uuid;
use kith_kernel::{ApiKeyId, FieldError, Problem, days, problems};
use kith_platform::audit::archive;
use kith_platform::audit::head;
use kith_platform::auth::api_keys;
use kith_platform::auth::reseal;
use kith_platform::config::Config;
use kith_platform::consumers::operator;
use kith_platform::{App, store_problem};
use kith_store::{
    AuditChain, AuditHead, ControlHandler, ControlSocket, EngineKind, MigrationStatus, OpenError,
    control_call,
};
use serde_json::Value;

pub(crate) use messages::{ArchiveReport, AuditReport, Command, MigrationLine, Reply, RevealedKey};

use crate::start::{self, StartError, TestOverrides};

/// Maximum number of API keys that are listed.
const MAX_LISTED_API_KEYS: i64 = 1_000;

/// Listens on the control socket of the data folder. Returns `None` on PostgreSQL, where there is no data
/// folder.
pub(crate) fn listen(app: &App, addr: SocketAddr) -> io::Result<Option<ControlSocket>> {
    if app.db.kind() != EngineKind::Sqlite {
        return Ok(None);
    }
    let folder = app.config.data.folder.clone();
    let app = app.clone();
    let handler: ControlHandler = Arc::new(move |request| {
        let app = app.clone();
        Box::pin(async move { serde_json::to_value(handle(&app, addr, request).await).unwrap_or_default() })
    });
    ControlSocket::listen(&folder, handler).map(Some)
}

async fn handle(app: &App, addr: SocketAddr, request: Value) -> Reply {
    match serde_json::from_value(request) {
        Ok(Command::Address) => Reply::Address(format!("http://{}", reachable(addr))),
        Ok(command) => perform(app, command).await,
        Err(error) => Reply::Refused(format!("the running server does not know this command: {error}")),
    }
}

async fn perform(app: &App, command: Command) -> Reply {
    match command {
        Command::CreateAdmin { email, display_name, password } => {
            let created = first_admin::create_admin(app, &email, &display_name, &password).await;
            reply(created.map_err(format_problem), |user| Reply::AdminCreated { user_id: user.id })
        }
        Command::PromoteAdmin { email } => {
            let ctx = app.system_ctx("command_line");
            let promoted = administration::promote_address(app, &ctx, &email).await.map_err(format_problem);
            reply(promoted, |account| Reply::AdminPromoted { user_id: account.map(|account| account.id) })
        }
        Command::VerifyEmail { email } => {
            let ctx = app.system_ctx("command_line");
            let verified = administration::verify_address(app, &ctx, &email).await.map_err(format_problem);
            reply(verified, |account| Reply::EmailVerified {
                user_id: account.id,
                at: account.email_verified_at,
            })
        }
        Command::ReleaseEmail { email } => {
            let ctx = app.system_ctx("command_line");
            let released = administration::release_address(app, &ctx, &email).await.map_err(format_problem);
            reply(released, |account| Reply::EmailReleased { user_id: account.id })
        }
        Command::RotateKeys { at_once } => {
            let ctx = app.system_ctx("command_line");
            reply(app.tokens.rotate(app, &ctx, at_once).await, |rotation| Reply::KeysRotated(rotation.into()))
        }
        Command::ResealKeys => reply(reseal(app).await, Reply::KeysResealed),
        Command::CreateApiKey { admin, name, scopes, lifetime_s } => {
            let created =
                create_api_key(app, &admin, &name, &scopes, lifetime_s.map(Duration::from_secs)).await;
            reply(created.map_err(format_problem), Reply::ApiKeyCreated)
        }
        Command::Jobs { order } => {
            reply(jobs::run_operation(app, order).await.map_err(format_problem), Reply::Lines)
        }
        Command::ListApiKeys => {
            let ctx = app.system_ctx("command_line");
            let last = ApiKeyId(Uuid::max());
            reply(
                app.db.read(move |q| api_keys::list(q, &ctx, last, MAX_LISTED_API_KEYS)).await,
                Reply::ApiKeys,
            )
        }
        Command::RevokeApiKey { id } => {
            let ctx = app.system_ctx("command_line");
            let revoked = app.write(&ctx, move |tx, ctx| api_keys::revoke(tx, ctx, id)).await;
            reply(revoked, |()| Reply::ApiKeyRevoked)
        }
        Command::Schedules(order) => {
            let ctx = app.system_ctx("command_line");
            reply(schedules::run_operation(app, &ctx, order).await.map_err(format_problem), Reply::Schedules)
        }
        Command::Consumers(command) => reply(operator::execute(app, command).await, Reply::Consumers),
        Command::MigrateStatus => reply(app.migrations().await, |all| {
            Reply::Migrations(all.into_iter().map(MigrationLine::from).collect())
        }),
        // Only a running server has an address, and this process is none.
        Command::Address => Reply::Refused("this process is not a server".to_owned()),
        Command::AuditVerify { expected, max_unkeyed } => {
            reply(verify_audit(app, expected, max_unkeyed).await, |chain| Reply::Audit(chain.into()))
        }
        Command::AuditAcceptHead => {
            let ctx = app.system_ctx("command_line");
            reply(head::accept(app, &ctx).await, |head| Reply::AuditHeadAccepted(head.to_string()))
        }
        Command::AuditArchive { older_than_days, file } => {
            let ctx = app.system_ctx("command_line");
            let before = ctx.now - days(u64::from(older_than_days));
            reply(archive::archive(app, &ctx, before, &file).await, |created| {
                Reply::AuditArchive(created.into())
            })
        }
        Command::AuditVerifyArchive { file } => {
            reply(archive::verify(&app.db, &file).await, |verified| Reply::AuditArchive(verified.into()))
        }
        Command::LogLevel { level } => {
            let set = level.map_or(Ok(()), |level| app.log_level.set(&level));
            reply(set.map_err(|error| format!("this {error}")), |()| Reply::LogLevel(app.log_level.get()))
        }
    }
}

async fn verify_audit(app: &App, expected: Option<String>, max_unkeyed: i64) -> Result<AuditChain, String> {
    let expected = expected.map(|text| text.parse()).transpose().map_err(str::to_owned)?;
    let verified = head::verify(&app.db, app.audit_head.file(), expected, max_unkeyed).await;
    verified.map_err(|error| error.to_string())
}

async fn create_api_key(
    app: &App,
    admin: &str,
    name: &str,
    scopes: &[String],
    lifetime: Option<Duration>,
) -> Result<RevealedKey, Problem> {
    let address = Email::comparison_key(admin);
    let creator = app.db.read(move |q| find_by_email(q, &address)).await.map_err(store_problem)?;
    let unknown_address = || Problem::new(&problems::NOT_FOUND, "No account has this e-mail address.");
    let (_, text) =
        api_keys::create_from_command_line(app, creator.ok_or_else(unknown_address)?, name, scopes, lifetime)
            .await?;
    Ok(RevealedKey(text))
}

/// Returns a local address at which a listener on `addr` can be reached. An unspecified IP address is
/// replaced by loopback.
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

/// Formats a problem for the terminal, including the errors of fields.
fn format_problem(problem: Problem) -> String {
    let format_fault =
        |fault: &FieldError| format!("{}: {}", fault.pointer.trim_start_matches('/'), fault.detail);
    match &problem.errors[..] {
        [] if problem.detail.is_empty() => problem.code.title.to_owned(),
        [] => format!("{}. {}", problem.code.title, problem.detail),
        faults => faults.iter().map(format_fault).collect::<Vec<_>>().join(" "),
    }
}

/// Runs a command in the server that uses the data folder. If there is none, runs it in this process.
pub(crate) async fn run(config: Config, command: Command) -> Result<Reply, anyhow::Error> {
    let folder = config.data.folder.clone();
    match start::open(config, TestOverrides::default()).await {
        Ok(app) => {
            let reply = perform(&app, command).await;
            app.db.close().await;
            match reply {
                Reply::Refused(reason) => Err(anyhow!(reason)),
                reply => Ok(reply),
            }
        }
        Err(StartError::Open(error @ OpenError::FolderInUse { .. })) => {
            call(&folder, command).await?.ok_or_else(|| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the migrations as the server that uses `folder` reports them. Returns `None` if there is no such
/// server.
pub(crate) async fn get_migrations(folder: &Path) -> io::Result<Option<Vec<MigrationStatus>>> {
    match call(folder, Command::MigrateStatus).await? {
        Some(Reply::Migrations(lines)) => Ok(Some(lines.into_iter().map(MigrationStatus::from).collect())),
        Some(other) => Err(unexpected_reply(&other)),
        None => Ok(None),
    }
}

/// Returns the URL of the server that uses `folder`. Returns `None` if there is no such server.
pub(crate) async fn get_address(folder: &Path) -> io::Result<Option<String>> {
    match call(folder, Command::Address).await? {
        Some(Reply::Address(address)) => Ok(Some(address)),
        Some(other) => Err(unexpected_reply(&other)),
        None => Ok(None),
    }
}

/// Verifies the audit chain in the server that uses `folder`. Returns `None` if there is no such server.
pub(crate) async fn verify_audit_on_server(
    folder: &Path,
    expected: Option<AuditHead>,
    max_unkeyed: i64,
) -> io::Result<Option<AuditReport>> {
    let expected = expected.map(|head| head.to_string());
    match call(folder, Command::AuditVerify { expected, max_unkeyed }).await? {
        Some(Reply::Audit(report)) => Ok(Some(report)),
        Some(other) => Err(unexpected_reply(&other)),
        None => Ok(None),
    }
}

/// Sets the log level of the server that uses `folder`, if `level` is given. Returns the current level, or
/// `None` if there is no such server.
pub(crate) async fn set_log_level(folder: &Path, level: Option<String>) -> io::Result<Option<String>> {
    match call(folder, Command::LogLevel { level }).await? {
        Some(Reply::LogLevel(level)) => Ok(Some(level)),
        Some(other) => Err(unexpected_reply(&other)),
        None => Ok(None),
    }
}

/// Sends a command to the server that uses `folder`. Returns `None` if there is no such server, and an error
/// if it rejects the command.
async fn call(folder: &Path, command: Command) -> io::Result<Option<Reply>> {
    let Some(reply) = control_call(folder, &serde_json::to_value(command)?).await? else { return Ok(None) };
    match serde_json::from_value(reply)? {
        Reply::Refused(reason) => Err(io::Error::other(reason)),
        reply => Ok(Some(reply)),
    }
}

pub(crate) fn unexpected_reply(reply: &Reply) -> io::Error {
    io::Error::other(format!("unexpected response of the running server: {reply:?}"))
}
