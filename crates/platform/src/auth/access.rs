//! What somebody may do at this moment: role, standing and open sessions. Kept in memory until something of it changes.
//!
//! Accounts and sessions themselves are a module's; it says how they are read and when they have changed.

use std::sync::Arc;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Problem, UserId};
use kith_store::{Error, Query};

use super::Role;
use crate::App;
use crate::cache::{Cache, Hearing};
use crate::http::store_problem;

/// People whose access is kept in memory.
const KEPT_PEOPLE: usize = 100_000;

/// What a person may do at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What they are here.
    pub role: Role,
    /// Their open sessions; none, if they may not come in at all.
    pub sessions: Box<[Uuid]>,
}

/// Reads of the module that keeps accounts. It calls [`App::forget_access`] for each event that changes what a user may do.
#[derive(Clone, Copy, Debug)]
pub struct AccessSource {
    /// Reads what a user may do; `None` for one who does not exist or may not sign in.
    pub read: fn(&Query<'_>, UserId) -> Result<Option<Access>, Error>,
    /// Lists the administrators who may sign in, by id.
    pub list_admins: fn(&Query<'_>) -> Result<Vec<UserId>, Error>,
}

impl App {
    /// Lists the administrators who may sign in, by id; none without a module that keeps accounts.
    ///
    /// # Errors
    /// Returns the store's error if the database cannot be read.
    pub fn list_admins(&self, q: &Query<'_>) -> Result<Vec<UserId>, Error> {
        self.access.source.map_or_else(|| Ok(Vec::new()), |source| (source.list_admins)(q))
    }
}

/// The Session cache.
pub(crate) struct AccessCache {
    source: Option<AccessSource>,
    entries: Cache<UserId, Option<Arc<Access>>>,
}

impl AccessCache {
    pub fn new(source: Option<AccessSource>, hearing: Hearing) -> Self {
        Self { source, entries: Cache::new(KEPT_PEOPLE, hearing) }
    }

    /// What `user` may do in `session`, if that is open. A session that is not known to be open is looked for: another
    /// node may just have begun it.
    pub async fn get(&self, app: &App, user: UserId, session: Uuid) -> Result<Option<Arc<Access>>, Problem> {
        let Some(source) = self.source else { return Ok(None) };
        let is_open = |access: &Arc<Access>| access.sessions.contains(&session);
        let read = async || {
            let access = app.db.read(move |q| (source.read)(q, user)).await?;
            Ok(access.map(Arc::new))
        };
        let known = self.entries.get_or_read(user, read).await.map_err(store_problem)?;
        if app.hearing.is_alone() || known.as_ref().is_some_and(is_open) {
            return Ok(known.filter(is_open));
        }
        self.forget(user);
        let known = self.entries.get_or_read(user, read).await.map_err(store_problem)?;
        Ok(known.filter(is_open))
    }

    /// What `user` is here; nothing, if they may not come in at all.
    pub async fn role_of(&self, app: &App, user: UserId) -> Result<Option<Role>, Problem> {
        let Some(source) = self.source else { return Ok(None) };
        let read = async || {
            let access = app.db.read(move |q| (source.read)(q, user)).await?;
            Ok(access.map(Arc::new))
        };
        let known = self.entries.get_or_read(user, read).await.map_err(store_problem)?;
        Ok(known.map(|access| access.role))
    }

    fn forget(&self, user: UserId) {
        self.entries.forget(&user);
    }
}

impl App {
    /// Lets this node read anew what `user` may do.
    pub fn forget_access(&self, user: UserId) {
        self.access.forget(user);
    }
}
