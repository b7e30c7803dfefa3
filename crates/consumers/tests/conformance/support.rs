//! Test support: a database for each test, a manual clock, and consumers that record what they handle.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kith_consumers::{
    Consumer, ConsumerSet, Consumers, Delivery, DeliveryError, HandlerError, Progress, StartAt,
    TransactionFuture, Transactions, declare,
};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Ctx, ManualClock, RequestId, SeededRandom, Sources, TimeOrderedIds, Timestamp};
use kith_store::testing::{TestDatabase, postgres_url};
use kith_store::{
    Error, Migration, ModuleMigrations, NewEvent, Query, STORE_MIGRATIONS, SequencedEvent, Store, Tx, params,
};

const SCHEMA: ModuleMigrations = ModuleMigrations {
    module: "test",
    migrations: &[Migration { version: 1, name: "test", sql: include_str!("schema.sql") }],
};

pub const BEGINNING: Timestamp = Timestamp::from_millis(1_763_716_151_007);

/// Fixture passed to each scenario.
pub type Fixture = Node;

/// Node of a deployment.
pub struct Node {
    pub on: Plain,
    pub clock: Arc<ManualClock>,
    pub database: Arc<TestDatabase>,
}

/// Transactions on the store. A test can request statements that run before one of them, or panics.
#[derive(Clone)]
pub struct Plain {
    pub store: Store,
    pub sources: Sources,
    before_write: Arc<Mutex<Vec<&'static str>>>,
    panics: Arc<AtomicUsize>,
}

impl Plain {
    pub fn new(store: Store, sources: Sources) -> Self {
        Self { store, sources, before_write: Arc::default(), panics: Arc::default() }
    }

    /// Runs `statements` in a separate transaction just before the next delivery writes.
    pub fn interpose(&self, statements: &[&'static str]) {
        *self.before_write.lock().unwrap() = statements.to_vec();
    }

    /// Makes the next `times` transactions of deliveries panic before they write.
    pub fn panic_next(&self, times: usize) {
        self.panics.store(times, Ordering::SeqCst);
    }
}

impl Transactions for Plain {
    fn store(&self) -> &Store {
        &self.store
    }

    fn sources(&self) -> &Sources {
        &self.sources
    }

    fn ctx(&self, consumer: &'static str) -> Ctx {
        let id = self.sources.ids.next(self.sources.clock.now());
        Ctx::new(self.sources.clone(), Actor::System(consumer), RequestId::from_uuid(id))
    }

    fn write<T, F>(self, ctx: Ctx, run: F) -> TransactionFuture<T>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<T, DeliveryError> + Send + 'static,
        T: Send + 'static,
    {
        Box::pin(async move {
            let left =
                self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            assert!(left.is_err(), "on purpose");
            let statements = std::mem::take(&mut *self.before_write.lock().unwrap());
            if !statements.is_empty() {
                let interposed = self.store.write(move |tx| {
                    statements.iter().try_for_each(|sql| tx.exec(sql, &[]).map(drop))?;
                    Ok::<_, Error>(())
                });
                interposed.await?;
            }
            self.store.write(move |tx| run(tx, &ctx)).await
        })
    }
}

impl Node {
    pub async fn sqlite() -> Self {
        Self::on(TestDatabase::sqlite()).await
    }

    pub async fn postgres() -> Option<Self> {
        Some(Self::on(TestDatabase::postgres(&postgres_url()?).await.unwrap()).await)
    }

    async fn on(database: TestDatabase) -> Self {
        database.migrate(vec![STORE_MIGRATIONS, SCHEMA]).await.unwrap();
        let clock = Arc::new(ManualClock::at(BEGINNING));
        let sources = Sources {
            clock: clock.clone(),
            ids: Arc::new(TimeOrderedIds::new(SeededRandom::new(u64::from(std::process::id())))),
            random: Arc::new(SeededRandom::new(1)),
        };
        let store = Store::open(database.options()).await.unwrap();
        Self { on: Plain::new(store, sources), clock, database: Arc::new(database) }
    }

    /// Returns another node on the same database, with the same clock. On SQLite it shares the store.
    pub async fn second(&self) -> Self {
        let store = match self.on.store.kind() {
            kith_store::EngineKind::Sqlite => self.on.store.clone(),
            kith_store::EngineKind::Postgres => Store::open(self.database.options()).await.unwrap(),
        };
        let on = Plain::new(store, self.on.sources.clone());
        Self { on, clock: Arc::clone(&self.clock), database: Arc::clone(&self.database) }
    }

    pub fn is_postgres(&self) -> bool {
        self.on.store.kind() == kith_store::EngineKind::Postgres
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Emits one event of `kind` per subject, each in its own transaction, and waits for their positions.
    pub async fn emit(&self, kind: &'static str, subjects: &[u128]) {
        let before = self.on.store.last_position().await.unwrap();
        for subject in subjects.iter().copied() {
            let ctx = self.on.ctx("test");
            let emitted = self.on.store.write(move |tx| {
                let subject = Uuid::from_u128(subject);
                tx.lock("subject", [subject])?;
                let payload = serde_json::json!({});
                tx.emit(&ctx, NewEvent { kind, subject, recipients: vec![], payload });
                Ok::<_, Error>(())
            });
            emitted.await.unwrap();
        }
        self.placed(before + i64::try_from(subjects.len()).unwrap()).await;
    }

    /// Replaces the log with events of these kinds and subjects, as a failover to a replica can do.
    pub async fn replace_events(&self, events: &[(&'static str, u128)]) {
        let last = self.on.store.last_position().await.unwrap();
        let subjects: Vec<_> = events.to_vec();
        for (kind, subject) in &subjects {
            self.emit(kind, &[*subject]).await;
        }
        let replaced = self.on.store.write(move |tx| {
            tx.exec(
                "DELETE FROM outbox WHERE id IN (SELECT event_id FROM outbox_positions WHERE position <= $1)",
                params![last],
            )?;
            tx.exec("DELETE FROM outbox_positions WHERE position <= $1", params![last])?;
            tx.exec("UPDATE outbox_positions SET position = position - $1 + 1000", params![last])?;
            tx.exec("UPDATE outbox_positions SET position = position - 1000", &[])?;
            Ok::<_, Error>(())
        });
        replaced.await.unwrap();
    }

    /// Waits until the last position is `position`.
    pub async fn placed(&self, position: i64) {
        let mut interval = tokio::time::interval(Duration::from_millis(2));
        while self.on.store.last_position().await.unwrap() < position {
            interval.tick().await;
        }
    }

    pub async fn declare(&self, consumers: &[Consumer]) {
        let (consumers, now) = (consumers.to_vec(), self.on.sources.clock.now());
        self.on.store.write(move |tx| declare(tx, &consumers, now)).await.unwrap();
    }

    /// Returns the consumers of another process with the same store and clock.
    pub fn consumers(&self, consumers: &[Consumer]) -> Consumers<Plain> {
        let set = ConsumerSet::new(consumers.to_vec(), self.on.sources.ids.next(BEGINNING).to_string());
        // With a poll interval of one hour, a lost notification makes the test fail.
        Consumers::new(self.on.clone(), Arc::new(set)).with_poll_interval(Duration::from_secs(3_600))
    }

    /// Declares a consumer and returns a delivery that holds its lease.
    pub async fn delivery(&self, consumer: &Consumer) -> Delivery<Plain> {
        self.declare(std::slice::from_ref(consumer)).await;
        self.give_lease(consumer.name, "node").await;
        Delivery::new(self.on.clone(), consumer.clone(), "node".to_owned())
    }

    pub async fn give_lease(&self, consumer: &'static str, owner: &'static str) {
        let sql = "UPDATE consumers SET owner = $2, leased_until = 9000000000000000000 WHERE name = $1";
        let given: Result<u64, Error> =
            self.on.store.write(move |tx| tx.exec(sql, params![consumer, owner])).await;
        assert_eq!(given.unwrap(), 1);
    }

    /// Triggers injected faults that have not occurred yet, so that they do not affect the test's own
    /// transactions.
    pub async fn exhaust_faults(&self) {
        for _ in 0..2 {
            let exhausted = self.on.store.write(|tx| {
                for _ in 0..12 {
                    tx.exec("DELETE FROM handled WHERE n < 0", &[])?;
                }
                Ok::<_, Error>(())
            });
            let _ = exhausted.await;
        }
    }

    /// Runs delivery steps until no more are due, and returns the number of events handled.
    pub async fn run(&self, delivery: &mut Delivery<Plain>) -> usize {
        let mut handled = 0;
        loop {
            match delivery.step().await.unwrap() {
                Progress::More { handled: more, .. } => handled += more,
                Progress::Outdated => {}
                Progress::Idle { .. } | Progress::NotOwner => return handled,
            }
        }
    }

    /// Returns the positions that `consumer` has handled, in order of handling.
    pub async fn handled(&self, consumer: &'static str) -> Vec<i64> {
        self.handled_with_subjects(consumer).await.into_iter().map(|(position, _)| position).collect()
    }

    pub async fn handled_with_subjects(&self, consumer: &'static str) -> Vec<(i64, String)> {
        let sql = "SELECT position, subject FROM handled WHERE consumer = $1 ORDER BY n";
        let rows: Result<Vec<(i64, String)>, Error> = self
            .on
            .store
            .read(move |q| q.all(sql, params![consumer], |row| Ok((row.get(0)?, row.get(1)?))))
            .await;
        rows.unwrap()
    }

    /// Returns the cursor of `consumer` in the database.
    pub async fn cursor(&self, consumer: &'static str) -> i64 {
        let sql = "SELECT position FROM consumers WHERE name = $1";
        let position: Result<Option<i64>, Error> =
            self.on.store.read(move |q| q.one(sql, params![consumer], |row| row.get(0))).await;
        position.unwrap().expect("a cursor")
    }

    pub async fn status(&self, consumer: &str) -> kith_consumers::ConsumerStatus {
        let now = self.on.sources.clock.now();
        let all = self.on.store.read(move |q: &Query<'_>| kith_consumers::list_status(q, now)).await.unwrap();
        all.into_iter().find(|status| status.name == consumer).expect("a consumer")
    }
}

/// Positions whose events the handler of a test fails to handle.
#[derive(Clone, Default)]
pub struct Poison(Arc<Mutex<BTreeSet<i64>>>);

impl Poison {
    pub fn at(positions: impl IntoIterator<Item = i64>) -> Self {
        Self(Arc::new(Mutex::new(positions.into_iter().collect())))
    }

    pub fn cure(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn contains(&self, position: i64) -> bool {
        self.0.lock().unwrap().contains(&position)
    }
}

/// Creates a consumer of `thing.*` that records each event, and then fails if its position is poisoned.
pub fn recorder(name: &'static str, start: StartAt, poison: Poison) -> Consumer {
    Consumer::new(name, &["thing.*"], start, move |tx, _, events| {
        for event in events {
            record(tx, name, event)?;
            if poison.contains(event.position) {
                return Err(HandlerError::failed(format_args!("poison at {}", event.position)));
            }
        }
        Ok(())
    })
}

pub fn record(tx: &Tx<'_>, name: &'static str, event: &SequencedEvent) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO handled (n, consumer, position, subject)
         SELECT COALESCE(MAX(n), 0) + 1, $1, $2, $3 FROM handled",
        params![name, event.position, event.event.subject],
    )?;
    Ok(())
}
