//! Engines on which scenarios run, and the macro that runs them on each.

use kith::modules;
use kith_store::testing::{TestDatabase, postgres_url};

/// Engine on which a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// One server on SQLite.
    Sqlite,
    /// One server on PostgreSQL.
    Postgres,
    /// Two servers on one PostgreSQL. Requests alternate between them.
    Pair,
}

impl Engine {
    /// Returns true if the engine is available.
    pub fn is_chosen(self) -> bool {
        self == Self::Sqlite || postgres_url().is_some()
    }

    /// Creates an empty database without a schema.
    pub async fn empty_database(self) -> TestDatabase {
        match self {
            Self::Sqlite => TestDatabase::sqlite(),
            Self::Postgres | Self::Pair => {
                let admin_url = postgres_url().expect("a PostgreSQL URL is set when PostgreSQL is chosen");
                TestDatabase::postgres(&admin_url).await.expect("a database on the server")
            }
        }
    }

    /// Creates a migrated database.
    pub async fn database(self) -> TestDatabase {
        let modules = modules::migrations();
        let copied = match self {
            Self::Sqlite => TestDatabase::migrated_sqlite(modules).await,
            Self::Postgres | Self::Pair => {
                let admin_url = postgres_url().expect("a PostgreSQL URL is set when PostgreSQL is chosen");
                TestDatabase::migrated_postgres(&admin_url, modules).await
            }
        };
        copied.expect("a copy of the migrated database")
    }
}

/// Runs each scenario, `async fn name(app: &TestApp)`, as the tests `name::sqlite`, `name::pair` and
/// `name::postgres`. A scenario that is not listed is dead code, which the compiler rejects.
///
/// Only `cargo xtask soak` runs `name::postgres`, because `name::pair` executes the same statements. Tests
/// that need a single server on PostgreSQL use [`Engine::Postgres`] directly.
macro_rules! on_every_engine {
    ($($scenario:ident),+ $(,)?) => {
        on_every_engine! { with |_: &mut _| {}; $($scenario),+ }
    };
    (with $change:expr; $($scenario:ident),+ $(,)?) => {
        kith_store::engine_tests! {
            (crate::support::TestApp::run, $change);
            [
                sqlite = crate::support::Engine::Sqlite,
                pair = crate::support::Engine::Pair,
                #[ignore = "the pair covers it; `cargo xtask soak` runs it"]
                postgres = crate::support::Engine::Postgres
            ];
            $($scenario)+
        }
    };
}

pub(crate) use on_every_engine;
