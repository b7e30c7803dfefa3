//! Checks that callbacks to internal addresses are rejected.

use std::net::SocketAddr;

use kith_readiness::{Check, Run, Shortfall};
use serde_json::json;

use crate::networks::ListedNetwork;
use crate::spellings::{LOOPBACK, PRIVATE, SPELLINGS};
use crate::synthetic_accounts::ensure;

pub(crate) const CHECKS: &[Check] = &[Check {
    row: "DRV-14",
    description: "registers callback endpoints with internal addresses in a hundred spellings, except listed \
           private networks, and expects each to be rejected",
    remediation: "list only the intended networks and ports in `outbound.allowed_networks`, never whole loopback or \
           link-local networks",
    runs_last: false,
    run: |run| Box::pin(check_internal_targets_rejected(run)),
}];

async fn check_internal_targets_rejected(run: &Run) -> Result<String, Shortfall> {
    let settings = run.facts().await?["configuration"]["settings"].clone();
    let listed = settings["outbound"]["allowed_networks"].clone();
    let listed = ListedNetwork::all(&listed);
    let is_development = settings["server"]["mode"] == "development";
    let count = listed.len();
    // Skips targets that the configuration allows: listed private networks, and in development mode listed
    // loopback addresses. All other targets must be rejected.
    let is_meant = |spelling: &str| {
        let names = |table: &[(&str, &str)]| {
            let named = table.iter().filter(|(one, _)| *one == spelling);
            let mut addresses = named.filter_map(|(_, address)| address.parse::<SocketAddr>().ok());
            addresses.any(|at| listed.iter().any(|network| network.allows(at.ip(), at.port())))
        };
        names(PRIVATE) || (is_development && names(LOOPBACK))
    };
    let admin = run.admin().await?;
    let mut refused = 0;
    // All URLs use https, because production mode would reject http URLs for that reason alone.
    let spellings = SPELLINGS.iter().filter(|spelling| !is_meant(spelling));
    for spelling in spellings.map(|spelling| spelling.replacen("http:", "https:", 1)) {
        let response = admin.post("/api/v1/callback-endpoints", json!({ "url": spelling })).await?;
        ensure(response.status == 422, || {
            format!("{spelling:?} returned {} instead of 422", response.status)
        })?;
        refused += 1;
    }
    run.record("spellings_refused", refused);
    run.record("networks_listed", count);
    Ok(format!(
        "{refused} of {refused} spellings were rejected; {count} internal networks are listed as allowed"
    ))
}
