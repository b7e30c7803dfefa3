//! ETags and conditional requests (RFC 9110, sections 8.8 and 13).
//!
//! An ETag is a digest of the uncompressed response body. In a compressed response, the name of the coding is
//! appended, because the bytes differ. All these variants identify the same state.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use kith_kernel::{Problem, problems};
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response, ResponseBuilder};

use super::compression::Coding;

/// Length in bytes to which the SHA-256 digest is truncated.
const TAG_BYTES: usize = 16;

/// Digest of a resource's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ETag(String);

impl ETag {
    pub fn of(bytes: &[u8]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..TAG_BYTES]))
    }

    /// Formats the ETag of a response with the given coding.
    pub fn header(&self, coding: Option<Coding>) -> HeaderValue {
        let suffix = coding.map_or(String::new(), |coding| format!(".{}", coding.name()));
        HeaderValue::try_from(format!("\"{}{suffix}\"", self.0)).expect("a tag is plain ASCII")
    }

    /// Returns true if `list` contains a tag of this state, in any coding. Weak tags match only if
    /// `allow_weak` is true.
    fn is_in(&self, list: &HeaderValue, allow_weak: bool) -> bool {
        let mut tags = list.to_str().unwrap_or_default().split(',').map(str::trim);
        tags.any(|tag| {
            let tag = tag.strip_prefix("W/").filter(|_| allow_weak).unwrap_or(tag);
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or_default();
            let (state, coding) =
                tag.split_once('.').map_or((tag, None), |(tag, coding)| (tag, Some(coding)));
            state == self.0
                && coding.is_none_or(|coding| Coding::ALL.iter().any(|known| known.name() == coding))
        })
    }
}

/// Returns the ETag of a GET response whose body is `present`.
pub(crate) fn tag_of<T: Serialize>(present: &T) -> Option<HeaderValue> {
    serde_json::to_vec(present).ok().map(|json| ETag::of(&json).header(None))
}

fn is_any(list: &HeaderValue) -> bool {
    list.as_bytes().trim_ascii() == b"*"
}

/// Parsed `If-None-Match` header.
#[derive(Clone, Debug, Default)]
pub(super) struct IfNoneMatch(Vec<HeaderValue>);

impl IfNoneMatch {
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect())
    }

    /// Returns true if the request has no such header.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if the header matches this state.
    pub fn has(&self, state: &ETag) -> bool {
        self.0.iter().any(|list| is_any(list) || state.is_in(list, true))
    }
}

/// Preconditions of a write: `If-Match` and `If-None-Match` (RFC 9110, section 13.1). Without these headers,
/// the write is allowed in every state.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    if_match: Vec<HeaderValue>,
    if_none_match: IfNoneMatch,
}

/// Error that the current state does not satisfy the preconditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the resource does not satisfy the preconditions")]
pub struct StateMismatch;

impl Preconditions {
    /// Checks the preconditions against `present`, the body that a GET would return. Call it inside the
    /// transaction of the write, after the locks are taken.
    ///
    /// # Errors
    /// Returns [`StateMismatch`] (status 412) if a precondition is not satisfied.
    pub fn check<T: Serialize>(&self, present: &T) -> Result<(), StateMismatch> {
        let matches_any = self.if_match.is_empty() || self.if_match.iter().any(is_any);
        if matches_any && self.if_none_match.is_empty() {
            return Ok(());
        }
        let json = serde_json::to_vec(present).map_err(|_| StateMismatch)?;
        let state = ETag::of(&json);
        let matches = matches_any || self.if_match.iter().any(|list| state.is_in(list, false));
        if matches && !self.if_none_match.has(&state) { Ok(()) } else { Err(StateMismatch) }
    }

    /// Checks the preconditions for a resource that does not exist. `If-Match` is then never satisfied, even
    /// if its value is `*`.
    ///
    /// # Errors
    /// Returns [`StateMismatch`] (status 412) if the request has `If-Match`.
    pub fn check_absent(&self) -> Result<(), StateMismatch> {
        if self.if_match.is_empty() { Ok(()) } else { Err(StateMismatch) }
    }
}

impl From<StateMismatch> for Problem {
    fn from(_: StateMismatch) -> Self {
        let detail = "The resource is not in a state that `If-Match` and `If-None-Match` allow. Read it \
                      again and send its current ETag.";
        Self::new(&problems::PRECONDITION_FAILED, detail)
    }
}

impl<S: Sync> FromRequestParts<S> for Preconditions {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            if_match: parts.headers.get_all(header::IF_MATCH).iter().cloned().collect(),
            if_none_match: IfNoneMatch::of(&parts.headers),
        })
    }
}

/// Documents the 412 response of a handler with preconditions: `responses(…, Preconditions)`.
impl IntoResponses for Preconditions {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let unsatisfied = "The resource is not in a state that `If-Match` and `If-None-Match` allow.";
        let changed = ResponseBuilder::new().description(unsatisfied).build();
        [(StatusCode::PRECONDITION_FAILED.as_str().to_owned(), changed.into())].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn if_match(if_match: Vec<HeaderValue>) -> Preconditions {
        Preconditions { if_match, ..Preconditions::default() }
    }

    fn list(text: &str) -> Vec<HeaderValue> {
        vec![HeaderValue::from_str(text).unwrap()]
    }

    #[test]
    fn etag_matches_in_any_coding() {
        let state = ETag::of(b"{}");
        let tag = state.header(None).to_str().unwrap().to_owned();
        assert_eq!(tag.len(), 24, "{tag}");
        let zipped = state.header(Some(Coding::Gzip)).to_str().unwrap().to_owned();
        let brotli = state.header(Some(Coding::Brotli)).to_str().unwrap().to_owned();
        assert!(zipped != tag && brotli != tag && zipped != brotli);
        for known in [&tag, &zipped, &brotli, &format!("\"x\", {tag}"), &format!("{zipped},\"x\""), "*"] {
            assert!(IfNoneMatch(list(known)).has(&state), "{known}");
            assert_eq!(if_match(list(known)).check(&serde_json::json!({})), Ok(()), "{known}");
        }
        let bare = tag.trim_matches('"');
        let strangers = ["\"x\"", bare, "", "\"\"", &format!("\"{bare}.x\""), &format!("\"{bare}")];
        for unknown in strangers {
            assert!(!IfNoneMatch(list(unknown)).has(&state), "{unknown}");
            assert_eq!(
                if_match(list(unknown)).check(&serde_json::json!({})),
                Err(StateMismatch),
                "{unknown}"
            );
        }
    }

    #[test]
    fn weak_tag_matches_reads_but_not_writes() {
        let weak = format!("W/{}", ETag::of(b"{}").header(None).to_str().unwrap());
        assert!(IfNoneMatch(list(&weak)).has(&ETag::of(b"{}")));
        assert_eq!(if_match(list(&weak)).check(&serde_json::json!({})), Err(StateMismatch));
    }

    #[test]
    fn write_without_preconditions_accepts_any_state() {
        assert_eq!(Preconditions::default().check(&5), Ok(()));
        assert!(!IfNoneMatch::default().has(&ETag::of(b"5")));
    }

    /// RFC 9110, section 13.1.2: `If-None-Match` on a write uses weak comparison.
    #[test]
    fn if_none_match_rejects_matching_write() {
        let none_match =
            |text: &str| Preconditions { if_none_match: IfNoneMatch(list(text)), ..Preconditions::default() };
        let present = serde_json::json!({});
        let tag = ETag::of(b"{}").header(None).to_str().unwrap().to_owned();
        for known in ["*", &tag, &format!("W/{tag}"), &format!("\"x\", {tag}")] {
            assert_eq!(none_match(known).check(&present), Err(StateMismatch), "{known}");
            assert_eq!(none_match(known).check_absent(), Ok(()), "{known}");
        }
        assert_eq!(none_match("\"x\"").check(&present), Ok(()));
        let both = Preconditions { if_match: list(&tag), if_none_match: IfNoneMatch(list(&tag)) };
        assert_eq!(both.check(&present), Err(StateMismatch));
    }

    /// RFC 9110, section 13.1.1: if the resource does not exist, `If-Match` is never satisfied, even if its
    /// value is `*`.
    #[test]
    fn if_match_fails_for_absent_resource() {
        for text in ["*", "\"x\""] {
            assert_eq!(if_match(list(text)).check_absent(), Err(StateMismatch), "{text}");
        }
        assert_eq!(Preconditions::default().check_absent(), Ok(()));
    }
}
