//! Checks that histories of requests and bonds are complete, and that ended bonds are archived in time.

use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::Value;

use super::DEFAULT_REMEDIATION;
use crate::synthetic_accounts::{REQUESTS, break_up, decide, ensure, items, send_request, unbonded_account};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-07",
        description: "has two users send, reject, cancel and accept requests, break up and restore the bond; \
               compares both histories with these actions, and counts the positions of all events",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_history(run)),
    },
    Check {
        row: "PRT-08",
        description: "reads how long the oldest bond due for archiving is overdue",
        remediation: "look in the log for failures of the maintenance jobs, and check that a server runs",
        runs_last: false,
        run: |run| Box::pin(check_archive_delay(run)),
    },
];

async fn check_history(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 7).await?, unbonded_account(run, 10).await?);
    let mut done = Vec::new();
    for (from, to, step) in
        [(&ada, &ben, "reject"), (&ben, &ada, "cancel"), (&ben, &ada, "accept"), (&ada, &ben, "accept")]
    {
        let id = send_request(from, to).await?;
        let by = if step == "cancel" { from } else { to };
        decide(by, &id, step).await?.expect(200)?;
        let ends = match step {
            "reject" => "rejected",
            "cancel" => "cancelled",
            _ => "accepted",
        };
        done.push((id, from.id.clone(), ends.to_owned()));
        if step == "accept" {
            break_up(to).await?;
        }
    }
    for (one, other) in [(&ada, &ben), (&ben, &ada)] {
        let listed = requests_with(one, other).await?;
        ensure(listed == done, || format!("{} requests were sent, but the list has {listed:?}", done.len()))?;
        let bonds: Vec<_> = items(one, "/api/v1/partners/history?limit=100").await?;
        let bonds: Vec<_> = bonds.iter().filter(|bond| bond["partner"]["id"] == *other.id).collect();
        let breakups = |bond: &Value| bond["breakups"].as_array().map_or(0, Vec::len);
        ensure(bonds.len() == 1 && breakups(bonds[0]) == 2 && bonds[0]["restorations"] == 1, || {
            format!(
                "the history has {} bonds instead of one that was restored once and ended twice",
                bonds.len()
            )
        })?;
    }
    let facts = run.facts().await?;
    let positions = &facts["modules"]["events.positions"];
    let at = |name: &str| positions[name].as_i64().unwrap_or(-1);
    let missing = at("last") - at("first") + 1 - at("count");
    ensure(at("count") > 0 && missing == 0, || {
        format!("{missing} event positions are missing: {positions}")
    })?;
    run.record("requests", done.len());
    run.record("positions", positions.clone());
    Ok(format!(
        "both users read the {} requests and the restored bond as expected; {} events without a gap in their positions",
        done.len(),
        at("count")
    ))
}

/// Returns the id, sender id and status of each request between two users, oldest first.
async fn requests_with(
    one: &SyntheticAccount,
    other: &SyntheticAccount,
) -> Result<Vec<(String, String, String)>, Shortfall> {
    let mut all = items(one, &format!("{REQUESTS}?limit=100")).await?;
    all.retain(|item| item["from"]["id"] == *other.id || item["to"]["id"] == *other.id);
    all.reverse();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|item| (text(&item["id"]), text(&item["from"]["id"]), text(&item["status"]))).collect())
}

/// Maximum delay of archiving in seconds. Archiving runs every minute, so a bond that is due for more than a
/// day shows that it has stopped.
const MAX_ARCHIVE_DELAY_S: i64 = 86_400;

async fn check_archive_delay(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let archive = &facts["modules"]["bonds.archive"];
    run.record("archive", archive.clone());
    let (Some(overdue), Some(archived)) = (archive["overdue_s"].as_i64(), archive["archived"].as_i64())
    else {
        return Err(Shortfall::unmeasured("the server does not report its archive", "deploy this build"));
    };
    ensure(overdue <= MAX_ARCHIVE_DELAY_S, || {
        format!("a bond has been due for archiving for {overdue} s, more than {MAX_ARCHIVE_DELAY_S} s")
    })?;
    let spaces = facts["modules"]["spaces.archive"]["overdue_s"].as_i64().unwrap_or(i64::MAX);
    ensure(spaces <= MAX_ARCHIVE_DELAY_S, || {
        format!("the space of an archived bond has been due for archiving for {spaces} s")
    })?;
    Ok(format!("the oldest bond due for archiving is overdue by {overdue} s; {archived} bonds are archived"))
}
