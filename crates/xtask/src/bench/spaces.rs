//! What people keep in spaces, before it is measured how fast they read it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::load::http::request;
use crate::load::people::Person;
use crate::load::send_all;

const SHARED: &str = "/api/v1/spaces/bond/notes";
const OWN: &str = "/api/v1/spaces/me/notes";
/// A page.
const PAGE: usize = 20;

/// A request of each of `people` that keeps an item where their partner finds it.
pub fn writes(people: &[Person]) -> Vec<Vec<u8>> {
    people.iter().map(|person| write(person, SHARED)).collect()
}

/// Keeps an item for each of `people`, and gives the requests that read these.
pub async fn reads(server: SocketAddr, people: &[Person]) -> Result<Vec<Vec<u8>>> {
    let answers = send_all(server, 64, writes(people)).await?;
    let reads = people.iter().zip(answers).map(|(person, (status, body))| {
        let id = body["id"].as_str().filter(|_| status == 201);
        let id = id.with_context(|| format!("keeping an item gave {status}: {body}"))?;
        Ok(request("GET", &format!("{SHARED}/{id}"), Some(&person.token), None))
    });
    reads.collect()
}

/// Keeps a page of items for each of `people`, and gives the requests that list these.
pub async fn lists(server: SocketAddr, people: &[Person]) -> Result<Vec<Vec<u8>>> {
    for _ in 0..PAGE {
        let answers = send_all(server, 64, people.iter().map(|person| write(person, OWN)).collect()).await?;
        let refused = answers.into_iter().find(|(status, _)| *status != 201);
        ensure!(refused.is_none(), "keeping an item gave {refused:?}");
    }
    let path = format!("{OWN}?limit={PAGE}");
    Ok(people.iter().map(|person| request("GET", &path, Some(&person.token), None)).collect())
}

fn write(person: &Person, path: &str) -> Vec<u8> {
    let body = br#"{"data":{"text":"Milk, bread and a bunch of flowers","done":false,"rank":3}}"#;
    request("POST", path, Some(&person.token), Some(body))
}
