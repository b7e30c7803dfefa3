//! Engines on which scenarios run, and the macro that runs them on each.

use kith::modules;
use kith_store::testing::TestDatabase;

/// Environment variable with the URL of a PostgreSQL server on which tests may create databases.
const POSTGRES: &str = "KITH_TEST_POSTGRES";
/// Environment variable that is 1 to run without PostgreSQL.
const SQLITE_ONLY: &str = "KITH_TEST_SQLITE_ONLY";

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

/// Returns the URL of the PostgreSQL server. Returns `None` if tests run without one. Panics if neither
/// environment variable is set.
pub fn admin_url() -> Option<String> {
    match std::env::var(POSTGRES) {
        Ok(url) => Some(url),
        Err(_) if std::env::var(SQLITE_ONLY).is_ok_and(|value| value == "1") => None,
        Err(_) => panic!(
            "{POSTGRES} is not set. Run `cargo xtask test`, which starts PostgreSQL, or set {SQLITE_ONLY}=1 to do without."
        ),
    }
}

impl Engine {
    /// Returns true if the engine is available.
    pub fn is_chosen(self) -> bool {
        self == Self::Sqlite || admin_url().is_some()
    }

    /// Creates an empty database without a schema.
    pub async fn empty_database(self) -> TestDatabase {
        match self {
            Self::Sqlite => TestDatabase::sqlite(),
            Self::Postgres | Self::Pair => {
                let admin_url = admin_url().expect("only asked for where it is chosen");
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
                let admin_url = admin_url().expect("only asked for where it is chosen");
                TestDatabase::migrated_postgres(&admin_url, modules).await
            }
        };
        copied.expect("a copy of the migrated database")
    }
}

/// Runs each scenario, `async fn name(app: &TestApp)`, as the tests `name::sqlite`, `name::pair` and
/// `name::postgres`. A scenario that is not listed is dead code, and therefore an error.
///
/// Only `cargo xtask soak` runs `name::postgres`: the pair covers a single server on PostgreSQL. Tests of a
/// single server on PostgreSQL name [`Engine::Postgres`] themselves.
macro_rules! on_every_engine {
    ($($scenario:ident),+ $(,)?) => {
        on_every_engine! { with |_: &mut _| {}; $($scenario),+ }
    };
    (with $change:expr; $($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            use crate::support::{Engine, TestApp};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                TestApp::run(Engine::Sqlite, $change, super::$scenario).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn pair() {
                TestApp::run(Engine::Pair, $change, super::$scenario).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "the pair covers it; `cargo xtask soak` runs it"]
            async fn postgres() {
                TestApp::run(Engine::Postgres, $change, super::$scenario).await;
            }
        }
    )+};
}

pub(crate) use on_every_engine;
