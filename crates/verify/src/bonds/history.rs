//! Checks that histories of requests and bonds are complete, and that archiving is up to date.

use kith_readiness::{Check, Person, Run, Shortfall};
use serde_json::Value;

use super::DEFAULT_REMEDIATION;
use crate::cast::{REQUESTS, ask, break_up, decide, ensure, items, single};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-07",
        does: "has two users send, reject, cancel and accept requests, break up and restore the bond; \
               compares both histories with these actions, and counts the positions of all events",
        mend: DEFAULT_REMEDIATION,
        last: false,
        run: |run| Box::pin(tells_all(run)),
    },
    Check {
        row: "PRT-08",
        does: "reads how long the oldest bond due for archiving is overdue",
        mend: "look in the log for failures of the maintenance jobs, and check that a server runs",
        last: false,
        run: |run| Box::pin(is_archived(run)),
    },
];

async fn tells_all(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (single(run, 7).await?, single(run, 10).await?);
    let mut done = Vec::new();
    for (from, to, step) in
        [(&ada, &ben, "reject"), (&ben, &ada, "cancel"), (&ben, &ada, "accept"), (&ada, &ben, "accept")]
    {
        let id = ask(from, to).await?;
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
        let told = requests_with(one, other).await?;
        ensure(told == done, || format!("{} requests were sent, but the list has {told:?}", done.len()))?;
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
    run.figure("requests", done.len());
    run.figure("positions", positions.clone());
    Ok(format!(
        "both users read the {} requests and the restored bond as expected; {} events without a gap in their positions",
        done.len(),
        at("count")
    ))
}

/// Returns the requests between two users, oldest first: id, sender id and status.
async fn requests_with(one: &Person, other: &Person) -> Result<Vec<(String, String, String)>, Shortfall> {
    let mut all = items(one, &format!("{REQUESTS}?limit=100")).await?;
    all.retain(|item| item["from"]["id"] == *other.id || item["to"]["id"] == *other.id);
    all.reverse();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|item| (text(&item["id"]), text(&item["from"]["id"]), text(&item["status"]))).collect())
}

/// Archiving runs every minute. Bonds that are due for more than a day indicate that it has stopped.
const MAX_ARCHIVE_DELAY_S: i64 = 86_400;

async fn is_archived(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let archive = &facts["modules"]["bonds.archive"];
    run.figure("archive", archive.clone());
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
