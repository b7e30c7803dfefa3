//! Copies recorded rows with different ids and unique columns, to fill a table from a few rows.

use super::recordings::{Table, Value};

const ID_LENGTH: usize = 36;
/// Positions of the hexadecimal digits of an id that are changed in copies. The last digits are not changed,
/// because they distinguish the ids of different tests.
const DIGITS: std::ops::Range<usize> = 24..30;

/// Minimum length in bytes of a value that counts as a hash or key. Such values are changed in copies.
const MIN_HASH_BYTES: usize = 16;

/// Recorded row to copy, with the columns to change.
pub struct RowTemplate<'t> {
    table: &'t Table,
    row: &'t [Value],
    /// Columns that contain ids, with the positions of the ids in the text.
    ids: Vec<(usize, Vec<usize>)>,
    /// Columns to change although they contain no id. They refer to numbered rows, contain a hash, or belong
    /// to a unique index without ids.
    others: Vec<usize>,
}

impl<'t> RowTemplate<'t> {
    /// Determines the columns to change in `row` of `table`.
    pub fn new(table: &'t Table, row: &'t [Value]) -> Self {
        let ids: Vec<_> = (0..row.len())
            .map(|column| (column, ids_in(&row[column])))
            .filter(|(_, positions)| !positions.is_empty())
            .collect();
        let mut others = table.references.clone();
        let is_hash = |value: &Value| matches!(value, Value::Blob(bytes) if bytes.len() >= MIN_HASH_BYTES);
        others.extend((0..row.len()).filter(|column| is_hash(&row[*column])));
        for unique in &table.unique {
            let differs =
                |column: &usize| others.contains(column) || ids.iter().any(|(with, _)| with == column);
            if !unique.iter().any(differs) {
                let number = unique.iter().rev().find(|column| matches!(row[**column], Value::Integer(_)));
                others.extend(number.or(unique.first()));
            }
        }
        Self { table, row, ids, others }
    }

    /// Returns copy number `n`, counted from 1. Copies with the same number refer to each other in the same
    /// way as the original rows.
    pub fn copy(&self, n: i64) -> Vec<Value> {
        let mut copy = self.row.to_vec();
        for (column, positions) in &self.ids {
            if let Value::Text(text) = &mut copy[*column] {
                for position in positions {
                    let digits = position + DIGITS.start..position + DIGITS.end;
                    let number = i64::from_str_radix(&text[digits.clone()], 16).unwrap_or(0);
                    text.replace_range(digits, &format!("{:06x}", (number ^ n) & 0xff_ffff));
                }
            }
        }
        for column in &self.others {
            match &mut copy[*column] {
                Value::Integer(number) => *number += n * self.table.strides[*column],
                Value::Text(text) => text.push_str(&format!("~{n}")),
                Value::Blob(bytes) if bytes.len() >= MIN_HASH_BYTES => {
                    bytes.iter_mut().rev().zip(n.to_le_bytes()).for_each(|(byte, digit)| *byte ^= digit);
                }
                Value::Blob(bytes) => bytes.extend(n.to_be_bytes()),
                // A unique index treats NULLs as distinct, so they need no change.
                Value::Null | Value::Real(_) => {}
            }
        }
        copy
    }
}

/// Returns the positions at which ids begin in a text.
fn ids_in(value: &Value) -> Vec<usize> {
    let Value::Text(text) = value else { return Vec::new() };
    let mut positions = Vec::new();
    let mut at = 0;
    while at + ID_LENGTH <= text.len() {
        if is_id(&text.as_bytes()[at..at + ID_LENGTH]) {
            positions.push(at);
            at += ID_LENGTH;
        } else {
            at += 1;
        }
    }
    positions
}

/// Returns true if `text` is a UUID in its hyphenated form.
fn is_id(text: &[u8]) -> bool {
    text[8] == b'-'
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-00000000000f";

    fn table(unique: Vec<Vec<usize>>) -> Table {
        Table {
            name: "t".into(),
            columns: vec!["a".into(), "b".into()],
            unique,
            references: vec![],
            strides: vec![10, 10],
            rows: vec![],
        }
    }

    #[test]
    fn all_ids_in_texts_of_copy_change_in_same_way() {
        let row = [Value::Text(format!("user:{ID}")), Value::Text(format!("{ID} {ID}"))];
        let other = "0198c0de-0000-7000-8000-00000100000f";
        let expected = vec![Value::Text(format!("user:{other}")), Value::Text(format!("{other} {other}"))];
        assert_eq!(RowTemplate::new(&table(vec![vec![0]]), &row).copy(1), expected);
    }

    #[test]
    fn unique_columns_without_ids_change_in_copy() {
        let row = [Value::Text("queue".into()), Value::Integer(3)];
        let copy = |unique| RowTemplate::new(&table(unique), &row).copy(2);
        assert_eq!(copy(vec![vec![0, 1]]), [Value::Text("queue".into()), Value::Integer(23)]);
        assert_eq!(copy(vec![vec![1], vec![0]]), [Value::Text("queue~2".into()), Value::Integer(23)]);
        assert_eq!(copy(vec![]), row);
    }
}
