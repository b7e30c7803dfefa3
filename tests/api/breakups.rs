//! Tests of breakup, restoration, history and archive.

use std::time::Duration;

use kith_kernel::days;
use serde_json::{Value, json};

use crate::support::{BREAKUP, REQUESTS, TestApp, TestUser, on_every_engine};

const HISTORY: &str = "/api/v1/partners/history";
const MILLISECOND: Duration = Duration::from_millis(1);

on_every_engine! {
    breakup_ends_bond_for_both,
    unbonded_user_can_send_new_request,
    restoration_returns_same_bond,
    bond_is_not_restored_after_restoration_window,
    bonds_with_other_users_do_not_prevent_restoration,
    crossing_requests_restore_bond,
    history_shows_partner_name_at_end_of_bond,
}

async fn history(who: &TestUser) -> Vec<Value> {
    who.get(HISTORY).await.expect(200)["items"].as_array().expect("items").clone()
}

/// PRT-06: a breakup ends the bond for both users, notifies both, and writes one audit entry. Only the author
/// of the reason can read it.
async fn breakup_ends_bond_for_both(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.post(BREAKUP, Value::Null).await.expect_problem(409, "not_bonded");
    let bond = ada.partners().bond_with(&ben).await;
    let since = app.now();
    app.advance(days(3));
    let faults = ada.post(BREAKUP, json!({ "reason": "x".repeat(501) })).await.expect_faults();
    assert_eq!(faults, [("/reason".to_owned(), "too_long".to_owned())]);
    let ended = ada.post(BREAKUP, json!({ "reason": "We grew apart." })).await.expect(200)["bond"].clone();
    let now = app.now();
    let seen = |partner: &TestUser, reason: Option<&str>| {
        json!({
            "id": bond, "partner": partner.public_view(), "since": since, "restored_at": null, "restorations": 0,
            "ended_at": now, "restorable_until": now + days(30), "archived_at": null,
            "breakups": [{ "ended_at": now, "restored_at": null, "reason": reason }],
        })
    };
    assert_eq!(ended, seen(&ben, Some("We grew apart.")));
    assert_eq!(history(&ada).await, [seen(&ben, Some("We grew apart."))]);
    assert_eq!(history(&ben).await, [seen(&ada, None)], "the reason is visible to its author only");
    for who in [&ada, &ben] {
        assert_eq!(who.partners().current().await, Value::Null);
        who.post(BREAKUP, Value::Null).await.expect_problem(409, "not_bonded");
    }
    let lines = app.audit().await.into_iter().filter(|line| line.action == "bond.ended").count();
    assert_eq!(lines, 1);
    let events = app.events().await.into_iter().map(|sequenced| sequenced.event);
    let ended: Vec<_> = events.filter(|event| event.kind == "bond.ended").collect();
    let [event] = &ended[..] else { panic!("{ended:?}") };
    let mut recipients: Vec<_> = event.recipients.iter().map(ToString::to_string).collect();
    recipients.sort_unstable();
    let mut both = [ada.id.clone(), ben.id.clone()];
    both.sort_unstable();
    assert_eq!(recipients, both);
    assert!(!event.payload.contains("grew"), "{}", event.payload);
}

/// Proves the readiness requirement PRT-05.
async fn unbonded_user_can_send_new_request(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    ada.partners().bond_with(&ben).await;
    ada.post(REQUESTS, json!({ "to": { "user_id": eve.id } })).await.expect_problem(409, "slot_occupied");
    let waiting = eve.partners().ask(&ada).await;
    let path = format!("{REQUESTS}/{}/accept", waiting["id"].as_str().expect("an id"));
    ada.post(&path, Value::Null).await.expect_problem(409, "slot_occupied");
    ben.post(BREAKUP, json!({})).await.expect(200);
    let bond = ada.partners().accept(&waiting).await;
    assert_eq!((&bond["partner"], &bond["restorations"]), (&eve.public_view(), &json!(0)));
}

/// PRT-04, PRT-07: the same bond is restored twice.
async fn restoration_returns_same_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let bond = ada.partners().bond_with(&ben).await;
    let since = app.now();
    let mut breakups = Vec::new();
    for (round, who, other) in [(1, &ada, &ben), (2, &ben, &ada)] {
        app.advance(days(1));
        who.post(BREAKUP, json!({ "reason": format!("reason {round}") })).await.expect(200);
        let ended_at = app.now();
        app.advance(days(29));
        let request = who.partners().ask(other).await;
        assert_eq!(request["restorable_until"], json!(ended_at + days(30)));
        let restored = other.partners().accept(&request).await;
        assert_eq!(
            restored,
            json!({
                "id": bond, "partner": who.public_view(), "since": since, "restored_at": app.now(), "restorations": round,
            })
        );
        assert_eq!(who.partners().current().await["id"], restored["id"]);
        breakups.push((ended_at, app.now(), who.id.clone(), format!("reason {round}")));
    }
    for who in [&ada, &ben] {
        let [one] = &history(who).await[..] else { panic!("the history does not contain exactly one bond") };
        let seen: Vec<_> = breakups
            .iter()
            .map(|(ended_at, restored_at, by, reason)| {
                let reason = (*by == who.id).then_some(reason);
                json!({ "ended_at": ended_at, "restored_at": restored_at, "reason": reason })
            })
            .collect();
        assert_eq!(one["breakups"], json!(seen));
        assert_eq!((&one["ended_at"], &one["restorable_until"]), (&Value::Null, &Value::Null));
    }
    let kinds: Vec<_> = app.events().await.into_iter().map(|sequenced| sequenced.event.kind).collect();
    let count = |kind: &str| kinds.iter().filter(|one| *one == kind).count();
    assert_eq!((count("bond.created"), count("bond.ended"), count("bond.restored")), (1, 2, 2));
}

/// PRT-04, PRT-08: after the restoration window a request forms a new bond, even if the old bond has not been
/// archived yet.
async fn bond_is_not_restored_after_restoration_window(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let first = ada.partners().bond_with(&ben).await;
    ada.post(BREAKUP, json!({})).await.expect(200);
    app.advance(days(30));
    app.run_maintenance().await;
    assert_eq!(history(&ada).await[0]["archived_at"], Value::Null, "the bond can still be restored");
    app.advance(MILLISECOND);
    let request = ada.partners().ask(&ben).await;
    assert_eq!(request["restorable_until"], Value::Null);
    let second = ben.partners().accept(&request).await;
    assert_ne!(second["id"], json!(first));
    assert_eq!((&second["since"], &second["restorations"]), (&json!(app.now()), &json!(0)));
    ben.post(BREAKUP, json!({})).await.expect(200);
    app.run_maintenance().await;
    let [new, old] = &history(&ben).await[..] else {
        panic!("the history does not contain exactly two bonds")
    };
    assert_eq!((&new["id"], &new["archived_at"]), (&second["id"], &Value::Null));
    assert_eq!((&old["id"], &old["archived_at"]), (&json!(first), &json!(app.now())));
    assert_eq!(old["restorable_until"], Value::Null);
    assert_eq!(app.audit().await.into_iter().filter(|line| line.action == "bond.archived").count(), 1);
    app.run_maintenance().await;
    assert_eq!(app.audit().await.into_iter().filter(|line| line.action == "bond.archived").count(), 1);
}

/// PRT-04: a bond can be restored even if its users have had bonds with other users in between.
async fn bonds_with_other_users_do_not_prevent_restoration(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let first = ada.partners().bond_with(&ben).await;
    ada.post(BREAKUP, json!({})).await.expect(200);
    app.advance(days(1));
    ada.partners().bond_with(&eve).await;
    eve.post(BREAKUP, json!({})).await.expect(200);
    app.advance(days(1));
    let back = ada.partners().accept(&ben.partners().ask(&ada).await).await;
    assert_eq!((&back["id"], &back["restorations"]), (&json!(first), &json!(1)));
}

async fn crossing_requests_restore_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let bond = ada.partners().bond_with(&ben).await;
    ada.post(BREAKUP, json!({})).await.expect(200);
    app.advance(days(30));
    ada.partners().ask(&ben).await;
    let crossed = ben.partners().ask(&ada).await;
    assert_eq!((&crossed["bond"]["id"], &crossed["bond"]["restorations"]), (&json!(bond), &json!(1)));
    assert_eq!(crossed["restorable_until"], Value::Null);
}

async fn history_shows_partner_name_at_end_of_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.partners().bond_with(&ben).await;
    let rename = async |name: &str| {
        let body = json!({ "display_name": name }).to_string();
        ben.send(hyper::Method::PATCH, "/api/v1/me", body.into()).await.expect(200);
    };
    rename("Benjamin").await;
    assert_eq!(
        ada.partners().current().await["partner"]["display_name"],
        "Benjamin",
        "the current profile of the partner is returned"
    );
    ben.post(BREAKUP, json!({})).await.expect(200);
    rename("Somebody else").await;
    assert_eq!(history(&ada).await[0]["partner"]["display_name"], "Benjamin");
    let sent = ada.get(&format!("{REQUESTS}?status=accepted")).await.expect(200);
    let names: Vec<_> = sent["items"].as_array().expect("items").iter().map(|one| &one["to"]).collect();
    assert!(names.iter().any(|name| name["display_name"] == "ben"), "{names:?}");
}
