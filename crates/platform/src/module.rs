//! Modules: the interface of a feature to the rest of the server, as plain data in one list.

use std::fmt;

use kith_jobs::schedules::DeclaredSchedule;
use kith_kernel::{Ctx, ProblemCode, UserId};
use kith_store::{Error, Migration, Query, Tx};

use crate::App;
use crate::auth::AccessSource;
use crate::config::{Config, ConfigSection};
use crate::consumers::ModuleConsumer;
use crate::export::ExportPiece;
use crate::jobs::ModuleJob;

/// Handlers with their OpenAPI documentation. Undocumented handlers cannot be registered.
pub type Routes = utoipa_axum::router::OpenApiRouter<App>;

/// Feature of the server.
#[derive(Debug)]
pub struct Module {
    /// Name, such as `bonds`.
    pub name: &'static str,
    /// Names of the modules that it depends on. They must be served together with it.
    pub depends_on: &'static [&'static str],
    /// Groups of its operations in the API reference. The first is that of operations that
    /// [`tagged`](crate::tagged) put in no other.
    pub tags: &'static [Tag],
    /// Returns its handlers.
    pub routes: fn() -> Routes,
    /// Rate limits of its own routes, which [`rate_limited`](crate::rate_limited) applies.
    pub rate_classes: &'static [RateClass],
    /// Sections of the configuration that it owns: [`ConfigSection::of`] its settings.
    pub config: &'static [ConfigSection],
    /// Migrations of its tables, in the order of versions.
    pub migrations: &'static [Migration],
    /// Problems that it returns, besides the general ones.
    pub problems: &'static [&'static ProblemCode],
    /// Kinds of events that it emits.
    pub events: &'static [&'static str],
    /// Consumers of events of this and other modules.
    pub consumers: &'static [ModuleConsumer],
    /// Reads of users' access, if this module owns accounts.
    pub access: Option<AccessSource>,
    /// Personal data that it stores.
    pub personal: Option<PersonalData>,
    /// Hook that runs in the transaction of a new block, with both users locked. Ends or withholds what the
    /// module stores between them, such as a bond or pending requests.
    pub on_block: Option<BlockHook>,
    /// Hook that runs, with both users locked, when the last block between two users is removed. Releases
    /// what [`Module::on_block`] withheld. The first user is the one who removed the block.
    pub on_unblock: Option<BlockHook>,
    /// Job kinds that it handles.
    pub jobs: &'static [ModuleJob],
    /// Schedules of its recurring jobs.
    pub schedules: &'static [DeclaredSchedule],
    /// Facts for administrators.
    pub facts: &'static [Fact],
    /// Columns with sealed values.
    pub sealed: &'static [SealedColumn],
}

/// Class of rate limit: requests per minute of one client network to one route. A module lists its own
/// classes in [`Module::rate_classes`].
#[derive(Clone, Copy)]
pub struct RateClass {
    /// Name in the `RateLimit` headers and in metrics, unique in the server and without spaces.
    pub name: &'static str,
    /// Returns the configured limit; 0 means no limit.
    pub per_minute: fn(&Config) -> u32,
}

impl RateClass {
    /// Class of routes that declare no other: `limits.requests_per_minute`.
    pub const REQUESTS: Self =
        Self { name: "requests", per_minute: |config| config.limits.requests_per_minute };
    /// Class of requests that carry a password or a token: `limits.auth_per_minute`.
    pub const AUTH: Self = Self { name: "auth", per_minute: |config| config.limits.auth_per_minute };
    /// Class of routes for monitoring, which have no limit.
    pub const EXEMPT: Self = Self { name: "exempt", per_minute: |_| 0 };

    /// Returns the classes of the platform and of `modules`.
    pub(crate) fn all(modules: &[&Module]) -> Vec<Self> {
        let own = [Self::REQUESTS, Self::AUTH, Self::EXEMPT];
        own.into_iter().chain(modules.iter().flat_map(|module| module.rate_classes.iter().copied())).collect()
    }
}

impl Default for RateClass {
    fn default() -> Self {
        Self::REQUESTS
    }
}

impl PartialEq for RateClass {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for RateClass {}

impl fmt::Debug for RateClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Group of operations in the API reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Heading, a word or two.
    pub name: &'static str,
    /// One sentence about its operations.
    pub description: &'static str,
}

/// Column whose values are sealed under the deployment's secret, created by
/// [`sealed_column!`](crate::sealed_column). `kith keys reseal` re-encrypts them.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    /// Column, as `table.column`.
    pub name: &'static str,
    /// SQL that lists up to `$2` ids and values with an id greater than `$1`, in the order of ids.
    pub list: &'static str,
    /// SQL that sets the value of row `$1` to `$3` if it is still `$2`.
    pub update: &'static str,
    /// Prefix of the id in the name under which a value is sealed.
    pub name_prefix: &'static str,
}

/// Creates a [`SealedColumn`] for a table with a text primary key `id`. NULL values are skipped.
#[macro_export]
macro_rules! sealed_column {
    ($table:literal, $column:literal, $name_prefix:literal) => {
        $crate::SealedColumn {
            name: concat!($table, ".", $column),
            list: concat!(
                "SELECT id, ",
                $column,
                " FROM ",
                $table,
                " WHERE id > $1 AND ",
                $column,
                " IS NOT NULL ORDER BY id LIMIT $2"
            ),
            update: concat!(
                "UPDATE ",
                $table,
                " SET ",
                $column,
                " = $3 WHERE id = $1 AND ",
                $column,
                " = $2"
            ),
            name_prefix: $name_prefix,
        }
    };
}

/// Count or list for administrators and `kith verify`. Must not contain personal data.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// Name, such as `bonds.users_with_several_bonds`.
    pub name: &'static str,
    /// Reads the value.
    pub read: fn(&Query<'_>, &Ctx) -> Result<serde_json::Value, Error>,
}

/// Hook of a block. Arguments: transaction, context, blocker, blocked user.
pub type BlockHook = fn(&Tx<'_>, &Ctx, UserId, UserId) -> Result<(), Error>;

/// Number of rows by kind.
pub type Counts = Vec<(&'static str, i64)>;

/// Part of a module's export of personal data.
#[derive(Clone, Copy, Debug)]
pub enum ExportPart {
    /// Fixed text between other parts.
    Text(&'static str),
    /// Single value, of a few megabytes at most.
    Value(fn(&Query<'_>, UserId) -> Result<serde_json::Value, Error>),
    /// Text in pieces. The last argument is the cursor of the previous piece.
    Pieces(fn(&Query<'_>, UserId, Option<&str>) -> Result<ExportPiece, Error>),
}

/// Personal data that a module stores, with the hooks of its lifecycle.
#[derive(Clone, Copy, Debug)]
pub struct PersonalData {
    /// Hook that runs in the transaction in which a user deletes their account.
    pub on_account_deletion: fn(&Tx<'_>, &Ctx, UserId) -> Result<(), Error>,
    /// Parts of the user's own export, which together form one JSON value.
    pub export: &'static [ExportPart],
    /// Counts the rows, by kind, that a purge would delete or empty.
    pub count: fn(&Query<'_>, UserId) -> Result<Counts, Error>,
    /// Deletes the data for good.
    pub purge: fn(&Tx<'_>, UserId) -> Result<(), Error>,
}

impl Module {
    /// Creates an empty module: `Module { routes, ..Module::named("posts") }`.
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            depends_on: &[],
            tags: &[],
            routes: Routes::new,
            rate_classes: &[],
            config: &[],
            migrations: &[],
            problems: &[],
            events: &[],
            consumers: &[],
            access: None,
            personal: None,
            on_block: None,
            on_unblock: None,
            jobs: &[],
            schedules: &[],
            facts: &[],
            sealed: &[],
        }
    }
}
