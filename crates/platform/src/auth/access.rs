//! Access of users: the role and the open sessions, cached until an event changes them.
//!
//! Accounts and sessions belong to a module, which provides the functions that read them and invalidates the
//! cache.

use std::sync::Arc;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Problem, UserId};
use kith_store::{Error, Query};

use super::Role;
use crate::App;
use crate::cache::{Cache, InvalidationFeed};
use crate::http::store_problem;

/// Maximum number of users in the cache.
const MAX_CACHED_USERS: usize = 100_000;

/// Current access of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Role of the user.
    pub role: Role,
    /// Ids of the user's open sessions. Empty if the user has none.
    pub sessions: Box<[Uuid]>,
}

/// Functions of the module that owns accounts. The module must call [`App::invalidate_access`] for each event
/// that changes the access of a user.
#[derive(Clone, Copy, Debug)]
pub struct AccessSource {
    /// Reads the access of a user. Returns `None` if the user does not exist or may not sign in.
    pub read: fn(&Query<'_>, UserId) -> Result<Option<Access>, Error>,
    /// Lists the administrators who may sign in, in the order of their ids.
    pub list_admins: fn(&Query<'_>) -> Result<Vec<UserId>, Error>,
}

impl App {
    /// Lists the administrators who may sign in, in the order of their ids. The list is empty if no module
    /// owns accounts.
    ///
    /// # Errors
    /// Returns the store's error if the database cannot be read.
    pub fn list_admins(&self, q: &Query<'_>) -> Result<Vec<UserId>, Error> {
        self.access.source.map_or_else(|| Ok(Vec::new()), |source| (source.list_admins)(q))
    }
}

/// Cache of the access of users.
pub(crate) struct AccessCache {
    source: Option<AccessSource>,
    entries: Cache<UserId, Option<Arc<Access>>>,
}

impl AccessCache {
    pub fn new(source: Option<AccessSource>, invalidation_feed: InvalidationFeed) -> Self {
        Self { source, entries: Cache::new(MAX_CACHED_USERS, invalidation_feed) }
    }

    /// Returns the access of `user` if `session` is open. On a deployment with several nodes, a session that
    /// is not in the cache is read from the database again, because another node may have created it.
    pub async fn get(&self, app: &App, user: UserId, session: Uuid) -> Result<Option<Arc<Access>>, Problem> {
        let Some(source) = self.source else { return Ok(None) };
        let is_open = |access: &Arc<Access>| access.sessions.contains(&session);
        let read = async || {
            let access = app.db.read(move |q| (source.read)(q, user)).await?;
            Ok(access.map(Arc::new))
        };
        let known = self.entries.get_or_read(user, read).await.map_err(store_problem)?;
        if app.invalidation_feed.is_single_node() || known.as_ref().is_some_and(is_open) {
            return Ok(known.filter(is_open));
        }
        self.forget(user);
        let known = self.entries.get_or_read(user, read).await.map_err(store_problem)?;
        Ok(known.filter(is_open))
    }

    /// Returns the role of `user`, or `None` if the user may not sign in.
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
        self.entries.invalidate(&user);
    }
}

impl App {
    /// Removes the access of `user` from the cache of this node.
    pub fn invalidate_access(&self, user: UserId) {
        self.access.forget(user);
    }
}
