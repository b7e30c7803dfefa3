//! Benchmark: overhead of the store over its database drivers. 64 callers write durable transactions of one
//! row, one audit entry and one event, through the store and through the driver alone. The two measurements
//! alternate. Run it with `cargo bench -p kith-store --features testing`.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kith_kernel::{
    Actor, Ctx, RequestId, Sources, SystemClock, SystemRandom, TimeOrderedIds, Timestamp, uuid::Uuid,
};
use kith_store::testing::TestDatabase;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use kith_store::{Error, Migration, ModuleMigrations, NewEvent, STORE_MIGRATIONS, Store, Tx, params};

const CALLERS: usize = 64;
const PAIRS: usize = 5;

const SCHEMA: ModuleMigrations = ModuleMigrations {
    module: "bench",
    migrations: &[Migration {
        version: 1,
        name: "bench",
        sql: "-- up\nCREATE TABLE posts (\n    id TEXT PRIMARY KEY,\n    author TEXT NOT NULL,\n    body TEXT NOT NULL,\n    \
              at BIGINT NOT NULL\n);\n\n-- down\nDROP TABLE posts;\n",
    }],
};

const INSERT_POST: &str = "INSERT INTO posts (id, author, body, at) VALUES ($1, $2, $3, $4)";
const BODY: &str = "Shall we meet at the fountain at eight, or is that too early for you?";

fn main() -> ExitCode {
    // `cargo test` also runs this program, with `--test`. It contains no tests.
    if std::env::args().any(|arg| arg == "--test") {
        return ExitCode::SUCCESS;
    }
    let seconds = std::env::var("KITH_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        pair("SQLite, synchronous=FULL", Duration::from_secs(seconds), sqlite_store, sqlite_bare).await;
        pair("PostgreSQL, fsync on", Duration::from_secs(seconds), postgres_store, postgres_bare).await;
    });
    ExitCode::SUCCESS
}

/// Number of durable transactions per second.
type Rate = f64;

async fn pair<A: Future<Output = Rate>, B: Future<Output = Rate>>(
    name: &str,
    time: Duration,
    ours: impl Fn(Duration) -> A,
    bare: impl Fn(Duration) -> B,
) {
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let (ours, bare) = (ours(time).await, bare(time).await);
        println!("{name}: store {ours:>8.0}/s   bare {bare:>8.0}/s   ratio {:.2}", ours / bare);
        ratios.push(ours / bare);
    }
    ratios.sort_by(f64::total_cmp);
    let (min, median, max) = (ratios[0], ratios[PAIRS / 2], ratios[PAIRS - 1]);
    println!("{name}: median ratio {median:.2} ({min:.2} to {max:.2})");
}

/// Calls `work` repeatedly from 64 tasks until `time` has passed. Returns the number of calls per second.
#[expect(clippy::disallowed_methods, reason = "measures real time")]
async fn drive<F: Future<Output = ()> + Send>(
    time: Duration,
    work: impl Fn() -> F + Send + Sync + 'static,
) -> Rate {
    let (work, done) = (Arc::new(work), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (work, done) = (Arc::clone(&work), Arc::clone(&done));
        callers.spawn(async move {
            while started.elapsed() < time {
                work().await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    callers.join_all().await;
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn sources() -> Sources {
    Sources {
        clock: Arc::new(SystemClock),
        ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
        random: Arc::new(SystemRandom),
    }
}

fn context(sources: &Sources) -> Ctx {
    Ctx::new(sources.clone(), Actor::System("bench"), RequestId::accept("benchmark").expect("a sane id"))
}

fn post(tx: &Tx<'_>, ctx: &Ctx) -> Result<(), Error> {
    let (id, author) = (ctx.new_id(|id| id), ctx.new_id(|id| id));
    tx.lock("user", [author])?;
    tx.exec(INSERT_POST, params![id, author, BODY, ctx.now])?;
    tx.audit(ctx, "post.created", id);
    let payload = serde_json::json!({ "post": id.to_string() });
    tx.emit(ctx, NewEvent { kind: "post.created", subject: author, recipients: Vec::new(), payload });
    Ok(())
}

async fn through_the_store(database: &TestDatabase, time: Duration) -> Rate {
    database.migrate(vec![STORE_MIGRATIONS, SCHEMA]).await.expect("migrations");
    let store = Store::open(database.options()).await.expect("a store");
    let (sources, writer) = (sources(), store.clone());
    let rate = drive(time, move || {
        let (store, ctx) = (writer.clone(), context(&sources));
        async move { store.write(move |tx| post(tx, &ctx)).await.expect("a commit") }
    });
    let rate = rate.await;
    store.close().await;
    rate
}

async fn sqlite_store(time: Duration) -> Rate {
    through_the_store(&TestDatabase::sqlite(), time).await
}

/// Measures the driver alone: the same statements on one thread, with 64 savepoints per commit and without
/// callers that wait.
async fn sqlite_bare(time: Duration) -> Rate {
    let database = TestDatabase::sqlite();
    database.migrate(vec![STORE_MIGRATIONS, SCHEMA]).await.expect("migrations");
    let file = database.folder().expect("a folder").join("kith.db");
    let rate = tokio::task::spawn_blocking(move || bare_loop(&file, time).expect("SQLite"));
    rate.await.expect("the loop ends")
}

#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn bare_loop(file: &std::path::Path, time: Duration) -> rusqlite::Result<Rate> {
    let connection = rusqlite::Connection::open(file)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let sources = sources();
    let (started, mut done) = (Instant::now(), 0_i64);
    while started.elapsed() < time {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for _ in 0..CALLERS {
            done += 1;
            connection.prepare_cached("SAVEPOINT closure")?.execute([])?;
            bare_post(&connection, &context(&sources), done)?;
            connection.prepare_cached("RELEASE closure")?.execute([])?;
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

fn bare_post(connection: &rusqlite::Connection, ctx: &Ctx, n: i64) -> rusqlite::Result<()> {
    let id = || ctx.new_id(|id| id).to_string();
    let (post, author, entry, event, at) = (id(), id(), id(), id(), ctx.now.as_millis());
    let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(params);
    run("INSERT INTO posts (id, author, body, at) VALUES (?1, ?2, ?3, ?4)", &[&post, &author, &BODY, &at])?;
    run(
        "INSERT INTO audit_entries (id, at, actor, action, object, request_id, ordinal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
        &[&entry, &at, &"system:bench", &"post.created", &post, &"benchmark"],
    )?;
    run(
        "INSERT INTO outbox (id, at, kind, subject, recipients, payload, request_id, ordinal)
         VALUES (?1, ?2, ?3, ?4, '', ?5, ?6, 0)",
        &[&event, &at, &"post.created", &author, &format!("{{\"post\":\"{post}\"}}"), &"benchmark"],
    )?;
    run("INSERT INTO outbox_positions (position, event_id) VALUES (?1, ?2)", &[&n, &event])?;
    let hash: &[u8] = &[7; 32];
    run("INSERT INTO audit_seals (n, entry_id, prev, hash) VALUES (?1, ?2, ?3, ?3)", &[&n, &entry, &hash])?;
    Ok(())
}

fn postgres_server() -> PostgresServer {
    PostgresServer::start(PostgresServerOptions { fsync: true, ..Default::default() }).expect("a server")
}

async fn postgres_store(time: Duration) -> Rate {
    let server = postgres_server();
    let database = TestDatabase::postgres(&server.url("postgres")).await.expect("a database");
    through_the_store(&database, time).await
}

/// Measures the driver alone: the same statements through tokio-postgres and deadpool, pipelined where
/// possible, without a sequencer.
async fn postgres_bare(time: Duration) -> Rate {
    let server = postgres_server();
    let database = TestDatabase::postgres(&server.url("postgres")).await.expect("a database");
    database.migrate(vec![STORE_MIGRATIONS, SCHEMA]).await.expect("migrations");
    let config: tokio_postgres::Config = database.url().parse().expect("an address");
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(16).build().expect("a pool");
    let (sources, callers_pool) = (sources(), pool.clone());
    let rate = drive(time, move || {
        let (pool, ctx) = (callers_pool.clone(), context(&sources));
        async move { pooled_post(&pool, &ctx).await.expect("a commit") }
    });
    let rate = rate.await;
    pool.close();
    rate
}

async fn pooled_post(pool: &deadpool_postgres::Pool, ctx: &Ctx) -> Result<(), Box<dyn std::error::Error>> {
    let client = pool.get().await?;
    let id = || ctx.new_id(|id: Uuid| id).to_string();
    let (post, author, entry, event, at) = (id(), id(), id(), id(), Timestamp::as_millis(ctx.now));
    let lock = client.prepare_cached("SELECT pg_advisory_xact_lock($1)").await?;
    let insert_post = client.prepare_cached(INSERT_POST).await?;
    let insert_audit = client
        .prepare_cached(
            "INSERT INTO audit_entries (id, at, actor, action, object, request_id, ordinal) VALUES ($1, $2, $3, $4, $5, $6, 0)",
        )
        .await?;
    let insert_event = client
        .prepare_cached(
            "INSERT INTO outbox (id, at, kind, subject, recipients, payload, request_id, ordinal)
             VALUES ($1, $2, $3, $4, '', $5, $6, 0)",
        )
        .await?;
    let key = i64::from(author.as_bytes()[35]) << 8 | i64::from(author.as_bytes()[34]);
    let payload = format!("{{\"post\":\"{post}\"}}");
    futures_util::future::try_join3(
        client.batch_execute("BEGIN"),
        client.execute(&lock, &[&key]),
        client.execute(&insert_post, &[&post, &author, &BODY, &at]),
    )
    .await?;
    futures_util::future::try_join3(
        client.execute(&insert_audit, &[&entry, &at, &"system:bench", &"post.created", &post, &"benchmark"]),
        client.execute(&insert_event, &[&event, &at, &"post.created", &author, &payload, &"benchmark"]),
        client.batch_execute("COMMIT"),
    )
    .await?;
    Ok(())
}
