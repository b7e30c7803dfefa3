//! Checks that the metrics of partner requests count requests, outcomes and rejections.

use kith_readiness::{Check, Run, Shortfall};
use serde_json::json;

use crate::synthetic_accounts::{REQUESTS, ensure, unbonded_account};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "OBS-12",
    description: "sends a request, cancels it and sends an invalid one, and reads /api/metrics before and after",
    remediation: "scrape /api/metrics of each node directly; use --node if the target distributes requests over several nodes",
    runs_last: false,
    run: |run| Box::pin(check_partner_metrics(run)),
}];

async fn check_partner_metrics(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 5).await?, unbonded_account(run, 9).await?);
    let client = ada.client.with_base_url(run.node());
    let before = run.counters().await?;
    let sent = client.post(REQUESTS, json!({ "to": { "user_id": ben.id } })).await?.expect(201)?;
    let cancel = format!("{REQUESTS}/{}/cancel", sent.text_at("/id")?);
    client.post(&cancel, serde_json::Value::Null).await?.expect(200)?;
    client.post(REQUESTS, json!({ "to": { "user_id": ada.id } })).await?.expect(422)?;
    let after = run.counters().await?;
    let route = |labels: &str| format!("method=\"POST\",route=\"{REQUESTS}\"{labels}");
    let of_requests =
        |status: &str| format!("kith_http_requests_total{{{}}}", route(&format!(",status=\"{status}\"")));
    let series = [
        ("requests made", "kith_events_total{kind=\"partner_request.created\"}".to_owned(), 1.0),
        ("requests cancelled", "kith_events_total{kind=\"partner_request.cancelled\"}".to_owned(), 1.0),
        ("successes", of_requests("2xx"), 1.0),
        ("failures", of_requests("4xx"), 1.0),
        ("times measured", format!("kith_http_request_duration_seconds_count{{{}}}", route("")), 2.0),
    ];
    for (what, name, wanted) in &series {
        let grown = after.increase_since(&before, name);
        run.record(what, grown);
        // Traffic of other users may increase the counter further.
        ensure(grown >= *wanted, || format!("{what} increased by {grown} instead of {wanted}: {name}"))?;
    }
    let (good, bad) = (after.value(&of_requests("2xx")), after.value(&of_requests("4xx")));
    let share = 100.0 * good / (good + bad);
    Ok(format!(
        "{} series increased as expected; {share:.0} % of the partner requests sent to this node succeeded",
        series.len()
    ))
}
