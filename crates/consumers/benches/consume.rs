//! Benchmark: events per second delivered to one consumer whose handler does nothing. Run it with `cargo
//! bench -p kith-consumers`. It also runs on PostgreSQL if `KITH_TEST_POSTGRES` is set to a server's URL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_consumers::{
    Consumer, ConsumerSet, Consumers, DeliveryError, StartAt, TransactionFuture, Transactions,
};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Ctx, RequestId, Sources, SystemClock, SystemRandom, TimeOrderedIds};
use kith_store::testing::TestDatabase;
use kith_store::{Error, NewEvent, STORE_MIGRATIONS, Store, Tx};

const EVENTS: usize = 100_000;
const EVENTS_IN_A_TRANSACTION: usize = 500;

#[derive(Clone)]
struct Plain {
    store: Store,
    sources: Sources,
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
        Box::pin(async move { self.store.write(move |tx| run(tx, &ctx)).await })
    }
}

#[tokio::main]
async fn main() {
    measure("sqlite", TestDatabase::sqlite()).await;
    if let Ok(url) = std::env::var("KITH_TEST_POSTGRES") {
        measure("postgres", TestDatabase::postgres(&url).await.expect("a database")).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "measures time")]
async fn measure(engine: &str, database: TestDatabase) {
    database.migrate(vec![STORE_MIGRATIONS]).await.expect("a schema");
    let store = Store::open(database.options()).await.expect("a store");
    let sources = Sources {
        clock: Arc::new(SystemClock),
        ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
        random: Arc::new(SystemRandom),
    };
    let on = Plain { store: store.clone(), sources };
    for _ in 0..EVENTS / EVENTS_IN_A_TRANSACTION {
        emit(&on).await;
    }
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    while store.last_position().await.expect("a position") < EVENTS as i64 {
        interval.tick().await;
    }
    let consumer = Consumer::new("bench", &["thing.*"], StartAt::Beginning, |_, _, events| {
        std::hint::black_box(events);
        Ok(())
    });
    let set = ConsumerSet::new(vec![consumer], "bench".to_owned());
    let consumers = Consumers::new(on, Arc::new(set));
    consumers.declare().await.expect("a cursor");
    let began = Instant::now();
    let handled = consumers.run_due().await.expect("events");
    let took = began.elapsed();
    assert_eq!(handled, EVENTS);
    println!("{engine}: {handled} events in {took:?}, {:.0} events/s", handled as f64 / took.as_secs_f64());
    store.close().await;
}

async fn emit(on: &Plain) {
    let ctx = on.ctx("bench");
    let emitted = on.store.write(move |tx| {
        for n in 0..EVENTS_IN_A_TRANSACTION as u128 {
            let (subject, payload) =
                (Uuid::from_u128(n), serde_json::json!({ "n": 1, "text": "a short text" }));
            tx.emit(&ctx, NewEvent { kind: "thing.done", subject, recipients: vec![], payload });
        }
        Ok::<_, Error>(())
    });
    emitted.await.expect("emitted");
}
