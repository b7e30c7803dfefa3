//! Reads a request's body: bounded in time and in size, whether it comes as it is or as gzip.

use std::io::Read;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{self, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kith_kernel::{Problem, problems};

use super::problem::too_large;
use crate::config::{self, millis};

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEncoding {
    Identity,
    Gzip,
}

impl BodyEncoding {
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut encoding = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let is = |name: &[u8]| value.as_bytes().trim_ascii().eq_ignore_ascii_case(name);
            match encoding {
                _ if is(b"identity") => {}
                Self::Identity if is(b"gzip") || is(b"x-gzip") => encoding = Self::Gzip,
                _ => {
                    let detail = "The body must be sent as it is, or as gzip, once.";
                    return Err(Problem::new(&problems::UNSUPPORTED_ENCODING, detail));
                }
            }
        }
        Ok(encoding)
    }
}

/// All of `body`. No more is kept of it, before or after decoding, than the limit allows.
pub(super) async fn read_body(
    body: Body,
    encoding: BodyEncoding,
    limits: &config::Server,
) -> Result<Bytes, Problem> {
    let limit = usize::try_from(limits.body_limit_bytes).unwrap_or(usize::MAX);
    let limited = Limited::new(body, limit);
    let bytes = match tokio::time::timeout(millis(limits.body_timeout_ms), limited.collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large(limit as u64)),
        Ok(Err(_)) => return Err(Problem::new(&problems::MALFORMED, "The body broke off.")),
        Err(_) => return Err(Problem::new(&problems::REQUEST_TIMEOUT, "The body did not arrive in time.")),
    };
    match encoding {
        BodyEncoding::Identity => Ok(bytes),
        BodyEncoding::Gzip => gunzip(&bytes, limit),
    }
}

pub(super) fn gunzip(bytes: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let mut decoded = Vec::new();
    // One byte more tells too much from just enough.
    let mut rest = MultiGzDecoder::new(bytes).take(limit as u64 + 1);
    rest.read_to_end(&mut decoded)
        .map_err(|_| Problem::new(&problems::MALFORMED, "The body is not valid gzip."))?;
    if decoded.len() > limit { Err(too_large(limit as u64)) } else { Ok(decoded.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// API-09.
    #[test]
    fn no_more_is_decoded_than_may_come() {
        let zipped = gzip(&[b'x'; 100]);
        assert_eq!(gunzip(&zipped, 100).unwrap(), [b'x'; 100].as_slice());
        assert_eq!(gunzip(&zipped, 99).unwrap_err().code, &problems::TOO_LARGE);
        // Several members in a row are one body (RFC 1952).
        assert_eq!(gunzip(&[&*zipped, &zipped].concat(), 200).unwrap().len(), 200);
        assert_eq!(gunzip(&[&*zipped, &zipped].concat(), 199).unwrap_err().code, &problems::TOO_LARGE);
        for broken in [&zipped[..zipped.len() - 1], b"nonsense", b"", &[&*zipped, b"more"].concat()] {
            assert_eq!(gunzip(broken, 1000).unwrap_err().code, &problems::MALFORMED, "{broken:?}");
        }
    }

    /// API-09.
    #[test]
    fn a_bomb_is_not_unfolded() {
        let bomb = gzip(&vec![b' '; 50 << 20]);
        assert!(bomb.len() < 52 << 10, "a thousand to one: {}", bomb.len());
        #[expect(clippy::disallowed_methods, reason = "measures")]
        let started = std::time::Instant::now();
        assert_eq!(gunzip(&bomb, 256 << 10).unwrap_err().code, &problems::TOO_LARGE);
        assert!(started.elapsed().as_millis() < 100, "{:?}", started.elapsed());
    }

    #[test]
    fn only_gzip_once_is_read() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            BodyEncoding::of(&headers).ok()
        };
        assert_eq!(
            (of(&[]), of(&["identity"])),
            (Some(BodyEncoding::Identity), Some(BodyEncoding::Identity))
        );
        for gzip in [["gzip"], ["GZip"], ["x-gzip"]] {
            assert_eq!(of(&gzip), Some(BodyEncoding::Gzip));
        }
        for refused in
            [&["br"][..], &["deflate"], &["zstd"], &["gzip, gzip"], &["gzip", "gzip"], &["gzip", "br"], &[""]]
        {
            assert_eq!(of(refused), None, "{refused:?}");
        }
    }
}
