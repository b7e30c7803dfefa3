//! Cursor pagination: pages, their size limits, and the opaque cursor with which clients request the next
//! page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// Items in the order of the list.
    pub items: Vec<T>,
    /// Cursor of the next page; absent on the last page.
    pub next_cursor: Option<Cursor>,
}

impl<T> Page<T> {
    /// Builds a page from up to `limit + 1` rows. The extra row only shows that another page follows. `key`
    /// returns the sort key of a row.
    pub fn from_rows<K: Serialize>(mut rows: Vec<T>, limit: PageLimit, key: impl Fn(&T) -> K) -> Self {
        let more = rows.len() > usize::from(limit.0);
        rows.truncate(usize::from(limit.0));
        let next_cursor = rows.last().filter(|_| more).map(|last| Cursor::at(&key(last)));
        Self { items: rows, next_cursor }
    }

    /// Builds a page that ends early if its items would exceed `max_bytes` in total. The page contains at
    /// least one item if there are rows. `fetched` is the number of rows requested from the database: if the
    /// database returned that many, another page is assumed to follow.
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

    /// Converts each item with `f`. The cursor stays unchanged.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }
}

/// Maximum number of items on a page: 1 to 100, by default 20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit(u8);

impl PageLimit {
    /// Returns the requested limit, clamped to 100, or `None` if it is less than 1.
    pub fn new(requested: i64) -> Option<Self> {
        (requested >= 1).then(|| Self(u8::try_from(requested.min(100)).unwrap_or(100)))
    }

    /// Returns the number of rows to fetch: one more than the limit. The extra row shows whether another page
    /// follows.
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

/// Maximum size of the stored JSON on one page, in bytes. A page that would exceed it ends early.
pub const MAX_PAGE_BYTES: usize = 1 << 20;
/// Maximum number of bytes to read from the database for one page.
const MAX_READ_BYTES: i64 = 8 << 20;

impl PageLimit {
    /// Returns the number of rows to fetch if a row can have up to `max_row_bytes`, so that one read stays
    /// within about 8 MiB. The page can then contain fewer items than its limit.
    pub fn rows_to_fetch_within(self, max_row_bytes: i64) -> i64 {
        self.rows().min(2 + MAX_READ_BYTES / max_row_bytes.max(1))
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(20)
    }
}

/// Opaque position in a list. Clients send it unchanged to get the next page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(String);

/// Error for a cursor that cannot be decoded as a cursor of this list.
#[derive(Debug, Error)]
#[error("the cursor was not issued by this list")]
pub struct InvalidCursor;

crate::scalar_schema! { Cursor => "Cursor", String }

impl Cursor {
    /// Creates the cursor of the page that starts after the row with the sort key `key`.
    pub fn at<K: Serialize>(key: &K) -> Self {
        let json = serde_json::to_vec(key).expect("sort keys are plain values");
        Self(URL_SAFE_NO_PAD.encode(json))
    }

    /// Decodes the sort key.
    ///
    /// # Errors
    /// Returns [`InvalidCursor`] if the cursor is not valid base64url or its content does not have the type
    /// `K`.
    pub fn key<K: DeserializeOwned>(&self) -> Result<K, InvalidCursor> {
        let json = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| InvalidCursor)?;
        serde_json::from_slice(&json).map_err(|_| InvalidCursor)
    }

    /// Returns the cursor as it appears in a URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_over_byte_limit_continues_after_last_item() {
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
    fn size_limited_pages_return_every_row() {
        let (limit, all) = (PageLimit::new(100).unwrap(), (1..=75).collect::<Vec<i64>>());
        let fetched = limit.rows_to_fetch_within(256 << 10);
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
    fn page_has_cursor_only_if_more_rows_follow() {
        let limit = PageLimit::new(2).unwrap();
        let first = Page::from_rows(vec![1, 2, 3], limit, |n| *n);
        assert_eq!(first.items, [1, 2]);
        assert_eq!(first.next_cursor.unwrap().key::<i32>().unwrap(), 2);
        assert_eq!(Page::from_rows(vec![1, 2], limit, |n| *n).next_cursor, None);
    }

    #[test]
    fn page_limit_is_clamped_above_and_rejected_below_one() {
        assert_eq!(PageLimit::new(1_000).unwrap().rows(), 101);
        assert_eq!(PageLimit::new(0), None);
    }

    #[test]
    fn undecodable_cursor_is_rejected() {
        let foreign: Cursor = serde_json::from_str("\"%%%\"").unwrap();
        assert!(foreign.key::<i64>().is_err());
    }
}
