//! Creates items in spaces for the rows that read them, and the requests of rows that write them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::load::accounts::LoadAccount;
use crate::load::http::encode_request;
use crate::load::send_all;

const SHARED: &str = "/api/v1/spaces/bond/notes";
const OWN: &str = "/api/v1/spaces/me/notes";
/// Number of items in a page.
const PAGE: usize = 20;

/// Returns requests that create an item in each account's shared space.
pub fn writes(accounts: &[LoadAccount]) -> Vec<Vec<u8>> {
    accounts.iter().map(|account| write(account, SHARED)).collect()
}

/// Creates an item for each account and returns the requests that read it.
pub async fn reads(server: SocketAddr, accounts: &[LoadAccount]) -> Result<Vec<Vec<u8>>> {
    let responses = send_all(server, 64, writes(accounts)).await?;
    let reads = accounts.iter().zip(responses).map(|(account, (status, body))| {
        let id = body["id"].as_str().filter(|_| status == 201);
        let id = id.with_context(|| format!("writing an item returned {status}: {body}"))?;
        Ok(encode_request("GET", &format!("{SHARED}/{id}"), Some(&account.token), None))
    });
    reads.collect()
}

/// Creates a page of items for each account and returns the requests that list them.
pub async fn lists(server: SocketAddr, accounts: &[LoadAccount]) -> Result<Vec<Vec<u8>>> {
    for _ in 0..PAGE {
        let responses =
            send_all(server, 64, accounts.iter().map(|account| write(account, OWN)).collect()).await?;
        let refused = responses.into_iter().find(|(status, _)| *status != 201);
        ensure!(refused.is_none(), "writing an item returned {refused:?}");
    }
    let path = format!("{OWN}?limit={PAGE}");
    Ok(accounts.iter().map(|account| encode_request("GET", &path, Some(&account.token), None)).collect())
}

fn write(account: &LoadAccount, path: &str) -> Vec<u8> {
    let body = br#"{"data":{"text":"Milk, bread and a bunch of flowers","done":false,"rank":3}}"#;
    encode_request("POST", path, Some(&account.token), Some(body))
}
