//! Re-encrypts encrypted database columns after the secret of the deployment was changed.

use kith_kernel::Ctx;
use kith_store::{Error, Query, Tx, params};
use serde::{Deserialize, Serialize};

use super::keyring::Keyring;
use crate::{App, SealedColumn};

/// Number of rows per batch. All changes of a batch are written in one transaction.
const BATCH: i64 = 200;

const RETIRE_AUDIT_KEYS: &str = "UPDATE audit_keys SET is_retired = TRUE WHERE NOT is_retired";

/// Result of re-encrypting one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResealedColumn {
    /// Name of the column, as `table.column`.
    pub column: String,
    /// Number of values that were re-encrypted with the current secret.
    pub resealed: u64,
    /// Number of values that neither the current nor the previous secret decrypts. They stay unchanged.
    pub unreadable: u64,
}

/// Re-encrypts all values that were encrypted with the previous secret. Can run while nodes serve requests,
/// and can be repeated. If any value was re-encrypted, also retires the keys of the audit chain, because an
/// attacker with the previous secret may know them. Later audit entries are protected with new keys.
///
/// # Errors
/// Returns an error if the database cannot be reached.
pub async fn reseal(app: &App) -> Result<Vec<ResealedColumn>, Error> {
    let ctx = app.system_ctx("command_line");
    let (mut done, mut retired) = (Vec::new(), false);
    for column in app.installed.iter().flat_map(|module| module.sealed) {
        done.push(reseal_column(app, &ctx, column, &mut retired).await?);
    }
    if retired {
        app.write(&ctx, |tx, ctx| {
            tx.audit(ctx, "keys.resealed", "all");
            Ok::<_, Error>(())
        })
        .await?;
    }
    Ok(done)
}

async fn reseal_column(
    app: &App,
    ctx: &Ctx,
    column: &'static SealedColumn,
    retired: &mut bool,
) -> Result<ResealedColumn, Error> {
    let mut done = ResealedColumn { column: column.name.to_owned(), resealed: 0, unreadable: 0 };
    let mut after = String::new();
    loop {
        let behind = after.clone();
        let rows = app.db.read(move |q| list(q, column, &behind)).await?;
        let Some((last, _)) = rows.last() else { return Ok(done) };
        after.clone_from(last);
        let mut changes = Vec::new();
        for (id, sealed) in rows {
            match reseal_one(&app.keyring, app, column, &id, &sealed) {
                Ok(None) => {}
                Ok(Some(resealed)) => changes.push((id, sealed, resealed)),
                Err(()) => done.unreadable += 1,
            }
        }
        if !changes.is_empty() {
            if !*retired {
                // Before the first change: if the command is interrupted, the next run finds what is left and
                // retires the keys again.
                app.write(ctx, |tx, _| tx.exec(RETIRE_AUDIT_KEYS, &[])).await?;
                *retired = true;
            }
            done.resealed += app.write(ctx, move |tx, _| update(tx, column, &changes)).await?;
        }
    }
}

fn reseal_one(
    keyring: &Keyring,
    app: &App,
    column: &SealedColumn,
    id: &str,
    sealed: &[u8],
) -> Result<Option<Vec<u8>>, ()> {
    let name = format!("{}{id}", column.name_prefix);
    keyring.reseal(&*app.sources.random, &name, sealed).map_err(|_| ())
}

fn list(q: &Query<'_>, of: &SealedColumn, after: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    q.all(of.list, params![after, BATCH], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Updates the values that have not changed since they were read. Returns the number of updated rows.
fn update(tx: &Tx<'_>, of: &SealedColumn, changes: &[(String, Vec<u8>, Vec<u8>)]) -> Result<u64, Error> {
    changes.iter().try_fold(0, |done, (id, old, new)| Ok(done + tx.exec(of.update, params![id, old, new])?))
}
