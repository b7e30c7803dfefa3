//! Checks that the scheduled jobs of modules run on time.

use kith_readiness::{Check, Run, Shortfall};
use serde_json::Value;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "JOB-02",
    description: "reads the last success and the failures within a day of each scheduled maintenance job",
    remediation: "run `kith schedules list` for paused schedules and `kith jobs list --state dead` for failures; \
           check that a server or a `kith worker` runs",
    runs_last: false,
    run: |run| Box::pin(check_schedules(run)),
}];

/// Time in milliseconds that may pass until the runs of a minute are recorded.
const RECORDING_DELAY_MS: i64 = 75_000;

async fn check_schedules(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let all = facts["modules"]["jobs.maintenance"].as_array().cloned().unwrap_or_default();
    if all.is_empty() {
        return Err(Shortfall::fails("no maintenance schedule is declared".to_owned()));
    }
    let wrong: Vec<_> = all.iter().filter_map(fault).collect();
    run.record("schedules", all.len());
    run.record("maintenance", Value::from(all.clone()));
    if !wrong.is_empty() {
        return Err(Shortfall::fails(wrong.join("; ")));
    }
    Ok(format!("{} maintenance jobs ran on time, and none failed within a day", all.len()))
}

/// Returns a description of the fault if a scheduled job is paused, never due, or late.
fn fault(one: &Value) -> Option<String> {
    let kind = one["kind"].as_str().unwrap_or("(unnamed)");
    let number = |name: &str| one[name].as_i64();
    if one["paused"] == true {
        return Some(format!("{kind} is paused"));
    }
    let Some((every_ms, now)) = number("every_ms").zip(number("now")) else {
        return Some(format!("{kind} is never due"));
    };
    // For a job that was declared recently, the delay counts from its declaration.
    let last = number("completed_in").into_iter().chain(number("since")).max().unwrap_or(0);
    let late_ms = now - last - 2 * every_ms - RECORDING_DELAY_MS;
    if late_ms > 0 {
        return Some(format!(
            "{kind} last succeeded {} s ago, but is due every {} s",
            (now - last) / 1_000,
            every_ms / 1_000
        ));
    }
    let (failed, dead) = (number("failed").unwrap_or(0), number("dead").unwrap_or(0));
    (failed + dead > 0).then(|| format!("{kind} failed {failed} times within a day"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn late_paused_and_failing_schedules_are_reported() {
        let now = 10_000_000_i64;
        let good = json!({ "kind": "a.b", "paused": false, "every_ms": 60_000, "since": 0, "now": now,
            "completed_in": now - 60_000, "failed": 0, "dead": 0 });
        assert_eq!(fault(&good), None);
        let with = |name: &str, value: Value| {
            let mut one = good.clone();
            one[name] = value;
            fault(&one)
        };
        assert!(with("paused", true.into()).unwrap().contains("paused"));
        assert!(with("completed_in", (now - 400_000).into()).unwrap().contains("400 s ago"));
        assert!(with("completed_in", Value::Null).unwrap().contains("last succeeded"));
        assert!(with("failed", 2.into()).unwrap().contains("2 times"));
        assert!(with("every_ms", Value::Null).unwrap().contains("never"));
        assert_eq!(
            with("since", (now - 1_000).into()),
            None,
            "a schedule declared one second ago has no fault"
        );
    }
}
