//! Checks of list operations: their page sizes and their parameters.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use kith_readiness::{Check, CheckResponse, Client, Operation, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-04",
    description: "requests every list with the default, the largest, a too large, a zero and a negative limit, with \
           foreign cursors and undeclared parameters; reads a list of 102 items page by page",
    remediation: "look at the named list; `PageQuery` and `deny_unknown_fields` implement these rules",
    runs_last: false,
    run: |run| Box::pin(check_pages(run)),
}];

/// Number of items in a page if the request states no limit.
const DEFAULT_PAGE_SIZE: usize = 20;
const MAX_PAGE_SIZE: usize = 100;
/// Path of a list that the checks fill with more items than the maximum page size.
const FULL_LIST: &str = "/api/v1/spaces/me/kith-verify-pages";

async fn check_pages(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let reader = run.account("reads-lists").await?.client;
    let admin = Some(run.admin().await?);
    let (mut judged, mut sent, mut unseen, mut absent) = (0, 0, 0, 0);
    for list in Operation::all(&document).iter().filter(|operation| operation.is_list()) {
        let client = match list.permission() {
            Some(_) => admin.as_ref(),
            None => Some(&reader),
        };
        let Some(client) = client else {
            unseen += 1;
            continue;
        };
        // This list belongs to a resource that does not exist, so it cannot be checked.
        if list.parameters("path").next().is_some() && client.get(&list.sample_path()).await?.status == 404 {
            absent += 1;
            continue;
        }
        sent += expect_pages(client, list).await?;
        sent += expect_rejections(client, list).await?;
        judged += 1;
    }
    fill_list(&reader).await?;
    let listed = walk(&reader).await?;
    run.record("lists", judged);
    run.record("questions", sent);
    run.record("lists_for_administrators_not_seen", unseen);
    run.record("lists_of_what_is_not_there", absent);
    let but = if unseen > 0 {
        format!("; {unseen} lists for administrators only were not requested")
    } else {
        String::new()
    };
    Ok(format!(
        "{judged} lists returned the expected responses to {sent} requests; of {listed} items a default \
         page has {DEFAULT_PAGE_SIZE} and the largest {MAX_PAGE_SIZE}, and the pages together contain each \
         item once{but}"
    ))
}

fn query(list: &Operation<'_>, query: &str) -> String {
    format!("{}{query}", list.sample_path())
}

/// Requests pages of several sizes and fails if a page is longer than allowed. Returns the number of
/// requests.
async fn expect_pages(client: &Client, list: &Operation<'_>) -> Result<u32, Shortfall> {
    let questions = ["?limit=101", "", "?limit=1", "?limit=100", "?limit=9223372036854775807"];
    let count = if is_deprecated_path(list) { 1 } else { questions.len() };
    for (question, max) in questions
        .into_iter()
        .zip([MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE, 1, MAX_PAGE_SIZE, MAX_PAGE_SIZE])
        .take(count)
    {
        let response = client.get(&query(list, question)).await?.expect(200)?;
        let n = items(&response)?.len();
        if n > max {
            return Err(Shortfall::fails(format!(
                "{} returned {n} items instead of at most {max}",
                response.request
            )));
        }
    }
    Ok(count as u32)
}

/// Returns true if the list is at a deprecated path. It has the same handler as the current path.
fn is_deprecated_path(list: &Operation<'_>) -> bool {
    list.json()["deprecated"] == true
}

/// Sends invalid parameters and fails unless they are rejected. Returns the number of requests.
async fn expect_rejections(client: &Client, list: &Operation<'_>) -> Result<u32, Shortfall> {
    let long = format!("?cursor={}", "A".repeat(4_000));
    let mut questions: Vec<String> = [
        "?limit=0",
        "?limit=-1",
        "?limit=x",
        "?limit=1e3",
        "?limit=99999999999999999999",
        "?limit=1&limit=2",
        "?cursor=kith-verify",
        "?cursor=%27%20OR%201%3D1%20--",
        "?cursor=%00",
        &long,
        "?kith_verify=1",
        "?offset=1",
    ]
    .map(str::to_owned)
    .into();
    for parameter in list.parameters("query") {
        let name = parameter.name;
        match name {
            // Fields for sorting and filters are declared by each collection.
            "order" => questions
                .extend(["?order=kith_verify", "?order=id%3B%20DROP%20TABLE%20users"].map(str::to_owned)),
            "filter" => questions.extend(["?filter=kith_verify%3Aeq%3A1", "?filter=%27"].map(str::to_owned)),
            _ if parameter.schema["enum"].is_array() || parameter.schema["format"] == "date-time" => {
                questions.push(format!("?{name}=kith-verify"));
            }
            _ => {}
        }
    }
    if is_deprecated_path(list) {
        questions = ["?limit=0", "?cursor=kith-verify", "?kith_verify=1"].map(str::to_owned).into();
    }
    for question in &questions {
        let response = client.get(&query(list, question)).await?;
        if response.status != 400 {
            let (name, status) = (list.name(), response.status);
            let question: String = question.chars().take(60).collect();
            return Err(Shortfall::fails(format!("{name} returned {status} to {question} instead of 400")));
        }
    }
    Ok(questions.len() as u32)
}

fn items(response: &CheckResponse) -> Result<Vec<Value>, Shortfall> {
    let body = response.json();
    match (body["items"].as_array(), body.get("next_cursor")) {
        (Some(items), Some(_)) => Ok(items.clone()),
        _ => Err(Shortfall::fails(format!(
            "the response to {} has no items or no next_cursor",
            response.request
        ))),
    }
}

/// Adds items until the list has two more than the maximum page size.
async fn fill_list(reader: &Client) -> Result<(), Shortfall> {
    let have = items(&reader.get(&format!("{FULL_LIST}?limit=100")).await?.expect(200)?)?.len();
    let missing = if have == 0 { MAX_PAGE_SIZE + 2 } else { 0 };
    let add = |n: usize| async move {
        reader.post(FULL_LIST, json!({ "data": { "n": n } })).await?.expect(201).map(drop)
    };
    stream::iter(0..missing).map(add).buffer_unordered(8).try_collect::<Vec<_>>().await.map(drop)
}

/// Reads the whole list with different page sizes. Returns its number of items.
async fn walk(reader: &Client) -> Result<usize, Shortfall> {
    for (question, wanted) in [
        ("", DEFAULT_PAGE_SIZE),
        ("?limit=100", MAX_PAGE_SIZE),
        ("?limit=101", MAX_PAGE_SIZE),
        ("?limit=5000", MAX_PAGE_SIZE),
    ] {
        let response = reader.get(&format!("{FULL_LIST}{question}")).await?.expect(200)?;
        let n = items(&response)?.len();
        if n != wanted {
            return Err(Shortfall::fails(format!(
                "{} returned {n} items instead of {wanted}",
                response.request
            )));
        }
        if !response.header("link").is_some_and(|link| link.contains("rel=\"next\"")) {
            return Err(Shortfall::fails(format!("{} has a next page but no Link to it", response.request)));
        }
    }
    let mut seen = HashSet::new();
    let mut at = format!("{FULL_LIST}?limit=30");
    loop {
        let response = reader.get(&at).await?.expect(200)?;
        for item in items(&response)? {
            if !seen.insert(item["id"].to_string()) {
                return Err(Shortfall::fails(format!(
                    "{} returned an item of an earlier page",
                    response.request
                )));
            }
        }
        let Ok(cursor) = response.text_at("/next_cursor") else { break };
        at = format!("{FULL_LIST}?limit=30&cursor={cursor}");
    }
    if seen.len() != MAX_PAGE_SIZE + 2 {
        return Err(Shortfall::fails(format!(
            "the pages contain {} of {} items",
            seen.len(),
            MAX_PAGE_SIZE + 2
        )));
    }
    Ok(seen.len())
}
