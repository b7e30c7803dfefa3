//! Checks of lists: page sizes and parameters.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use kith_readiness::{Answer, Check, Client, Operation, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-04",
    does: "requests every list with the default, the largest, a too large, a zero and a negative limit, with \
           foreign cursors and undeclared parameters; reads a list of 102 items page by page",
    mend: "look at the named list; `PageQuery` and `deny_unknown_fields` implement these rules",
    last: false,
    run: |run| Box::pin(pages(run)),
}];

/// Default page size of every list.
const DEFAULT_PAGE_SIZE: usize = 20;
const MAX_PAGE_SIZE: usize = 100;
/// List with more items than the maximum page size.
const FULL_LIST: &str = "/api/v1/spaces/me/kith-verify-pages";

async fn pages(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let reader = run.person("reads-lists").await?.client;
    let admin = Some(run.admin().await?);
    let (mut judged, mut asked, mut unseen, mut absent) = (0, 0, 0, 0);
    for list in Operation::all(&document).iter().filter(|operation| operation.is_list()) {
        let client = match list.permission() {
            Some(_) => admin.as_ref(),
            None => Some(&reader),
        };
        let Some(client) = client else {
            unseen += 1;
            continue;
        };
        // A list of a missing resource cannot be checked.
        if list.parameters("path").next().is_some() && client.get(&list.address()).await?.status == 404 {
            absent += 1;
            continue;
        }
        asked += takes_a_page(client, list).await?;
        asked += refuses(client, list).await?;
        judged += 1;
    }
    fills(&reader).await?;
    let walked = walk(&reader).await?;
    run.figure("lists", judged);
    run.figure("questions", asked);
    run.figure("lists_for_administrators_not_seen", unseen);
    run.figure("lists_of_what_is_not_there", absent);
    let but = if unseen > 0 {
        format!("; {unseen} lists for administrators only were not requested")
    } else {
        String::new()
    };
    Ok(format!(
        "{judged} lists returned the expected responses to {asked} requests; of {walked} items a default \
         page has {DEFAULT_PAGE_SIZE} and the largest {MAX_PAGE_SIZE}, and the pages together contain each \
         item once{but}"
    ))
}

fn query(list: &Operation<'_>, query: &str) -> String {
    format!("{}{query}", list.address())
}

/// Requests valid page sizes and fails if a page is longer than allowed. Returns the number of requests.
async fn takes_a_page(client: &Client, list: &Operation<'_>) -> Result<u32, Shortfall> {
    let questions = ["?limit=101", "", "?limit=1", "?limit=100", "?limit=9223372036854775807"];
    let asked = if is_another_name(list) { 1 } else { questions.len() };
    for (question, most) in questions
        .into_iter()
        .zip([MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE, 1, MAX_PAGE_SIZE, MAX_PAGE_SIZE])
        .take(asked)
    {
        let answer = client.get(&query(list, question)).await?.expect(200)?;
        let n = items(&answer)?.len();
        if n > most {
            return Err(Shortfall::fails(format!(
                "{} returned {n} items instead of at most {most}",
                answer.asked
            )));
        }
    }
    Ok(asked as u32)
}

/// Returns true if the path is deprecated: the same handler under an old path.
fn is_another_name(list: &Operation<'_>) -> bool {
    list.json()["deprecated"] == true
}

/// Sends invalid parameters and expects rejections. Returns the number of requests.
async fn refuses(client: &Client, list: &Operation<'_>) -> Result<u32, Shortfall> {
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
            // Sort and filter fields are declared for each collection.
            "order" => questions
                .extend(["?order=kith_verify", "?order=id%3B%20DROP%20TABLE%20users"].map(str::to_owned)),
            "filter" => questions.extend(["?filter=kith_verify%3Aeq%3A1", "?filter=%27"].map(str::to_owned)),
            _ if parameter.schema["enum"].is_array() || parameter.schema["format"] == "date-time" => {
                questions.push(format!("?{name}=kith-verify"));
            }
            _ => {}
        }
    }
    if is_another_name(list) {
        questions = ["?limit=0", "?cursor=kith-verify", "?kith_verify=1"].map(str::to_owned).into();
    }
    for question in &questions {
        let answer = client.get(&query(list, question)).await?;
        if answer.status != 400 {
            let (name, status) = (list.name(), answer.status);
            let question: String = question.chars().take(60).collect();
            return Err(Shortfall::fails(format!("{name} returned {status} to {question} instead of 400")));
        }
    }
    Ok(questions.len() as u32)
}

fn items(answer: &Answer) -> Result<Vec<Value>, Shortfall> {
    let body = answer.json();
    match (body["items"].as_array(), body.get("next_cursor")) {
        (Some(items), Some(_)) => Ok(items.clone()),
        _ => {
            Err(Shortfall::fails(format!("the response to {} has no items or no next_cursor", answer.asked)))
        }
    }
}

/// Fills the list with two items more than the maximum page size.
async fn fills(reader: &Client) -> Result<(), Shortfall> {
    let have = items(&reader.get(&format!("{FULL_LIST}?limit=100")).await?.expect(200)?)?.len();
    let missing = if have == 0 { MAX_PAGE_SIZE + 2 } else { 0 };
    let add = |n: usize| async move {
        reader.post(FULL_LIST, json!({ "data": { "n": n } })).await?.expect(201).map(drop)
    };
    stream::iter(0..missing).map(add).buffer_unordered(8).try_collect::<Vec<_>>().await.map(drop)
}

/// Reads the list with different page sizes and returns its number of items.
async fn walk(reader: &Client) -> Result<usize, Shortfall> {
    for (question, wanted) in [
        ("", DEFAULT_PAGE_SIZE),
        ("?limit=100", MAX_PAGE_SIZE),
        ("?limit=101", MAX_PAGE_SIZE),
        ("?limit=5000", MAX_PAGE_SIZE),
    ] {
        let answer = reader.get(&format!("{FULL_LIST}{question}")).await?.expect(200)?;
        let n = items(&answer)?.len();
        if n != wanted {
            return Err(Shortfall::fails(format!("{} returned {n} items instead of {wanted}", answer.asked)));
        }
        if !answer.header("link").is_some_and(|link| link.contains("rel=\"next\"")) {
            return Err(Shortfall::fails(format!("{} has a next page but no Link to it", answer.asked)));
        }
    }
    let mut seen = HashSet::new();
    let mut at = format!("{FULL_LIST}?limit=30");
    loop {
        let answer = reader.get(&at).await?.expect(200)?;
        for item in items(&answer)? {
            if !seen.insert(item["id"].to_string()) {
                return Err(Shortfall::fails(format!(
                    "{} returned an item of an earlier page",
                    answer.asked
                )));
            }
        }
        let Ok(cursor) = answer.text_at("/next_cursor") else { break };
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
