//! Reads the server's state through its API, for the comparison with the journal.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;

use super::journal::{Journal, JournalPosition};
use super::verdict::{ListedRequest, ServerView};
use crate::load::http::encode_request;
use crate::load::send_all_patiently;

const CONNECTIONS: usize = 16;

/// Returns the server's state of everything that was recorded after `since`.
pub async fn read_view(server: SocketAddr, journal: &Journal, since: JournalPosition) -> Result<ServerView> {
    let asks = &journal.sent_requests[since.sent_requests..];
    let couples = &journal.couples[since.couples..];
    let senders: BTreeSet<_> = asks
        .iter()
        .map(|ask| ask.from)
        .chain(couples.iter().flat_map(|c| [c.senders_request.from, c.a]))
        .collect();
    let bonded: BTreeSet<_> = couples.iter().flat_map(|couple| [couple.a, couple.b]).collect();
    let known = (since.accounts..journal.accounts.len()).collect();
    let mut view = ServerView { known: find_known(server, journal, known).await?, ..ServerView::default() };
    list_sent(server, journal, senders.into_iter().collect(), &mut view).await?;
    let bonded: Vec<_> = bonded.into_iter().collect();
    for (account, body) in get(server, journal, "/api/v1/partners/current", &bonded).await? {
        view.bonds.insert(account, text(&body["bond"]["id"]));
    }
    Ok(view)
}

async fn find_known(server: SocketAddr, journal: &Journal, accounts: Vec<usize>) -> Result<HashSet<usize>> {
    let shown = get(server, journal, "/api/v1/me", &accounts).await?;
    let same = |(account, body): &(usize, Value)| body["id"] == journal.accounts[*account].id.as_str();
    Ok(shown.into_iter().filter(same).map(|(account, _)| account).collect())
}

/// Returns the sent requests of each sender, from all pages.
async fn list_sent(
    server: SocketAddr,
    journal: &Journal,
    senders: Vec<usize>,
    view: &mut ServerView,
) -> Result<()> {
    let path = "/api/v1/partners/requests?direction=outgoing&limit=100";
    let mut open: Vec<_> = senders.into_iter().map(|sender| (sender, path.to_owned())).collect();
    while !open.is_empty() {
        let paths = open.iter().map(|(sender, path)| (*sender, path.as_str()));
        let pages = get_each(server, journal, paths).await?;
        open.clear();
        for (sender, page) in pages {
            let items = page["items"].as_array().into_iter().flatten().filter_map(listed);
            view.sent.entry(sender).or_default().extend(items);
            if let Some(cursor) = page["next_cursor"].as_str() {
                open.push((sender, format!("{path}&cursor={cursor}")));
            }
        }
    }
    Ok(())
}

fn listed(item: &Value) -> Option<ListedRequest> {
    Some(ListedRequest {
        id: text(&item["id"])?,
        to: text(&item["to"]["id"])?,
        status: text(&item["status"])?,
    })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

async fn get(
    server: SocketAddr,
    journal: &Journal,
    path: &str,
    accounts: &[usize],
) -> Result<Vec<(usize, Value)>> {
    get_each(server, journal, accounts.iter().map(|account| (*account, path))).await
}

/// Sends a GET request for each account. A response other than 200 counts as absent data; a 503 is repeated.
async fn get_each<'a>(
    server: SocketAddr,
    journal: &Journal,
    paths: impl Iterator<Item = (usize, &'a str)>,
) -> Result<Vec<(usize, Value)>> {
    let (accounts, requests): (Vec<_>, Vec<_>) = paths
        .map(|(account, path)| {
            (account, encode_request("GET", path, Some(&journal.accounts[account].token), None))
        })
        .unzip();
    let responses = send_all_patiently(server, CONNECTIONS, requests).await?;
    let shown = accounts.into_iter().zip(responses).filter(|(_, (status, _))| *status == 200);
    Ok(shown.map(|(account, (_, body))| (account, body)).collect())
}
