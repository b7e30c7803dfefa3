//! Checks of breakups: they apply to both partners, free both slots, and a restoration returns the same bond.

use kith_kernel::{Timestamp, days};
use kith_readiness::{Check, Person, Run, Shortfall};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use crate::cast::{ask, bond, break_up, current, decide, ensure, ensure_status, items, single};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-04",
        does: "has two users break up and accept again, and checks that the bond and its items are restored; \
               checks that a bond with another user is new",
        mend: DEFAULT_REMEDIATION,
        last: false,
        run: |run| Box::pin(comes_back(run)),
    },
    Check {
        row: "PRT-05",
        does: "sends a request to a user with a partner, checks that it stays pending, and accepts it after the breakup",
        mend: DEFAULT_REMEDIATION,
        last: false,
        run: |run| Box::pin(is_free_again(run)),
    },
    Check {
        row: "PRT-06",
        does: "ends a bond; reads the views of both users, the event counter and the audit log",
        mend: DEFAULT_REMEDIATION,
        last: false,
        run: |run| Box::pin(ends_for_both(run)),
    },
];

const HISTORY: &str = "/api/v1/partners/history?limit=100";
const ENDED: &str = "kith_events_total{kind=\"bond.ended\"}";

async fn comes_back(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben, eve) = (single(run, 6).await?, single(run, 7).await?, single(run, 8).await?);
    let first = bond(&ada, &ben).await?;
    let mark = run.mark("kept");
    let kept = json!({ "data": { "text": mark } });
    let item = ada.client.post("/api/v1/spaces/bond/notes", kept).await?.expect(201)?.text_at("/id")?;
    let item = format!("/api/v1/spaces/bond/notes/{item}");
    let parted = break_up(&ada).await?;
    let at = |name: &str| parted.text_at(&format!("/bond/{name}"))?.parse::<Timestamp>().map_err(no_time);
    let window = at("restorable_until")?.since(at("ended_at")?);
    ensure(window == days(30), || {
        format!("the bond can be restored for {} s instead of 30 days", window.as_secs())
    })?;
    ben.client.get(&item).await?.expect_problem(409, "not_bonded")?;

    let second = bond(&ben, &ada).await?;
    ensure(second == first, || {
        format!("within 30 days the bond {first} was replaced by {second} instead of restored")
    })?;
    let back = current(&ada).await?;
    ensure(back["restorations"] == 1 && back["restored_at"].is_string(), || {
        format!("the bond was restored once, but its restorations are {}", back["restorations"])
    })?;
    let read = ben.client.get(&item).await?.expect(200)?.json();
    ensure(read["data"]["text"] == *mark, || "the items of the bond's space were not restored".to_owned())?;
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
    let fresh = bond(&ada, &eve).await?;
    let other = current(&ada).await?;
    ensure(fresh != first && other["restorations"] == 0, || {
        "the old bond was restored with another user".to_owned()
    })?;
    break_up(&ada).await?;
    run.figure("restorable_days", window.as_secs() / 86_400);
    Ok("within 30 days the same bond is restored with its items; with another user a new bond is created"
        .to_owned())
}

fn no_time(fault: impl std::fmt::Display) -> Shortfall {
    Shortfall::fails(format!("a breakup has an invalid time: {fault}"))
}

/// Returns the bonds with `partner` in a history.
fn with(history: &[Value], partner: &Person) -> Vec<Value> {
    history.iter().filter(|bond| bond["partner"]["id"] == *partner.id).cloned().collect()
}

async fn is_free_again(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben, eve) = (single(run, 8).await?, single(run, 9).await?, single(run, 10).await?);
    let first = bond(&ada, &ben).await?;
    let waiting = ask(&eve, &ada).await?;
    decide(&ada, &waiting, "accept").await?.expect_problem(409, "slot_occupied")?;
    ensure_status(&eve, &waiting, "pending").await?;
    break_up(&ben).await?;
    for who in [&ada, &ben] {
        ensure(current(who).await?.is_null(), || {
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

async fn ends_for_both(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (single(run, 9).await?, single(run, 10).await?);
    let id = bond(&ada, &ben).await?;
    let (request_id, reason) = (run.mark("parting"), run.mark("reason"));
    let before = run.counters().await?;
    let client = ada.client.at(run.node()).with("x-request-id", &request_id);
    client.post("/api/v1/partners/breakup", json!({ "reason": reason })).await?.expect(200)?;
    for who in [&ada, &ben] {
        ensure(current(who).await?.is_null(), || {
            "after a breakup one of the users still has a partner".to_owned()
        })?;
    }
    let ended = async |of: &Person| {
        let history = items(of, HISTORY).await?;
        let bond = history.into_iter().find(|bond| bond["id"] == *id).unwrap_or_default();
        Ok::<_, Shortfall>((bond["ended_at"].clone(), bond.to_string().contains(&reason)))
    };
    let (mine, theirs) = (ended(&ada).await?, ended(&ben).await?);
    ensure(mine.0.is_string() && mine.0 == theirs.0, || {
        format!("the bond ended at {} for one user and at {} for the other", mine.0, theirs.0)
    })?;
    ensure(mine.1 && !theirs.1, || "the reason is not visible to its author only".to_owned())?;
    let told = run.counters().await?.since(&before, ENDED);
    ensure(told >= 1.0, || "the event `bond.ended` was not counted".to_owned())?;
    let entries = run.audit_of(&request_id).await?;
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
    run.figure("audit_entries", written);
    Ok("the bond ended for both users at the same time; the event was counted, and one audit entry records it"
        .to_owned())
}
