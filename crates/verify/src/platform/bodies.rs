//! Checks that malformed, oversized, deeply nested and highly compressed bodies are rejected.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use kith_readiness::{Check, CheckResponse, Client, Operation, Run, Shortfall};
use serde_json::{Map, Value, json};

use super::problem_form::{body_limit, find_internals};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "API-08",
        description: "sends every operation bodies, queries and paths with one fault each: a wrong type, null, a \
               missing field, an unknown field, a string of 100 KB, an array instead of an object, invalid \
               JSON",
        remediation: "give the type of the body or query `deny_unknown_fields`, and check what its fields mean",
        runs_last: false,
        run: |run| Box::pin(check_invalid_bodies(run)),
    },
    Check {
        row: "API-09",
        description: "sends a body one byte over the limit to every operation with a body, a body with 10,000 \
               levels of nesting, and gzip with a ratio of 1,000:1",
        remediation: "set server.max_body_bytes; check that no proxy in front decompresses bodies",
        runs_last: false,
        run: |run| Box::pin(check_limits(run)),
    },
];

/// Size of a text that is longer than any field allows, in bytes.
const OVERSIZED_FIELD_BYTES: usize = 100 << 10;
/// Maximum time until a body is rejected.
const MAX_REJECTION_DURATION: Duration = Duration::from_millis(100);

/// Request body with one fault.
struct InvalidBody {
    what: String,
    body: Bytes,
    /// JSON pointer that the problem must contain. `None` if the problem need not contain one.
    pointer: Option<String>,
}

async fn check_invalid_bodies(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let client = run.account("sends-nonsense").await?.client;
    let admin = Some(run.admin().await?);
    let (mut sent, mut bodies, mut forbidden) = (0, 0, 0);
    let all = Operation::all(&document);
    for operation in all.iter().filter(|operation| !operation.is_for_development()) {
        let client = operation.permission().and(admin.as_ref()).unwrap_or(&client);
        let address = operation.sample_path();
        if let Some(schema) = operation.body() {
            bodies += 1;
            for fault in invalid_bodies(operation, schema) {
                let response = client.send(operation.method.clone(), &address, fault.body.clone()).await?;
                sent += 1;
                // The server must check permissions before the body, so that a caller without the permission
                // does not learn its format.
                if operation.permission().is_some() && admin.is_none() {
                    response.expect(403)?;
                    forbidden += 1;
                    continue;
                }
                require_rejection(&response, &fault)?;
            }
        }
        sent += check_invalid_parameters(client, operation).await?;
    }
    run.record("invalid_inputs", sent);
    run.record("operations_with_a_body", bodies);
    run.record("refused_for_want_of_a_permission", forbidden);
    Ok(format!(
        "{sent} invalid inputs, in {bodies} kinds of bodies, in queries and in paths: all rejected with 4xx, \
         none with 5xx"
    ))
}

/// Returns bodies with one fault each. Covers every kind of fault that the schema makes possible.
fn invalid_bodies<'d>(operation: &Operation<'d>, schema: &'d Value) -> Vec<InvalidBody> {
    let good = operation.sample(schema);
    let fault = |what: &str, body: &Value, pointer: Option<String>| InvalidBody {
        what: what.to_owned(),
        body: body.to_string().into(),
        pointer,
    };
    let mut all = vec![
        InvalidBody { what: "broken JSON".to_owned(), body: Bytes::from_static(b"{\"a\":"), pointer: None },
        fault("an array", &json!([good]), Some(String::new())),
        fault("a text", &json!("kith-verify"), Some(String::new())),
        fault("an unknown field", &with(&good, "kith_verify", json!(1)), Some("/kith_verify".to_owned())),
    ];
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let mut body = good.clone();
        body.as_object_mut().map(|fields| fields.remove(required));
        all.push(fault("a missing field", &body, Some(format!("/{required}"))));
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let schema = operation.resolved(schema);
        let at = Some(format!("/{name}"));
        for wrong in values_of_other_types(schema) {
            all.push(fault(&format!("{name} as {}", kind_of(&wrong)), &with(&good, name, wrong), at.clone()));
        }
        if allows(schema, "string") {
            let long = with(&good, name, json!("x".repeat(OVERSIZED_FIELD_BYTES)));
            all.push(fault(&format!("100 KB of {name}"), &long, None));
        }
        if schema["enum"].is_array() {
            all.push(fault(
                &format!("an unknown {name}"),
                &with(&good, name, json!("kith-verify")),
                at.clone(),
            ));
        }
        for (inner, schema) in schema["properties"].as_object().into_iter().flatten() {
            let Some(wrong) = values_of_other_types(operation.resolved(schema)).into_iter().next() else {
                continue;
            };
            let body = with(&good, name, json!({ inner.as_str(): wrong }));
            all.push(fault(
                &format!("{name}.{inner} of another type"),
                &body,
                Some(format!("/{name}/{inner}")),
            ));
        }
    }
    all
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut fields: Map<_, _> = body.as_object().cloned().unwrap_or_default();
    fields.insert(name.to_owned(), value);
    Value::Object(fields)
}

/// Returns values whose types the schema does not allow. Empty if the schema declares no type.
fn values_of_other_types(schema: &Value) -> Vec<Value> {
    if schema["type"].is_null() && schema["enum"].is_null() {
        return Vec::new();
    }
    let all = [json!(5), json!({}), json!([]), json!("kith-verify"), json!(true), Value::Null];
    let others = all.into_iter().filter(|value| !allows(schema, kind_of(value)));
    // A number, a container and null are sufficient.
    others
        .filter(|value| !value.is_string() && !value.is_boolean() || allows(schema, "object"))
        .take(4)
        .collect()
}

fn allows(schema: &Value, kind: &str) -> bool {
    let is = |declared: &Value| declared == kind || (declared == "number" && kind == "integer");
    let by_enum =
        schema["enum"].as_array().is_some_and(|values| values.iter().any(|value| kind_of(value) == kind));
    is(&schema["type"]) || schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(is)) || by_enum
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn require_rejection(response: &CheckResponse, fault: &InvalidBody) -> Result<(), Shortfall> {
    let (request, what, status) = (&response.request, &fault.what, response.status);
    let fails =
        |reason: &str| Err(Shortfall::fails(format!("{request} with {what} returned {status}{reason}")));
    if !(400..500).contains(&status) {
        return fails("");
    }
    if let Some(pattern) = find_internals(response) {
        return fails(&format!(" with {pattern:?} in the body"));
    }
    let Some(pointer) = &fault.pointer else { return Ok(()) };
    let body = response.json();
    let names = |pointer: &str| {
        body["errors"].as_array().is_some_and(|errors| errors.iter().any(|error| error["pointer"] == pointer))
    };
    if status == 422 && names(pointer) {
        Ok(())
    } else {
        fails(&format!(" and the errors do not point at {pointer:?}"))
    }
}

/// Sends invalid query and path parameters and fails unless all are rejected. Returns their number.
async fn check_invalid_parameters(client: &Client, operation: &Operation<'_>) -> Result<u32, Shortfall> {
    let mut addresses = Vec::new();
    for parameter in operation.parameters("query") {
        let is_bounded = ["integer", "boolean"].iter().any(|kind| parameter.schema["type"] == *kind)
            || parameter.schema["enum"].is_array()
            || parameter.schema["format"] == "date-time";
        if is_bounded {
            addresses.push((400, format!("{}?{}=kith-verify", operation.sample_path(), parameter.name)));
        }
    }
    if operation.parameters("query").next().is_some() {
        addresses.push((400, format!("{}?kith_verify=1", operation.sample_path())));
    }
    for wrong in operation.parameters("path") {
        let is_bounded = wrong.schema["format"] == "uuid"
            || wrong.schema["enum"].is_array()
            || wrong.schema["pattern"].is_string();
        if is_bounded {
            let address = operation.path_with(|parameter| {
                if parameter.name == wrong.name {
                    "Kith%20Verify!".to_owned()
                } else {
                    parameter.placeholder()
                }
            });
            addresses.push((404, address));
        }
    }
    let body = operation.body().map_or_else(Bytes::new, |schema| operation.sample(schema).to_string().into());
    for (status, address) in &addresses {
        let response = client.send(operation.method.clone(), address, body.clone()).await?;
        if response.status != *status && !(response.status == 403 && operation.permission().is_some()) {
            return Err(Shortfall::fails(format!(
                "{} returned {} instead of {status}",
                response.request, response.status
            )));
        }
    }
    Ok(addresses.len() as u32)
}

async fn check_limits(run: &Run) -> Result<String, Shortfall> {
    const ME: &str = "/api/v1/me";
    const DEEP: &str = "/api/v1/spaces/me/kith-verify-depth";
    let limit = body_limit(run).await?;
    let document = run.document().await?;
    let client = run.account("sends-too-much").await?.client;
    let before = resident_memory_bytes(run).await?;
    let long = Bytes::from(vec![b' '; limit + 1]);
    let mut with_body = 0;
    for operation in Operation::all(&document).iter().filter(|operation| operation.body().is_some()) {
        client.send(operation.method.clone(), &operation.sample_path(), long.clone()).await?.expect(413)?;
        with_body += 1;
    }
    let mut just_enough = json!({ "theme": "dark" }).to_string().into_bytes();
    just_enough.resize(limit, b' ');
    client.send(Method::PATCH, ME, just_enough.into()).await?.expect(200)?;
    let (deeply_nested_item, bomb) = (Bytes::from(deeply_nested_item()), vec![b' '; limit.max(1 << 20) * 4]);
    let zipped = Bytes::from(gzip(&bomb));
    let ratio = bomb.len() / zipped.len();
    let packs = client.with("content-encoding", "gzip");
    let deeply_nested_item =
        min_duration(&client, Method::POST, DEEP, &deeply_nested_item, &[400, 422]).await?;
    let bomb = min_duration(&packs, Method::PATCH, ME, &zipped, &[413]).await?;
    let round_trip = client.get(ME).await?.expect(200)?.duration;
    for (what, duration) in [("10,000 levels", deeply_nested_item), ("the bomb", bomb)] {
        let duration = duration.saturating_sub(round_trip);
        if duration > MAX_REJECTION_DURATION {
            return Err(Shortfall::fails(format!("{what} was rejected after {} ms", duration.as_millis())));
        }
    }
    let [deeply_nested_item, bomb] = [deeply_nested_item, bomb].map(|duration| duration.as_millis() as u64);
    let grown = resident_memory_bytes(run).await?.zip(before).map(|(after, before)| after - before);
    run.record("limit_bytes", limit);
    run.record("depth_refused_ms", deeply_nested_item);
    run.record("bomb_refused_ms", bomb);
    run.record("bomb_ratio", ratio);
    run.record("resident_grew_bytes", grown);
    let memory = grown.map_or_else(
        || "memory is not reported".to_owned(),
        |bytes| format!("memory changed by {} KiB", bytes >> 10),
    );
    Ok(format!(
        "bodies of {limit} bytes are accepted, and one more byte is rejected by all {with_body} operations \
         with a body; 10,000 levels are rejected after {deeply_nested_item} ms, gzip of {ratio}:1 after {bomb} ms; \
         {memory}"
    ))
}

/// Returns the shortest time of three identical rejections, because other load may slow down single requests.
async fn min_duration(
    client: &Client,
    method: Method,
    path: &str,
    body: &Bytes,
    wanted: &[u16],
) -> Result<Duration, Shortfall> {
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let response = client.send(method.clone(), path, body.clone()).await?.expect_any(wanted)?;
        quickest = quickest.min(response.duration);
    }
    Ok(quickest)
}

/// Returns an item with 10,000 levels of nesting.
fn deeply_nested_item() -> String {
    let (open, close) = (r#"{"data":"#.repeat(10_000), "}".repeat(10_000));
    format!("{open}{{}}{close}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Returns the resident memory in bytes that the node reports. `None` if it reports none.
async fn resident_memory_bytes(run: &Run) -> Result<Option<i64>, Shortfall> {
    let health = run.anonymous().get("/api/health").await?.json();
    Ok(health["checks"]["memory:resident"][0]["observedValue"].as_i64())
}
