//! Tests of the event consumers of a module on a running server.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, days};
use kith_store::{Error, NewEvent, Tx, TxOutcome};

use super::operator::{ConsumerCommand, ConsumerReply, execute};
use super::{HandlerError, ModuleConsumer, NodeEvent};
use crate::testing::{TestServer, with_module};
use crate::{App, Module};

/// Number of hook runs for committed events, by subject of the event.
static HOOK_RUNS: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

/// Number of hook runs for missed events.
static MISSED_RUNS: AtomicU64 = AtomicU64::new(0);

static SUBJECTS: AtomicU64 = AtomicU64::new(1);

static MODULE: Module = Module {
    events: &["thing.done", "thing.counted"],
    consumers: &[
        ModuleConsumer::durable("things.count", &["thing.done"], |tx, ctx, events| {
            for event in events {
                if event.event.payload.contains("poison") {
                    return Err(HandlerError::failed("poison"));
                }
                tx.emit(
                    ctx,
                    event_about("thing.counted", event.event.subject.parse().unwrap_or_default(), ""),
                );
            }
            Ok(())
        }),
        ModuleConsumer::every_node("things.hook", &["thing.*"], |_, news| {
            Box::pin(async move {
                let NodeEvent::Committed(event) = news else {
                    MISSED_RUNS.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                };
                let mut runs = HOOK_RUNS.lock().unwrap();
                let count = runs.get_or_insert_default().entry(event.subject.clone()).or_default();
                *count += 1;
                if event.payload.contains("fails once") && *count == 1 {
                    return Err(Error::unavailable("on purpose"));
                }
                Ok(())
            })
        }),
    ],
    ..Module::named("things")
};

fn event_about(kind: &'static str, subject: Uuid, text: &str) -> NewEvent {
    NewEvent { kind, subject, recipients: vec![], payload: serde_json::json!({ "text": text }) }
}

async fn server() -> TestServer {
    let test = TestServer::start_with(with_module(&MODULE), |_| {}).await;
    test.app.consumers().declare().await.unwrap();
    test
}

/// Emits an event with a new subject, and returns the subject.
async fn emit(app: &App, text: &'static str) -> String {
    let ctx = app.system_ctx("test");
    // The id is unique in the process. Ids from the seeded generator repeat, because servers of other tests
    // use the same seed.
    let subject = Uuid::from_u128(SUBJECTS.fetch_add(1, Ordering::Relaxed).into());
    let emitted = app.write(&ctx, move |tx: &Tx<'_>, ctx: &Ctx| {
        tx.emit(ctx, event_about("thing.done", subject, text));
        Ok::<_, Error>(())
    });
    emitted.await.unwrap();
    subject.to_string()
}

fn hook_runs(subject: &str) -> u32 {
    HOOK_RUNS.lock().unwrap().as_ref().and_then(|runs| runs.get(subject).copied()).unwrap_or(0)
}

async fn kinds(app: &App) -> Vec<String> {
    let events = app.db.events_after(0, 100).await.unwrap();
    events.into_iter().map(|event| event.event.kind).filter(|kind| kind.starts_with("thing.")).collect()
}

#[tokio::test]
async fn run_due_delivers_events_to_durable_consumers() {
    let test = server().await;
    let subject = emit(&test.app, "").await;
    assert_eq!(kinds(&test.app).await, ["thing.done"]);
    test.app.run_due().await.unwrap();
    assert_eq!(kinds(&test.app).await, ["thing.done", "thing.counted"]);
    assert_eq!(hook_runs(&subject), 2, "hooks also run for events that a handler emits");
}

#[tokio::test]
async fn hook_does_not_run_for_a_transaction_that_is_rolled_back() {
    let test = server().await;
    let ctx = test.app.system_ctx("test");
    let subject = Uuid::from_u128(SUBJECTS.fetch_add(1, Ordering::Relaxed).into());
    let refused = test.app.write(&ctx, move |tx: &Tx<'_>, ctx: &Ctx| {
        tx.emit(ctx, event_about("thing.done", subject, ""));
        Err::<(), _>(Error::unavailable("on purpose"))
    });
    assert!(refused.await.is_err());
    assert_eq!(hook_runs(&subject.to_string()), 0);
}

#[tokio::test]
async fn events_of_a_committed_refusal_are_counted_once() {
    let test = server().await;
    let ctx = test.app.system_ctx("test");
    let write = async |is_committed: bool| {
        let refused = test.app.write(&ctx, move |tx: &Tx<'_>, ctx: &Ctx| {
            tx.emit(ctx, event_about("thing.done", Uuid::nil(), ""));
            let refusal = Error::unavailable("on purpose");
            match is_committed {
                true => TxOutcome::<(), _>::CommitRefusal(refusal),
                false => TxOutcome::Rollback(refusal),
            }
        });
        assert!(refused.await.is_err());
    };
    let counted = |n: u32| {
        let (text, line) =
            (test.app.metrics.to_text(), format!("kith_events_total{{kind=\"thing.done\"}} {n}"));
        assert!(text.lines().any(|own| own == line), "{line} is missing in {text}");
    };
    write(false).await;
    counted(0);
    write(true).await;
    counted(1);
    write(true).await;
    counted(2);
}

#[tokio::test]
async fn hook_runs_before_the_response() {
    let test = server().await;
    let subject = emit(&test.app, "").await;
    assert_eq!(hook_runs(&subject), 1);
}

#[tokio::test]
async fn failed_hook_is_retried() {
    let test = server().await;
    let subject = emit(&test.app, "fails once").await;
    assert_eq!(hook_runs(&subject), 1);
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    while MISSED_RUNS.load(Ordering::Relaxed) == 0 || !test.app.event_routes.has_no_failures() {
        interval.tick().await;
    }
    assert_eq!(hook_runs(&subject), 1, "the failed hook runs again with a report of missed events");
}

#[tokio::test]
async fn dead_lettered_events_can_be_listed_and_retried() {
    let test = server().await;
    emit(&test.app, "poison").await;
    for _ in 0..kith_consumers::MAX_ATTEMPTS {
        test.app.run_due().await.unwrap();
        test.clock.advance(kith_kernel::minutes(1));
    }
    let consumer = || "things.count".to_owned();
    let answer = execute(&test.app, ConsumerCommand::DeadLetters { consumer: consumer() }).await.unwrap();
    let ConsumerReply::DeadLetters(events) = answer else { panic!("{answer:?}") };
    assert_eq!((events.len(), events[0].error.as_str()), (1, "poison"));
    let answer = execute(&test.app, ConsumerCommand::Lag).await.unwrap();
    let ConsumerReply::Lag(statuses) = answer else { panic!("{answer:?}") };
    let status = statuses.iter().find(|status| status.name == consumer()).unwrap();
    assert_eq!((status.dead_letters, status.pending, status.lag_events), (1, 0, 0));
    let answer =
        execute(&test.app, ConsumerCommand::RetryDeadLetters { consumer: consumer() }).await.unwrap();
    assert!(matches!(answer, ConsumerReply::Retried(1)), "{answer:?}");
    let unknown = execute(&test.app, ConsumerCommand::DeadLetters { consumer: "nobody".into() }).await;
    assert_eq!(unknown.unwrap_err().to_string(), "unknown consumer \"nobody\"");
}

#[tokio::test]
async fn metrics_report_lag_and_failures() {
    let test = server().await;
    emit(&test.app, "poison").await;
    test.app.run_due().await.unwrap();
    let running = test.app.consumers().start();
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    while test.app.consumer_set.sampled().is_empty() {
        interval.tick().await;
    }
    running.stop().await;
    let text = test.app.metrics.to_text();
    for line in [
        "kith_consumer_lag_events{consumer=\"things.count\"} 0",
        "kith_consumer_pending{consumer=\"things.count\"} 1",
        "kith_consumer_dead_letters{consumer=\"things.count\"} 0",
        "kith_consumer_events_total{consumer=\"things.count\"} 0",
    ] {
        assert!(text.lines().any(|own| own.trim_end_matches(".0") == line), "{line} is missing in {text}");
    }
}

#[tokio::test]
async fn cursor_of_declared_consumer_is_not_deleted() {
    let test = server().await;
    let stale = test.app.db.write(|tx| {
        tx.exec(
            "INSERT INTO consumers (name, position, owner, leased_until, declared_at) VALUES ('gone', 0, '', 0, 0)",
            &[],
        )
    });
    stale.await.unwrap();
    // The clock jumps forward, so the declarations of this build's consumers are old, too.
    test.clock.advance(days(400));
    super::forget_removed(&test.app).await.unwrap();
    let ConsumerReply::Lag(statuses) = execute(&test.app, ConsumerCommand::Lag).await.unwrap() else {
        panic!("the reply contains no statuses")
    };
    let names: Vec<_> = statuses.iter().map(|status| status.name.as_str()).collect();
    assert_eq!(names, ["things.count"]);
}
