//! The surface of the API: what every operation has in common.

use kith_readiness::{Check, Run, Shortfall};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-11",
    does: "asks /livez, /readyz and /api/health without signing in",
    mend: "see which dependency /api/health says is not well",
    last: false,
    run: |run| Box::pin(health(run)),
}];

async fn health(run: &Run) -> Result<String, Shortfall> {
    let anonymous = run.anonymous();
    anonymous.get("/livez").await?.expect(200)?;
    let ready = anonymous.get("/readyz").await?.expect(200)?.json();
    let Some(checks) = ready["checks"].as_object().filter(|checks| checks.len() > 1) else {
        return Err(Shortfall::fails("/readyz names no dependencies"));
    };
    let names: Vec<_> = checks.keys().cloned().collect();
    let status = anonymous.get("/api/health").await?.expect(200)?.text_at("/status")?;
    run.figure("dependencies", names.clone());
    Ok(format!("it lives, is ready and {status}es; it depends on {}", names.join(", ")))
}
