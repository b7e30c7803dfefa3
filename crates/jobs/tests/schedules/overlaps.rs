//! Tests of overlapping runs of a schedule, and of jitter.

use kith_jobs::schedules::{Overlap, Plan};
use kith_jobs::{ClaimedJob, JobState};
use kith_kernel::{hours, minutes, seconds};
use kith_store::contract;

use crate::support::{QUEUE, TestContext, at, plan};

contract! {
    overlap_policies_allow_skip_and_queue
    cancel_policy_ends_older_run_first
    queue_policy_keeps_at_most_a_hundred_waiting
    jitter_only_delays_run
}

async fn claim(world: &TestContext) -> Vec<ClaimedJob> {
    let worker = world.node.jobs.register("tester", false, hours(1)).await.unwrap();
    world.node.jobs.claim(QUEUE, worker, 100).await.unwrap().jobs
}

async fn states(world: &TestContext, name: &'static str) -> Vec<Option<JobState>> {
    world.runs(name).await.into_iter().map(|(_, job)| job.map(|job| job.state)).collect()
}

async fn overlap_policies_allow_skip_and_queue(world: TestContext) {
    let with = |overlap| Plan { overlap, ..plan("0 * * * *") };
    world.add("allow", with(Overlap::Allow)).await;
    world.add("skip", with(Overlap::Skip)).await;
    world.add("queue", with(Overlap::Queue)).await;
    for hour in 1..=3 {
        world.node.tick_at(at("2027-03-21T00:00:00Z") + hours(hour)).await;
    }
    let (ready, blocked) = (Some(JobState::Ready), Some(JobState::Blocked));
    assert_eq!(states(&world, "allow").await, [ready, ready, ready]);
    assert_eq!(states(&world, "skip").await, [ready, None, None]);
    assert_eq!(states(&world, "queue").await, [ready, blocked, blocked]);
    assert_eq!(world.work().await, 3 + 1 + 3);
    world.node.tick_at(at("2027-03-21T04:00:00Z")).await;
    assert_eq!(states(&world, "skip").await[3], ready);
    assert_eq!(states(&world, "queue").await[3], ready);
}

async fn cancel_policy_ends_older_run_first(world: TestContext) {
    world.add("cancel", Plan { overlap: Overlap::Cancel, ..plan("0 * * * *") }).await;
    world.node.tick_at(at("2027-03-21T01:00:00Z")).await;
    world.node.tick_at(at("2027-03-21T02:00:00Z")).await;
    let (ready, cancelled) = (Some(JobState::Ready), Some(JobState::Cancelled));
    assert_eq!(states(&world, "cancel").await, [cancelled, ready]);
    let running = claim(&world).await;
    assert_eq!(running.len(), 1);
    world.node.tick_at(at("2027-03-21T03:00:00Z")).await;
    let now = [cancelled, Some(JobState::Running), Some(JobState::Blocked)];
    assert_eq!(states(&world, "cancel").await, now);
    assert!(claim(&world).await.is_empty(), "nothing can be claimed while the older run is active");
    let attempt = running[0].as_attempt();
    let outcome = Err(kith_jobs::JobError::Cancelled);
    let report = kith_jobs::AttemptReport { attempt, outcome, notify_queue: None };
    world.node.jobs.report(std::sync::Arc::new(vec![report])).await.unwrap();
    assert_eq!(claim(&world).await.len(), 1);
}

async fn queue_policy_keeps_at_most_a_hundred_waiting(world: TestContext) {
    world.add("queue", Plan { overlap: Overlap::Queue, ..plan("* * * * *") }).await;
    world.node.tick_until(at("2027-03-21T02:00:00Z"), minutes(1)).await;
    let states = states(&world, "queue").await;
    assert_eq!(states.len(), 120);
    assert_eq!(states.iter().filter(|state| state.is_some()).count(), 100);
    assert_eq!(world.work().await, 100);
}

async fn jitter_only_delays_run(world: TestContext) {
    world.add("jitter", Plan { jitter: minutes(5), ..plan("0 * * * *") }).await;
    for hour in 1..=20 {
        world.node.tick_at(at("2027-03-21T00:00:00Z") + hours(hour)).await;
    }
    let runs = world.runs("jitter").await;
    assert_eq!(runs.len(), 20);
    let delays: Vec<_> = runs.iter().map(|(at, job)| job.as_ref().unwrap().run_at.since(*at)).collect();
    assert!(delays.iter().all(|delay| *delay <= minutes(5)), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay > seconds(10)), "{delays:?}");
    assert!(runs.iter().all(|(at, _)| at.as_millis() % 3_600_000 == 0));
}
