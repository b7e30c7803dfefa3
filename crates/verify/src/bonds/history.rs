//! Checks that histories of requests and bonds are complete, and that archiving is up to date.

use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::Value;

use super::DEFAULT_REMEDIATION;
use crate::synthetic_accounts::{REQUESTS, break_up, decide, ensure, items, send_request, unbonded_account};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-07",
        description: "two people ask, refuse, take back, accept, part and come back; compares both histories with what they did, and \
               counts the positions of all events",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_history(run)),
    },
    Check {
        row: "PRT-08",
        description: "asks for how long the bond has been over that waits longest to be archived",
        remediation: "see in the log why the upkeep fails, and that a server runs",
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
        ensure(listed == done, || {
            format!("{} requests were made, and this is told of them: {listed:?}", done.len())
        })?;
        let bonds: Vec<_> = items(one, "/api/v1/partners/history?limit=100").await?;
        let bonds: Vec<_> = bonds.iter().filter(|bond| bond["partner"]["id"] == *other.id).collect();
        let breakups = |bond: &Value| bond["breakups"].as_array().map_or(0, Vec::len);
        ensure(bonds.len() == 1 && breakups(bonds[0]) == 2 && bonds[0]["restorations"] == 1, || {
            format!("one bond came back once and ended twice, and {} bonds are told of", bonds.len())
        })?;
    }
    let facts = run.facts().await?;
    let positions = &facts["modules"]["events.positions"];
    let at = |name: &str| positions[name].as_i64().unwrap_or(-1);
    let missing = at("last") - at("first") + 1 - at("count");
    ensure(at("count") > 0 && missing == 0, || {
        format!("{missing} positions of events are missing: {positions}")
    })?;
    run.record("requests", done.len());
    run.record("positions", positions.clone());
    Ok(format!(
        "{} requests and a bond that came back are told to both as they were made; {} events without a gap",
        done.len(),
        at("count")
    ))
}

/// Returns the requests between two users, oldest first: id, sender id and status.
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

/// Archiving runs every minute. Bonds that are due for more than a day indicate that it has stopped.
const MAX_ARCHIVE_DELAY_S: i64 = 86_400;

async fn check_archive_delay(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let archive = &facts["modules"]["bonds.archive"];
    run.record("archive", archive.clone());
    let (Some(overdue), Some(archived)) = (archive["overdue_s"].as_i64(), archive["archived"].as_i64())
    else {
        return Err(Shortfall::unmeasured(
            "the server does not tell of its archive",
            "run this build on the server too",
        ));
    };
    ensure(overdue <= MAX_ARCHIVE_DELAY_S, || {
        format!(
            "a bond waits for {overdue} s to be archived, more than {MAX_ARCHIVE_DELAY_S} s behind its 30 days"
        )
    })?;
    let spaces = facts["modules"]["spaces.archive"]["overdue_s"].as_i64().unwrap_or(i64::MAX);
    ensure(spaces <= MAX_ARCHIVE_DELAY_S, || {
        format!("the space of an archived bond waits for {spaces} s to be archived too")
    })?;
    Ok(format!("no bond that cannot come back waits longer than {overdue} s to be archived; {archived} are"))
}
