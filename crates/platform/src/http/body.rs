//! Reads a request's body: bounded in time and in size, whether it comes as it is or as gzip.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::header::{self, HeaderMap};
use http_body_util::BodyExt as _;
use kith_kernel::{Problem, problems};

use super::RoutePolicy;
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

/// The part of a body that is admitted however much memory other bodies take: most are not longer.
const ADMITTED_BYTES: usize = 16 << 10;
/// Most bytes of a body that carries secrets: callers need not be signed in there.
const SECRET_BODY_BYTES: usize = 16 << 10;

/// The memory of all bodies that are being received, beyond [`ADMITTED_BYTES`] of each.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    used: AtomicUsize,
    most: usize,
}

impl BodyMemory {
    /// At most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { used: AtomicUsize::new(0), most }
    }
}

/// What one body takes of the memory, until it is dropped.
struct Share<'m> {
    memory: &'m BodyMemory,
    taken: usize,
}

impl Share<'_> {
    /// Takes what a body of `len` bytes needs.
    fn grow(&mut self, len: usize) -> Result<(), Problem> {
        let more = len.saturating_sub(ADMITTED_BYTES) - self.taken;
        let used = self.memory.used.fetch_add(more, Ordering::Relaxed) + more;
        self.taken += more;
        if more > 0 && used > self.memory.most {
            let detail = "Too many large bodies are being received at this moment.";
            return Err(Problem::new(&problems::UNAVAILABLE, detail).retry_after(1));
        }
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Most bytes of a body that is sent to a route of this policy.
fn limit_of(policy: RoutePolicy, limits: &config::Server) -> usize {
    let limit = usize::try_from(limits.body_limit_bytes).unwrap_or(usize::MAX);
    if policy.is_secret { limit.min(SECRET_BODY_BYTES) } else { limit }
}

/// All of `body`, which was sent to a route of this policy. No more is kept of it, before or after decoding, than the limit
/// allows.
pub(super) async fn read_body(
    policy: RoutePolicy,
    body: Body,
    encoding: BodyEncoding,
    limits: &config::Server,
    memory: &BodyMemory,
) -> Result<Bytes, Problem> {
    let limit = limit_of(policy, limits);
    let collected = collect(body, limit, memory);
    let bytes = match tokio::time::timeout(millis(limits.body_timeout_ms), collected).await {
        Ok(collected) => collected?,
        Err(_) => return Err(Problem::new(&problems::REQUEST_TIMEOUT, "The body did not arrive in time.")),
    };
    match encoding {
        BodyEncoding::Identity => Ok(bytes),
        BodyEncoding::Gzip => gunzip(&bytes, limit),
    }
}

async fn collect(mut body: Body, limit: usize, memory: &BodyMemory) -> Result<Bytes, Problem> {
    let broke_off = || Problem::new(&problems::MALFORMED, "The body broke off.");
    let mut share = Share { memory, taken: 0 };
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers mean nothing here.
        let Ok(data) = frame.map_err(|_| broke_off())?.into_data() else { continue };
        let len = collected.len() + data.len();
        if len > limit {
            return Err(too_large(limit as u64));
        }
        if collected.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        share.grow(len)?;
        // Copied, because a small part of what was read keeps all of it in memory.
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
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
    use std::pin::pin;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::poll;
    use http::HeaderValue;
    use tokio::sync::mpsc;

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

    fn slow(bytes: usize) -> (Body, mpsc::Sender<Result<Bytes, std::convert::Infallible>>) {
        let (sender, receiver) = mpsc::channel(8);
        sender.try_send(Ok(vec![b'x'; bytes].into())).unwrap();
        let receiver = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|item| (item, receiver))
        });
        (Body::from_stream(receiver), sender)
    }

    #[tokio::test]
    async fn large_bodies_have_a_common_bound_and_small_ones_always_room() {
        let memory = BodyMemory::new(100_000);
        let receive = |body| collect(body, 256 << 10, &memory);
        let (body, more) = slow(100_000);
        let mut first = pin!(receive(body));
        assert!(poll!(&mut first).is_pending());
        let (body, _more) = slow(100_000);
        let refused = receive(body).await.unwrap_err();
        assert_eq!(refused.code, &problems::UNAVAILABLE);
        let (body, small) = slow(ADMITTED_BYTES);
        drop(small);
        assert_eq!(receive(body).await.unwrap().len(), ADMITTED_BYTES);
        drop(more);
        assert_eq!(first.await.unwrap().len(), 100_000);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        let (body, more) = slow(100_000);
        drop(more);
        assert_eq!(receive(body).await.unwrap().len(), 100_000);
    }

    #[test]
    fn bodies_of_those_who_are_not_signed_in_are_small() {
        let limits = config::Config::default().server;
        let secret = RoutePolicy { is_secret: true, ..RoutePolicy::default() };
        assert_eq!(limit_of(secret, &limits), SECRET_BODY_BYTES);
        assert_eq!(limit_of(RoutePolicy::default(), &limits), 256 << 10);
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
