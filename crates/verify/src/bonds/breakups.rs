//! Checks of breakups: they apply to both partners, free both slots, and a restoration returns the same bond.

use kith_kernel::{Timestamp, days};
use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use crate::synthetic_accounts::{
    bond, break_up, current, decide, ensure, ensure_status, items, send_request, unbonded_account,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-04",
        description: "two people part and come back, find the same bond and what they kept in it; with somebody else it is a fresh \
               one",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_restoration(run)),
    },
    Check {
        row: "PRT-05",
        description: "a request to somebody with a partner waits until they have parted, and is then accepted",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_slot_after_breakup(run)),
    },
    Check {
        row: "PRT-06",
        description: "one of two breaks up; reads both views, the event's counter and the audit log",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_breakup(run)),
    },
];

const HISTORY: &str = "/api/v1/partners/history?limit=100";
const ENDED: &str = "kith_events_total{kind=\"bond.ended\"}";

async fn check_restoration(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben, eve) =
        (unbonded_account(run, 6).await?, unbonded_account(run, 7).await?, unbonded_account(run, 8).await?);
    let first = bond(&ada, &ben).await?;
    let marker = run.marker("kept");
    let note = json!({ "data": { "text": marker } });
    let item = ada.client.post("/api/v1/spaces/bond/notes", note).await?.expect(201)?.text_at("/id")?;
    let item = format!("/api/v1/spaces/bond/notes/{item}");
    let breakup = break_up(&ada).await?;
    let at =
        |name: &str| breakup.text_at(&format!("/bond/{name}"))?.parse::<Timestamp>().map_err(without_times);
    let window = at("restorable_until")?.since(at("ended_at")?);
    ensure(window == days(30), || format!("it can come back for {} s instead of 30 days", window.as_secs()))?;
    ben.client.get(&item).await?.expect_problem(409, "not_bonded")?;

    let second = bond(&ben, &ada).await?;
    ensure(second == first, || format!("within 30 days {first} came back as {second}"))?;
    let restored = current(&ada).await?;
    ensure(restored["restorations"] == 1 && restored["restored_at"].is_string(), || {
        format!("it came back once, and reads restorations {}", restored["restorations"])
    })?;
    let read = ben.client.get(&item).await?.expect(200)?.json();
    ensure(read["data"]["text"] == *marker, || "what they kept together did not come back".to_owned())?;
    let history = with(&items(&ben, HISTORY).await?, &ada);
    ensure(
        history.len() == 1 && history[0]["breakups"].as_array().is_some_and(|all| all.len() == 1),
        || format!("the history of the two has {} bonds instead of one with one breakup", history.len()),
    )?;

    break_up(&ben).await?;
    let new_bond = bond(&ada, &eve).await?;
    let other = current(&ada).await?;
    ensure(new_bond != first && other["restorations"] == 0, || {
        "with somebody else the old bond came back".to_owned()
    })?;
    break_up(&ada).await?;
    run.record("restorable_days", window.as_secs() / 86_400);
    Ok("back within 30 days it is the same bond with all that was in it; with somebody else a fresh one"
        .to_owned())
}

fn without_times(fault: impl std::fmt::Display) -> Shortfall {
    Shortfall::fails(format!("a breakup tells a time that is none: {fault}"))
}

/// Returns the bonds with `partner` in a history.
fn with(history: &[Value], partner: &SyntheticAccount) -> Vec<Value> {
    history.iter().filter(|bond| bond["partner"]["id"] == *partner.id).cloned().collect()
}

async fn check_slot_after_breakup(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben, eve) =
        (unbonded_account(run, 8).await?, unbonded_account(run, 9).await?, unbonded_account(run, 10).await?);
    let first = bond(&ada, &ben).await?;
    let waiting = send_request(&eve, &ada).await?;
    decide(&ada, &waiting, "accept").await?.expect_problem(409, "slot_occupied")?;
    ensure_status(&eve, &waiting, "pending").await?;
    break_up(&ben).await?;
    for account in [&ada, &ben] {
        ensure(current(account).await?.is_null(), || {
            "after a breakup one of the two still has a partner".to_owned()
        })?;
    }
    let second = decide(&ada, &waiting, "accept").await?.expect(200)?.text_at("/bond/id")?;
    ensure(second != first, || "the next partner got the bond of the one before".to_owned())?;
    for (one, other) in [(&ada, &eve), (&eve, &ada)] {
        let bond = current(one).await?;
        ensure(bond["id"] == *second && bond["partner"]["id"] == *other.id, || {
            format!("after the slot was assigned, one of the two reads the bond {}", bond["id"])
        })?;
    }
    break_up(&ada).await?;
    Ok("refused while the slot was taken, vacant for both after the breakup, then assigned to who waited"
        .to_owned())
}

async fn check_breakup(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 9).await?, unbonded_account(run, 10).await?);
    let id = bond(&ada, &ben).await?;
    let (request_id, reason) = (run.marker("parting"), run.marker("reason"));
    let before = run.counters().await?;
    let client = ada.client.with_base_url(run.node()).with("x-request-id", &request_id);
    client.post("/api/v1/partners/breakup", json!({ "reason": reason })).await?.expect(200)?;
    for account in [&ada, &ben] {
        ensure(current(account).await?.is_null(), || {
            "after a breakup one of the two still has a partner".to_owned()
        })?;
    }
    let ended = async |of: &SyntheticAccount| {
        let history = items(of, HISTORY).await?;
        let bond = history.into_iter().find(|bond| bond["id"] == *id).unwrap_or_default();
        Ok::<_, Shortfall>((bond["ended_at"].clone(), bond.to_string().contains(&reason)))
    };
    let (mine, other_side) = (ended(&ada).await?, ended(&ben).await?);
    ensure(mine.0.is_string() && mine.0 == other_side.0, || {
        format!("it ended at {} for one and at {} for the other", mine.0, other_side.0)
    })?;
    ensure(mine.1 && !other_side.1, || "the reason is not told to its author alone".to_owned())?;
    let counted = run.counters().await?.increase_since(&before, ENDED);
    ensure(counted >= 1.0, || "the event `bond.ended` was not counted".to_owned())?;
    let entries = run.audit_entries(&request_id).await?;
    let is_it = |entry: &&Value| {
        entry["action"] == "bond.ended"
            && entry["object"] == *id
            && entry["actor"] == *format!("user:{}", ada.id)
    };
    let written = entries.iter().filter(is_it).count();
    ensure((written, entries.len()) == (1, 1), || {
        format!("the breakup left {} audit entries, {written} of them right, instead of one", entries.len())
    })?;
    run.record("audit_entries", written);
    Ok("both lost the partner at the same moment, the event was counted, and one audit entry tells of it"
        .to_owned())
}
