//! What shows on a running deployment that bonds do what they should.

use kith_readiness::{Check, Run, Shortfall};
use serde_json::{Value, json};

pub const CHECKS: &[Check] = &[Check {
    row: "PRT-01",
    does: "sends, lists, rejects, takes back and accepts requests under the old paths, and reads each back",
    mend: "look up the request id of the step that failed in the log",
    last: false,
    run: |run| Box::pin(serves(run)),
}];

const OLD: &str = "/api/enhanced-partners";

async fn serves(run: &Run) -> Result<String, Shortfall> {
    for (step, ends) in [("reject", "rejected"), ("cancel", "cancelled"), ("accept", "accepted")] {
        // Others each time: whoever was refused waits before asking the same one again.
        let (ada, ben) =
            (run.person(&format!("sends-{step}")).await?, run.person(&format!("gets-{step}")).await?);
        let sent =
            ada.client.post(&format!("{OLD}/request"), json!({ "partnerId": ben.id })).await?.expect(201)?;
        let id = sent.text_at("/id")?;
        let incoming = format!("{OLD}/requests?direction=incoming&status=pending");
        let listed = ben.client.get(&incoming).await?.expect(200)?.json();
        if !listed["items"].as_array().is_some_and(|items| items.iter().any(|item| item["id"] == *id)) {
            return Err(Shortfall::fails(format!("request {id} is not in its receiver's list")));
        }
        let by = if step == "cancel" { &ada } else { &ben };
        by.client.post(&format!("{OLD}/requests/{id}/{step}"), Value::Null).await?.expect(200)?;
        let read = ada.client.get(&format!("/api/v1/partners/requests/{id}")).await?.expect(200)?;
        let status = read.text_at("/status")?;
        if status != ends {
            return Err(Shortfall::fails(format!(
                "after {step} request {id} reads {status} instead of {ends}"
            )));
        }
    }
    Ok("sent, listed, rejected, taken back and accepted; each step read back".to_owned())
}
