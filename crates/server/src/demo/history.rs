//! Creates the users, bonds and requests of the demo data through the API.

use kith_accounts::accounts;
use kith_platform::App;
use kith_store::{Error, Query};
use serde_json::{Value, json};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::backdated_server::{BackdatedServer, DemoError};
use super::{PEOPLE, email};

const REQUESTS: &str = "/api/v1/partners/requests";

/// Creates the demo data if the configuration enables it and the data does not exist yet.
///
/// # Errors
/// Returns [`DemoError`] if a step fails.
pub(crate) async fn create_demo_data_if_enabled(app: &App) -> Result<(), DemoError> {
    if !app.config.server.demo {
        return Ok(());
    }
    match app.db.read(count_people).await? {
        0 => {
            tracing::info!(users = PEOPLE.len(), "creating the demo data");
            // The log is disabled meanwhile, because requests with past times must not appear in it.
            run_history(&mut BackdatedServer::of(app, 240).await?).with_subscriber(NoSubscriber::new()).await
        }
        all if all == PEOPLE.len() => Ok(()),
        some => {
            tracing::warn!(
                some,
                "the demo data is incomplete: an earlier start was interrupted, or users deleted their accounts"
            );
            Ok(())
        }
    }
}

fn count_people(q: &Query<'_>) -> Result<usize, Error> {
    let found = PEOPLE.iter().map(|name| accounts::find_by_email(q, &email(name)));
    Ok(found.collect::<Result<Vec<_>, _>>()?.iter().flatten().count())
}

async fn run_history(server: &mut BackdatedServer) -> Result<(), DemoError> {
    for name in PEOPLE {
        server.register(name).await?;
        server
            .send_as(name, "PATCH", "/api/v1/partners/settings", json!({ "discoverable_by_email": true }))
            .await?;
    }
    ended_bonds(server).await?;
    restored_bond(server).await?;
    pending_requests(server).await?;
    server.advance_to_days_ago(0).await
}

/// Bonds that ended: that of Clara and David, which is archived later, and that of Fatima and Goran.
async fn ended_bonds(server: &mut BackdatedServer) -> Result<(), DemoError> {
    server.advance_to_days_ago(235).await?;
    bond(server, "Clara", "David", "You still owe me a dance.").await?;
    create_item(server, "Clara", "notes", json!({ "text": "Wi-Fi at the lake house: ask the neighbours" }))
        .await?;
    server.advance_to_days_ago(200).await?;
    bond(server, "Goran", "Fatima", "Sunday again?").await?;
    nickname(server, "Fatima", "Goran", "Bear").await?;
    create_item(server, "Fatima", "notes", json!({ "text": "The tomatoes need water on Tuesdays" })).await?;
    create_item(server, "Goran", "films", json!({ "title": "Casablanca", "seen": true })).await?;
    create_item(
        server,
        "Goran",
        "dates",
        json!({ "title": "Our Sunday", "date": "2026-01-04", "repeat": "weekly" }),
    )
    .await?;
    server.advance_to_days_ago(90).await?;
    break_up(server, "Clara", "We want different lives.").await
}

/// The bond that Lena and Marek restored, and the next bond of Clara, with Emil.
async fn restored_bond(server: &mut BackdatedServer) -> Result<(), DemoError> {
    server.advance_to_days_ago(70).await?;
    bond(server, "Lena", "Marek", "Yes, you.").await?;
    create_item(server, "Marek", "films", json!({ "title": "The Apartment", "seen": false })).await?;
    nickname(server, "Marek", "Lena", "Captain").await?;
    server.advance_to_days_ago(59).await?;
    server.advance_to_days_ago(40).await?;
    break_up(server, "Lena", "I need some time.").await?;
    server.advance_to_days_ago(30).await?;
    bond(server, "Marek", "Lena", "The flat is too quiet.").await?;
    server.advance_to_days_ago(25).await?;
    bond(server, "Emil", "Clara", "Coffee was a good beginning.").await?;
    nickname(server, "Clara", "Emil", "Sunshine").await?;
    let anniversary = json!({ "title": "A year of us", "date": "2027-05-01", "repeat": "yearly", "remind_minutes_before": [1440] });
    create_item(server, "Emil", "dates", anniversary).await?;
    create_item(server, "Clara", "notes", json!({ "text": "Your mother likes lilies" })).await?;
    server.advance_to_days_ago(20).await?;
    send_request(server, "David", "Clara", "Can we talk?").await?;
    let block = format!("/api/v1/blocks/{}", server.id("David"));
    server.send_as("Clara", "PUT", &block, Value::Null).await.map(drop)
}

/// Partner requests that are pending or decided.
async fn pending_requests(server: &mut BackdatedServer) -> Result<(), DemoError> {
    server.advance_to_days_ago(12).await?;
    let request = send_request(server, "Ines", "Jonas", "Dinner?").await?;
    server.send_as("Jonas", "POST", &format!("{REQUESTS}/{request}/reject"), Value::Null).await?;
    server.advance_to_days_ago(10).await?;
    break_up(server, "Fatima", "Too many Sundays.").await?;
    server.advance_to_days_ago(4).await?;
    send_request(server, "Goran", "Fatima", "The tomatoes miss you.").await?;
    server.advance_to_days_ago(3).await?;
    send_request(server, "Jonas", "Hana", "Would you?").await?;
    send_request(server, "Ines", "Hana", "Or me?").await?;
    server.advance_to_days_ago(2).await?;
    server.send_as("Hana", "POST", "/api/v1/partners/invites", Value::Null).await?;
    server
        .send_as("Hana", "PATCH", "/api/v1/partners/settings", json!({ "accepts_requests_from": "invited" }))
        .await?;
    server
        .send_as("Ada", "POST", "/api/v1/spaces/me/notes", json!({ "data": { "text": "Ask Ben." } }))
        .await
        .map(drop)
}

async fn send_request(
    server: &mut BackdatedServer,
    from: &'static str,
    to: &str,
    message: &str,
) -> Result<String, DemoError> {
    let body = json!({ "to": { "user_id": server.id(to) }, "message": message });
    let request = server.send_as(from, "POST", REQUESTS, body).await?;
    Ok(request["id"].as_str().unwrap_or_default().to_owned())
}

async fn bond(
    server: &mut BackdatedServer,
    from: &'static str,
    to: &'static str,
    message: &str,
) -> Result<(), DemoError> {
    let request = send_request(server, from, to, message).await?;
    server.send_as(to, "POST", &format!("{REQUESTS}/{request}/accept"), Value::Null).await.map(drop)
}

async fn break_up(server: &mut BackdatedServer, who: &'static str, reason: &str) -> Result<(), DemoError> {
    server.send_as(who, "POST", "/api/v1/partners/breakup", json!({ "reason": reason })).await.map(drop)
}

async fn create_item(
    server: &mut BackdatedServer,
    who: &'static str,
    collection: &str,
    data: Value,
) -> Result<(), DemoError> {
    let path = format!("/api/v1/spaces/bond/{collection}");
    server.send_as(who, "POST", &path, json!({ "data": data })).await.map(drop)
}

async fn nickname(
    server: &mut BackdatedServer,
    who: &'static str,
    of: &str,
    name: &str,
) -> Result<(), DemoError> {
    let path = format!("/api/v1/nicknames/{}", server.id(of));
    server.send_as(who, "PUT", &path, json!({ "nickname": name })).await.map(drop)
}
