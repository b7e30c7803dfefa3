//! Tests of schedules when the clock jumps, and on days with a change to or from daylight saving time.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_jobs::schedules::{Missed, Plan, Spec};
use kith_kernel::{Timestamp, days, hours, minutes, seconds};
use kith_store::contract;

use crate::support::{TestContext, at, plan};

contract! {
    daily_schedule_runs_once_on_days_of_clock_change
    clock_jumps_follow_missed_policy
    every_counts_elapsed_time_through_clock_change
}

/// Regression test for bull#2207 and node-cron#563.
async fn daily_schedule_runs_once_on_days_of_clock_change(world: TestContext) {
    world.add("daily", Plan { zone: "Europe/Vienna".to_owned(), ..plan("30 2 * * *") }).await;
    let start = at("2027-03-27T12:00:00Z");
    world.node.clock.set(start);
    world.node.jobs.tick().await.unwrap();
    let known = world.times("daily").await.len();
    world.node.tick_until(start + days(2), minutes(10)).await;
    assert_eq!(world.times("daily").await[known..], ["2027-03-28T01:00Z", "2027-03-29T00:30Z"]);
    let start = at("2027-10-30T12:00:00Z");
    world.node.tick_at(start).await;
    let known = world.times("daily").await.len();
    world.node.tick_until(start + days(2), minutes(10)).await;
    assert_eq!(world.times("daily").await[known..], ["2027-10-31T00:30Z", "2027-11-01T01:30Z"]);
}

async fn every_counts_elapsed_time_through_clock_change(world: TestContext) {
    world.node.clock.set(at("2027-03-27T23:15:00Z"));
    world.add("period", Plan { zone: "Europe/Vienna".to_owned(), ..plan("@every 45m") }).await;
    world.node.tick_until(at("2027-03-28T02:30:00Z"), minutes(5)).await;
    let expected = ["2027-03-28T00:00Z", "2027-03-28T00:45Z", "2027-03-28T01:30Z", "2027-03-28T02:15Z"];
    assert_eq!(world.times("period").await, expected);
}

/// Clock jumps in seconds.
const JUMPS: [i64; 4] = [3_600, -3_600, 86_400, -86_400];
const SCHEDULES: [&str; 3] = ["*/20 * * * *", "15 * * * *", "30 2 * * *"];
const POLICIES: [(&str, Missed, i64); 3] =
    [("skip", Missed::Skip, 100), ("latest", Missed::Latest, 100), ("all", Missed::All, 5)];

/// Covers row DRV-09 of the readiness catalogue: after each clock jump, the runs must agree with the
/// documented policy.
async fn clock_jumps_follow_missed_policy(world: TestContext) {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let policies = SCHEDULES.iter().flat_map(|schedule| POLICIES.map(|policy| (*schedule, policy)));
    let all: Vec<_> = names.into_iter().zip(policies).collect();
    for (name, (schedule, (_, missed, missed_cap))) in all.clone() {
        world.add(name, Plan { missed, missed_cap, ..plan(schedule) }).await;
    }
    let mut expected = vec![BTreeSet::new(); all.len()];
    let mut now = kith_kernel::Clock::now(&*world.node.clock);
    let mut steps: Vec<i64> = Vec::new();
    for jump in JUMPS {
        steps.extend([60; 70]);
        steps.push(jump);
        steps.extend([60; 10]);
        steps.extend([600; 24]);
    }
    let mut max_at_once = 0;
    for step in steps {
        let next = Timestamp::from_millis(now.as_millis() + step * 1_000);
        for ((_, (schedule, (_, missed, cap))), runs) in all.iter().zip(&mut expected) {
            runs.extend(by_the_policy(schedule, *missed, *cap, now, next));
        }
        now = next;
        max_at_once = max_at_once.max(world.node.tick_at(now).await.jobs);
    }
    let mut sum = 0;
    for ((name, pattern), expected) in all.iter().zip(&expected) {
        let ran: Vec<_> = world.runs(name).await.into_iter().map(|(at, job)| (at, job.is_some())).collect();
        let expected: Vec<_> = expected.iter().map(|at| (*at, true)).collect();
        assert_eq!(ran, expected, "{pattern:?}");
        sum += ran.len();
    }
    assert_eq!(world.count_jobs().await, i64::try_from(sum).unwrap());
    // There are three schedules. For each of them at most one occurrence is due, one missed occurrence is run
    // by the policy `latest`, and five by the policy `all`.
    assert!(max_at_once <= 3 * (1 + 1 + 5), "{max_at_once} runs at once");
    println!("{} jumps, {} schedules: {sum} runs, at most {max_at_once} at once", JUMPS.len(), all.len());
}

/// Returns the runs that the policy requires when the clock moves from `from` to `to`.
fn by_the_policy(schedule: &str, missed: Missed, cap: i64, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let spec = Spec::parse(schedule, "UTC", Timestamp::EPOCH).unwrap();
    let ms = Duration::from_millis(1);
    // After the clock was set back, occurrences of the last minute are decided again. Occurrences that have
    // run are not run again.
    let from = if from < to { from } else { to - minutes(1) };
    let all = spec.between(from + ms, to + ms, 10_000).0;
    let (late, timely): (Vec<_>, Vec<_>) = all.into_iter().partition(|at| *at + minutes(1) <= to);
    let run_late = match missed {
        Missed::Skip => 0,
        Missed::Latest => usize::from(timely.is_empty()),
        Missed::All => usize::try_from(cap).unwrap(),
    };
    let skipped = late.len() - run_late.min(late.len());
    late[skipped..].iter().chain(&timely).copied().collect()
}

#[test]
fn policy_model_matches_documentation() {
    let (from, to) = (at("2027-03-21T00:00:30Z"), at("2027-03-21T01:00:30Z"));
    let run = |missed, cap| by_the_policy("*/20 * * * *", missed, cap, from, to).len();
    assert_eq!((run(Missed::Skip, 9), run(Missed::Latest, 9), run(Missed::All, 9)), (1, 1, 3));
    let later = to + seconds(60);
    let run = |missed, cap| by_the_policy("*/20 * * * *", missed, cap, from, later).len();
    assert_eq!((run(Missed::Skip, 9), run(Missed::Latest, 9), run(Missed::All, 2)), (0, 1, 2));
    assert!(by_the_policy("*/20 * * * *", Missed::All, 9, to, to - minutes(30)).is_empty());
    assert_eq!(by_the_policy("* * * * *", Missed::All, 9, to, to - hours(1)).len(), 1);
}
