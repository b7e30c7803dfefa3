//! Renders a report as JSON with all data.

use serde_json::json;

use super::ReadinessReport;

/// Version of the JSON format. Within a version, fields may be added, but not changed or removed.
const VERSION: u32 = 1;

pub(super) fn write(report: &ReadinessReport) -> String {
    let mut value = json!({ "report": VERSION });
    let (Some(into), Ok(serde_json::Value::Object(fields))) =
        (value.as_object_mut(), serde_json::to_value(report))
    else {
        unreachable!("a report is an object")
    };
    into.extend(fields);
    serde_json::to_string_pretty(&value).unwrap_or_default()
}
