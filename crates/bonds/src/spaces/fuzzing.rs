//! Fuzz targets that check properties of lists, documents and dates.

use std::cmp::Ordering;

use kith_kernel::{PageLimit, Timestamp};
use kith_platform::http::read_value;
use serde_json::{Map, Number, Value};

use super::dates as built_in;
use super::declarations::{self, DeclarationBody};
use super::list::{ItemListParams, plan_list};
use super::merge_patch::merge;
use super::model::{CollectionName, Space, check_shape};
use super::order::{ValueRange, encode};
use kith_json_schema::fuzzing::assert_conformance;

/// Fuzz target: uses the lines of the input as sort order, filter and cursor of a list. An empty line means
/// no value.
pub fn lists(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.split('\n').map(|line| (!line.is_empty()).then_some(line));
    let [order, filter, cursor] = [(); 3].map(|()| lines.next().flatten());
    let cursor = cursor.and_then(|cursor| serde_json::from_value(cursor.into()).ok());
    let request = ItemListParams {
        order: order.map(str::to_owned),
        filter: filter.map(str::to_owned),
        cursor,
        limit: PageLimit::default(),
    };
    let fields = ["kind".to_owned(), "/a/b".to_owned()];
    match plan_list(&fields, &request) {
        Ok(plan) => {
            let by = plan.by.as_ref().map(|(condition, _)| condition);
            for (field, range) in by.into_iter().chain(&plan.further_conditions) {
                assert!(fields.contains(field) && !range.low.contains('\0') && !range.high.contains('\0'));
            }
            assert!(!plan.after.0.contains('\0'));
            let named =
                filter.map_or(0, |filter| serde_json::from_str::<Map<_, _>>(filter).expect("a filter").len());
            let conditions = plan.further_conditions.len() + usize::from(by.is_some());
            assert!(conditions == named || order.is_some() && conditions == named + 1);
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            assert!(faults.iter().all(|fault| ["?order", "?filter", "?cursor"].contains(&&*fault.pointer)));
        }
    }
    if let Some(Value::Object(filter)) = filter.and_then(|filter| serde_json::from_str(filter).ok()) {
        ordered(&filter.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
    }
}

/// Checks that encoded texts sort in the order of their values, and that ranges contain exactly the matching
/// values.
fn ordered(values: &[Value]) {
    for one in values {
        let at = encode(Some(one));
        assert!(ValueRange::all().low <= at && at < ValueRange::all().high);
        let only = ValueRange::equal_to(one);
        assert!(only.low <= at && at < only.high && only.is_single_value());
        for other in values {
            let Some(order) = compare(one, other) else { continue };
            // If an integer and a float are equal as floats, the encoding still distinguishes them.
            if order == Ordering::Equal && one != other {
                continue;
            }
            let other_text = encode(Some(other));
            // Longer texts are distinguished by a hash, so their order is not preserved.
            if at.len() < 256 && other_text.len() < 256 {
                assert_eq!(at.cmp(&other_text), order, "{one} {other}");
            }
        }
    }
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Number(one), Value::Number(other)) => {
            let exact = |n: &Number| n.as_i64().map(i128::from).or(n.as_u64().map(i128::from));
            match (exact(one), exact(other)) {
                (Some(one), Some(other)) => Some(one.cmp(&other)),
                _ => one.as_f64().partial_cmp(&other.as_f64()),
            }
        }
        _ => None,
    }
}

/// Fuzz target: parses the first two lines of the input as JSON documents. Uses the first as a merge patch,
/// a schema for the second and a declaration. The third line is the name of a collection.
pub fn documents(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let [first, second, third] = [(); 3].map(|()| lines.next().unwrap_or_default());
    name(third);
    let Ok(first) = serde_json::from_str::<Value>(first) else { return };
    if let Ok(body) = read_value::<DeclarationBody>(&first, "") {
        let name: CollectionName = "books".parse().expect("a name");
        // The check must neither panic nor take long, even for an invalid declaration.
        let _ = declarations::check(&name, body);
    }
    let Ok(second) = serde_json::from_str::<Value>(second) else { return };
    let once = merge(second.clone(), first.clone());
    assert_eq!(merge(once.clone(), first.clone()), once);
    if check_shape(&first, "/x").is_ok() && check_shape(&second, "/x").is_ok() {
        assert!(check_shape(&once, "/x").is_ok(), "a patch of a bounded document is bounded");
        assert_conformance(&first.to_string(), &second);
    }
}

fn name(text: &str) {
    if let Ok(name) = text.parse::<CollectionName>() {
        assert_eq!(name.as_str(), text);
        assert!(
            text.len() <= 40
                && text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
        );
    }
    if let Some(space) = Space::parse(text) {
        assert_eq!(Space::parse(&space.key()), Some(space));
    }
}

/// Fuzz target: uses the lines of the input as a date, the default time zone and the current time in
/// milliseconds.
pub fn schedules(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let [date, zone, now] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let Ok(date) = serde_json::from_str::<Value>(date) else { return };
    let (normalized, schedule) = match built_in::read(&date, zone) {
        Ok(read) => read,
        Err(faults) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| fault.pointer.starts_with("/data")));
            return;
        }
    };
    assert_eq!(built_in::read(&normalized, "UTC").map(|(again, _)| again), Ok(normalized));
    let mut now = Timestamp::from_millis(now.parse().unwrap_or(1_767_225_600_000));
    for minutes in schedule.remind_minutes_before.iter().chain([&0, &527_040]) {
        for _ in 0..3 {
            let Some(next) = schedule.next_reminder(*minutes, now) else { break };
            assert!(next > now, "{next} after {now}");
            now = next;
        }
    }
}
