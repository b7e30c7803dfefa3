//! API keys for tests, and clients that use them.

use kith_kernel::Timestamp;
use serde_json::json;

use super::{Client, TestApp, TestUser};

/// Path at which keys are created.
pub const API_KEYS: &str = "/api/v1/admin/api-keys";

/// API key with a client that uses it.
pub struct ApiKey {
    /// Key id.
    pub id: String,
    /// Key in plain text.
    pub text: String,
    /// Client that authenticates with the key.
    pub client: Client,
}

impl TestApp {
    /// Creates a key with these scopes as `by`.
    pub async fn api_key(&self, by: &TestUser, scopes: &[&str]) -> ApiKey {
        self.api_key_until(by, scopes, None).await
    }

    /// Creates a key with these scopes and an optional expiry as `by`.
    pub async fn api_key_until(
        &self,
        by: &TestUser,
        scopes: &[&str],
        expires_at: Option<Timestamp>,
    ) -> ApiKey {
        let body = json!({ "name": "a program", "scopes": scopes, "expires_at": expires_at });
        let made = by.post(API_KEYS, body).await.expect(201);
        let text = |field: &str| made[field].as_str().expect("text").to_owned();
        ApiKey { id: text("id"), text: text("key"), client: self.anonymous().with_token(&text("key")) }
    }
}
