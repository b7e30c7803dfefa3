//! PRT-04: tests that the restoration window is exact to the millisecond, and that a bond is never both
//! restored and archived.

use std::time::Duration;

use kith_kernel::days;
use serde_json::{Value, json};

use crate::bond_model::find_faults;
use crate::support::{REQUESTS, TestApp, on_every_engine, rounds};

const MILLISECOND: Duration = Duration::from_millis(1);
const ROUNDS: usize = 50;

on_every_engine! {
    with |config: &mut kith_platform::config::Config| {
        crate::support::race(config);
        config.auth.access_token_minutes = 6 * 24 * 60;
    };
    restoration_window_ends_after_thirty_days,
    bond_is_either_archived_or_restored,
    expected_restoration_does_not_form_new_bond,
}

async fn expected_restoration_does_not_form_new_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let expecting = async |request: &Value| {
        let id = request["id"].as_str().expect("an id");
        ben.post(&format!("{REQUESTS}/{id}/accept"), json!({ "expect": "restoration" })).await
    };
    let request = ada.partners().ask(&ben).await;
    expecting(&request).await.expect_problem(409, "restoration_expired");
    let first = ben.partners().accept(&request).await;
    ada.partners().break_up().await;
    let request = ada.partners().ask(&ben).await;
    assert_eq!(expecting(&request).await.expect(200)["bond"]["id"], first["id"]);
    ben.partners().break_up().await;
    app.advance(days(20));
    let request = ada.partners().ask(&ben).await;
    app.advance(days(10) + MILLISECOND);
    expecting(&request).await.expect_problem(409, "restoration_expired");
    assert_ne!(ben.partners().accept(&request).await["id"], first["id"]);
}

async fn restoration_window_ends_after_thirty_days(app: &TestApp) {
    let mut cases = Vec::new();
    for (after, comes_back) in
        [(days(30) - MILLISECOND, true), (days(30), true), (days(30) + MILLISECOND, false)]
    {
        for runs_maintenance in [false, true] {
            for crossing in [false, true] {
                cases.push((after, comes_back, runs_maintenance, crossing));
            }
        }
    }
    for (n, (after, comes_back, runs_maintenance, crossing)) in cases.into_iter().enumerate() {
        let (ada, ben) = (app.user(&format!("ada{n}")).await, app.user(&format!("ben{n}")).await);
        let first = ben.partners().accept(&ada.partners().ask(&ben).await).await;
        ada.partners().break_up().await;
        app.advance(days(20));
        let request = ben.partners().ask(&ada).await;
        app.advance(after - days(20));
        if runs_maintenance {
            app.run_maintenance().await;
        }
        let until = ada.get(&format!("{REQUESTS}?direction=incoming&limit=1")).await.expect(200);
        assert_eq!(until["items"][0]["restorable_until"].is_string(), comes_back, "{after:?}");
        let second = if crossing {
            ada.partners().ask(&ben).await["bond"].clone()
        } else {
            ada.partners().accept(&request).await
        };
        let what = format!("after {after:?}, maintenance {runs_maintenance}, crossing {crossing}");
        assert_eq!(second["id"] == first["id"], comes_back, "{what}");
        assert_eq!(second["restorations"], i64::from(comes_back), "{what}");
        let restored_at = if comes_back { json!(app.now()) } else { Value::Null };
        assert_eq!(second["restored_at"], restored_at, "{what}");
        let history = ben.get("/api/v1/partners/history").await.expect(200);
        assert_eq!(history["items"].as_array().map(Vec::len), Some(if comes_back { 1 } else { 2 }), "{what}");
    }
}

/// At the end of the window one node archives and another accepts. Either the bond is restored, or it is
/// archived and a new one is formed.
async fn bond_is_either_archived_or_restored(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let mut bond = ben.partners().accept(&ada.partners().ask(&ben).await).await;
    let mut back = 0;
    for round in 0..rounds(ROUNDS) {
        ada.partners().break_up().await;
        app.advance(days(25));
        let request = ada.partners().ask(&ben).await;
        app.advance(days(5));
        ben.signed_in().await;
        let time_passes = async {
            for _ in 0..(round % 25) * 200 {
                tokio::task::yield_now().await;
            }
            app.advance(MILLISECOND);
            app.run_maintenance().await;
        };
        let (accepted, ()) = tokio::join!(ben.partners().accept(&request), time_passes);
        let restored = accepted["id"] == bond["id"];
        back += usize::from(restored);
        for who in [&ada, &ben] {
            let current = who.get("/api/v1/partners/current").await.expect(200)["bond"].clone();
            assert_eq!(
                (&current["id"], &current["restorations"]),
                (&accepted["id"], &accepted["restorations"])
            );
            let history = who.get("/api/v1/partners/history?limit=2").await.expect(200);
            let (newest, older) = (&history["items"][0], &history["items"][1]);
            assert_eq!((&newest["id"], &newest["archived_at"]), (&accepted["id"], &Value::Null));
            if !restored {
                assert_eq!(older["id"], bond["id"], "round {round}");
                assert!(older["ended_at"].is_string(), "round {round}");
            }
        }
        assert_eq!(find_faults(app).await, [], "round {round}");
        bond = accepted;
    }
    app.run_maintenance().await;
    let history = ada.get("/api/v1/partners/history?limit=100").await.expect(200);
    for former in history["items"].as_array().expect("items").iter().skip(1) {
        assert!(former["archived_at"].is_string(), "{former:#}");
    }
    let fresh = rounds(ROUNDS) - back;
    println!("archiver and accept: {back} bonds restored, {fresh} new bonds");
}
