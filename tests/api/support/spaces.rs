//! Helpers for scenarios about spaces: they create items, archive bonds and count rows.

use std::time::Duration;

use kith_kernel::days;
use kith_store::{Error, params};
use serde_json::{Value, json};

use super::{TestApp, TestUser};

/// Creates an item with `data` in the collection at `path` and returns the item's path.
pub async fn item(who: &TestUser, path: &str, data: Value) -> String {
    let made = who.post(path, json!({ "data": data })).await.expect(201);
    format!("{path}/{}", made["id"].as_str().expect("an id"))
}

impl TestApp {
    /// Advances the clock until bonds that have just ended can be archived, then runs maintenance.
    pub async fn archive(&self) {
        self.advance(days(30) + Duration::from_millis(1));
        self.run_maintenance().await;
    }

    /// Returns the number of rows of `table` for which `condition` holds. `$1` is `value`.
    pub async fn count(&self, table: &str, condition: &str, value: &str) -> i64 {
        let sql: &'static str = format!("SELECT COUNT(*) FROM {table} WHERE {condition} -- of a test").leak();
        let value = value.to_owned();
        let counted = self.db().read(move |q| q.one(sql, params![value], |row| row.get(0)));
        counted.await.map_err(|error: Error| error).expect("a count").expect("a row")
    }
}
