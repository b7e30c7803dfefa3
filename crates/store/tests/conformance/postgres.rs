//! Tests for PostgreSQL only: restarts, TLS, roles and connection poolers.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kith_kernel::Timestamp;
use kith_kernel::uuid::Uuid;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use kith_store::testing::{TestDatabase, TestVault, postgres_url};
use kith_store::{EngineOptions, Error, OpenError, PostgresOptions, Store, StoreOptions, params};

use crate::sequencer::change;
use crate::support::{add, ctx, modules};

pub fn options(url: String) -> StoreOptions {
    let own = PostgresOptions { write_threads: 4, read_threads: 2, ..PostgresOptions::at(url) };
    StoreOptions::new(EngineOptions::Postgres(own), TestVault::with_secret(1))
}

/// A server restarts under load. Requests fail during the outage, no acknowledged change is lost, and the
/// store reconnects without intervention.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "measures how long recovery really takes")]
async fn store_reconnects_after_server_restart() {
    if postgres_url().is_none() {
        return;
    }
    let mut server =
        PostgresServer::start(PostgresServerOptions { fsync: true, ..Default::default() }).unwrap();
    let options = options(server.url("postgres"));
    Store::migrate_up(&options, modules(), Timestamp::EPOCH).await.unwrap();
    let store = Store::open(options).await.unwrap();
    let stop = tokio::sync::watch::Sender::new(false);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..4 {
        let (store, stop) = (store.clone(), stop.subscribe());
        callers.spawn(async move {
            let (mut acknowledged, mut refused) = (Vec::new(), 0);
            for n in 0.. {
                if *stop.borrow() {
                    break;
                }
                let name = format!("{caller} {n}");
                let written = name.clone();
                match store.write(move |tx| add(tx, &written)).await {
                    Ok(()) => acknowledged.push(name),
                    Err(Error::Unavailable(_) | Error::OutcomeUnknown(_)) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            (acknowledged, refused)
        });
    }
    let wait = |ms| tokio::time::timeout(Duration::from_millis(ms), std::future::pending::<()>());
    wait(300).await.unwrap_err();
    server.kill().unwrap();
    wait(300).await.unwrap_err();
    server.restart().unwrap();
    let back = Instant::now();
    while store.write(|tx| tx.exec("SELECT 1", &[])).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(back.elapsed() < Duration::from_secs(30), "the store reconnected after {:?}", back.elapsed());
    wait(200).await.unwrap_err();
    stop.send_replace(true);
    let there: Vec<String> = store.read(crate::support::names).await.unwrap();
    for (acknowledged, refused) in callers.join_all().await {
        assert!(refused > 0, "writes failed during the outage");
        let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
        // The last row may have been written after the read above. All other rows must exist.
        assert!(lost.len() < acknowledged.len());
        let now: Vec<String> = store.read(crate::support::names).await.unwrap();
        assert!(acknowledged.iter().all(|name| now.contains(name)), "an acknowledged row is missing");
    }
    assert!(store.stats().reconnects > 0);
    store.close().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_verifies_server_certificate() {
    let (Some(url), Ok(authority)) = (postgres_url(), std::env::var("KITH_TEST_POSTGRES_CA")) else {
        assert!(postgres_url().is_none(), "KITH_TEST_POSTGRES_CA is not set: run `cargo xtask test`");
        return;
    };
    let open = |query: String| Store::open(options(format!("{url}?{query}")));

    let store = open(format!("sslmode=verify-full&sslrootcert={authority}")).await.unwrap();
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let encrypted: Result<Option<bool>, Error> = store.read(move |q| q.one(sql, &[], |row| row.get(0))).await;
    assert_eq!(encrypted.unwrap(), Some(true));

    // The server's certificate was not signed by an authority that the system trusts.
    let stranger = open("sslmode=verify-full".to_owned())
        .await
        .err()
        .expect("a certificate of an unknown authority is rejected");
    assert!(
        matches!(stranger, OpenError::Database(Error::Unavailable(_)) | OpenError::Settings(_)),
        "{stranger}"
    );

    let plain = open("sslmode=disable".to_owned()).await.unwrap();
    let encrypted: Result<Option<bool>, Error> = plain.read(move |q| q.one(sql, &[], |row| row.get(0))).await;
    assert_eq!(encrypted.unwrap(), Some(false));
}

/// The serving role cannot change the schema or rewrite the audit log. The migrating role owns the tables.
#[tokio::test(flavor = "multi_thread")]
async fn serving_role_cannot_migrate_or_rewrite_audit_log() {
    let Some(url) = postgres_url() else { return };
    let database = TestDatabase::postgres(&url).await.unwrap();
    let role = format!("kith_run_{}", std::process::id());
    let admin = Store::open(database.options()).await.unwrap();
    let create: &'static str = format!("CREATE ROLE {role} LOGIN").leak();
    let made: Result<u64, Error> = admin.write(move |tx| tx.exec(create, &[])).await;
    made.unwrap();

    let owner_url = database.url();
    let run_url = owner_url.replace("kith@", &format!("{role}@"));
    let mut own = PostgresOptions { write_threads: 2, read_threads: 2, ..PostgresOptions::at(run_url) };
    // The error for a role that may not create tables contains instructions.
    let by_run_role = StoreOptions::new(EngineOptions::Postgres(own.clone()), TestVault::with_secret(1));
    let refused = Store::migrate_up(&by_run_role, modules(), Timestamp::EPOCH).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("OWNER TO \"{role}\"")), "{refused}");
    assert!(refused.contains("GRANT CREATE ON SCHEMA"), "{refused}");
    own.migrate_url = Some(owner_url);
    let options = StoreOptions::new(EngineOptions::Postgres(own), TestVault::with_secret(1));
    Store::migrate_up(&options, modules(), Timestamp::EPOCH).await.unwrap();
    let store = Store::open(options).await.unwrap();
    let sources = crate::support::sources();
    let ctx = ctx(&sources);
    store.write(move |tx| change(tx, &ctx, Uuid::from_u128(1))).await.unwrap();
    let mut head = store.watch_last_position();
    tokio::time::timeout(Duration::from_secs(10), head.wait_for(|head| *head == 1)).await.unwrap().unwrap();
    for forbidden in [
        "CREATE TABLE mine (a TEXT)",
        "DROP TABLE things",
        "UPDATE audit_entries SET actor = 'x'",
        "DELETE FROM audit_entries",
        "DELETE FROM audit_seals",
        "UPDATE audit_details SET body = '{}'",
        "DELETE FROM schema_migrations",
    ] {
        let refused: Result<u64, Error> = store.write(move |tx| tx.exec(forbidden, &[])).await;
        assert!(matches!(refused, Err(Error::Fault(_))), "{forbidden}: {refused:?}");
    }
    assert_eq!(store.remove_events(Timestamp::EPOCH, 1).await.unwrap(), 0);
    // Covers row SEC-22 of the readiness catalogue: the facts report these privileges.
    let facts = store.facts(modules()).await.unwrap();
    assert_eq!(facts["role"], serde_json::json!({ "besides": [], "missing": [] }));
    let of_owner = admin.facts(modules()).await.unwrap();
    let besides = of_owner["role"]["besides"].as_array().unwrap().clone();
    for right in ["being superuser", "owning tables", "CREATE in its schema", "UPDATE on audit_entries"] {
        assert!(besides.contains(&right.into()), "{right}: {besides:?}");
    }
    store.close().await;
    let drop_role: &'static str = format!("DROP OWNED BY {role}").leak();
    let dropped: Result<u64, Error> = admin.write(move |tx| tx.exec(drop_role, &[])).await;
    dropped.unwrap();
    let drop_role: &'static str = format!("DROP ROLE {role}").leak();
    let dropped: Result<u64, Error> = admin.write(move |tx| tx.exec(drop_role, &[])).await;
    dropped.unwrap();
}

/// The certificate is valid for this machine, and is rejected if the URL has another host name.
#[tokio::test(flavor = "multi_thread")]
async fn certificate_for_other_name_is_rejected() {
    let (Some(url), Ok(authority)) = (postgres_url(), std::env::var("KITH_TEST_POSTGRES_CA")) else { return };
    let port = url.rsplit_once(':').unwrap().1.split('/').next().unwrap();
    for (host, refused) in [("other.example", true), ("localhost", false)] {
        let url = format!(
            "postgres://kith@{host}:{port}/postgres?hostaddr=127.0.0.1&sslmode=require&sslrootcert={authority}"
        );
        let opened = Store::open(options(url)).await;
        assert_eq!(opened.is_err(), refused, "{host}: {:?}", opened.err());
    }
}

/// Locks would be ineffective behind a pooler in transaction mode, so such a pooler is detected and rejected.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_pooler_is_rejected() {
    let Some(url) = postgres_url() else { return };
    for (mode, refused) in [("transaction", true), ("session", false)] {
        let pooler = Pooler::start(&url, mode);
        let opened = Store::open(options(pooler.url.clone())).await;
        match opened {
            Err(OpenError::Settings(text)) => {
                assert!(refused && text.contains("PgBouncer"), "{mode}: {text}")
            }
            Err(other) => panic!("{mode}: {other}"),
            Ok(store) => {
                assert!(!refused, "pooling mode {mode} was not detected");
                store.close().await;
            }
        }
    }
}

/// PgBouncer process in front of the test server.
struct Pooler {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Pooler {
    fn start(server: &str, mode: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let address = server.split_once('@').unwrap().1.split_once('/').unwrap().0;
        let (host, server_port) = address.split_once(':').unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host={host} port={server_port} user=kith\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        std::fs::write(&config, text).unwrap();
        use std::os::unix::fs::MetadataExt;
        // PgBouncer refuses to run as root.
        let program: &[&str] = match std::fs::metadata(folder.path()).unwrap().uid() {
            0 => &["runuser", "-u", "postgres", "--", "pgbouncer", "-q"],
            _ => &["pgbouncer", "-q"],
        };
        let process = Command::new(program[0])
            .args(&program[1..])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need PgBouncer: apt-get install -y pgbouncer");
        let pooler =
            Self { process, url: format!("postgres://kith@127.0.0.1:{port}/postgres"), _folder: folder };
        pooler.wait_until_it_listens(port);
        pooler
    }

    #[expect(clippy::disallowed_methods, reason = "waits for a real process, with a timeout")]
    fn wait_until_it_listens(&self, port: u16) {
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the tests need PgBouncer: apt-get install -y pgbouncer"
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // SIGTERM requests a fast shutdown; `runuser` forwards the signal.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.process.wait();
    }
}

/// A plan that was made for a small table would scan the whole table after it has grown.
#[tokio::test]
async fn old_plans_are_discarded() {
    let Some(url) = postgres_url() else { return };
    const ROWS: i64 = 20_000;
    const LOOK_UP: &str = "SELECT 1 FROM looked_up WHERE id = $1";
    const READ: &str = "SELECT CAST(COALESCE(SUM(seq_tup_read + idx_tup_fetch), 0) AS BIGINT)
                        FROM pg_stat_xact_user_tables WHERE relname = 'looked_up'";
    for (plan_max_age, is_renewed) in [(Duration::from_secs(3_600), false), (Duration::ZERO, true)] {
        let database = TestDatabase::migrated_postgres(&url, modules()).await.unwrap();
        // There is only one connection of each kind, so that all statements run on the connection that has
        // the plan.
        let own = PostgresOptions {
            write_threads: 1,
            read_threads: 1,
            plan_max_age,
            ..PostgresOptions::at(database.url())
        };
        let options = StoreOptions::new(EngineOptions::Postgres(own), TestVault::with_secret(1));
        let store = Store::open(options).await.unwrap();
        for sql in [
            "CREATE TABLE looked_up (id BIGINT PRIMARY KEY) WITH (autovacuum_enabled = false)",
            "INSERT INTO looked_up SELECT n FROM generate_series(20001, 20005) AS n",
            "ANALYZE looked_up",
        ] {
            store.write(move |tx| tx.exec(sql, &[])).await.unwrap();
        }
        let look_up = async || {
            let read = store.write(|tx| {
                let read = || Ok(tx.one(READ, &[], |row| row.get::<i64>(0))?.unwrap_or(0));
                let before: i64 = read()?;
                tx.one(LOOK_UP, params![ROWS / 2], |_| Ok(()))?;
                Ok::<_, Error>(read()? - before)
            });
            read.await.unwrap()
        };
        // After the fifth run, the server uses one generic plan for all parameters.
        for _ in 0..10 {
            assert!(look_up().await <= 5);
        }
        let fill = "INSERT INTO looked_up SELECT n FROM generate_series(1, 20000) AS n";
        store.write(move |tx| tx.exec(fill, &[])).await.unwrap();
        let read = look_up().await;
        assert_eq!(
            read <= 2,
            is_renewed,
            "{read} rows were read with a maximum plan age of {plan_max_age:?}"
        );
        store.close().await;
    }
}
