//! How passwords are kept.

use kith_readiness::{Check, Run, Shortfall};

use super::super::passwords::Hashes;
use crate::cast::ensure;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "ACC-06",
    does: "has the server count password hashes by scheme and cost, and holds each kind against policy",
    mend: "set auth.password_memory_kib and auth.password_iterations to their defaults at least; a hash is made anew when its \
           owner next signs in, so let those sign in whose hashes are weak, or have them choose another password",
    last: false,
    run: |run| Box::pin(are_strong(run)),
}];

async fn are_strong(run: &Run) -> Result<String, Shortfall> {
    let mut facts = run.facts().await?;
    let told = facts["modules"]["accounts.password_hashes"].take();
    let Ok(kinds) = serde_json::from_value::<Vec<Hashes>>(told.clone()) else {
        return Err(Shortfall::unmeasured(
            "the server does not count its hashes",
            "run this build on the server too",
        ));
    };
    run.figure("hashes", told);
    let all: i64 = kinds.iter().map(|kind| kind.accounts).sum();
    ensure(all > 0, || "there is no password at all, not even the one of who asks".to_owned())?;
    let weak = kinds.iter().find(|kind| !kind.is_strong());
    let told = |kind: &Hashes| format!("{} of {all} by {} {}", kind.accounts, kind.scheme, kind.cost);
    ensure(weak.is_none(), || format!("below policy: {}", weak.map(told).unwrap_or_default()))?;
    let kinds: Vec<_> = kinds.iter().map(told).collect();
    Ok(format!("all {all} passwords are kept at or above policy: {}", kinds.join("; ")))
}
