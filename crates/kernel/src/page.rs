//! Lists by cursor: the shape of a page, how many items it may hold, and the opaque mark of where the next begins.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A part of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last.
    pub next_cursor: Option<Cursor>,
}

impl<T> Page<T> {
    /// Makes a page from one row more than `limit`, if there were that many; `key` is what the last row sorts by.
    pub fn from_rows<K: Serialize>(mut rows: Vec<T>, limit: PageLimit, key: impl Fn(&T) -> K) -> Self {
        let more = rows.len() > usize::from(limit.0);
        rows.truncate(usize::from(limit.0));
        let next_cursor = rows.last().filter(|_| more).map(|last| Cursor::at(&key(last)));
        Self { items: rows, next_cursor }
    }

    /// The same, and the page ends early once its items have `max_bytes` in all; it holds at least one. `fetched` is how many
    /// rows the database was asked for: if there were that many, more may follow.
    pub fn from_rows_within<K: Serialize>(
        mut rows: Vec<T>,
        limit: PageLimit,
        fetched: i64,
        max_bytes: usize,
        bytes: impl Fn(&T) -> usize,
        key: impl Fn(&T) -> K,
    ) -> Self {
        let mut total = 0;
        let fitting = rows.iter().take_while(|row| {
            let is_first = total == 0;
            total += bytes(row).max(1);
            is_first || total <= max_bytes
        });
        let fitting = fitting.count().min(usize::from(limit.0));
        let more = rows.len() > fitting || i64::try_from(rows.len()).is_ok_and(|rows| rows >= fetched);
        rows.truncate(fitting);
        let next_cursor = rows.last().filter(|_| more).map(|last| Cursor::at(&key(last)));
        Self { items: rows, next_cursor }
    }

    /// The same page with each item turned into another.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }
}

/// How many items a page may hold: 1 to 100, 20 unless asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit(u8);

impl PageLimit {
    /// What was asked for, clamped to 100; `None` if it is less than 1.
    pub fn new(asked: i64) -> Option<Self> {
        (asked >= 1).then(|| Self(u8::try_from(asked.min(100)).unwrap_or(100)))
    }

    /// Rows to fetch: one more than the page holds, to learn whether there is a next.
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

/// Bytes of stored JSON on one page of a list; a page that would hold more ends early.
pub const MAX_PAGE_BYTES: usize = 1 << 20;
/// Bytes that the database is asked for at once, at most.
const MAX_READ_BYTES: i64 = 8 << 20;

impl PageLimit {
    /// Rows to fetch where one may have `max_row_bytes`: so many that the page cannot be told from a shorter one.
    pub fn rows_of(self, max_row_bytes: i64) -> i64 {
        self.rows().min(2 + MAX_READ_BYTES / max_row_bytes.max(1))
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(20)
    }
}

/// An opaque mark in a list. Callers hand it back as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(String);

/// A cursor that this list did not hand out.
#[derive(Debug, Error)]
#[error("the cursor is not one that this list handed out")]
pub struct InvalidCursor;

crate::scalar_schema! { Cursor => "Cursor", String }

impl Cursor {
    /// The mark behind the row that sorts by `key`.
    pub fn at<K: Serialize>(key: &K) -> Self {
        let json = serde_json::to_vec(key).expect("sort keys are plain values");
        Self(URL_SAFE_NO_PAD.encode(json))
    }

    /// The key it was made from.
    ///
    /// # Errors
    /// [`InvalidCursor`] if it is not ours.
    pub fn key<K: DeserializeOwned>(&self) -> Result<K, InvalidCursor> {
        let json = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| InvalidCursor)?;
        serde_json::from_slice(&json).map_err(|_| InvalidCursor)
    }

    /// As it stands in an address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_bounded_in_bytes_and_goes_on_behind_its_last_item() {
        let page = |rows: &[usize], max_bytes| {
            let limit = PageLimit::new(3).unwrap();
            let page = Page::from_rows_within(
                rows.to_vec(),
                limit,
                limit.rows(),
                max_bytes,
                |bytes| *bytes,
                |bytes| *bytes,
            );
            (page.items.len(), page.next_cursor.is_some())
        };
        assert_eq!(page(&[], 10), (0, false));
        assert_eq!(page(&[4, 4, 2], 10), (3, false));
        assert_eq!(page(&[4, 4, 2, 1], 10), (3, true));
        assert_eq!(page(&[4, 4, 3], 10), (2, true));
        assert_eq!(page(&[50, 1], 10), (1, true));
        assert_eq!(page(&[50], 10), (1, false));
    }

    #[test]
    fn pages_of_fewer_rows_than_their_limit_lead_to_every_row() {
        let (limit, all) = (PageLimit::new(100).unwrap(), (1..=75).collect::<Vec<i64>>());
        let fetched = limit.rows_of(256 << 10);
        assert!(fetched < limit.rows());
        let (mut seen, mut after) = (Vec::new(), Some(0));
        while let Some(behind) = after {
            let rows = all.iter().copied().filter(|row| *row > behind).take(fetched as usize).collect();
            let page = Page::from_rows_within(rows, limit, fetched, MAX_PAGE_BYTES, |_| 1, |row| *row);
            after = page.next_cursor.map(|cursor| cursor.key().unwrap());
            seen.extend(page.items);
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_page_says_whether_there_is_more() {
        let limit = PageLimit::new(2).unwrap();
        let first = Page::from_rows(vec![1, 2, 3], limit, |n| *n);
        assert_eq!(first.items, [1, 2]);
        assert_eq!(first.next_cursor.unwrap().key::<i32>().unwrap(), 2);
        assert_eq!(Page::from_rows(vec![1, 2], limit, |n| *n).next_cursor, None);
    }

    #[test]
    fn limits_are_clamped_above_and_refused_below() {
        assert_eq!(PageLimit::new(1_000).unwrap().rows(), 101);
        assert_eq!(PageLimit::new(0), None);
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        let foreign: Cursor = serde_json::from_str("\"%%%\"").unwrap();
        assert!(foreign.key::<i64>().is_err());
    }
}
