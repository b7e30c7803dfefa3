//! SQL with names for literals. The expanded text is a constant, as if the literals were written in it.

/// Expands to the constant `$sql` in which each `{name}` is replaced by its text in `$values`, a constant
/// `&[(&str, &str)]`. A name that is not in `$values` is a compile-time error.
///
/// ```
/// use kith_store::named_sql;
///
/// const STATES: [(&str, &str); 2] = [("asleep", "0"), ("awake", "1")];
/// const WAKE: &str = named_sql!(&STATES, "UPDATE dogs SET state = {awake} WHERE state = {asleep}");
///
/// assert_eq!(WAKE, "UPDATE dogs SET state = 1 WHERE state = 0");
/// ```
///
/// ```compile_fail
/// const SQL: &str = kith_store::named_sql!(&[("awake", "1")], "SELECT id FROM dogs WHERE state = {asleep}");
/// ```
#[macro_export]
macro_rules! named_sql {
    ($values:expr, $sql:expr) => {{
        const SQL: &str = $sql;
        const BYTES: [u8; $crate::__named::expanded_len(SQL, $values)] =
            $crate::__named::expand(SQL, $values);
        const TEXT: &str = match ::std::str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("names are delimited by other characters"),
        };
        TEXT
    }};
}

/// Returns the length of the text that [`expand`] returns, in bytes.
pub const fn expanded_len(sql: &str, values: &[(&str, &str)]) -> usize {
    let (sql, mut at, mut len) = (sql.as_bytes(), 0, 0);
    while at < sql.len() {
        let (literal, next) = literal_at(sql, at, values);
        len += literal.len();
        at = next;
    }
    len
}

/// Returns `sql` with each name in braces replaced by its value.
pub const fn expand<const N: usize>(sql: &str, values: &[(&str, &str)]) -> [u8; N] {
    let (sql, mut at, mut expanded, mut len) = (sql.as_bytes(), 0, [0; N], 0);
    while at < sql.len() {
        let (literal, next) = literal_at(sql, at, values);
        let (_, rest) = expanded.split_at_mut(len);
        rest.split_at_mut(literal.len()).0.copy_from_slice(literal);
        len += literal.len();
        at = next;
    }
    expanded
}

/// Returns the byte at `at`, or the value of the name in braces that begins there. The second value is the
/// index at which the remaining text begins.
const fn literal_at<'a>(sql: &'a [u8], at: usize, values: &[(&str, &'a str)]) -> (&'a [u8], usize) {
    let (_, rest) = sql.split_at(at);
    if rest[0] != b'{' {
        return (rest.split_at(1).0, at + 1);
    }
    let mut len = 0;
    while rest[len] != b'}' {
        len += 1;
    }
    let mut i = 0;
    while i < values.len() {
        if is_between_braces(values[i].0.as_bytes(), rest, len) {
            return (values[i].1.as_bytes(), at + len + 1);
        }
        i += 1;
    }
    panic!("a name in braces has no value")
}

/// Returns true if `text[1..end]` equals `name`.
const fn is_between_braces(name: &[u8], text: &[u8], end: usize) -> bool {
    let mut i = 0;
    while i < name.len() && i + 1 < end && name[i] == text[i + 1] {
        i += 1;
    }
    i == name.len() && i + 1 == end
}
