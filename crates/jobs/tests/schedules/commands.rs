//! Tests of the commands on schedules.

use kith_jobs::JobState;
use kith_jobs::schedules::{self, Missed, Overlap, Plan, ScheduleError};
use kith_kernel::{days, hours, minutes};
use kith_store::contract;

use crate::support::{TestContext, at, plan};

contract! {
    occurrences_during_pause_do_not_count_as_missed
    run_now_ignores_times_pause_and_overlap
    backfill_runs_past_occurrences_once_in_order
    backfill_over_limit_or_into_future_is_rejected
    schedule_runs_only_between_start_and_end
    changed_plan_with_same_times_keeps_progress
    invalid_schedule_is_rejected
    deleted_schedule_stops_and_frees_name
    old_occurrences_are_removed_after_a_thousand
}

async fn occurrences_during_pause_do_not_count_as_missed(world: TestContext) {
    world.add("hourly", Plan { missed: Missed::All, ..plan("0 * * * *") }).await;
    let paused = world.write(|tx, ctx| schedules::set_paused(tx, ctx, "hourly", true)).await.unwrap();
    assert_eq!((paused.paused, paused.revision), (true, 2));
    world.node.tick_until(at("2027-03-21T05:30:00Z"), minutes(30)).await;
    let resumed = world.write(|tx, ctx| schedules::set_paused(tx, ctx, "hourly", false)).await.unwrap();
    assert_eq!(resumed.next_run_at, Some(at("2027-03-21T06:00:00Z")));
    world.node.tick_until(at("2027-03-21T06:30:00Z"), minutes(30)).await;
    assert_eq!(world.times("hourly").await, ["2027-03-21T06:00Z"]);
    let again = world.write(|tx, ctx| schedules::set_paused(tx, ctx, "hourly", false)).await.unwrap();
    assert_eq!(again.revision, 3, "resuming an active schedule does not change its revision");
}

async fn run_now_ignores_times_pause_and_overlap(world: TestContext) {
    world.add("yearly", Plan { overlap: Overlap::Skip, ..plan("@yearly") }).await;
    world.write(|tx, ctx| schedules::set_paused(tx, ctx, "yearly", true)).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(world.write(|tx, ctx| schedules::run_now(tx, ctx, "yearly")).await.unwrap());
    }
    jobs.dedup();
    assert_eq!((jobs.len(), world.work().await), (3, 3));
    let schedule = world.find("yearly").await.unwrap();
    assert_eq!((schedule.last_run_at, schedule.next_run_at), (None, Some(at("2028-01-01T00:00:00Z"))));
    let unknown = world.write(|tx, ctx| schedules::run_now(tx, ctx, "other")).await;
    assert!(matches!(unknown, Err(ScheduleError::Unknown)));
}

async fn backfill_runs_past_occurrences_once_in_order(world: TestContext) {
    world.add("daily", Plan { overlap: Overlap::Queue, missed: Missed::Skip, ..plan("0 3 * * *") }).await;
    world.node.tick_at(at("2027-03-22T03:00:00Z")).await;
    world.node.tick_at(at("2027-03-26T12:00:00Z")).await;
    assert_eq!(world.times("daily").await, ["2027-03-22T03:00Z"]);
    let done = world.backfill("daily", "2027-03-20T00:00:00Z", "2027-03-25T03:00:00Z").await.unwrap();
    assert_eq!((done.jobs.len(), done.skipped), (4, 1));
    let states: Vec<_> = world.runs("daily").await.into_iter().map(|(_, job)| job.unwrap().state).collect();
    let (ready, blocked) = (JobState::Ready, JobState::Blocked);
    assert_eq!(states, [ready, blocked, ready, blocked, blocked], "each run waits for the previous run");
    let again = world.backfill("daily", "2027-03-20T00:00:00Z", "2027-03-25T03:00:00Z").await.unwrap();
    assert_eq!((again.jobs.len(), again.skipped), (0, 5));
    assert_eq!(world.work().await, 5);
    assert_eq!(world.find("daily").await.unwrap().next_run_at, Some(at("2027-03-27T03:00:00Z")));
}

async fn backfill_over_limit_or_into_future_is_rejected(world: TestContext) {
    world.add("often", plan("* * * * *")).await;
    for (from, to) in
        [("2027-03-01T00:00:00Z", "2027-03-20T00:00:00Z"), ("2027-03-21T00:00:00Z", "2027-03-21T00:01:00Z")]
    {
        let refused = world.backfill("often", from, to).await;
        assert!(matches!(refused, Err(ScheduleError::TooWide)), "{from} {to}");
    }
    let none = world.backfill("often", "2027-03-20T00:00:00Z", "2027-03-19T00:00:00Z").await.unwrap();
    assert_eq!((none.jobs.len(), none.skipped, world.count_jobs().await), (0, 0, 0));
    let limit = world.backfill("often", "2027-03-20T00:00:00Z", "2027-03-20T16:40:00Z").await.unwrap();
    assert_eq!(limit.jobs.len(), 1_000);
}

async fn schedule_runs_only_between_start_and_end(world: TestContext) {
    let limits = Plan {
        starts_at: Some(at("2027-03-21T03:00:00Z")),
        ends_at: Some(at("2027-03-21T05:00:00Z")),
        ..plan("0 * * * *")
    };
    let made = world.add("limited", limits.clone()).await;
    assert_eq!(made.next_run_at, Some(at("2027-03-21T03:00:00Z")));
    world.node.tick_until(at("2027-03-21T08:00:00Z"), minutes(20)).await;
    assert_eq!(world.times("limited").await, ["2027-03-21T03:00Z", "2027-03-21T04:00Z"]);
    assert_eq!(world.find("limited").await.unwrap().next_run_at, None);
    let over = world.write(move |tx, ctx| schedules::create(tx, ctx, "over", limits.clone(), false)).await;
    assert!(matches!(over, Err(ScheduleError::Over)));
}

async fn changed_plan_with_same_times_keeps_progress(world: TestContext) {
    world.add("period", plan("@every 10h")).await;
    world.node.clock.set(at("2027-03-21T09:00:30Z"));
    let change = |tx: &kith_store::Tx<'_>, ctx: &kith_kernel::Ctx| {
        schedules::change(tx, ctx, "period", Some(1), |plan| {
            "{\"n\":2}".clone_into(&mut plan.payload);
            Ok(())
        })
    };
    let changed = world.write(change).await.unwrap();
    assert_eq!((changed.revision, changed.next_run_at), (2, Some(at("2027-03-21T10:00:30Z"))));
    assert!(matches!(world.write(change).await, Err(ScheduleError::Changed)));
    let changed = world.write(|tx, ctx| {
        schedules::change(tx, ctx, "period", Some(2), |plan| {
            "@every 5h".clone_into(&mut plan.schedule);
            Ok(())
        })
    });
    assert_eq!(changed.await.unwrap().next_run_at, Some(at("2027-03-21T14:00:30Z")));
}

async fn invalid_schedule_is_rejected(world: TestContext) {
    let create = |name: &'static str, plan: Plan| {
        world.write(move |tx, ctx| schedules::create(tx, ctx, name, plan.clone(), false))
    };
    let words =
        |refused: Result<_, ScheduleError>| refused.map(|_: schedules::Schedule| ()).unwrap_err().to_string();
    assert!(words(create("a b", plan("@daily")).await).starts_with("`name`"));
    assert!(words(create("a", Plan { kind: String::new(), ..plan("@daily") }).await).starts_with("`kind`"));
    assert!(words(create("a", Plan { jitter: days(2), ..plan("@daily") }).await).starts_with("`jitter_ms`"));
    assert!(words(create("a", Plan { missed_cap: 0, ..plan("@daily") }).await).starts_with("`missed_cap`"));
    assert!(words(create("a", plan("0 0 30 2 *")).await).contains("never happens"));
    assert!(words(create("a", plan("61 * * * *")).await).contains("minute field"));
    assert!(words(create("a", plan("0 0 0 1 1 * 2001")).await).contains("no future run"));
    let ends = Plan {
        starts_at: Some(at("2028-01-01T00:00:00Z")),
        ends_at: Some(at("2027-12-01T00:00:00Z")),
        ..plan("@daily")
    };
    assert!(words(create("a", ends).await).starts_with("`ends_at`"));
    create("a", plan("@daily")).await.unwrap();
    assert!(words(create("a", plan("@daily")).await).contains("this name"));
    assert_eq!(world.names().await, ["a"]);
}

async fn deleted_schedule_stops_and_frees_name(world: TestContext) {
    world.add("hourly", plan("0 * * * *")).await;
    world.node.tick_at(at("2027-03-21T01:00:00Z")).await;
    let refused = world.write(|tx, ctx| schedules::delete(tx, ctx, "hourly", Some(9))).await;
    assert!(matches!(refused, Err(ScheduleError::Changed)));
    world.write(|tx, ctx| schedules::delete(tx, ctx, "hourly", Some(1))).await.unwrap();
    assert_eq!(world.node.tick_at(at("2027-03-21T02:00:00Z")).await.jobs, 0);
    assert!(world.runs("hourly").await.is_empty());
    assert_eq!(world.work().await, 1, "jobs that are already enqueued are kept");
    world.add("hourly", plan("0 * * * *")).await;
    world.node.tick_at(at("2027-03-21T00:00:00Z") + hours(3)).await;
    assert_eq!(world.times("hourly").await, ["2027-03-21T03:00Z"]);
}

async fn old_occurrences_are_removed_after_a_thousand(world: TestContext) {
    world.add("often", Plan { missed: Missed::All, missed_cap: 700, ..plan("* * * * *") }).await;
    world.node.tick_at(at("2027-03-22T00:00:30Z")).await;
    world.node.tick_at(at("2027-03-23T00:00:30Z")).await;
    assert_eq!(world.runs("often").await.len(), 1_402, "pending runs are kept");
    world.work().await;
    world.node.tick_at(at("2027-03-23T00:01:00Z")).await;
    assert_eq!(world.runs("often").await.len(), 1_000);
}
