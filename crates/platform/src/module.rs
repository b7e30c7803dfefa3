//! Modules: each describes a feature of the server as plain data.

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

/// Feature of the server, described for the rest of the server.
#[derive(Debug)]
pub struct Module {
    /// Name, such as `bonds`.
    pub name: &'static str,
    /// Names of the modules that this module depends on. They must be served together with it.
    pub depends_on: &'static [&'static str],
    /// Groups of the module's operations in the API reference. Operations that are not assigned to a group
    /// with [`tagged`](crate::tagged) belong to the first group.
    pub tags: &'static [Tag],
    /// Returns the handlers of the module.
    pub routes: fn() -> Routes,
    /// Rate limits of its own routes, which [`rate_limited`](crate::rate_limited) applies.
    pub rate_classes: &'static [RateClass],
    /// Sections of the configuration that belong to the module. [`ConfigSection::of`] creates them from the
    /// settings.
    pub config: &'static [ConfigSection],
    /// Migrations of the module's tables, in the order of their versions.
    pub migrations: &'static [Migration],
    /// Problems that the module's operations return, besides the general ones.
    pub problems: &'static [&'static ProblemCode],
    /// Kinds of events that the module emits.
    pub events: &'static [&'static str],
    /// Consumers of events, of this module and of other modules.
    pub consumers: &'static [ModuleConsumer],
    /// Functions that read the access of users, if this module owns accounts.
    pub access: Option<AccessSource>,
    /// Personal data that the module stores, if any.
    pub personal: Option<PersonalData>,
    /// Hook that runs in the transaction of a new block, with both users locked. It ends or hides what the
    /// module stores between the two users, such as a bond or pending requests.
    pub on_block: Option<BlockHook>,
    /// Hook that runs when the last block between two users is removed, with both users locked. It restores
    /// what [`Module::on_block`] has hidden. The first user is the one who removed the block.
    pub on_unblock: Option<BlockHook>,
    /// Job kinds that the module handles.
    pub jobs: &'static [ModuleJob],
    /// Schedules of the module's recurring jobs.
    pub schedules: &'static [DeclaredSchedule],
    /// Facts for administrators.
    pub facts: &'static [Fact],
    /// Columns that contain encrypted values.
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
    /// Heading of one or two words.
    pub name: &'static str,
    /// One sentence about the operations of the group.
    pub description: &'static str,
}

/// Column whose values are encrypted with the deployment's secret. Created with
/// [`sealed_column!`](crate::sealed_column). `kith keys reseal` re-encrypts the values.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    /// Name of the column, as `table.column`.
    pub name: &'static str,
    /// SQL statement that lists up to `$2` ids with their values, in the order of ids, starting after the id
    /// `$1`.
    pub list: &'static str,
    /// SQL statement that sets the value of the row with id `$1` to `$3`, if the value is still `$2`.
    pub update: &'static str,
    /// Prefix of the name with which a value is encrypted. The id of the row follows the prefix.
    pub name_prefix: &'static str,
}

/// Creates a [`SealedColumn`] for a table with the text primary key `id`. NULL values are skipped.
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

/// Count or list for administrators and for `kith verify`. It must not contain personal data.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// Name, such as `bonds.users_with_several_bonds`.
    pub name: &'static str,
    /// Function that reads the value.
    pub read: fn(&Query<'_>, &Ctx) -> Result<serde_json::Value, Error>,
}

/// Hook that runs when a user blocks or unblocks another. Arguments: transaction, context, acting user, other
/// user.
pub type BlockHook = fn(&Tx<'_>, &Ctx, UserId, UserId) -> Result<(), Error>;

/// Number of rows of each kind.
pub type Counts = Vec<(&'static str, i64)>;

/// Part of a module's data in the export of a user.
#[derive(Clone, Copy, Debug)]
pub enum ExportPart {
    /// Fixed text between other parts.
    Text(&'static str),
    /// Single value, of a few megabytes at most.
    Value(fn(&Query<'_>, UserId) -> Result<serde_json::Value, Error>),
    /// Text that is read in pieces. The last argument is the cursor that the previous piece returned.
    Pieces(fn(&Query<'_>, UserId, Option<&str>) -> Result<ExportPiece, Error>),
}

/// Personal data that a module stores, with functions for its export, count and purge and for account
/// deletion.
#[derive(Clone, Copy, Debug)]
pub struct PersonalData {
    /// Hook that runs in the transaction in which a user deletes their account.
    pub on_account_deletion: fn(&Tx<'_>, &Ctx, UserId) -> Result<(), Error>,
    /// Parts of the export for the user. Together they form one JSON value.
    pub export: &'static [ExportPart],
    /// Counts the rows that a purge would delete or empty, by kind.
    pub count: fn(&Query<'_>, UserId) -> Result<Counts, Error>,
    /// Deletes the data of the user permanently.
    pub purge: fn(&Tx<'_>, UserId) -> Result<(), Error>,
}

impl Module {
    /// Creates a module without content. Use it for defaults: `Module { routes, ..Module::named("posts") }`.
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
