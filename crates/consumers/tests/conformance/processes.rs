//! Test with processes that emit and deliver events until they are killed (SIGKILL) at an arbitrary moment.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kith_consumers::{Consumer, ConsumerSet, Consumers, StartAt, Transactions as _};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Sources, SystemClock, SystemRandom, TimeOrderedIds};
use kith_store::testing::TestVault;
use kith_store::{EngineOptions, Error, NewEvent, PostgresOptions, SqliteOptions, Store, StoreOptions};

use crate::support::{Node, Plain, record};
use kith_store::contract;

contract! {
    killed_processes_lose_no_event_and_handle_none_twice
}

const CONSUMER: &str = "first";
/// Environment variable with the database of the processes: a PostgreSQL URL, or a folder of SQLite.
const DATABASE: &str = "KITH_TEST_CONSUMER_DATABASE";
/// Line that a process prints when its handler is called with a batch.
const BATCH_LINE: &str = "a batch";
/// Number of batches that a process handles before it is killed.
const BATCHES: usize = 20;
/// Maximum time to wait. It is long enough for a takeover on a busy machine.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// On PostgreSQL the second process starts while the first one runs, and takes over from it. A SQLite file
/// can be used by one process only, so there the second process starts afterwards.
async fn killed_processes_lose_no_event_and_handle_none_twice(node: Node) {
    let is_postgres = node.is_postgres();
    node.on.store.close().await;
    let Node { on, database, .. } = node;
    drop(on);
    let place = database.folder().map_or_else(|| database.url(), |folder| folder.display().to_string());

    let mut first = Process::start(&place);
    first.deliver(BATCHES).await;
    let beside = is_postgres.then(|| Process::start(&place));
    first.kill();
    let mut second = beside.unwrap_or_else(|| Process::start(&place));
    second.deliver(BATCHES).await;
    second.kill();

    let store = Store::open(database.options()).await.unwrap();
    let consumers = consumers(Plain::new(store.clone(), real_sources()));
    consumers.declare().await.unwrap();
    let running = consumers.start();
    let finished = async {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        while unhandled(&store).await > 0 {
            interval.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(MAX_WAIT, finished).await.is_ok(),
        "{} events are not handled",
        unhandled(&store).await
    );
    running.stop().await;
    assert_each_handled_once_in_order(&store).await;
    store.close().await;
}

/// Returns the number of events that were emitted and not handled.
async fn unhandled(store: &Store) -> i64 {
    let sql = "SELECT (SELECT COUNT(*) FROM outbox) - (SELECT COUNT(*) FROM handled)";
    let count: Result<Option<i64>, Error> = store.read(move |q| q.one(sql, &[], |row| row.get(0))).await;
    count.unwrap().unwrap()
}

async fn assert_each_handled_once_in_order(store: &Store) {
    let sql = "SELECT position, subject FROM handled ORDER BY n";
    let handled: Result<Vec<(i64, String)>, Error> =
        store.read(move |q| q.all(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))).await;
    let handled = handled.unwrap();
    let mut positions: Vec<_> = handled.iter().map(|(position, _)| *position).collect();
    positions.sort_unstable();
    let wrong = positions.into_iter().zip(1..).find(|(position, expected)| position != expected);
    assert_eq!(wrong, None, "an event was handled twice, or not at all");
    let mut last = BTreeMap::new();
    for (position, subject) in &handled {
        let before = last.insert(subject, position);
        assert!(before < Some(position), "{subject}: {position} was handled after {before:?}");
    }
}

fn real_sources() -> Sources {
    Sources {
        clock: Arc::new(SystemClock),
        ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
        random: Arc::new(SystemRandom),
    }
}

fn consumers(on: Plain) -> Consumers<Plain> {
    let recorder = Consumer::new(CONSUMER, &["thing.*"], StartAt::Beginning, |tx, _, events| {
        println!("{BATCH_LINE}");
        events.iter().try_for_each(|event| record(tx, CONSUMER, event))?;
        Ok(())
    });
    let node = on.sources.ids.next(on.sources.clock.now()).to_string();
    Consumers::new(on, Arc::new(ConsumerSet::new(vec![recorder], node)))
}

/// Separate process that runs [`delivers_until_it_is_killed`]. Dropping this value kills the process.
struct Process {
    child: Child,
    batches: mpsc::Receiver<()>,
}

impl Process {
    fn start(place: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::delivers_until_it_is_killed", "--nocapture"])
            .env(DATABASE, place)
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, batches) = mpsc::channel();
        std::thread::spawn(move || {
            let batches = lines.map_while(Result::ok).filter(|line| line == BATCH_LINE);
            let _ = batches.map(|_| sender.send(())).all(|sent| sent.is_ok());
        });
        Self { child, batches }
    }

    /// Waits until the process has handled `batches` more batches.
    async fn deliver(&mut self, batches: usize) {
        let waited = tokio::task::block_in_place(|| {
            (0..batches).try_for_each(|_| self.batches.recv_timeout(MAX_WAIT))
        });
        waited.expect("the process delivers batches");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Code that the processes above run. As a normal test it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivers_until_it_is_killed() {
    let Ok(place) = std::env::var(DATABASE) else { return };
    let engine = match place.starts_with('/') {
        true => EngineOptions::Sqlite(SqliteOptions::in_folder(&place)),
        false => EngineOptions::Postgres(PostgresOptions::at(&place)),
    };
    let store = Store::open(StoreOptions::new(engine, TestVault::with_secret(1))).await.unwrap();
    let on = Plain::new(store, real_sources());
    let consumers = consumers(on.clone());
    consumers.declare().await.unwrap();
    let _running = consumers.start();
    let mut emitters = tokio::task::JoinSet::new();
    for emitter in 0..3 {
        emitters.spawn(emit(on.clone(), emitter));
    }
    emitters.join_all().await;
}

/// Emits events about seven subjects, each event in its own transaction, until the process is killed.
async fn emit(on: Plain, emitter: u128) {
    for round in 0..50_000 {
        let (ctx, subject) = (on.ctx("test"), Uuid::from_u128((emitter + round) % 7));
        let emitted = on.store.write(move |tx| {
            tx.lock("subject", [subject])?;
            let payload = serde_json::json!({});
            tx.emit(&ctx, NewEvent { kind: "thing.done", subject, recipients: vec![], payload });
            Ok::<_, Error>(())
        });
        emitted.await.unwrap();
    }
}
