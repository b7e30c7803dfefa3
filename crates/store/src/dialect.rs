//! Translation of portable SQL to each database: placeholders and column types.

/// Returns the statement in SQLite's notation. `$1` becomes `?1`, because SQLite numbers `$n` parameters by
/// appearance.
pub(crate) fn to_sqlite(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        let placeholder = c == '$' && rest.peek().is_some_and(char::is_ascii_digit);
        text.push(if placeholder { '?' } else { c });
    }
    text
}

/// Target notation of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
    /// Column types unchanged, which SQLite keeps for tables that are not STRICT. Used to inspect the schema
    /// that a migration creates.
    Undecided,
}

/// Returns the statements of a migration in the notation of `dialect`.
///
/// Column types become those of the database. Text compares by bytes on both. Tables in SQLite are STRICT,
/// and WITHOUT ROWID if their primary key is declared on a line of its own.
pub(crate) fn schema(sql: &str, dialect: Dialect) -> String {
    split_statements(sql).into_iter().map(|statement| statement_for(&statement, dialect) + ";\n").collect()
}

fn statement_for(statement: &str, dialect: Dialect) -> String {
    let mut text = map_words(statement, |word| match (dialect, word) {
        (Dialect::Sqlite, "BIGINT" | "BOOLEAN") => "INTEGER",
        (Dialect::Sqlite, "DOUBLE") => "REAL",
        (Dialect::Sqlite, "PRECISION") => "",
        (Dialect::Sqlite, "BYTEA") => "BLOB",
        (Dialect::Sqlite | Dialect::Undecided, "CURRENT_TX") => "0",
        (Dialect::Sqlite, "SERIAL_ID") => "INTEGER PRIMARY KEY AUTOINCREMENT",
        (Dialect::Undecided, "SERIAL_ID") => "BIGINT PRIMARY KEY",
        (Dialect::Postgres, "SERIAL_ID") => "BIGINT GENERATED_VARIABLES BY DEFAULT AS IDENTITY PRIMARY KEY",
        (Dialect::Postgres, "TEXT") => "TEXT COLLATE \"C\"",
        (Dialect::Postgres, "CURRENT_TX") => "(pg_current_xact_id()::text::bigint)",
        (_, word) => word,
    });
    if dialect == Dialect::Sqlite && text.trim_start().starts_with("CREATE TABLE") {
        let composite_key = text.lines().any(|line| line.trim_start().starts_with("PRIMARY KEY ("));
        text.push_str(if composite_key { " STRICT, WITHOUT ROWID" } else { " STRICT" });
    }
    text
}

/// Counts the occurrences of the word `wanted`, outside of string literals.
pub(crate) fn count_words(text: &str, wanted: &str) -> usize {
    let mut count = 0;
    map_words(text, |word| {
        count += usize::from(word == wanted);
        word
    });
    count
}

/// Replaces words outside of string literals.
fn map_words<'t>(text: &'t str, mut map: impl FnMut(&'t str) -> &'t str) -> String {
    let mut mapped = String::with_capacity(text.len());
    for (n, part) in text.split('\'').enumerate() {
        if n > 0 {
            mapped.push('\'');
        }
        if n % 2 == 1 {
            mapped.push_str(part);
            continue;
        }
        let mut rest = part;
        while !rest.is_empty() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let starts_word = rest.starts_with(is_word);
            let end = rest.find(|c| is_word(c) != starts_word).unwrap_or(rest.len());
            mapped.push_str(if starts_word { map(&rest[..end]) } else { &rest[..end] });
            rest = &rest[end..];
        }
    }
    mapped
}

/// Splits at the semicolons that end statements and removes line comments.
fn split_statements(sql: &str) -> Vec<String> {
    let without_comments: String = sql.lines().map(|line| format!("{}\n", without_comment(line))).collect();
    let mut statements = vec![String::new()];
    let mut in_string = false;
    for c in without_comments.chars() {
        in_string ^= c == '\'';
        if c == ';' && !in_string {
            statements.push(String::new());
        } else if let Some(last) = statements.last_mut() {
            last.push(c);
        }
    }
    statements.into_iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// Returns the line up to its comment. String literals must not span lines.
fn without_comment(line: &str) -> &str {
    let mut in_string = false;
    for (at, c) in line.char_indices() {
        in_string ^= c == '\'';
        if !in_string && line[at..].starts_with("--") {
            return &line[..at];
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_keep_their_numbers() {
        assert_eq!(to_sqlite("SELECT $2, $1, '$x', $10"), "SELECT ?2, ?1, '$x', ?10");
    }

    #[test]
    fn schema_is_translated_for_each_database() {
        let sql = "-- a comment; with a semicolon\nCREATE TABLE t ( -- it's one too\n  id TEXT PRIMARY KEY,\n  n BIGINT NOT NULL,\n  \
                   ok BOOLEAN NOT NULL DEFAULT TRUE,\n  x DOUBLE PRECISION,\n  note TEXT DEFAULT 'TEXT; BIGINT'\n);\n\
                   CREATE TABLE k (\n  a BIGINT,\n  b BIGINT,\n  PRIMARY KEY (a, b)\n);";
        let sqlite = schema(sql, Dialect::Sqlite);
        assert!(sqlite.contains("n INTEGER NOT NULL") && sqlite.contains("x REAL"), "{sqlite}");
        assert!(sqlite.contains("'TEXT; BIGINT'\n) STRICT;"), "{sqlite}");
        assert!(sqlite.contains("PRIMARY KEY (a, b)\n) STRICT, WITHOUT ROWID;"), "{sqlite}");
        let postgres = schema(sql, Dialect::Postgres);
        assert!(postgres.contains("id TEXT COLLATE \"C\" PRIMARY KEY"), "{postgres}");
        assert!(postgres.contains("'TEXT; BIGINT'") && !postgres.contains("STRICT"), "{postgres}");
    }
}
