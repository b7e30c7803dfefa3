//! Checks the job queue: a client claims and completes jobs over HTTP, as an external worker does. The check
//! uses a queue of its own.

use kith_readiness::{Check, Client, Run, Shortfall};
use serde_json::{Value, json};

use crate::synthetic_accounts::ensure;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "JOB-01",
        description: "enqueues immediate, delayed, urgent and unique jobs in a queue of its own; claims, fails, \
               retries, cancels and completes them, and compares their states",
        remediation: "run `kith jobs list`; check that the queue `kith-verify…` is not paused, and read the log",
        runs_last: false,
        run: |run| Box::pin(check_job_lifecycle(run)),
    },
    Check {
        row: "JOB-03",
        description: "completes one job and fails another, and reads the metrics of jobs before and after",
        remediation: "check whether requests and metrics reach the same node; verify each node separately",
        runs_last: false,
        run: |run| Box::pin(check_job_metrics(run)),
    },
    Check {
        row: "REL-07",
        description: "lets a job fail until it is dead, and compares each backoff with the policy",
        remediation: "look in the log for the reason why failed attempts are not retried on time",
        runs_last: false,
        run: |run| Box::pin(check_dead_letter(run)),
    },
];

const METRICS: &str = "/api/metrics";

/// Queue that is used only in this run.
struct Queue {
    admin: Client,
    name: String,
}

/// Job that the check has claimed.
#[derive(Debug)]
struct Lease {
    id: i64,
    attempt: i64,
    token: Value,
}

impl Queue {
    async fn of(run: &Run, what: &str) -> Result<Self, Shortfall> {
        Ok(Self { admin: run.admin().await?.with_base_url(run.node()), name: run.marker(what) })
    }

    async fn add(&self, payload: Value, more: Value) -> Result<i64, Shortfall> {
        let mut body = json!({ "queue": self.name, "kind": "kith.verify", "payload": payload });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let response = self.admin.post("/api/v1/jobs", body).await?.expect(201)?.json();
        response["id"]
            .as_i64()
            .ok_or_else(|| Shortfall::fails("the response to enqueuing a job has no id".to_owned()))
    }

    /// Claims up to `limit` jobs of the queue.
    async fn claim(&self, limit: i64) -> Result<Vec<Lease>, Shortfall> {
        let path = format!("/api/v1/queues/{}/claim", self.name);
        let body = json!({ "worker": "kith verify", "limit": limit, "lease_ms": 30_000 });
        let response = self.admin.post(&path, body).await?.expect(200)?.json();
        let jobs = response["jobs"].as_array().cloned().unwrap_or_default();
        let read = |job: &Value| Lease {
            id: job["id"].as_i64().unwrap_or(0),
            attempt: job["attempt"].as_i64().unwrap_or(0),
            token: job["lease_token"].clone(),
        };
        Ok(jobs.iter().map(read).collect())
    }

    async fn claim_one(&self, id: i64, attempt: i64) -> Result<Lease, Shortfall> {
        let mut leases = self.claim(1).await?;
        let taken: Vec<_> = leases.iter().map(|job| (job.id, job.attempt)).collect();
        ensure(taken == [(id, attempt)], || {
            format!("the claim should have returned attempt {attempt} of job {id}, and returned {taken:?}")
        })?;
        Ok(leases.remove(0))
    }

    /// Sends a report about a claimed job. Fails if the status of the response differs from `status`.
    async fn report(&self, lease: &Lease, what: &str, body: Value, status: u16) -> Result<Value, Shortfall> {
        let mut body = body;
        body["lease_token"] = lease.token.clone();
        self.post_job_action(lease.id, what, body, status).await
    }

    async fn post_job_action(
        &self,
        id: i64,
        what: &str,
        body: Value,
        status: u16,
    ) -> Result<Value, Shortfall> {
        Ok(self.admin.post(&format!("/api/v1/jobs/{id}/{what}"), body).await?.expect(status)?.json())
    }

    async fn job(&self, id: i64) -> Result<Value, Shortfall> {
        Ok(self.admin.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?.json())
    }

    async fn is(&self, id: i64, state: &str) -> Result<(), Shortfall> {
        let found = self.job(id).await?;
        ensure(found["state"] == state, || format!("job {id} should be {state}, but is {}", found["state"]))
    }
}

async fn check_job_lifecycle(run: &Run) -> Result<String, Shortfall> {
    let queue = Queue::of(run, "verify-jobs").await?;
    let first = queue.add(json!({ "n": 1 }), json!({})).await?;
    let urgent = queue.add(json!({ "n": 2 }), json!({ "priority": 0 })).await?;
    let delayed = queue.add(json!({ "n": 3 }), json!({ "delay_ms": 3_600_000 })).await?;
    let unique = json!({ "unique": { "key": run.marker("only-one") } });
    let once = queue.add(json!({ "n": 4 }), unique.clone()).await?;
    let duplicate = queue.add(json!({ "n": 5 }), unique).await?;
    ensure(once == duplicate, || "two jobs were created with one unique key".to_owned())?;
    queue.is(first, "ready").await?;
    queue.is(delayed, "scheduled").await?;

    let taken = queue.claim(10).await?;
    let order: Vec<_> = taken.iter().map(|job| job.id).collect();
    let [urgent_lease, first_lease, unique_lease] = &taken[..] else {
        return Err(Shortfall::fails(format!("3 jobs were ready, but the claim returned {order:?}")));
    };
    ensure(order == [urgent, first, once], || {
        format!("claimed in the order {order:?} instead of {:?}", [urgent, first, once])
    })?;
    queue.is(urgent, "running").await?;
    queue.report(urgent_lease, "heartbeat", json!({ "lease_ms": 30_000 }), 200).await?;
    queue.report(urgent_lease, "complete", json!({ "result": { "sum": 42 } }), 200).await?;
    let done = queue.job(urgent).await?;
    ensure(done["state"] == "completed" && done["result"]["sum"] == 42, || {
        format!("the job was completed with 42, but reads {done}")
    })?;
    // The lease of this attempt has ended, so its report must be rejected.
    queue.report(urgent_lease, "complete", json!({}), 409).await?;

    queue.report(first_lease, "fail", json!({ "error": "on purpose", "action": "discard" }), 200).await?;
    queue.is(first, "dead").await?;
    queue.post_job_action(first, "retry", json!({}), 200).await?;
    let second_lease = queue.claim_one(first, 2).await?;
    queue.report(first_lease, "complete", json!({}), 409).await?;
    queue.report(&second_lease, "complete", json!({}), 200).await?;
    queue.is(first, "completed").await?;

    queue.post_job_action(delayed, "cancel", json!({}), 200).await?;
    queue.is(delayed, "cancelled").await?;
    queue.post_job_action(once, "cancel", json!({}), 200).await?;
    let heartbeat = queue.report(unique_lease, "heartbeat", json!({}), 200).await?;
    ensure(heartbeat["cancel_requested"] == true, || {
        format!("the heartbeat does not report the requested cancellation: {heartbeat}")
    })?;
    queue.report(unique_lease, "fail", json!({ "action": "cancel" }), 200).await?;
    queue.is(once, "cancelled").await?;
    let remaining = queue.claim(10).await?;
    ensure(remaining.is_empty(), || format!("the queue still has ready jobs: {remaining:?}"))?;
    Ok("4 jobs had the expected states: claimed by priority, delayed, unique, failed and retried, completed, \
        cancelled; two stale reports were rejected"
        .to_owned())
}

async fn check_job_metrics(run: &Run) -> Result<String, Shortfall> {
    let queue = Queue::of(run, "verify-counts").await?;
    queue.add(json!(1), json!({})).await?;
    queue.add(json!(2), json!({})).await?;
    let taken = queue.claim(2).await?;
    let [good, bad] = &taken[..] else {
        return Err(Shortfall::fails(format!("2 jobs were ready, but {} could be claimed", taken.len())));
    };
    queue.report(good, "complete", json!({}), 200).await?;
    queue.report(bad, "fail", json!({ "error": "on purpose", "action": "discard" }), 200).await?;
    let text = queue.admin.get(METRICS).await?.expect(200)?.text();
    let of_queue = format!("queue=\"{}\"", queue.name);
    let count = |series: &str, label: &str| {
        let is_it =
            |line: &&str| line.starts_with(series) && line.contains(&of_queue) && line.contains(label);
        text.lines().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    for (label, expected) in
        [("outcome=\"started\"", 2.0), ("outcome=\"completed\"", 1.0), ("outcome=\"dead\"", 1.0)]
    {
        let found = count("kith_jobs_attempts_total", label);
        ensure(found == Some(expected), || format!("{label} should be {expected}, but is {found:?}"))?;
    }
    let durations = count("kith_jobs_duration_seconds_count", "");
    ensure(durations == Some(2.0), || format!("2 attempts ended, but {durations:?} durations are counted"))?;
    for series in ["kith_jobs{", "kith_jobs_oldest_runnable_seconds{", "kith_jobs_wait_seconds_total{"] {
        ensure(text.lines().any(|line| line.starts_with(series)), || {
            format!("there is no series {series}…}}")
        })?;
    }
    Ok("attempts, durations and waits counted two jobs; queue depth and age of the oldest runnable job are present"
        .to_owned())
}

async fn check_dead_letter(run: &Run) -> Result<String, Shortfall> {
    let queue = Queue::of(run, "verify-retries").await?;
    let policy = json!({ "retry": { "max_attempts": 3, "base_ms": 400, "cap_ms": 600 } });
    let job = queue.add(json!({}), policy).await?;
    let mut waits = Vec::new();
    for (attempt, full_ms) in [(1, 400), (2, 600)] {
        let lease = queue.claim_one(job, attempt).await?;
        queue.report(&lease, "fail", json!({ "error": "on purpose" }), 200).await?;
        let shown = queue.job(job).await?;
        let at =
            |name: &str| shown[name].as_str().and_then(|text| text.parse::<kith_kernel::Timestamp>().ok());
        let failed =
            shown["errors"].as_array().and_then(|errors| errors.last()?["at"].as_str()?.parse().ok());
        let wait_ms = at("run_at")
            .zip(failed)
            .map(|(next, at): (_, kith_kernel::Timestamp)| next.since(at).as_millis());
        let within = wait_ms.is_some_and(|ms| (full_ms / 2..=full_ms).contains(&ms));
        ensure(within, || {
            format!(
                "after failure {attempt} the backoff should be {} to {full_ms} ms, but is {wait_ms:?}",
                full_ms / 2
            )
        })?;
        waits.extend(wait_ms);
        let early = queue.claim(1).await?;
        ensure(early.is_empty(), || format!("the job was retried too early: {early:?}"))?;
        queue.admin.wait(std::time::Duration::from_millis(700)).await;
    }
    let lease = queue.claim_one(job, 3).await?;
    queue.report(&lease, "fail", json!({ "error": "on purpose" }), 200).await?;
    let dead = queue.job(job).await?;
    let failures = dead["errors"].as_array().map_or(0, Vec::len);
    ensure(dead["state"] == "dead" && failures == 3, || {
        format!("after 3 failures the job is {} with {failures} recorded errors", dead["state"])
    })?;
    run.record("waits_ms", waits.iter().map(|ms| u64::try_from(*ms).unwrap_or(u64::MAX)).collect::<Vec<_>>());
    Ok(format!(
        "backoffs of {waits:?} ms match the policy; after three failures the job is dead and has all three errors"
    ))
}
