//! Tests of `kith migrate` with the binary, on both databases, with and without a running server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kith::modules;
use kith_store::testing::TestDatabase;
use serde_json::Value;

use crate::support::{Client, Engine, Kith, SERVE, failing_stderr, kith_on, successful_stdout};

#[tokio::test]
async fn migrate_shows_and_changes_schema_on_sqlite() {
    migrate_shows_and_changes_schema(Engine::Sqlite).await;
}

#[tokio::test]
async fn migrate_shows_and_changes_schema_on_postgres() {
    migrate_shows_and_changes_schema(Engine::Postgres).await;
}

#[tokio::test]
async fn migrate_shows_but_does_not_change_schema_of_running_server() {
    let database = TestDatabase::sqlite();
    let folder = CommandFolder::of(&database, database.folder().expect("a folder"));
    let kith = Kith::start(folder.kith(SERVE));
    assert_eq!(folder.status(), folder.all("applied"));
    for change in [&["migrate", "up"][..], &["migrate", "down", "--yes"]] {
        let output = failing_stderr(folder.kith(change));
        assert!(output.contains("stop the server") && output.contains(&kith.pid().to_string()), "{output}");
    }
    assert_eq!(folder.status(), folder.all("applied"));
    let socket = folder.folder.join("kith.sock");
    let mode = || std::fs::metadata(&socket).map(|socket| socket.permissions().mode() & 0o777);
    assert_eq!(mode().expect("a socket"), 0o600);

    kith.terminate();
    assert!(kith.wait().await.success());
    assert!(mode().is_err(), "the socket was not removed");
    folder.migrate(&["down", "--yes"]);
}

/// API-11: the schema can be reverted while a server on PostgreSQL runs. The server then reports that it is
/// not ready.
#[tokio::test]
async fn server_on_reverted_schema_is_not_ready() {
    if !Engine::Postgres.is_chosen() {
        return;
    }
    let (database, elsewhere) = (Engine::Postgres.database().await, TestDatabase::sqlite());
    let folder = CommandFolder::of(&database, elsewhere.folder().expect("a folder"));
    let kith = Kith::start(folder.kith(SERVE));
    let client = Client::new([kith.addr]);
    let schema = async |path: &str, status: u16| {
        let report = client.get(path).await.expect(status);
        report["checks"]["database:responseTime"][0].clone()
    };
    for path in ["/readyz", "/api/health"] {
        assert_eq!(schema(path, 200).await["status"], "pass");
    }
    folder.migrate(&["down", "--yes"]);
    for path in ["/readyz", "/api/health"] {
        assert_eq!(
            schema(path, 503).await["output"],
            "The database schema is older than this build. Run `kith migrate up`."
        );
    }
    client.get("/livez").await.expect(200);
    folder.migrate(&["up"]);
    assert_eq!(schema("/readyz", 200).await["output"], Value::Null);
}

async fn migrate_shows_and_changes_schema(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = CommandFolder::of(&database, database.folder().or(elsewhere.folder()).expect("a folder"));
    let names = folder.names();
    let (last, others) = names.split_last().expect("migrations");
    let as_it_is = || {
        let mut command = folder.kith(SERVE);
        command.env("KITH__DATABASE__MIGRATE_ON_START", "false");
        command
    };
    let lacks = |name: &str| {
        let output = failing_stderr(as_it_is());
        assert!(output.contains(&format!("lacks migration {name}; run `kith migrate up`")), "{output}");
    };

    assert_eq!(folder.status(), folder.all("pending"));
    lacks(&names[0]);
    assert_eq!(folder.migrate(&["up"]), folder.all("applied"));
    assert_eq!(folder.status(), folder.all("applied"));
    assert_eq!(successful_stdout(folder.kith(&["migrate", "up"])), "Nothing to do.\n");

    let unasked = failing_stderr(folder.kith(&["migrate", "down"]));
    assert!(unasked.contains("--yes") && unasked.contains(last), "{unasked}");
    assert_eq!(
        successful_stdout(folder.kith(&["migrate", "down", "--dry-run"])),
        format!("would revert {last}\n")
    );
    assert_eq!(folder.status(), folder.all("applied"));
    assert_eq!(folder.migrate(&["down", "--yes"]), [("reverted".to_owned(), last.clone())]);
    assert_eq!(folder.status().last(), Some(&("pending".to_owned(), last.clone())));
    lacks(last);
    let undone: Vec<_> =
        folder.migrate(&["down", "--yes", "--steps", "100"]).into_iter().map(|(_, name)| name).collect();
    assert!(undone.iter().eq(others.iter().rev()), "{undone:?}");
    assert_eq!(folder.status(), folder.all("pending"));

    folder.migrate(&["up"]);
    let kith = Kith::start(as_it_is());
    Client::new([kith.addr]).get("/readyz").await.expect(200);
}

/// Database with its folder.
struct CommandFolder<'p> {
    database: &'p TestDatabase,
    folder: &'p Path,
}

impl<'p> CommandFolder<'p> {
    fn of(database: &'p TestDatabase, folder: &'p Path) -> Self {
        Self { database, folder }
    }

    fn kith(&self, args: &[&str]) -> std::process::Command {
        kith_on(self.database, self.folder, args)
    }

    /// Returns the names of all migrations of this build, in order.
    fn names(&self) -> Vec<String> {
        let all = modules::migrations();
        let named = all.iter().flat_map(|module| {
            module.migrations.iter().map(|one| format!("{}/{:04}_{}", module.module, one.version, one.name))
        });
        named.collect()
    }

    /// Returns all migrations, each with this state.
    fn all(&self, state: &str) -> Vec<(String, String)> {
        self.names().into_iter().map(|name| (state.to_owned(), name)).collect()
    }

    fn status(&self) -> Vec<(String, String)> {
        self.migrate(&["status"])
    }

    /// Runs `kith migrate` and returns state and name of each line.
    fn migrate(&self, args: &[&str]) -> Vec<(String, String)> {
        let output = successful_stdout(self.kith(&[&["migrate"], args].concat()));
        let first_two = |line: &str| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some((words.next()?, words.next()?))
        };
        output.lines().filter_map(first_two).collect()
    }
}
