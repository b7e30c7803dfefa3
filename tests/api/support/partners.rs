//! Client for the partner endpoints.

use serde_json::{Value, json};

use super::{TestResponse, TestUser};

/// Path of partner requests.
pub const REQUESTS: &str = "/api/v1/partners/requests";
/// Path of the operation that ends the caller's bond.
pub const BREAKUP: &str = "/api/v1/partners/breakup";

/// Partner endpoints, called as one user.
#[derive(Clone, Copy)]
pub struct Partners<'p>(&'p TestUser);

impl TestUser {
    /// Returns a client for the partner endpoints that acts as this user.
    pub const fn partners(&self) -> Partners<'_> {
        Partners(self)
    }
}

impl Partners<'_> {
    /// Sends a partner request to `to` and returns the response.
    pub async fn send(self, to: &TestUser) -> TestResponse {
        self.0.post(REQUESTS, json!({ "to": { "user_id": to.id } })).await
    }

    /// Sends a partner request to `to` and returns the created request. Panics if the status is not 201.
    pub async fn ask(self, to: &TestUser) -> Value {
        self.send(to).await.expect(201)
    }

    /// Accepts, rejects or cancels a request: `verb` is `accept`, `reject` or `cancel`.
    pub async fn decide(self, request: &Value, verb: &str) -> TestResponse {
        let id = request["id"].as_str().expect("an id");
        self.0.post(&format!("{REQUESTS}/{id}/{verb}"), Value::Null).await
    }

    /// Accepts a request, and returns the bond.
    pub async fn accept(self, request: &Value) -> Value {
        self.decide(request, "accept").await.expect(200)["bond"].clone()
    }

    /// Forms or restores a bond with `other` by requests in both directions. Returns the bond's ID.
    pub async fn bond_with(self, other: &TestUser) -> String {
        self.ask(other).await;
        let crossed = other.partners().ask(self.0).await;
        crossed["bond"]["id"].as_str().expect("a bond").to_owned()
    }

    /// Returns the active bond, or null if there is none.
    pub async fn current(self) -> Value {
        self.0.get("/api/v1/partners/current").await.expect(200)["bond"].clone()
    }

    /// Ends the bond.
    pub async fn break_up(self) {
        self.0.post(BREAKUP, json!({})).await.expect(200);
    }
}
