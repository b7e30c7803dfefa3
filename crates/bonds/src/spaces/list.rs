//! Plans sorting, filtering and paging of item lists by declared fields.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, FieldError, PageLimit};
use serde_json::{Map, Value};

use super::model::ItemId;
use super::order::ValueRange;

/// Query parameters of a list.
#[derive(Clone, Debug)]
pub struct ItemListParams {
    /// Field to sort by, with the prefix `-` for descending order.
    pub order: Option<String>,
    /// Filter as a JSON object.
    pub filter: Option<String>,
    /// Cursor of the previous page.
    pub cursor: Option<Cursor>,
    /// Maximum number of items.
    pub limit: PageLimit,
}

/// Name of a field, and the range in which its value must be.
pub type FieldCondition = (String, ValueRange);

/// Direction of a sorted list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortDirection {
    /// Ascending.
    Ascending,
    /// Descending.
    Descending,
}

/// Plan of a list query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPlan {
    /// Condition whose index determines the order of the list, and the direction; `None` sorts by ID, newest
    /// first.
    pub by: Option<(FieldCondition, SortDirection)>,
    /// Other conditions that the items must meet.
    pub further_conditions: Vec<FieldCondition>,
    /// Position after which the page begins: value of the field, and item ID.
    pub after: (String, ItemId),
}

/// Plans the query for the query parameters `params`. `fields` are the declared fields of the collection.
///
/// # Errors
/// Returns one [`FieldError`] per invalid query parameter.
pub fn plan_list(fields: &[String], params: &ItemListParams) -> Result<ListPlan, Vec<FieldError>> {
    let mut further_conditions = conditions(fields, params.filter.as_deref())?;
    let mut take = |wanted: &dyn Fn(&FieldCondition) -> bool| {
        further_conditions.iter().position(wanted).map(|at| further_conditions.swap_remove(at))
    };
    let by = match params.order.as_deref() {
        Some(order) => {
            let (field, direction) = order
                .strip_prefix('-')
                .map_or((order, SortDirection::Ascending), |field| (field, SortDirection::Descending));
            check_field(fields, field, "?order").map_err(|fault| vec![fault])?;
            let condition = take(&|(name, _)| name == field).unwrap_or((field.to_owned(), ValueRange::all()));
            Some((condition, direction))
        }
        // The index sorts items with the same value by ID. A list of one value can therefore use it and
        // still be newest first.
        None => take(&|(_, range)| range.is_single_value())
            .map(|condition| (condition, SortDirection::Descending)),
    };
    let after = position_after(by.as_ref(), params.cursor.as_ref());
    let after = after.ok_or_else(|| {
        vec![FieldError::new("?cursor", "invalid", "The cursor was not issued by this list.")]
    })?;
    Ok(ListPlan { by, further_conditions, after })
}

fn position_after(
    by: Option<&(FieldCondition, SortDirection)>,
    cursor: Option<&Cursor>,
) -> Option<(String, ItemId)> {
    let Some(cursor) = cursor else {
        return Some(match by {
            Some((_, SortDirection::Ascending)) => (String::new(), ItemId(Uuid::nil())),
            _ => (ValueRange::all().high, ItemId(Uuid::max())),
        });
    };
    let (value, id): (Option<String>, ItemId) = cursor.key().ok()?;
    if value.is_some() != by.is_some() {
        return None;
    }
    let value = value.unwrap_or_default();
    (!value.contains('\0')).then_some((value, id))
}

fn conditions(fields: &[String], filter: Option<&str>) -> Result<Vec<FieldCondition>, Vec<FieldError>> {
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

/// Converts a condition of a filter into a range. `wanted` is a single value or an object of comparisons.
fn range(field: &str, wanted: &Value) -> Result<ValueRange, FieldError> {
    let range = match wanted {
        Value::Object(limits) if !limits.is_empty() => {
            limits.iter().try_fold(ValueRange::all(), |range, (comparison, limit)| {
                Some(range.intersect(ValueRange::compare(comparison, limit)?))
            })
        }
        Value::Object(_) | Value::Array(_) => None,
        value => Some(ValueRange::equal_to(value)),
    };
    let valid = range.filter(|range| !range.low.contains('\0') && !range.high.contains('\0'));
    valid.ok_or_else(|| {
        invalid(format!(
            "Compare {field} with a string, number, true, false or null, or use gt, gte, lt or lte with a string or a \
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

    fn params(order: Option<&str>, filter: Option<&str>) -> ItemListParams {
        let (order, filter) = (order.map(str::to_owned), filter.map(str::to_owned));
        ItemListParams { order, filter, cursor: None, limit: PageLimit::default() }
    }

    fn planned(order: Option<&str>, filter: Option<&str>) -> Result<ListPlan, Vec<FieldError>> {
        plan_list(&["kind".into(), "price".into()], &params(order, filter))
    }

    #[test]
    fn list_plan_uses_index_of_sort_or_equality_field() {
        let by = |order, filter| planned(order, filter).unwrap();
        assert_eq!(by(None, None).by, None);
        let ordered = by(Some("-price"), Some(r#"{"price":{"gte":10},"kind":"book"}"#));
        let ten = ValueRange::compare("gte", &json!(10)).unwrap();
        assert_eq!(ordered.by, Some((("price".into(), ten), SortDirection::Descending)));
        assert_eq!(ordered.further_conditions, [("kind".into(), ValueRange::equal_to(&json!("book")))]);
        let equal = by(None, Some(r#"{"price":{"lt":10},"kind":null}"#));
        assert_eq!(
            equal.by,
            Some((("kind".into(), ValueRange::equal_to(&Value::Null)), SortDirection::Descending))
        );
        let ranged = by(None, Some(r#"{"price":{"gt":1,"lte":10}}"#));
        assert_eq!((ranged.by, ranged.further_conditions.len()), (None, 1));
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
    fn cursor_of_list_in_another_order_is_rejected() {
        let id = ItemId(Uuid::from_u128(5));
        let of = |value: Option<&str>, order| {
            let cursor = Some(Cursor::at(&(value, id)));
            planned_with(ItemListParams { cursor, ..params(order, None) })
        };
        assert_eq!(of(Some("4a"), Some("kind")), Some(("4a".to_owned(), id)));
        assert_eq!(of(None, None), Some((String::new(), id)));
        assert_eq!(
            (of(None, Some("kind")), of(Some("4a"), None), of(Some("\0"), Some("kind"))),
            (None, None, None)
        );
    }

    fn planned_with(params: ItemListParams) -> Option<(String, ItemId)> {
        plan_list(&["kind".into()], &params).ok().map(|plan| plan.after)
    }
}
