//! Tests of schedules that are declared in code.

use kith_jobs::schedules::{self, DeclaredChanges, DeclaredSchedule, ScheduleError};
use kith_kernel::{hours, minutes};
use kith_store::contract;

use crate::support::{KIND, QUEUE, TestContext, at, plan};

contract! {
    undeclared_schedule_stops
    unchanged_schedule_keeps_progress_and_pause
    changed_time_is_planned_from_now
    user_schedule_is_not_overwritten_by_declaration
    concurrent_nodes_declare_same_schedules
}

const fn one(name: &'static str, schedule: &'static str) -> DeclaredSchedule {
    DeclaredSchedule::new(name, QUEUE, KIND, schedule)
}

static BOTH: &[DeclaredSchedule] = &[one("tests.kept", "0 * * * *"), one("tests.dropped", "0 * * * *")];
static UNCHANGED: &[DeclaredSchedule] = &[one("tests.kept", "0 * * * *")];
static OTHERWISE: &[DeclaredSchedule] =
    &[DeclaredSchedule { payload: "{\"n\":2}", timeout: minutes(5), ..one("tests.kept", "0 * * * *") }];
static LATER: &[DeclaredSchedule] = &[one("tests.kept", "30 * * * *")];

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Regression test for hatchet#410.
async fn undeclared_schedule_stops(world: TestContext) {
    let done = world.declare(BOTH).await;
    assert_eq!(done.added, texts(&["tests.dropped", "tests.kept"]));
    world.node.tick_at(at("2027-03-21T01:00:00Z")).await;
    assert_eq!(
        world.declare(UNCHANGED).await,
        DeclaredChanges { removed: texts(&["tests.dropped"]), ..DeclaredChanges::default() }
    );
    assert_eq!(world.names().await, ["tests.kept"]);
    assert_eq!(
        world.node.tick_at(at("2027-03-21T02:00:00Z")).await.jobs,
        0,
        "no job is enqueued while the first run is active"
    );
    world.work().await;
    assert_eq!(world.node.tick_at(at("2027-03-21T03:00:00Z")).await.jobs, 1);
    assert_eq!(world.declare(&[]).await.removed, texts(&["tests.kept"]));
    assert_eq!(world.node.tick_at(at("2027-03-21T04:00:00Z")).await, schedules::TickResult::default());
}

async fn unchanged_schedule_keeps_progress_and_pause(world: TestContext) {
    world.declare(UNCHANGED).await;
    let made = world.find("tests.kept").await.unwrap();
    assert_eq!((&*made.owner, made.is_declared), ("module:tests", true));
    // A deployment at the time of a due run must not lose the run.
    world.node.clock.set(at("2027-03-21T01:00:10Z"));
    assert_eq!(world.declare(UNCHANGED).await, DeclaredChanges::default());
    let done = world.declare(OTHERWISE).await;
    assert_eq!(done, DeclaredChanges { changed: texts(&["tests.kept"]), ..DeclaredChanges::default() });
    assert_eq!(world.node.tick_at(at("2027-03-21T01:00:20Z")).await.jobs, 1);
    let job = world.runs("tests.kept").await.remove(0).1.unwrap();
    assert_eq!((&*job.payload, job.timeout), ("{\"n\":2}", minutes(5)));
    assert_eq!(job.source.as_deref(), Some("schedule:tests.kept@2027-03-21T01:00:00.000Z"));
    world.write(|tx, ctx| schedules::set_paused(tx, ctx, "tests.kept", true)).await.unwrap();
    world.declare(UNCHANGED).await;
    assert!(world.find("tests.kept").await.unwrap().paused);
    assert_eq!(world.node.tick_at(at("2027-03-21T02:00:20Z")).await.jobs, 0);
}

async fn changed_time_is_planned_from_now(world: TestContext) {
    world.declare(UNCHANGED).await;
    world.node.clock.set(at("2027-03-21T05:10:00Z"));
    world.declare(LATER).await;
    assert_eq!(world.node.jobs.tick().await.unwrap().jobs, 0);
    assert_eq!(world.find("tests.kept").await.unwrap().next_run_at, Some(at("2027-03-21T05:30:00Z")));
}

async fn user_schedule_is_not_overwritten_by_declaration(world: TestContext) {
    world.add("tests.kept", plan("0 * * * *")).await;
    assert_eq!(world.declare(UNCHANGED).await, DeclaredChanges::default());
    assert!(!world.find("tests.kept").await.unwrap().is_declared);
    world.declare(BOTH).await;
    let refused = world.write(|tx, ctx| schedules::delete(tx, ctx, "tests.dropped", None)).await;
    assert!(matches!(refused, Err(ScheduleError::Declared)));
    let refused = world.write(|tx, ctx| schedules::change(tx, ctx, "tests.dropped", None, |_| Ok(()))).await;
    assert!(matches!(refused, Err(ScheduleError::Declared)));
    world.declare(&[]).await;
    assert_eq!(world.names().await, ["tests.kept"]);
}

async fn concurrent_nodes_declare_same_schedules(world: TestContext) {
    let nodes = [world.another_node().await, world.another_node().await, world.another_node().await];
    for declared in [BOTH, UNCHANGED, BOTH, LATER] {
        let all = nodes.iter().chain(&nodes).map(|node| node.jobs.declare(vec![("tests", declared)]));
        for done in futures_util::future::join_all(all).await {
            done.unwrap();
        }
        assert_eq!(world.names().await.len(), declared.len());
    }
    assert_eq!(world.node.tick_at(at("2027-03-21T00:00:30Z") + hours(1)).await.jobs, 1);
}
