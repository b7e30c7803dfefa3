//! What shows on a running deployment that no callback can be aimed at what is internal.

use kith_platform::config::{AllowedNetwork, Config};
use kith_platform::outbound::corpus::SPELLINGS;
use kith_platform::outbound::{Internal, Outbound, TargetError};
use kith_readiness::{Check, Run, Shortfall};
use serde_json::json;

use crate::cast::ensure;

pub const CHECKS: &[Check] = &[Check {
    row: "DRV-14",
    does: "names internal addresses in a hundred spellings as receivers of callbacks, private networks that the configuration \
           lists aside, and looks for one that is not refused",
    mend: "list in `outbound.allowed_networks` only the networks and ports that are meant, and never whole loopback or \
           link-local ones",
    last: false,
    run: |run| Box::pin(nothing_internal_is_a_receiver(run)),
}];

async fn nothing_internal_is_a_receiver(run: &Run) -> Result<String, Shortfall> {
    let settings = run.facts().await?["configuration"]["settings"].clone();
    let listed = settings["outbound"]["allowed_networks"].clone();
    let listed: Vec<AllowedNetwork> = serde_json::from_value(listed).unwrap_or_default();
    let is_development = settings["server"]["mode"] == "development";
    let count = listed.len();
    let mut config = Config::default();
    config.outbound.allowed_networks.clear();
    let usual = Outbound::new(&config);
    config.outbound.allowed_networks = listed;
    let as_listed = Outbound::new(&config);
    // Private networks may be meant, and in development mode the machine itself; what clouds tell their machines never is,
    // but on a port.
    let is_meant = |spelling: &str| {
        let may_be_meant = match usual.target(spelling) {
            Err(TargetError::Internal(Internal::Private | Internal::CarrierGrade)) => true,
            Err(TargetError::Internal(Internal::Loopback | Internal::EmbeddedIpv4)) => is_development,
            _ => false,
        };
        may_be_meant && as_listed.target(spelling).is_ok()
    };
    let admin = run.admin().await?;
    let mut refused = 0;
    // Over https: production mode refuses the others for another reason.
    let spellings = SPELLINGS.iter().map(|spelling| spelling.replacen("http:", "https:", 1));
    for spelling in spellings.filter(|spelling| !is_meant(spelling)) {
        let answer = admin.post("/api/v1/callback-endpoints", json!({ "url": spelling })).await?;
        ensure(answer.status == 422, || {
            format!("{spelling:?} was answered {} instead of 422", answer.status)
        })?;
        refused += 1;
    }
    run.figure("spellings_refused", refused);
    run.figure("networks_listed", count);
    Ok(format!("{refused} of {refused} spellings refused; {count} internal networks are listed as allowed"))
}
