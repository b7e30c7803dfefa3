//! Tests that both engines treat values in the same way: types, order, NULL, placeholders, and values that
//! are rejected.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, contract, params};

use crate::support::{Db, add};

contract! {
    values_round_trip
    text_is_ordered_by_bytes
    placeholders_are_numbered
    nul_in_text_is_rejected_before_database
    value_of_wrong_type_is_rejected
    booleans_work_as_conditions_and_in_partial_indexes
    upserts_and_row_values_work
}

async fn values_round_trip(db: Db) {
    let bytes = vec![0_u8, 1, 255];
    let stored: Result<u64, Error> = db
        .store
        .write(move |tx| {
            tx.exec(
                "INSERT INTO kinds (id, t, n, b, x, bytes) VALUES ($1, $2, $3, $4, $5, $6)",
                params![1_i64, "ä🙂\n", i64::MIN, false, 0.1_f64, bytes],
            )?;
            tx.exec(
                "INSERT INTO kinds (id, t, n, x, bytes) VALUES ($1, $2, $3, $4, $5)",
                params![2_i64, None::<String>, None::<i64>, None::<f64>, None::<Vec<u8>>],
            )
        })
        .await;
    assert_eq!(stored.unwrap(), 1);
    type Kinds = (Option<String>, Option<i64>, bool, Option<f64>, Option<Vec<u8>>);
    let rows: Result<Vec<Kinds>, Error> = db
        .store
        .read(|q| {
            q.all("SELECT t, n, b, x, bytes FROM kinds ORDER BY id", &[], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })
        })
        .await;
    let full = (Some("ä🙂\n".to_owned()), Some(i64::MIN), false, Some(0.1), Some(vec![0, 1, 255]));
    assert_eq!(rows.unwrap(), [full, (None, None, true, None, None)]);

    let id = UserId(Uuid::from_u128(0x0193_5e2a_7c11_7abc_8def_0123_4567_89ab));
    let at = Timestamp::from_millis(1_763_716_151_007);
    let back: Result<Option<(UserId, Timestamp)>, Error> = db
        .store
        .write(move |tx| {
            tx.exec("INSERT INTO kinds (id, t, n) VALUES ($1, $2, $3)", params![3_i64, id, at])?;
            tx.one("SELECT t, n FROM kinds WHERE t = $1", params![id], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await;
    assert_eq!(back.unwrap(), Some((id, at)));
}

async fn text_is_ordered_by_bytes(db: Db) {
    for name in ["b", "a", "B", "ä", "Z", "_", "a b", "ab"] {
        db.add(name).await.unwrap();
    }
    assert_eq!(db.names().await, ["B", "Z", "_", "a", "a b", "ab", "b", "ä"]);
    let behind: Result<Vec<String>, Error> = db
        .store
        .read(|q| {
            q.all("SELECT name FROM things WHERE name > $1 ORDER BY name", params!["a b"], |row| row.get(0))
        })
        .await;
    assert_eq!(behind.unwrap(), ["ab", "b", "ä"]);
}

async fn placeholders_are_numbered(db: Db) {
    let swapped: Result<Option<(String, String)>, Error> = db
        .store
        .read(|q| {
            q.one("SELECT CAST($2 AS TEXT), CAST($1 AS TEXT)", params!["one", "two"], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
        .await;
    assert_eq!(swapped.unwrap(), Some(("two".to_owned(), "one".to_owned())));
}

async fn nul_in_text_is_rejected_before_database(db: Db) {
    let stored = db.add("a\0b").await;
    assert!(matches!(stored, Err(Error::NulInText)), "{stored:?}");
    let read: Result<Option<i64>, Error> = db
        .store
        .read(|q| q.one("SELECT COUNT(*) FROM things WHERE name = $1", params!["\0"], |row| row.get(0)))
        .await;
    assert!(matches!(read, Err(Error::NulInText)));
    assert_eq!(db.names().await, [""; 0]);
}

async fn value_of_wrong_type_is_rejected(db: Db) {
    let text_for_number: Result<u64, Error> = db
        .store
        .write(|tx| tx.exec("INSERT INTO counters (name, n) VALUES ('c', $1)", params!["eightchr"]))
        .await;
    assert!(text_for_number.is_err(), "a text of 8 bytes is not accepted as a BIGINT");
    let float_for_number: Result<u64, Error> = db
        .store
        .write(|tx| tx.exec("INSERT INTO counters (name, n) VALUES ('c', $1)", params![0.5_f64]))
        .await;
    assert!(float_for_number.is_err());
    let number_read_as_text: Result<Option<String>, Error> = db
        .store
        .write(|tx| {
            tx.exec("INSERT INTO counters (name, n) VALUES ('c', 7)", &[])?;
            tx.one("SELECT n FROM counters", &[], |row| row.get(0))
        })
        .await;
    assert!(matches!(number_read_as_text, Err(Error::Fault(_))), "{number_read_as_text:?}");
}

async fn booleans_work_as_conditions_and_in_partial_indexes(db: Db) {
    let insert = "INSERT INTO kinds (id, t, b) VALUES ($1, 'same', $2)";
    let stored: Result<i64, Error> = db
        .store
        .write(move |tx| {
            tx.exec(insert, params![1_i64, true])?;
            tx.exec(insert, params![2_i64, false])?;
            tx.exec(insert, params![3_i64, false])?;
            let pending = tx.one("SELECT COUNT(*) FROM kinds WHERE b", &[], |row| row.get(0))?;
            Ok(pending.unwrap_or(0))
        })
        .await;
    assert_eq!(stored.unwrap(), 1);
    let second: Result<u64, Error> = db.store.write(move |tx| tx.exec(insert, params![4_i64, true])).await;
    assert!(matches!(second, Err(Error::Constraint(_))));
    let skipped: Result<u64, Error> = db
        .store
        .write(|tx| {
            tx.exec("INSERT INTO kinds (id, t, b) VALUES (5, 'same', TRUE) ON CONFLICT DO NOTHING", &[])
        })
        .await;
    assert_eq!(skipped.unwrap(), 0);
}

async fn upserts_and_row_values_work(db: Db) {
    let upsert = "INSERT INTO counters (name, n) VALUES ($1, 1)
                  ON CONFLICT (name) DO UPDATE SET n = counters.n + 1 RETURNING n";
    let count: Result<Option<i64>, Error> = db
        .store
        .write(move |tx| {
            tx.one(upsert, params!["c"], |row| row.get::<i64>(0))?;
            tx.one(upsert, params!["c"], |row| row.get(0))
        })
        .await;
    assert_eq!(count.unwrap(), Some(2));
    let paged: Result<Vec<i64>, Error> = db
        .store
        .write(|tx| {
            add(tx, "t")?;
            for n in 1..=4_i64 {
                tx.exec("INSERT INTO parts (thing, n) VALUES ('t', $1)", params![n])?;
            }
            tx.all(
                "SELECT n FROM parts WHERE (thing, n) > ($1, $2) ORDER BY thing, n",
                params!["t", 2_i64],
                |row| row.get(0),
            )
        })
        .await;
    assert_eq!(paged.unwrap(), [3, 4]);
}
