//! For programs: all of it.

use serde_json::json;

use super::Report;

/// The version of this form; a field may be added to it, none changes or goes.
const VERSION: u32 = 1;

pub(super) fn write(report: &Report) -> String {
    let mut value = json!({ "report": VERSION });
    let (Some(into), Ok(serde_json::Value::Object(fields))) =
        (value.as_object_mut(), serde_json::to_value(report))
    else {
        unreachable!("a report is an object")
    };
    into.extend(fields);
    serde_json::to_string_pretty(&value).unwrap_or_default()
}
