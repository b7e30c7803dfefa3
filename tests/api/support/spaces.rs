//! Helpers for bonds, archives, space items and row counts.

use std::time::Duration;

use kith_kernel::days;
use kith_store::{Error, params};
use serde_json::{Value, json};

use super::{Person, TestApp};

const REQUESTS: &str = "/api/v1/partners/requests";

/// Forms or restores the bond of two users and returns its id.
pub async fn bonded(one: &Person, other: &Person) -> String {
    one.post(REQUESTS, json!({ "to": { "user_id": other.id } })).await.expect(201);
    let crossed = other.post(REQUESTS, json!({ "to": { "user_id": one.id } })).await.expect(201);
    crossed["bond"]["id"].as_str().expect("a bond").to_owned()
}

/// Ends the bond of `who`.
pub async fn break_up(who: &Person) {
    who.post("/api/v1/partners/breakup", json!({})).await.expect(200);
}

/// Creates an item with `data` in the collection at `path` and returns the item's path.
pub async fn item(who: &Person, path: &str, data: Value) -> String {
    let made = who.post(path, json!({ "data": data })).await.expect(201);
    format!("{path}/{}", made["id"].as_str().expect("an id"))
}

impl TestApp {
    /// Advances the clock until bonds that have just ended can be archived, then runs maintenance.
    pub async fn archive(&self) {
        self.advance(days(30) + Duration::from_millis(1));
        self.upkeep().await;
    }

    /// Returns the number of rows of `table` for which `condition` holds. `$1` is `value`.
    pub async fn count(&self, table: &str, condition: &str, value: &str) -> i64 {
        let sql: &'static str = format!("SELECT COUNT(*) FROM {table} WHERE {condition} -- of a test").leak();
        let value = value.to_owned();
        let counted = self.db().read(move |q| q.one(sql, params![value], |row| row.get(0)));
        counted.await.map_err(|error: Error| error).expect("a count").expect("a row")
    }
}
