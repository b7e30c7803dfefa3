//! Sorting, filtering and paging of item lists by declared fields.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, FieldError, PageLimit};
use serde_json::{Map, Value};

use super::model::ItemId;
use super::order::Range;

/// Query parameters of a list.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Field to sort by, with the prefix `-` for descending order.
    pub order: Option<String>,
    /// Filter as a JSON object.
    pub filter: Option<String>,
    /// Cursor of the previous page.
    pub cursor: Option<Cursor>,
    /// Maximum number of items.
    pub limit: PageLimit,
}

/// Field with the range of its values.
pub type Condition = (String, Range);

/// Direction of a sorted list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending.
    Up,
    /// Descending.
    Down,
}

/// Plan of a list query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Condition whose index the query follows, with the direction; `None` sorts newest first.
    pub by: Option<(Condition, Direction)>,
    /// Further conditions.
    pub others: Vec<Condition>,
    /// Position after which the page begins: value of the field and item ID.
    pub behind: (String, ItemId),
}

/// Plans the query for `request`, where `fields` are declared.
///
/// # Errors
/// Returns one [`FieldError`] per invalid query parameter.
pub fn plan(fields: &[String], request: &ListRequest) -> Result<Plan, Vec<FieldError>> {
    let mut others = conditions(fields, request.filter.as_deref())?;
    let mut take =
        |wanted: &dyn Fn(&Condition) -> bool| others.iter().position(wanted).map(|at| others.swap_remove(at));
    let by = match request.order.as_deref() {
        Some(order) => {
            let (field, direction) =
                order.strip_prefix('-').map_or((order, Direction::Up), |field| (field, Direction::Down));
            check_field(fields, field, "?order").map_err(|fault| vec![fault])?;
            let condition = take(&|(name, _)| name == field).unwrap_or((field.to_owned(), Range::all()));
            Some((condition, direction))
        }
        // Items with the same value are indexed by ID, so that a list of one value can be read newest first
        // too.
        None => take(&|(_, range)| range.is_one()).map(|condition| (condition, Direction::Down)),
    };
    let behind = behind(by.as_ref(), request.cursor.as_ref());
    let behind = behind.ok_or_else(|| {
        vec![FieldError::new("?cursor", "invalid", "The cursor was not issued by this list.")]
    })?;
    Ok(Plan { by, others, behind })
}

fn behind(by: Option<&(Condition, Direction)>, cursor: Option<&Cursor>) -> Option<(String, ItemId)> {
    let Some(cursor) = cursor else {
        return Some(match by {
            Some((_, Direction::Up)) => (String::new(), ItemId(Uuid::nil())),
            _ => (Range::all().high, ItemId(Uuid::max())),
        });
    };
    let (value, id): (Option<String>, ItemId) = cursor.key().ok()?;
    if value.is_some() != by.is_some() {
        return None;
    }
    let value = value.unwrap_or_default();
    (!value.contains('\0')).then_some((value, id))
}

fn conditions(fields: &[String], filter: Option<&str>) -> Result<Vec<Condition>, Vec<FieldError>> {
    let Some(filter) = filter else { return Ok(Vec::new()) };
    let Ok(filter) = serde_json::from_str::<Map<String, Value>>(filter) else {
        return Err(vec![invalid(
            r#"Expected a JSON object such as {"kind":"book","price":{"gte":10,"lt":20}}."#.into(),
        )]);
    };
    let mut faults = Vec::new();
    let mut conditions = Vec::new();
    for (field, wanted) in filter {
        match check_field(fields, &field, "?filter").and_then(|()| range(&field, &wanted)) {
            Ok(range) => conditions.push((field, range)),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(conditions) } else { Err(faults) }
}

fn check_field(fields: &[String], field: &str, parameter: &'static str) -> Result<(), FieldError> {
    if fields.iter().any(|declared| declared == field) {
        return Ok(());
    }
    let detail = if fields.is_empty() {
        "This collection has no declared list fields.".to_owned()
    } else {
        format!("Expected a declared field of this collection: {}.", fields.join(", "))
    };
    Err(FieldError::new(parameter, "unknown_field", detail))
}

/// Converts a condition of a filter, one value or an object of comparisons, into a range.
fn range(field: &str, wanted: &Value) -> Result<Range, FieldError> {
    let range = match wanted {
        Value::Object(limits) if !limits.is_empty() => {
            limits.iter().try_fold(Range::all(), |range, (comparison, limit)| {
                Some(range.and(Range::compare(comparison, limit)?))
            })
        }
        Value::Object(_) | Value::Array(_) => None,
        value => Some(Range::of(value)),
    };
    let legal = range.filter(|range| !range.low.contains('\0') && !range.high.contains('\0'));
    legal.ok_or_else(|| {
        invalid(format!(
            "{field} is compared with a text, a number, true, false or null, or by gt, gte, lt, lte with a text or a \
             number."
        ))
    })
}

fn invalid(detail: String) -> FieldError {
    FieldError::new("?filter", "invalid", detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(order: Option<&str>, filter: Option<&str>) -> ListRequest {
        let (order, filter) = (order.map(str::to_owned), filter.map(str::to_owned));
        ListRequest { order, filter, cursor: None, limit: PageLimit::default() }
    }

    fn planned(order: Option<&str>, filter: Option<&str>) -> Result<Plan, Vec<FieldError>> {
        plan(&["kind".into(), "price".into()], &request(order, filter))
    }

    #[test]
    fn list_plan_follows_sorting_or_equality_index() {
        let by = |order, filter| planned(order, filter).unwrap();
        assert_eq!(by(None, None).by, None);
        let ordered = by(Some("-price"), Some(r#"{"price":{"gte":10},"kind":"book"}"#));
        let ten = Range::compare("gte", &json!(10)).unwrap();
        assert_eq!(ordered.by, Some((("price".into(), ten), Direction::Down)));
        assert_eq!(ordered.others, [("kind".into(), Range::of(&json!("book")))]);
        let equal = by(None, Some(r#"{"price":{"lt":10},"kind":null}"#));
        assert_eq!(equal.by, Some((("kind".into(), Range::of(&Value::Null)), Direction::Down)));
        let ranged = by(None, Some(r#"{"price":{"gt":1,"lte":10}}"#));
        assert_eq!((ranged.by, ranged.others.len()), (None, 1));
    }

    #[test]
    fn invalid_list_parameters_are_reported() {
        let faults = |order, filter| {
            let faults = planned(order, filter).unwrap_err();
            faults.iter().map(|fault| (fault.pointer.to_string(), fault.code)).collect::<Vec<_>>()
        };
        let unknown = planned(Some("size"), None).unwrap_err();
        assert_eq!((&*unknown[0].pointer, unknown[0].code), ("?order", "unknown_field"));
        assert!(unknown[0].detail.contains("kind, price"), "{unknown:?}");
        assert_eq!(faults(None, Some(r#"{"a":1,"b":2}"#)).len(), 2);
        for filter in [
            "",
            "[]",
            "{",
            r#"{"kind":[]}"#,
            r#"{"kind":{}}"#,
            r#"{"kind":{"like":"x"}}"#,
            r#"{"kind":"\u0000"}"#,
        ] {
            assert_eq!(faults(None, Some(filter)), [("?filter".to_owned(), "invalid")], "{filter}");
        }
        assert_eq!(faults(None, Some(r#"{"price":{"gt":true}}"#)), [("?filter".to_owned(), "invalid")]);
    }

    #[test]
    fn cursor_of_another_order_is_rejected() {
        let id = ItemId(Uuid::from_u128(5));
        let of = |value: Option<&str>, order| {
            let cursor = Some(Cursor::at(&(value, id)));
            planned_with(ListRequest { cursor, ..request(order, None) })
        };
        assert_eq!(of(Some("4a"), Some("kind")), Some(("4a".to_owned(), id)));
        assert_eq!(of(None, None), Some((String::new(), id)));
        assert_eq!(
            (of(None, Some("kind")), of(Some("4a"), None), of(Some("\0"), Some("kind"))),
            (None, None, None)
        );
    }

    fn planned_with(request: ListRequest) -> Option<(String, ItemId)> {
        plan(&["kind".into()], &request).ok().map(|plan| plan.behind)
    }
}
