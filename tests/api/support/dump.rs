//! Dumps the whole database as text, to search for data that must not be stored.

use kith_store::{Error, Query};

use super::{Engine, TestApp};

impl TestApp {
    /// Returns each row of each table as `table: row` in lower case, with bytes in hexadecimal.
    pub async fn dump(&self) -> Vec<String> {
        let engine = if self.parts().config.database.url.expose() == "sqlite" {
            Engine::Sqlite
        } else {
            Engine::Postgres
        };
        let read = self.db().read(move |q| {
            let mut rows = Vec::new();
            for table in tables(q, engine)? {
                let sql = select_of(q, engine, &table)?;
                let found = q.all(sql.leak(), &[], |row| row.get::<String>(0))?;
                rows.extend(found.into_iter().map(|row| format!("{table}: {}", row.to_lowercase())));
            }
            Ok::<_, Error>(rows)
        });
        read.await.expect("all rows")
    }

    /// Returns the rows that contain one of `words`, as text or as bytes.
    pub async fn rows_with(&self, words: &[&str]) -> Vec<String> {
        let hex = |word: &str| word.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let words: Vec<_> = words.iter().flat_map(|word| [word.to_lowercase(), hex(word)]).collect();
        let mut rows = self.dump().await;
        rows.retain(|row| words.iter().any(|word| row.contains(word)));
        rows
    }
}

fn tables(q: &Query<'_>, engine: Engine) -> Result<Vec<String>, Error> {
    let sql = match engine {
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
        Engine::Postgres | Engine::Pair => {
            "SELECT CAST(tablename AS TEXT) FROM pg_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY tablename"
        }
    };
    q.all(sql, &[], |row| row.get(0))
}

fn select_of(q: &Query<'_>, engine: Engine, table: &str) -> Result<String, Error> {
    if engine != Engine::Sqlite {
        return Ok(format!("SELECT CAST(t AS TEXT) FROM {table} t"));
    }
    let columns = format!("SELECT name FROM pragma_table_info('{table}')");
    let columns: Vec<String> = q.all(columns.leak(), &[], |row| row.get(0))?;
    let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
    Ok(format!("SELECT {} FROM {table}", quoted.join(" || ' ' || ")))
}
