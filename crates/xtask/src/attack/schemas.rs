//! Attacks with JSON Schemas that are expensive to compile or to validate against. Writes of another user
//! must succeed meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::AttackedServer;
use super::report::{AttackReport, format_response, status_in};

/// Maximum time until an expensive schema or item is rejected.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// Maximum duration of another user's write during an attack.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// Returns attack names, schemas, and for each schema an item to validate if the schema is accepted.
fn costly() -> Vec<(&'static str, Value, Value)> {
    let nested = |levels: usize| (0..levels).fold(json!({ "end": 1 }), |inner, _| json!({ "a": inner }));
    let branch = json!({ "properties": { "a": { "$ref": "#/$defs/n" } }, "required": ["a"] });
    let doubling: serde_json::Map<String, Value> = (0..30)
        .map(|n| {
            let next = format!("#/$defs/d{}", n + 1);
            let rule = if n == 29 {
                json!({ "type": "object" })
            } else {
                json!({ "allOf": [{ "$ref": next }, { "$ref": next }] })
            };
            (format!("d{n}"), rule)
        })
        .collect();
    let not = |levels: usize, end: Value| (0..levels).fold(end, |inner, _| json!({ "not": inner }));
    let nots: serde_json::Map<String, Value> = (0..20)
        .map(|n| (format!("d{n}"), not(110, json!({ "$ref": format!("#/$defs/d{}", (n + 1) % 20) }))))
        .collect();
    let patterns: serde_json::Map<String, Value> = (0..40)
        .map(|n| (format!("p{n}"), json!({ "type": "string", "pattern": format!("(?:a{{500}}){{400}}{n}") })))
        .collect();
    let values: serde_json::Map<String, Value> =
        (0..40).map(|n| (format!("p{n}"), json!("a".repeat(1_000)))).collect();
    let numbers: Vec<_> = (0..9_000).collect();
    vec![
        (
            "anyOf of two branches, 30 deep",
            json!({ "$defs": { "n": { "anyOf": [branch, branch] } }, "$ref": "#/$defs/n" }),
            nested(30),
        ),
        (
            "allOf that doubles 29 times",
            json!({ "$defs": doubling, "$ref": "#/$defs/d0" }),
            json!({ "a": 1 }),
        ),
        (
            "20 definitions of 110 nested not",
            json!({ "$defs": nots, "$ref": "#/$defs/d0" }),
            json!({ "a": 1 }),
        ),
        ("40 patterns of 200,000 letters", json!({ "properties": patterns }), Value::from(values)),
        ("a schema that is itself", json!({ "$ref": "#" }), json!({ "a": 1 })),
        (
            "patterns that backtrack",
            json!({ "patternProperties": { "^(a+)+$": { "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" } } }),
            json!({ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }),
        ),
        (
            "uniqueItems of 9,000 values, 50 times",
            json!({ "properties": { "a": { "allOf": vec![json!({ "uniqueItems": true }); 50] } } }),
            json!({ "a": numbers }),
        ),
        ("a remote schema", json!({ "$ref": "http://127.0.0.1:1/schema.json" }), json!({ "a": 1 })),
    ]
}

/// Declares each schema for a collection and for a job kind, and writes an item to the collection.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("costly schemas");
    for (n, (name, schema, item)) in costly().into_iter().enumerate() {
        let collection = format!("costly{n}");
        report.attack(name, JUDGED_WITHIN, || {
            run_with_concurrent_writer(server, || {
                let path = format!("/api/v1/admin/collections/{collection}");
                let admin = Some(server.admin.token.as_str());
                let declared = server.call("PUT", &path, admin, &json!({ "schema": schema }))?;
                status_in(&declared, &[200, 422])?;
                if declared.status == 422 {
                    return Ok(format_response(&declared));
                }
                let items = format!("/api/v1/spaces/me/{collection}");
                let kept = server.post(&server.eve, &items, &json!({ "data": item }))?;
                status_in(&kept, &[201, 422])?;
                server.call("DELETE", &path, admin, &Value::Null)?.expect(204)?;
                Ok(format!("200, an item {}", format_response(&kept)))
            })
        });
        report.attack(&format!("{name}, for jobs"), JUDGED_WITHIN, || {
            run_with_concurrent_writer(server, || {
                let path = format!("/api/v1/job-kinds/costly{n}");
                let admin = Some(server.admin.token.as_str());
                let declared = server.call("PUT", &path, admin, &json!({ "schema": schema }))?;
                status_in(&declared, &[200, 422])?;
                if declared.status == 422 {
                    return Ok(format_response(&declared));
                }
                let job = json!({ "kind": format!("costly{n}"), "payload": item });
                let enqueued = server.post(&server.admin, "/api/v1/jobs", &job)?;
                status_in(&enqueued, &[201, 422])?;
                Ok(format!("200, a job {}", format_response(&enqueued)))
            })
        });
    }
}

/// Runs the attack while `ada` writes items. Fails if one of her writes is slow or rejected.
fn run_with_concurrent_writer(
    server: &AttackedServer,
    attack: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let is_over = AtomicBool::new(false);
    let write = || -> Result<Duration> {
        let note = json!({ "data": { "text": "milk" } });
        let response = server.post(&server.ada, "/api/v1/spaces/me/shopping", &note)?;
        response.expect(201)?;
        Ok(response.took)
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<(usize, Duration)> {
            let (mut writes, mut slowest) = (1, write()?);
            // The number of writes is limited, so that the space does not fill up.
            while !is_over.load(Ordering::Relaxed) && writes < 200 {
                slowest = slowest.max(write()?);
                writes += 1;
            }
            Ok((writes, slowest))
        });
        let outcome = attack();
        is_over.store(true, Ordering::Relaxed);
        let (writes, slowest) = writer.join().expect("a writer does not panic")?;
        let summary = outcome?;
        ensure!(slowest <= OTHERS_WITHIN, "{summary}, but another user's write took {slowest:.1?}");
        Ok(format!("{summary}; {writes} writes beside it, the slowest {} ms", slowest.as_millis()))
    })
}
