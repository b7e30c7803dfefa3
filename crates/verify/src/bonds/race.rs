//! Checks that only one of several concurrent accepts creates a bond, and that no user in the database has
//! inconsistent slots.

use std::sync::Arc;

use kith_readiness::{Check, RequestError, Run, Shortfall, SyntheticAccount};
use serde_json::Value;
use tokio::sync::Barrier;

use crate::synthetic_accounts::{
    REQUESTS, break_up, current, ensure, send_request, status, unbonded_account,
};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "PRT-03",
    description: "has nine users send requests to one user, who accepts all nine concurrently on all known nodes; \
           counts users with several bonds, and checks for the unique key that prevents a second one",
    remediation: "stop writes, end the surplus bonds, and restore the schema that `kith migrate status` expects",
    runs_last: false,
    run: |run| Box::pin(check_slot_race(run)),
}];

/// Number of requests that are accepted at the same moment.
const CONCURRENT_REQUESTS: usize = 9;

async fn check_slot_race(run: &Run) -> Result<String, Shortfall> {
    let one = unbonded_account(run, 1).await?;
    let mut asking = Vec::new();
    for n in 2..2 + CONCURRENT_REQUESTS {
        let account = unbonded_account(run, n).await?;
        asking.push((send_request(&account, &one).await?, account));
    }
    let statuses = accept_all(run, &one, asking.iter().map(|(request, _)| request.clone())).await?;
    let won = statuses.iter().filter(|status| **status == 200).count();
    run.record("accepted_at_once", CONCURRENT_REQUESTS);
    run.record("won", won);
    let odd = statuses.iter().find(|status| ![200, 409].contains(*status));
    ensure(odd.is_none(), || {
        format!("an acceptance returned {} instead of 200 or 409", odd.copied().unwrap_or_default())
    })?;
    ensure(won == 1, || {
        format!("of {CONCURRENT_REQUESTS} concurrent acceptances for one slot {won} succeeded instead of one")
    })?;

    let mine = current(&one).await?;
    for ((request, account), answered) in asking.iter().zip(&statuses) {
        let (bond, reads) = (current(account).await?, status(account, request).await?);
        let wanted = if *answered == 200 { (&mine["id"], "accepted") } else { (&Value::Null, "superseded") };
        ensure(bond["id"] == *wanted.0 && reads == wanted.1, || {
            format!(
                "after the race, the sender whose request got {answered} has the bond {} and the request status {reads}",
                bond["id"]
            )
        })?;
    }
    break_up(&one).await?;
    check_slot_facts(run).await?;
    Ok(format!(
        "of {CONCURRENT_REQUESTS} concurrent acceptances one succeeded; no user has two bonds, and a unique \
         key of the database prevents a second"
    ))
}

/// Accepts all `requests` at the same moment, distributed over the nodes. Returns the statuses of the
/// responses.
async fn accept_all(
    run: &Run,
    by: &SyntheticAccount,
    requests: impl ExactSizeIterator<Item = String>,
) -> Result<Vec<u16>, Shortfall> {
    let target = run.deployment().target();
    let nodes: Vec<_> = std::iter::once(&target.url).chain(&target.other_nodes).collect();
    let together = Arc::new(Barrier::new(requests.len()));
    let mut accepting = Vec::new();
    for (n, request) in requests.enumerate() {
        let (client, together) = (by.client.with_base_url(nodes[n % nodes.len()]), Arc::clone(&together));
        accepting.push(tokio::spawn(async move {
            together.wait().await;
            client.post(&format!("{REQUESTS}/{request}/accept"), Value::Null).await
        }));
    }
    let mut statuses = Vec::new();
    for one in accepting {
        let response = one
            .await
            .map_err(|error| RequestError { request: "accept".to_owned(), reason: error.to_string() })?;
        statuses.push(response?.status);
    }
    Ok(statuses)
}

/// Fails if the facts report users with several bonds, users with missing or stale slots, or a missing unique
/// key.
async fn check_slot_facts(run: &Run) -> Result<(), Shortfall> {
    let facts = run.facts().await?;
    let slots = &facts["modules"]["bonds.slots"];
    run.record("slots", slots.clone());
    let count = |name: &str| slots[name].as_i64().unwrap_or(-1);
    let several = count("users_with_several_bonds");
    ensure(several == 0, || format!("{several} users have more than one active bond"))?;
    let without = count("bonds_without_both_slots");
    ensure(without == 0, || format!("{without} active bonds lack a slot"))?;
    let stale = count("slots_of_ended_bonds");
    ensure(stale == 0, || format!("{stale} slots are occupied by ended bonds"))?;
    ensure(slots["unique_key"] == true, || {
        "the database has no unique key that prevents a second slot".to_owned()
    })
}
