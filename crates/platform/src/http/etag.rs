//! Which state of a thing an answer shows, and whether it is still the one that the caller knows (RFC 9110, 8.8 and 13).
//!
//! A tag is made of the JSON itself. A compressed answer's ends in its coding, since its bytes are others; both name
//! the same state.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use kith_kernel::{Problem, problems};
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::compression::Coding;

/// Enough of a SHA-256 to tell states apart.
const TAG_BYTES: usize = 16;

/// Names a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ETag(String);

impl ETag {
    pub fn of(bytes: &[u8]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..TAG_BYTES]))
    }

    /// As it stands in an answer in this coding.
    pub fn header(&self, coding: Option<Coding>) -> HeaderValue {
        let suffix = coding.map_or(String::new(), |coding| format!(".{}", coding.name()));
        HeaderValue::try_from(format!("\"{}{suffix}\"", self.0)).expect("a tag is plain ASCII")
    }

    /// Whether one of the quoted tags in `list` names this state, in whatever coding.
    fn is_in(&self, list: &HeaderValue, weak_too: bool) -> bool {
        let mut tags = list.to_str().unwrap_or_default().split(',').map(str::trim);
        tags.any(|tag| {
            let tag = tag.strip_prefix("W/").filter(|_| weak_too).unwrap_or(tag);
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or_default();
            let (state, coding) =
                tag.split_once('.').map_or((tag, None), |(tag, coding)| (tag, Some(coding)));
            state == self.0
                && coding.is_none_or(|coding| Coding::ALL.iter().any(|known| known.name() == coding))
        })
    }
}

/// The tag that a GET which shows `present` would have.
pub(crate) fn tag_of<T: Serialize>(present: &T) -> Option<HeaderValue> {
    serde_json::to_vec(present).ok().map(|json| ETag::of(&json).header(None))
}

fn is_any(list: &HeaderValue) -> bool {
    list.as_bytes().trim_ascii() == b"*"
}

/// What the caller has already: `If-None-Match`.
#[derive(Clone, Debug, Default)]
pub(super) struct IfNoneMatch(Vec<HeaderValue>);

impl IfNoneMatch {
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect())
    }

    /// Whether the caller has this state.
    pub fn has(&self, state: &ETag) -> bool {
        self.0.iter().any(|list| is_any(list) || state.is_in(list, true))
    }
}

/// Which state an edit is meant for: `If-Match`. Without the header it is meant for any.
#[derive(Clone, Debug, Default)]
pub struct IfMatch(Vec<HeaderValue>);

/// The edit is meant for another state than the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it has changed since it was read")]
pub struct Changed;

impl IfMatch {
    /// Holds what was asked for against `present`: what a GET would show now. To be asked inside the transaction that
    /// makes the edit, behind its locks.
    ///
    /// # Errors
    /// [`Changed`], which becomes a 412.
    pub fn check<T: Serialize>(&self, present: &T) -> Result<(), Changed> {
        if self.0.is_empty() || self.0.iter().any(is_any) {
            return Ok(());
        }
        let json = serde_json::to_vec(present).map_err(|_| Changed)?;
        let state = ETag::of(&json);
        if self.0.iter().any(|list| state.is_in(list, false)) { Ok(()) } else { Err(Changed) }
    }
}

impl From<Changed> for Problem {
    fn from(_: Changed) -> Self {
        let detail = "Read it again, and send `If-Match` with the ETag that it has now.";
        Self::new(&problems::PRECONDITION_FAILED, detail)
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.get_all(header::IF_MATCH).iter().cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<HeaderValue> {
        vec![HeaderValue::from_str(text).unwrap()]
    }

    #[test]
    fn a_state_is_known_by_its_tag_in_any_coding() {
        let state = ETag::of(b"{}");
        let tag = state.header(None).to_str().unwrap().to_owned();
        assert_eq!(tag.len(), 24, "{tag}");
        let zipped = state.header(Some(Coding::Gzip)).to_str().unwrap().to_owned();
        let brotli = state.header(Some(Coding::Brotli)).to_str().unwrap().to_owned();
        assert!(zipped != tag && brotli != tag && zipped != brotli);
        for known in [&tag, &zipped, &brotli, &format!("\"x\", {tag}"), &format!("{zipped},\"x\""), "*"] {
            assert!(IfNoneMatch(list(known)).has(&state), "{known}");
            assert_eq!(IfMatch(list(known)).check(&serde_json::json!({})), Ok(()), "{known}");
        }
        let bare = tag.trim_matches('"');
        let strangers = ["\"x\"", bare, "", "\"\"", &format!("\"{bare}.x\""), &format!("\"{bare}")];
        for unknown in strangers {
            assert!(!IfNoneMatch(list(unknown)).has(&state), "{unknown}");
            assert_eq!(IfMatch(list(unknown)).check(&serde_json::json!({})), Err(Changed), "{unknown}");
        }
    }

    #[test]
    fn a_weak_tag_is_good_enough_to_read_but_not_to_edit() {
        let weak = format!("W/{}", ETag::of(b"{}").header(None).to_str().unwrap());
        assert!(IfNoneMatch(list(&weak)).has(&ETag::of(b"{}")));
        assert_eq!(IfMatch(list(&weak)).check(&serde_json::json!({})), Err(Changed));
    }

    #[test]
    fn an_edit_without_the_header_is_meant_for_any_state() {
        assert_eq!(IfMatch::default().check(&5), Ok(()));
        assert!(!IfNoneMatch::default().has(&ETag::of(b"5")));
    }
}
