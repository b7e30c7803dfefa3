//! The first administrator: made on the machine itself, or by whoever can read a file on it.

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

use super::model::{AccountError, NewAccount, Origin, User};
use super::sign_in::OpenSession;
use super::{commands, rows, rules, sign_in};

const FILE: &str = "first-admin-link";
/// The page on which the link ends.
const PATH: &str = "/first-admin";

/// A link that makes whoever opens it the first administrator.
#[derive(Debug)]
pub struct Offer {
    /// The link itself.
    pub link: String,
    /// The file it stands in, readable by its owner only.
    pub file: PathBuf,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Makes a link and writes it into a file in the data folder, if there is no administrator.
///
/// # Errors
/// The database's; the disk's.
pub async fn offer(app: &App, base: &str) -> io::Result<Option<Offer>> {
    let ctx = app.system_ctx("first_admin");
    let secret = ctx.random::<32>();
    // Real time: the reader's clock does not follow `/dev/clock`.
    let expires_at = ctx.real_now() + rules::LINK_LIFETIME;
    let made = app.write(&ctx, move |tx, _| {
        if rows::count_admins(tx)? > 0 {
            return Ok(false);
        }
        rows::insert_link(tx, &hash(&secret), expires_at).map(|()| true)
    });
    if !made.await.map_err(io::Error::other)? {
        remove_file(app).await;
        return Ok(None);
    }
    // Behind `#`, so that no server and no log along the way sees it.
    let link = format!("{base}{PATH}#{}", URL_SAFE_NO_PAD.encode(secret));
    let file = app.config.data.folder.join(FILE);
    let (path, line) = (file.clone(), format!("{link}\n"));
    tokio::task::spawn_blocking(move || write_private(path, &line)).await.map_err(io::Error::other)??;
    Ok(Some(Offer { link, file, expires_at }))
}

fn write_private(path: PathBuf, text: &str) -> io::Result<()> {
    // A file that others had open before is not written into.
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

/// Takes the link's file away, which is good for nothing once there is an administrator.
pub async fn remove_file(app: &App) {
    let file = app.config.data.folder.join(FILE);
    // Left behind it says nothing that is still good.
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(file)).await;
}

fn hash(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Makes the first administrator, for whoever has the link.
///
/// # Errors
/// [`AccountError::InvalidLink`], [`AccountError::EmailTaken`].
pub fn accept(
    tx: &Tx<'_>,
    ctx: &Ctx,
    secret: &str,
    account: &NewAccount,
    origin: &Origin,
) -> Result<(User, OpenSession), AccountError> {
    tx.lock("admins", ["all"])?;
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| AccountError::InvalidLink)?;
    let is_first = rows::has_link(tx, &hash(&secret), ctx.real_now())? && rows::count_admins(tx)? == 0;
    // The link would be good for another one after somebody who counts for nothing.
    if !is_first || rules::is_made_up(&account.email.typed) {
        return Err(AccountError::InvalidLink);
    }
    let user = make_admin(tx, ctx, account)?;
    let session = sign_in::start_session(tx, ctx, user.id, origin)?;
    Ok((user, session))
}

/// Whether a link with this secret may be used now; looked at before a password is hashed for nothing.
///
/// # Errors
/// [`AccountError::InvalidLink`].
pub async fn check_link(app: &App, secret: &str) -> Result<(), AccountError> {
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| AccountError::InvalidLink)?;
    let now = app.sources.clock.real_now();
    let good = app.db.read(move |q| rows::has_link(q, &hash(&secret), now)).await?;
    if good { Ok(()) } else { Err(AccountError::InvalidLink) }
}

fn make_admin(tx: &Tx<'_>, ctx: &Ctx, account: &NewAccount) -> Result<User, AccountError> {
    let user = commands::make(tx, ctx, account, Role::Admin)?;
    tx.audit(ctx, "account.made_admin", user.id);
    if !rules::is_made_up(&user.email) {
        rows::delete_links(tx)?;
    }
    Ok(user)
}

/// Makes an administrator, for whoever can give commands on the machine itself.
///
/// # Errors
/// What is wrong with the input, or that the address is taken.
pub async fn create_admin(
    app: &App,
    email: &str,
    display_name: &str,
    password: &str,
) -> Result<User, Problem> {
    let (email, password, display_name) = super::model::check_new(email, password, display_name)?;
    let password_hash = app.passwords.hash(None, password.into_string()).await?;
    let account = NewAccount { email, display_name, password_hash };
    let ctx = app.system_ctx("command_line");
    let user = app.write(&ctx, move |tx, ctx| make_admin(tx, ctx, &account)).await?;
    if !rules::is_made_up(&user.email) {
        remove_file(app).await;
    }
    Ok(user)
}
