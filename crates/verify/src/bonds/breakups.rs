//! Checks of breakups: a breakup applies to both partners and frees the slots of both. A restoration returns
//! the same bond.

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
        description: "has two users break up and accept again, and checks that the bond and its items are restored; \
               checks that a bond with another user is new",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_restoration(run)),
    },
    Check {
        row: "PRT-05",
        description: "sends a request to a user with a partner, checks that it stays pending, and accepts it after the breakup",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_slot_after_breakup(run)),
    },
    Check {
        row: "PRT-06",
        description: "ends a bond; reads the views of both users, the event counter and the audit log",
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
    ensure(window == days(30), || {
        format!("the bond can be restored for {} s instead of 30 days", window.as_secs())
    })?;
    ben.client.get(&item).await?.expect_problem(409, "not_bonded")?;

    let second = bond(&ben, &ada).await?;
    ensure(second == first, || {
        format!("within 30 days the bond {first} was replaced by {second} instead of restored")
    })?;
    let restored = current(&ada).await?;
    ensure(restored["restorations"] == 1 && restored["restored_at"].is_string(), || {
        format!("the bond was restored once, but its restorations are {}", restored["restorations"])
    })?;
    let read = ben.client.get(&item).await?.expect(200)?.json();
    ensure(read["data"]["text"] == *marker, || "the items of the bond's space were not restored".to_owned())?;
    let history = with(&items(&ben, HISTORY).await?, &ada);
    ensure(
        history.len() == 1 && history[0]["breakups"].as_array().is_some_and(|all| all.len() == 1),
        || {
            format!(
                "the history of the two users has {} bonds instead of one with one breakup",
                history.len()
            )
        },
    )?;

    break_up(&ben).await?;
    let new_bond = bond(&ada, &eve).await?;
    let other = current(&ada).await?;
    ensure(new_bond != first && other["restorations"] == 0, || {
        "the old bond was restored with another user".to_owned()
    })?;
    break_up(&ada).await?;
    run.record("restorable_days", window.as_secs() / 86_400);
    Ok("within 30 days the same bond is restored with its items; with another user a new bond is created"
        .to_owned())
}

fn without_times(fault: impl std::fmt::Display) -> Shortfall {
    Shortfall::fails(format!("a breakup has an invalid time: {fault}"))
}

/// Returns the bonds with `partner` that a history contains.
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
            "after a breakup one of the users still has a partner".to_owned()
        })?;
    }
    let second = decide(&ada, &waiting, "accept").await?.expect(200)?.text_at("/bond/id")?;
    ensure(second != first, || "the next partner got the previous bond".to_owned())?;
    for (one, other) in [(&ada, &eve), (&eve, &ada)] {
        let bond = current(one).await?;
        ensure(bond["id"] == *second && bond["partner"]["id"] == *other.id, || {
            format!("after the request was accepted, one of the users has the bond {}", bond["id"])
        })?;
    }
    break_up(&ada).await?;
    Ok("rejected while the slot was occupied; vacant for both users after the breakup; then assigned to the \
        sender of the pending request"
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
            "after a breakup one of the users still has a partner".to_owned()
        })?;
    }
    let ended = async |of: &SyntheticAccount| {
        let history = items(of, HISTORY).await?;
        let bond = history.into_iter().find(|bond| bond["id"] == *id).unwrap_or_default();
        Ok::<_, Shortfall>((bond["ended_at"].clone(), bond.to_string().contains(&reason)))
    };
    let (mine, other_side) = (ended(&ada).await?, ended(&ben).await?);
    ensure(mine.0.is_string() && mine.0 == other_side.0, || {
        format!("the bond ended at {} for one user and at {} for the other", mine.0, other_side.0)
    })?;
    ensure(mine.1 && !other_side.1, || "the reason is not visible to its author only".to_owned())?;
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
        format!(
            "the breakup created {} audit entries, {written} of them correct, instead of one",
            entries.len()
        )
    })?;
    run.record("audit_entries", written);
    Ok("the bond ended for both users at the same time; the event was counted, and one audit entry records it"
        .to_owned())
}
