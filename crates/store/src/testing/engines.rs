//! Database engines that tests run on, and the macros that create a test for each engine.

/// Environment variable with the URL of a PostgreSQL server on which tests may create databases.
const POSTGRES: &str = "KITH_TEST_POSTGRES";
/// Environment variable that is set to 1 to run tests on SQLite only.
const SQLITE_ONLY: &str = "KITH_TEST_SQLITE_ONLY";

/// Returns the URL of the PostgreSQL server in `KITH_TEST_POSTGRES`. Returns `None` if this variable is not
/// set and `KITH_TEST_SQLITE_ONLY` is 1.
///
/// # Panics
/// Panics if neither variable is set.
pub fn postgres_url() -> Option<String> {
    match std::env::var(POSTGRES) {
        Ok(url) => Some(url),
        Err(_) if std::env::var(SQLITE_ONLY).is_ok_and(|value| value == "1") => None,
        Err(_) => panic!(
            "{POSTGRES} is not set. Run `cargo xtask test`, which starts PostgreSQL, or set {SQLITE_ONLY}=1 to do without."
        ),
    }
}

/// Creates a test of each scenario on each engine, named `scenario::engine`. With `(run); [engine = value,
/// …]` the test calls `run(value, scenario)`. With `(run, argument); [engine = value, …]` it calls
/// `run(value, argument, scenario)`.
#[macro_export]
macro_rules! engine_tests {
    ($run:tt; $engines:tt; $($scenario:ident)+) => {$(
        mod $scenario {
            $crate::engine_tests! { @each $run; $scenario; $engines }
        }
    )+};
    (@each ($run:path, $argument:expr); $scenario:ident; [$($(#[$attribute:meta])* $name:ident = $engine:expr),+]) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$attribute])*
        async fn $name() {
            $run($engine, $argument, super::$scenario).await;
        }
    )+};
    (@each ($run:path); $scenario:ident; [$($(#[$attribute:meta])* $name:ident = $engine:expr),+]) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        $(#[$attribute])*
        async fn $name() {
            $run($engine, super::$scenario).await;
        }
    )+};
}

/// Creates the tests `name::sqlite` and `name::postgres` for each contract test, which is an `async fn
/// name(fixture: Fixture)`. The test crate must have a type `support::Fixture` with `async fn sqlite() ->
/// Self` and `async fn postgres() -> Option<Self>`.
#[macro_export]
#[allow(clippy::crate_in_macro_def, reason = "the fixture is the test crate's own")]
macro_rules! contract {
    ($($name:ident)+) => {
        $crate::engine_tests! {
            ($crate::testing::run_on);
            [sqlite = async { Some(crate::support::Fixture::sqlite().await) }, postgres = crate::support::Fixture::postgres()];
            $($name)+
        }
    };
}

/// Runs a contract test on a fixture. Does nothing if there is no fixture, because the engine is not
/// available.
pub async fn run_on<T, F: Future<Output = ()>>(
    fixture: impl Future<Output = Option<T>>,
    contract: impl FnOnce(T) -> F,
) {
    if let Some(fixture) = fixture.await {
        contract(fixture).await;
    }
}
