//! API keys, as administrators make them, and programs that ask by them.

use kith_kernel::Timestamp;
use serde_json::json;

use super::{Client, Person, TestApp};

/// Where keys are made.
pub const API_KEYS: &str = "/api/v1/admin/api-keys";

/// A key, and whoever asks by it.
pub struct ApiKey {
    /// Of the key.
    pub id: String,
    /// The key itself.
    pub text: String,
    /// Asks by it.
    pub client: Client,
}

impl TestApp {
    /// A key with these scopes that `by` makes.
    pub async fn api_key(&self, by: &Person, scopes: &[&str]) -> ApiKey {
        self.api_key_until(by, scopes, None).await
    }

    /// The same with an end.
    pub async fn api_key_until(&self, by: &Person, scopes: &[&str], expires_at: Option<Timestamp>) -> ApiKey {
        let body = json!({ "name": "a program", "scopes": scopes, "expires_at": expires_at });
        let made = by.post(API_KEYS, body).await.expect(201);
        let text = |field: &str| made[field].as_str().expect("text").to_owned();
        ApiKey { id: text("id"), text: text("key"), client: self.anonymous().with_token(&text("key")) }
    }
}
