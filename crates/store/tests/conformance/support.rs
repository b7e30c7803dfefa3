//! Test support: a database for each test, with a small schema and a few commands.

use std::sync::Arc;
use std::time::Duration;

use kith_kernel::{
    Actor, Ctx, ManualClock, RequestId, SeededRandom, Sources, TimeOrderedIds, Timestamp, uuid::Uuid,
};
use kith_store::testing::{TestDatabase, postgres_url};
use kith_store::{
    Error, Migration, ModuleMigrations, NewEvent, Query, STORE_MIGRATIONS, Store, StoreOptions, Tx, params,
};

pub const SCHEMA: ModuleMigrations = ModuleMigrations {
    module: "test",
    migrations: &[Migration { version: 1, name: "test", sql: include_str!("schema.sql") }],
};

pub fn modules() -> Vec<ModuleMigrations> {
    vec![STORE_MIGRATIONS, SCHEMA]
}

/// Fixture passed to each scenario.
pub type Fixture = Db;

pub struct Db {
    pub store: Store,
    pub options: StoreOptions,
    pub sources: Sources,
    pub database: TestDatabase,
}

impl Db {
    pub async fn sqlite() -> Self {
        Self::open(TestDatabase::migrated_sqlite(modules()).await.unwrap(), |_| {}).await
    }

    pub async fn postgres() -> Option<Self> {
        let database = TestDatabase::migrated_postgres(&postgres_url()?, modules()).await.unwrap();
        Some(Self::open(database, |_| {}).await)
    }

    /// Opens a database that is migrated to [`modules`].
    pub async fn open(database: TestDatabase, change: impl FnOnce(&mut StoreOptions)) -> Self {
        let mut options = database.options();
        change(&mut options);
        let store = Store::open(options.clone()).await.unwrap();
        Self { store, options, sources: sources(), database }
    }

    /// Closes the store and opens the same database again with changed options.
    pub async fn reopened(self, change: impl FnOnce(&mut StoreOptions)) -> Self {
        self.store.close().await;
        let Self { mut options, sources, database, store } = self;
        drop(store);
        change(&mut options);
        let store = Store::open(options.clone()).await.unwrap();
        Self { store, options, sources, database }
    }

    pub fn ctx(&self) -> Ctx {
        ctx(&self.sources)
    }

    /// Adds a row to `things` and waits until it is on disk.
    pub async fn add(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.store.write(move |tx| add(tx, &name)).await
    }

    pub async fn names(&self) -> Vec<String> {
        self.store.read(names).await.unwrap()
    }

    /// Waits until `count` events have positions. Panics after 20 seconds.
    pub async fn wait_for_positions(&self, count: i64) {
        let mut head = self.store.watch_last_position();
        let reached = tokio::time::timeout(Duration::from_secs(20), head.wait_for(|head| *head >= count));
        let in_time = reached.await.is_ok();
        assert!(in_time, "{count} events did not get positions in time; the head is {}", *head.borrow());
    }
}

pub fn sources() -> Sources {
    Sources {
        clock: Arc::new(ManualClock::at(Timestamp::from_millis(1_763_716_151_007))),
        ids: Arc::new(TimeOrderedIds::new(SeededRandom::new(u64::from(std::process::id())))),
        random: Arc::new(SeededRandom::new(1)),
    }
}

pub fn ctx(sources: &Sources) -> Ctx {
    Ctx::new(sources.clone(), Actor::System("test"), RequestId::accept("conformance").unwrap())
}

pub fn add(tx: &Tx<'_>, name: &str) -> Result<(), Error> {
    tx.exec("INSERT INTO things (name) VALUES ($1)", params![name]).map(drop)
}

pub fn names(q: &Query<'_>) -> Result<Vec<String>, Error> {
    q.all("SELECT name FROM things ORDER BY name", &[], |row| row.get(0))
}

/// Returns an event about `subject` whose payload contains `n`.
pub fn event(subject: Uuid, n: i64) -> NewEvent {
    NewEvent {
        kind: "thing.changed",
        subject,
        recipients: Vec::new(),
        payload: serde_json::json!({ "n": n }),
    }
}
