//! Creates the first administrator, at the command line or through a one-time link in a file on the server.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_kernel::{Ctx, Problem, Timestamp};
use kith_platform::App;
use kith_platform::auth::Role;
use kith_store::Tx;
use sha2::{Digest, Sha256};

use super::log_in::IssuedSession;
use super::model::{AccountError, ClientInfo, NewAccount, User};
use super::{commands, log_in, rows, rules};

const LINK_FILE_NAME: &str = "first-admin-link";
/// Path of the web page that the link opens.
const PAGE_PATH: &str = "/first-admin";

/// One-time link that creates the first administrator.
#[derive(Debug)]
pub struct FirstAdminLink {
    /// URL with the secret in its fragment.
    pub link: String,
    /// File that contains the link. Only the operating system user of the server can read it.
    pub file: PathBuf,
    /// Time at which the link expires.
    pub expires_at: Timestamp,
}

/// Creates a link and writes it to a file in the data folder. Returns `None` if an administrator exists.
///
/// # Errors
/// Returns an [`io::Error`] if the database operation fails or the file cannot be written.
pub async fn create_link(app: &App, base: &str) -> io::Result<Option<FirstAdminLink>> {
    let ctx = app.system_ctx("first_admin");
    let secret = ctx.random::<32>();
    // Uses real time, because the clock of the administrator's browser does not follow `/dev/clock`.
    let expires_at = ctx.real_now() + rules::FIRST_ADMIN_LINK_LIFETIME;
    let created = app.write(&ctx, move |tx, _| {
        if rows::count_admins(tx)? > 0 {
            return Ok(false);
        }
        rows::insert_link(tx, &hash(&secret), expires_at).map(|()| true)
    });
    if !created.await.map_err(io::Error::other)? {
        remove_link_file(app).await;
        return Ok(None);
    }
    // The fragment of a URL is not sent to servers, so no access log contains the secret.
    let link = format!("{base}{PAGE_PATH}#{}", URL_SAFE_NO_PAD.encode(secret));
    let file = app.config.data.folder.join(LINK_FILE_NAME);
    let (path, line) = (file.clone(), format!("{link}\n"));
    tokio::task::spawn_blocking(move || write_private(path, &line)).await.map_err(io::Error::other)??;
    Ok(Some(FirstAdminLink { link, file, expires_at }))
}

fn write_private(path: PathBuf, text: &str) -> io::Result<()> {
    // Replaces the file instead of writing into an existing one, which another process may have opened.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Deletes the file with the link. The link does not work once an administrator exists.
pub async fn remove_link_file(app: &App) {
    let file = app.config.data.folder.join(LINK_FILE_NAME);
    // A file that cannot be deleted is harmless: its link no longer works.
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(file)).await;
}

fn hash(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Creates the first administrator and a session for it, if the secret is valid and there is no
/// administrator.
///
/// # Errors
/// Returns [`AccountError::InvalidLink`] if the secret is unknown or expired, or an administrator exists;
/// [`AccountError::EmailTaken`] if an account has the address.
pub fn redeem_link(
    tx: &Tx<'_>,
    ctx: &Ctx,
    secret: &str,
    account: &NewAccount,
    client: &ClientInfo,
) -> Result<(User, IssuedSession), AccountError> {
    tx.lock("admins", ["all"])?;
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| AccountError::InvalidLink)?;
    let is_first = rows::has_link(tx, &hash(&secret), ctx.real_now())? && rows::count_admins(tx)? == 0;
    // Rejects synthetic accounts. They do not count as administrators, so the link would stay valid and
    // could be used again.
    if !is_first || rules::is_synthetic(&account.email.address) {
        return Err(AccountError::InvalidLink);
    }
    let user = make_admin(tx, ctx, account)?;
    let session = log_in::start_session(tx, ctx, user.id, client)?;
    Ok((user, session))
}

/// Checks that a secret is valid. Called before the password is hashed, because hashing is expensive.
///
/// # Errors
/// Returns [`AccountError::InvalidLink`] if the secret is unknown or expired.
pub async fn check_link(app: &App, secret: &str) -> Result<(), AccountError> {
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| AccountError::InvalidLink)?;
    let now = app.sources.clock.real_now();
    let is_valid = app.db.read(move |q| rows::has_link(q, &hash(&secret), now)).await?;
    if is_valid { Ok(()) } else { Err(AccountError::InvalidLink) }
}

fn make_admin(tx: &Tx<'_>, ctx: &Ctx, account: &NewAccount) -> Result<User, AccountError> {
    let user = commands::create_account(tx, ctx, account, Role::Admin)?;
    tx.audit(ctx, "account.made_admin", user.id);
    if !rules::is_synthetic(&user.email) {
        rows::delete_links(tx)?;
    }
    Ok(user)
}

/// Creates an administrator. Used by the command line.
///
/// # Errors
/// Returns a problem if the input is invalid or another account has the address.
pub async fn create_admin(
    app: &App,
    email: &str,
    display_name: &str,
    password: &str,
) -> Result<User, Problem> {
    let (email, password, display_name) = super::model::validate_registration(email, password, display_name)?;
    let password_hash = app.passwords.hash(None, password.into_string()).await?;
    let account = NewAccount { email, display_name, password_hash };
    let ctx = app.system_ctx("command_line");
    let user = app.write(&ctx, move |tx, ctx| make_admin(tx, ctx, &account)).await?;
    if !rules::is_synthetic(&user.email) {
        remove_link_file(app).await;
    }
    Ok(user)
}
