//! Bonds that are made, ended and archived, things kept in spaces, and rows counted.

use std::time::Duration;

use kith_kernel::days;
use kith_store::{Error, params};
use serde_json::{Value, json};

use super::{Person, TestApp};

const REQUESTS: &str = "/api/v1/partners/requests";

/// Makes partners of two people, anew or again, and returns the bond's id.
pub async fn bonded(one: &Person, other: &Person) -> String {
    one.post(REQUESTS, json!({ "to": { "user_id": other.id } })).await.expect(201);
    let crossed = other.post(REQUESTS, json!({ "to": { "user_id": one.id } })).await.expect(201);
    crossed["bond"]["id"].as_str().expect("a bond").to_owned()
}

/// Ends the bond of `who`.
pub async fn break_up(who: &Person) {
    who.post("/api/v1/partners/breakup", json!({})).await.expect(200);
}

/// Keeps `data` in the collection at `path`, and returns the item's own path.
pub async fn item(who: &Person, path: &str, data: Value) -> String {
    let made = who.post(path, json!({ "data": data })).await.expect(201);
    format!("{path}/{}", made["id"].as_str().expect("an id"))
}

impl TestApp {
    /// Lets so much time pass that bonds which have just ended are archived, and what is due be done.
    pub async fn archive(&self) {
        self.advance(days(30) + Duration::from_millis(1));
        self.upkeep().await;
    }

    /// How many rows of `table` are as `condition` says of `$1`.
    pub async fn count(&self, table: &str, condition: &str, value: &str) -> i64 {
        let sql: &'static str = format!("SELECT COUNT(*) FROM {table} WHERE {condition} -- of a test").leak();
        let value = value.to_owned();
        let counted = self.db().read(move |q| q.one(sql, params![value], |row| row.get(0)));
        counted.await.map_err(|error: Error| error).expect("a count").expect("a row")
    }
}
