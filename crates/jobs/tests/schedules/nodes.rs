//! Tests with several nodes: no occurrence runs twice or is lost when nodes stop, fail or have a wrong clock.

use std::time::Duration;

use futures_util::future::join_all;
use kith_jobs::schedules::{DeclaredSchedule, Missed, Plan};
use kith_jobs::{Handler, JobError, JobOutput, QueueConcurrency, WorkerOptions, Workers};
use kith_kernel::{days, hours, minutes, seconds};
use kith_store::contract;
use kith_store::testing::Fault;

use crate::support::{KIND, QUEUE, TestContext, at, plan};

contract! {
    concurrent_ticks_run_occurrence_once
    nodes_with_clock_skew_run_occurrence_once
    occurrence_is_run_after_node_stops
    occurrence_survives_failed_transaction
    database_outage_delays_run_by_its_length_only
    weekly_run_survives_frequent_deployments
    downtime_causes_no_burst_of_runs
    invalid_schedule_does_not_block_others
    workers_run_scheduled_jobs
}

async fn concurrent_ticks_run_occurrence_once(world: TestContext) {
    world.add("every.minute", plan("* * * * *")).await;
    world.add("every.second", plan("@every 1s")).await;
    let nodes = [world.another_node().await, world.another_node().await, world.another_node().await];
    for n in 1..=20 {
        let now = at("2027-03-21T00:00:30Z") + seconds(n * 15);
        let ticked = join_all(nodes.iter().chain(&nodes).map(|node| node.tick_at(now))).await;
        assert_eq!(ticked.iter().map(|one| one.jobs).sum::<usize>(), 15 + usize::from(n % 4 == 2));
    }
    assert_eq!(world.times("every.minute").await.len(), 5);
    assert_eq!(world.times("every.second").await.len(), 300);
    assert_eq!(world.count_jobs().await, 305);
}

/// Regression test for db-scheduler#364.
async fn nodes_with_clock_skew_run_occurrence_once(world: TestContext) {
    world.add("every.minute", plan("* * * * *")).await;
    for skew in [Duration::from_millis(700), seconds(45), minutes(2), minutes(30)] {
        let before = world.count_jobs().await;
        let start = kith_kernel::Clock::now(&*world.node.clock);
        let other = world.another_node().await;
        for n in 1..=240 {
            let now = start + seconds(n * 15);
            world.node.tick_at(now).await;
            other.tick_at(now + skew).await;
        }
        // There is one run per minute of the hour, and in addition the runs by which one node was ahead.
        // These are not repeated later.
        world.node.clock.set(start + hours(1) + skew);
        let skew_minutes = i64::try_from(skew.as_secs() / 60).unwrap();
        let ran = world.count_jobs().await - before;
        assert!((60 + skew_minutes..=61 + skew_minutes).contains(&ran), "{skew:?}: {ran}");
        let times = world.times("every.minute").await;
        let mut unique = times.clone();
        unique.dedup();
        assert_eq!(times, unique);
    }
}

/// Regression test for sidekiq#6804 and pg-boss#914.
async fn occurrence_is_run_after_node_stops(world: TestContext) {
    world.add("daily", Plan { missed: Missed::Skip, ..plan("0 2 * * *") }).await;
    let first = world.another_node().await;
    assert_eq!(first.tick_at(at("2027-03-21T01:59:59Z")).await.next_run_at, Some(at("2027-03-21T02:00:00Z")));
    // The node stops before its next tick. Another node starts half a minute later.
    drop(first);
    let second = world.another_node().await;
    assert_eq!(second.tick_at(at("2027-03-21T02:00:31Z")).await.jobs, 1);
    assert_eq!(world.times("daily").await, ["2027-03-21T02:00Z"]);
}

/// Regression test for pg-boss#914.
async fn occurrence_survives_failed_transaction(world: TestContext) {
    world.add("hourly", plan("0 * * * *")).await;
    let mut due = at("2027-03-21T00:00:00Z");
    let faults = (1..=8).map(|at_statement| Fault::ConnectionLost { at_statement });
    let mut struck = 0;
    for fault in faults.chain([Fault::CommitFails, Fault::Conflict]) {
        due = due + hours(1);
        world.node.clock.set(due);
        world.node.jobs.db().inject(fault);
        for second in 0..5 {
            world.node.clock.set(due + seconds(second));
            struck += usize::from(world.node.jobs.tick().await.is_err());
        }
    }
    // The store itself retries a transaction whose connection was lost before the commit, so not each fault
    // is an error here.
    assert!(struck >= 1, "{struck}");
    assert_eq!(world.times("hourly").await.len(), 10);
    assert_eq!(world.count_jobs().await, 10);
}

/// Regression test for bullmq#1658.
async fn database_outage_delays_run_by_its_length_only(world: TestContext) {
    world.add("every.minute", plan("* * * * *")).await;
    world.node.tick_at(at("2027-03-21T00:01:00Z")).await;
    for second in [0, 1, 2, 3] {
        world.node.clock.set(at("2027-03-21T00:02:00Z") + seconds(second));
        world.node.jobs.db().inject(Fault::CommitFails);
        assert!(world.node.jobs.tick().await.is_err());
    }
    assert_eq!(world.node.tick_at(at("2027-03-21T00:02:04Z")).await.jobs, 1);
    assert_eq!(world.node.tick_at(at("2027-03-21T00:03:00Z")).await.jobs, 1);
    assert_eq!(
        world.times("every.minute").await,
        ["2027-03-21T00:01Z", "2027-03-21T00:02Z", "2027-03-21T00:03Z"]
    );
}

static WEEKLY: &[DeclaredSchedule] = &[DeclaredSchedule::new("tests.weekly", QUEUE, KIND, "0 3 * * MON")];
static WEEKLY_SLOWER: &[DeclaredSchedule] = &[DeclaredSchedule {
    timeout: minutes(9),
    ..DeclaredSchedule::new("tests.weekly", QUEUE, KIND, "0 3 * * MON")
}];

/// Regression test for river#791.
async fn weekly_run_survives_frequent_deployments(world: TestContext) {
    for day in 0..56_u64 {
        // There is a deployment each noon, with a changed schedule every other day, followed by an hour of
        // downtime.
        let noon = at("2027-03-21T12:00:00Z") + days(day);
        world.node.clock.set(noon);
        world.declare(if day % 2 == 0 { WEEKLY } else { WEEKLY_SLOWER }).await;
        world.node.tick_until(noon + hours(23), hours(1)).await;
        world.work().await;
    }
    let mondays = (0..8).map(|week| at("2027-03-22T03:00:00Z") + days(7 * week));
    let expected: Vec<_> = mondays.map(|at| at.to_string().replace(":00.000Z", "Z")).collect();
    assert_eq!(world.times("tests.weekly").await, expected);
}

/// Regression test for river#1035.
async fn downtime_causes_no_burst_of_runs(world: TestContext) {
    let with = |missed, missed_cap| Plan { missed, missed_cap, ..plan("*/10 * * * *") };
    world.add("skip", with(Missed::Skip, 100)).await;
    world.add("latest", with(Missed::Latest, 100)).await;
    world.add("all", with(Missed::All, 7)).await;
    world.add("often", Plan { missed: Missed::Latest, ..plan("* * * * * *") }).await;
    assert_eq!(world.node.tick_at(at("2027-04-20T00:05:00Z")).await.jobs, 1 + 7 + 60);
    assert_eq!(world.times("skip").await, [""; 0]);
    assert_eq!(world.times("latest").await, ["2027-04-20T00:00Z"]);
    let all = world.times("all").await;
    assert_eq!((all.len(), &*all[0], &*all[6]), (7, "2027-04-19T23:00Z", "2027-04-20T00:00Z"));
    world.node.tick_at(at("2027-04-20T00:10:00Z")).await;
    assert_eq!(world.times("skip").await, ["2027-04-20T00:10Z"]);
}

async fn invalid_schedule_does_not_block_others(world: TestContext) {
    world.add("a", plan("0 * * * *")).await;
    world.add("b", plan("0 * * * *")).await;
    let spoil = "UPDATE job_schedules SET zone = 'Europe/Atlantis' WHERE name = 'a'";
    world.write(move |tx, _| Ok(tx.exec(spoil, &[])?)).await.unwrap();
    assert_eq!(world.node.tick_at(at("2027-03-21T01:00:00Z")).await.jobs, 1);
    assert_eq!(world.times("b").await, ["2027-03-21T01:00Z"]);
}

async fn workers_run_scheduled_jobs(world: TestContext) {
    let jobs = world.with_system_clock();
    world.add("every.second", plan("@every 1s")).await;
    let (ran, mut runs) = tokio::sync::mpsc::unbounded_channel();
    let handler = Handler::new(KIND, move |run| {
        let sent = ran.send(run.id);
        async move { sent.map(|()| JobOutput::default()).map_err(JobError::retry) }
    });
    let share = QueueConcurrency { queue: QUEUE.to_owned(), concurrency: 2 };
    let workers =
        Workers::start(&jobs, vec![handler], WorkerOptions::new("tester", vec![share])).await.unwrap();
    // The schedule was created in the year 2027. According to the system clock, its runs would all be in the
    // future or missed.
    jobs.db()
        .write(|tx| {
            tx.exec("UPDATE job_schedules SET decided_until = 0, next_run_at = 0, anchor_at = 0", &[])
        })
        .await
        .unwrap();
    let mut known = std::collections::HashSet::new();
    for _ in 0..3 {
        let run = tokio::time::timeout(seconds(20), runs.recv()).await.expect("a run").unwrap();
        assert!(known.insert(run), "a run was executed twice");
    }
    workers.stop().await;
}
