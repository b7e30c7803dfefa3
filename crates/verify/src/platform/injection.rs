//! Checks that hostile input cannot be injected: it is rejected, or stored and returned unchanged.

use std::time::Duration;

use kith_readiness::{Check, CheckResponse, Client, Operation, Parameter, Run, Shortfall};
use serde_json::{Value, json};

use super::problem_form::find_internals;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-11",
        description: "sends injection payloads for SQL, shells, templates, file systems and headers in every path \
               and query parameter and in text fields, and compares the responses",
        remediation: "look up the request id in the log; pass values to the database as bind parameters, and parse ids",
        runs_last: false,
        run: |run| Box::pin(check_injection(run)),
    },
    Check {
        row: "SEC-12",
        description: "stores script payloads in all text fields of a profile, an item, a nickname and a request, \
               reads them back, and checks the content types",
        remediation: "check which proxy between here and Kith changes content types or policies",
        runs_last: false,
        run: |run| Box::pin(check_scripts_not_executed(run)),
    },
];

/// Injection payloads, encoded for a URL.
const INJECTION_PAYLOADS: &[&str] = &[
    "%27%20OR%20%271%27%3D%271",
    "%27%3B%20DROP%20TABLE%20users%3B%20--",
    "%22%20OR%20%22%22%3D%22",
    "1%29%20OR%20%281%3D1",
    "%27%20UNION%20SELECT%20NULL%2CNULL--",
    "%27%7C%7Cpg_sleep%284%29--",
    "%27%20AND%20randomblob%281000000000%29--",
    "%25",
    "_%25_",
    "%5C%27",
    "..%2F..%2F..%2Fetc%2Fpasswd",
    "%00",
    "x%0d%0aX-Kith-Injected%3A%201",
    "%24%7Bjndi%3Aldap%3A%2F%2F127.0.0.1%2Fx%7D",
    "%7B%22%24ne%22%3Anull%7D",
    "%24%28sleep%204%29",
    "%7B%7B7%2A7%7D%7D",
];
/// Number of payloads for parameters that the server parses, such as numbers and ids.
const PARSED_PARAMETER_PAYLOADS: usize = 4;
/// Maximum time by which a payload may prolong a request. A longer delay indicates time-based injection.
const MAX_EXTRA_DURATION: Duration = Duration::from_millis(2_500);

async fn check_injection(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let user = run.account("injects").await?.client;
    let admin = Some(run.admin().await?);
    let (mut sent, mut parameters, mut slowest) = (0, 0, Duration::ZERO);
    for operation in &Operation::all(&document) {
        // Writes by an administrator are skipped, because they would affect all users.
        let permitted =
            admin.as_ref().filter(|_| operation.permission().is_some() && operation.method.is_safe());
        let client = permitted.unwrap_or(&user);
        let places = operation.parameters("path").chain(operation.parameters("query"));
        for parameter in places.filter(|_| !operation.is_for_development()) {
            // Query parameters of writes are skipped, because an unexpected filter value could end more
            // sessions than intended.
            if parameter.location == "query" && operation.method != http::Method::GET {
                continue;
            }
            parameters += 1;
            let usual = rows(client, operation, &parameter, "kith-verify").await?;
            for payload in payloads_for(&parameter, operation) {
                let found = rows(client, operation, &parameter, payload).await?;
                sent += 1;
                slowest = slowest.max(found.duration);
                if found.rows > usual.rows || found.duration > usual.duration + MAX_EXTRA_DURATION {
                    let (name, rows, ms) = (operation.name(), found.rows, found.duration.as_millis());
                    let usual = (usual.rows, usual.duration.as_millis());
                    return Err(Shortfall::fails(format!(
                        "{name} with {payload} in {} returned {rows} rows in {ms} ms, but with a plain word {} in {} ms",
                        parameter.name, usual.0, usual.1
                    )));
                }
            }
        }
    }
    let texts = check_payloads_stored_unchanged(&user).await?;
    run.record("parameters", parameters);
    run.record("questions", sent);
    run.record("slowest_ms", slowest.as_millis() as u64);
    Ok(format!(
        "{sent} payloads in {parameters} parameters and {texts} text fields: only rejections and empty \
         responses, no additional row, no injected header, none slower than {} ms",
        slowest.as_millis()
    ))
}

/// Returns the payloads to try for a parameter. Parameters that the server parses and parameters of
/// deprecated paths get fewer.
fn payloads_for(parameter: &Parameter<'_>, operation: &Operation<'_>) -> impl Iterator<Item = &'static str> {
    let schema = parameter.schema;
    let is_parsed = schema["type"] != "string"
        || schema["enum"].is_array()
        || !schema["format"].is_null()
        || parameter.name == "cursor";
    // A deprecated path has the same handler as the current one.
    let is_old = operation.json()["deprecated"] == true;
    let n = if is_old {
        2
    } else if is_parsed {
        PARSED_PARAMETER_PAYLOADS
    } else {
        INJECTION_PAYLOADS.len()
    };
    // Different parameters get different payloads.
    let from = parameter.name.len() % (INJECTION_PAYLOADS.len() - n + 1);
    INJECTION_PAYLOADS[from..from + n].iter().copied()
}

struct RowCount {
    rows: usize,
    duration: Duration,
}

/// Sends the operation with `value` as the parameter. Returns the number of rows in the response and its
/// duration.
async fn rows(
    client: &Client,
    operation: &Operation<'_>,
    parameter: &Parameter<'_>,
    value: &str,
) -> Result<RowCount, Shortfall> {
    let address = if parameter.location == "path" {
        operation
            .path_with(|one| if one.name == parameter.name { value.to_owned() } else { one.placeholder() })
    } else {
        format!("{}?{}={value}", operation.sample_path(), parameter.name)
    };
    let body = operation.body().map_or(Value::Null, |schema| operation.sample(schema));
    let bytes = if body.is_null() { bytes::Bytes::new() } else { body.to_string().into() };
    let response = client.send(operation.method.clone(), &address, bytes).await?;
    ensure_no_server_error(&response)?;
    let rows = response.json()["items"].as_array().map_or(0, Vec::len);
    let is_made =
        parameter.location == "path" && (200..300).contains(&response.status) && value != "kith-verify";
    if is_made && operation.method != http::Method::GET {
        return Err(Shortfall::fails(format!("{} accepted {value} as a name", response.request)));
    }
    Ok(RowCount { rows, duration: response.duration })
}

fn ensure_no_server_error(response: &CheckResponse) -> Result<(), Shortfall> {
    let fails = |what: &str| {
        Err(Shortfall::fails(format!("{} returned {}{what}", response.request, response.status)))
    };
    if response.status >= 500 {
        return fails("");
    }
    if response.headers.contains_key("x-kith-injected") {
        return fails(" with a header injected through the URL");
    }
    if response.status >= 400
        && let Some(pattern) = find_internals(response)
    {
        return fails(&format!(" with {pattern:?} in the body"));
    }
    Ok(())
}

/// Stores payloads as text, reads them again, and fails unless they are unchanged. Returns the number of
/// payloads.
async fn check_payloads_stored_unchanged(account: &Client) -> Result<usize, Shortfall> {
    const ITEMS_PATH: &str = "/api/v1/spaces/me/kith-verify-orders";
    let texts = [
        "'; DROP TABLE users; --",
        "\" OR \"\"=\"",
        "%' OR 1=1 --",
        "../../etc/passwd",
        "${7*7} {{7*7}} $(id)",
        "\\'",
    ];
    for text in texts {
        let patched = account.patch("/api/v1/me", json!({ "display_name": text })).await?.expect(200)?;
        let read = account.get("/api/v1/me").await?.expect(200)?.text_at("/display_name")?;
        if patched.text_at("/display_name")? != text || read != text {
            return Err(Shortfall::fails(format!("the name {text:?} became {read:?}")));
        }
        let created = account.post(ITEMS_PATH, json!({ "data": { text: text } })).await?.expect(201)?;
        let id = created.text_at("/id")?;
        let read = account.get(&format!("{ITEMS_PATH}/{id}")).await?.expect(200)?.json();
        if read["data"][text] != text {
            return Err(Shortfall::fails(format!("an item with {text:?} became {}", read["data"])));
        }
    }
    Ok(texts.len() * 2)
}

/// Payloads for cross-site scripting.
const SCRIPTS: &[&str] = &[
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>",
    "javascript:alert(1)",
    "</script><script>alert(1)</script>",
    "{{constructor.constructor('alert(1)')()}}",
    "<iframe srcdoc=\"<script>alert(1)</script>\">",
    "'-alert(1)-'",
    "<a href=javascript:alert(1)>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
];
/// Maximum length of a nickname.
const NICKNAME_CHARS: usize = 40;

async fn check_scripts_not_executed(run: &Run) -> Result<String, Shortfall> {
    const ITEMS_PATH: &str = "/api/v1/spaces/me/kith-verify-scripts";
    const ME: &str = "/api/v1/me";
    let (account, other) = (run.account("keeps-scripts").await?, run.account("reads-lists").await?);
    let nickname = format!("/api/v1/nicknames/{}", other.id);
    let mut places = 0;
    for script in SCRIPTS {
        let client = &account.client;
        let short: String = script.chars().take(NICKNAME_CHARS).collect();
        client
            .patch(ME, json!({ "display_name": script, "nickname": short, "theme": short }))
            .await?
            .expect(200)?;
        let item = client
            .post(ITEMS_PATH, json!({ "data": { "text": script, *script: true } }))
            .await?
            .expect(201)?;
        let item = format!("{ITEMS_PATH}/{}", item.text_at("/id")?);
        client.put(&nickname, json!({ "nickname": short })).await?.expect(200)?;
        for (path, at, kept) in [
            (ME, "/display_name", *script),
            (ME, "/nickname", &short),
            (ME, "/theme", &short),
            (&item, "/data/text", script),
            (&nickname, "/nickname", &short),
        ] {
            let response = client.get(path).await?.expect(200)?;
            ensure_inert_text(&response, at, kept)?;
            places += 1;
        }
    }
    let message = SCRIPTS.join("\n");
    let message: String = message.chars().take(500).collect();
    let body = json!({ "to": { "user_id": other.id }, "message": message });
    let sent = account.client.post("/api/v1/partners/requests", body).await?.expect_any(&[200, 201])?;
    let path = format!("/api/v1/partners/requests/{}", sent.text_at("/id")?);
    ensure_inert_text(&other.client.get(&path).await?.expect(200)?, "/message", &message)?;
    let cancel_path = format!("{path}/cancel");
    account.client.post(&cancel_path, Value::Null).await?.expect(200)?;
    check_errors_are_json(&account.client).await?;
    run.record("scripts", SCRIPTS.len());
    run.record("readings", places + 1);
    Ok(format!(
        "{} scripts in names, nicknames, themes, items and a message were returned {} times as text, with a \
         JSON content type, nosniff and a policy that allows no scripts",
        SCRIPTS.len(),
        places + 1
    ))
}

fn ensure_inert_text(response: &CheckResponse, at: &str, kept: &str) -> Result<(), Shortfall> {
    let fails = |what: String| Err(Shortfall::fails(format!("{} {what}", response.request)));
    if response.text_at(at)? != kept {
        return fails(format!("does not contain {kept:?} at {at}"));
    }
    ensure_not_rendered(response)
}

/// Fails if a browser could render the response as a page, or run scripts that it contains.
fn ensure_not_rendered(response: &CheckResponse) -> Result<(), Shortfall> {
    let of = |name| response.header(name).unwrap_or_default();
    let fails = |what: String| Err(Shortfall::fails(format!("{} {what}", response.request)));
    if !["application/json", "application/problem+json"].contains(&of("content-type")) {
        return fails(format!("has the content type {:?}", of("content-type")));
    }
    if of("x-content-type-options") != "nosniff" {
        return fails("lacks X-Content-Type-Options: nosniff".to_owned());
    }
    if !of("content-security-policy").contains("default-src 'none'") {
        return fails("has no policy that forbids scripts".to_owned());
    }
    Ok(())
}

/// Checks that error responses are JSON, even if the URL contains a payload.
async fn check_errors_are_json(client: &Client) -> Result<(), Shortfall> {
    let script = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in
        [format!("/{script}"), format!("/api/v1/blocks?{script}=1"), format!("/api/v1/blocks/{script}")]
    {
        let response = client.get(&path).await?;
        ensure_not_rendered(&response)?;
    }
    Ok(())
}
