//! Registers accounts for generated load and provides a token for each.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::connection::send_all;
use super::http::encode_request;

/// Registered account.
#[derive(Clone, Debug)]
pub struct LoadAccount {
    pub id: String,
    pub token: String,
}

/// Registers `count` accounts whose addresses begin with `prefix`.
pub async fn register(server: SocketAddr, prefix: &str, count: usize) -> Result<Vec<LoadAccount>> {
    let requests = (0..count).map(|i| registration(&format!("{prefix}{i}"))).collect();
    let responses = send_all(server, 64, requests).await.context("registering users")?;
    responses
        .into_iter()
        .map(|(status, body)| {
            ensure!(status == 201, "registering gave {status}: {body}");
            account(&body).with_context(|| format!("registering gave {body}"))
        })
        .collect()
}

/// Returns a request that registers an account called `name`.
pub fn registration(name: &str) -> Vec<u8> {
    let body = json!({
        "email": format!("{name}@example.org"), "password": "correct horse battery", "display_name": name,
    });
    encode_request("POST", "/api/v1/auth/register", None, Some(body.to_string().as_bytes()))
}

/// Returns a request that logs in the account called `name`.
pub fn log_in(name: &str) -> Vec<u8> {
    let body = json!({ "email": format!("{name}@example.org"), "password": "correct horse battery" });
    encode_request("POST", "/api/v1/auth/login", None, Some(body.to_string().as_bytes()))
}

/// Returns the account described by the response to a registration.
pub fn account(body: &Value) -> Option<LoadAccount> {
    Some(LoadAccount {
        id: body["user"]["id"].as_str()?.into(),
        token: body["access_token"].as_str()?.into(),
    })
}
