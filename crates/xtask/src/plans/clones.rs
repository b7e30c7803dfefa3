//! Copies of rows that differ in every id and every unique column, so that a few recorded rows fill a table.

use super::world::{Table, Value};

const ID_LENGTH: usize = 36;
/// Hexadecimal digits of an id that tell copies apart: not the last ones, by which ids that tests make up differ.
const DIGITS: std::ops::Range<usize> = 24..30;

/// Bytes of this length are hashes or keys, which differ from row to row.
const MIN_HASH_BYTES: usize = 16;

/// A row to copy, with what changes in each copy.
pub struct Original<'t> {
    table: &'t Table,
    row: &'t [Value],
    /// Columns with the places of ids in their texts.
    ids: Vec<(usize, Vec<usize>)>,
    /// Columns that change because they refer to numbered rows, or because no id makes their unique index differ.
    others: Vec<usize>,
}

impl<'t> Original<'t> {
    /// Looks at `row` of `table`.
    pub fn new(table: &'t Table, row: &'t [Value]) -> Self {
        let ids: Vec<_> = (0..row.len())
            .map(|column| (column, ids_in(&row[column])))
            .filter(|(_, places)| !places.is_empty())
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

    /// Copy number `n` (from 1). Copies with the same number refer to each other as their originals do.
    pub fn copy(&self, n: i64) -> Vec<Value> {
        let mut copy = self.row.to_vec();
        for (column, places) in &self.ids {
            if let Value::Text(text) = &mut copy[*column] {
                for place in places {
                    let digits = place + DIGITS.start..place + DIGITS.end;
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
                // NULLs are all different.
                Value::Null | Value::Real(_) => {}
            }
        }
        copy
    }
}

/// Where ids begin in a text.
fn ids_in(value: &Value) -> Vec<usize> {
    let Value::Text(text) = value else { return Vec::new() };
    let mut places = Vec::new();
    let mut at = 0;
    while at + ID_LENGTH <= text.len() {
        if is_id(&text.as_bytes()[at..at + ID_LENGTH]) {
            places.push(at);
            at += ID_LENGTH;
        } else {
            at += 1;
        }
    }
    places
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
    fn every_id_in_a_text_changes_alike() {
        let row = [Value::Text(format!("user:{ID}")), Value::Text(format!("{ID} {ID}"))];
        let other = "0198c0de-0000-7000-8000-00000100000f";
        let expected = vec![Value::Text(format!("user:{other}")), Value::Text(format!("{other} {other}"))];
        assert_eq!(Original::new(&table(vec![vec![0]]), &row).copy(1), expected);
    }

    #[test]
    fn unique_columns_without_ids_change() {
        let row = [Value::Text("queue".into()), Value::Integer(3)];
        let copy = |unique| Original::new(&table(unique), &row).copy(2);
        assert_eq!(copy(vec![vec![0, 1]]), [Value::Text("queue".into()), Value::Integer(23)]);
        assert_eq!(copy(vec![vec![1], vec![0]]), [Value::Text("queue~2".into()), Value::Integer(23)]);
        assert_eq!(copy(vec![]), row);
    }
}
