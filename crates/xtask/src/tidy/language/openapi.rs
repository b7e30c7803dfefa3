//! Rules for the OpenAPI document: checks summaries, descriptions, operation ids and parameters.

use serde_json::Value;

use super::super::{File, Finding};
use super::words;

/// Path of the OpenAPI document. API texts are checked in it, because clients read them there.
pub const OPENAPI: &str = "docs/openapi.json";
/// Maximum length of an operation's summary in characters.
const MAX_SUMMARY_CHARS: usize = 60;

/// Checks the texts of the OpenAPI document. Findings contain a JSON pointer instead of a line, because the
/// file is
/// generated.
pub fn check(file: &File) -> Vec<Finding> {
    let Ok(document) = serde_json::from_str::<Value>(&file.text) else {
        return vec![file.finding(1, "not JSON", "the document is written by `cargo xtask openapi`")];
    };
    let mut findings = Vec::new();
    texts(file, "", &document, &mut findings);
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            findings.extend(operation_texts(file, &format!("{method} {path}"), operation));
        }
    }
    findings
}

fn operation_texts(file: &File, name: &str, operation: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fault = |what: String, why| findings.push(file.finding(1, format!("{name}: {what}"), why));
    let summary = operation["summary"].as_str().unwrap_or_default();
    if summary.is_empty() || summary.chars().count() > MAX_SUMMARY_CHARS {
        fault(format!("summary `{summary}`"), "a summary has 1 to 60 characters; more is a description");
    }
    if summary.ends_with('.') {
        fault(format!("summary `{summary}`"), "a summary is a title, without a full stop");
    }
    let id = operation["operationId"].as_str().unwrap_or_default();
    if id.is_empty() || !id.starts_with(|c: char| c.is_ascii_lowercase()) || id.contains('_') {
        fault(format!("operationId `{id}`"), "it becomes a client method such as `acceptPartnerRequest`");
    }
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["description"].as_str().unwrap_or_default().is_empty() {
            fault(
                format!("parameter {} has no description", parameter["name"]),
                "describe it, with its unit and bounds",
            );
        }
    }
    findings
}

/// Checks every summary and description below `value`.
fn texts(file: &File, pointer: &str, value: &Value, findings: &mut Vec<Finding>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let pointer = format!("{pointer}/{key}");
                match member.as_str() {
                    Some(text) if key == "summary" || key == "description" => {
                        let begun = words::first_word(file, 1, text).into_iter();
                        findings.extend(begun.chain(words::banned(file, 1, text)).map(|finding| Finding {
                            what: format!("{pointer}: {}", finding.what),
                            ..finding
                        }));
                    }
                    _ => texts(file, &pointer, member, findings),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                texts(file, &format!("{pointer}/{index}"), item, findings);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{formatted, tree};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        formatted(&check(&tree(&[(path, text)])[0]))
    }

    #[test]
    fn faulty_texts_in_openapi_document_are_reported() {
        let document = r#"{"paths": {"/a": {"get": {"operationId": "get_a", "summary": "Get a.",
            "description": "What a is.", "parameters": [{"name": "b"}]}}}}"#;
        let expected = [
            "docs/openapi.json:1: /paths//a/get/description: begins with `What`",
            "docs/openapi.json:1: get /a: summary `Get a.`",
            "docs/openapi.json:1: get /a: operationId `get_a`",
            "docs/openapi.json:1: get /a: parameter \"b\" has no description",
        ];
        assert_eq!(found(OPENAPI, document), expected);
        let document = r#"{"paths": {"/a": {"get": {"operationId": "getA", "summary": "Get a"}}}}"#;
        assert_eq!(found(OPENAPI, document), [""; 0]);
    }
}
