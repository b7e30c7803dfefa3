//! Reads request bodies, uncompressed or in gzip, with limits on time, size and memory.

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

/// Content coding of a request body.
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
                    let detail = "Send the body without a content coding, or with gzip once.";
                    return Err(Problem::new(&problems::UNSUPPORTED_ENCODING, detail));
                }
            }
        }
        Ok(encoding)
    }
}

/// Number of bytes of each body that do not count against the shared memory limit. Most bodies are smaller.
const UNCOUNTED_BYTES: usize = 16 << 10;
/// Maximum size in bytes of a body that contains secrets. The callers of these routes are not authenticated
/// yet.
const SECRET_BODY_BYTES: usize = 16 << 10;

/// Limit on the total memory of all bodies that are being received. The first [`UNCOUNTED_BYTES`] of each
/// body do not count.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    used: AtomicUsize,
    max_bytes: usize,
}

impl BodyMemory {
    /// Creates a limit of `max_bytes` bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { used: AtomicUsize::new(0), max_bytes }
    }
}

/// Memory that one body has reserved. It is released when this value is dropped.
struct MemoryReservation<'m> {
    memory: &'m BodyMemory,
    taken: usize,
}

impl MemoryReservation<'_> {
    /// Reserves the memory of a body that has reached `len` bytes. Returns a problem if the shared limit is
    /// exceeded.
    fn grow(&mut self, len: usize) -> Result<(), Problem> {
        let more = len.saturating_sub(UNCOUNTED_BYTES) - self.taken;
        let used = self.memory.used.fetch_add(more, Ordering::Relaxed) + more;
        self.taken += more;
        if more > 0 && used > self.memory.max_bytes {
            let detail = "The server is receiving too many large bodies. Retry in a moment.";
            return Err(Problem::new(&problems::UNAVAILABLE, detail).retry_after(1));
        }
        Ok(())
    }
}

impl Drop for MemoryReservation<'_> {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Returns the maximum size in bytes of a body on a route with the given policy.
fn limit_of(policy: RoutePolicy, limits: &config::Server) -> usize {
    let limit = usize::try_from(limits.max_body_bytes).unwrap_or(usize::MAX);
    if policy.is_secret { limit.min(SECRET_BODY_BYTES) } else { limit }
}

/// Reads the body of a request to a route with the given policy. Neither the received nor the decompressed
/// body may exceed the size limit.
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
    let broke_off =
        || Problem::new(&problems::MALFORMED, "The connection ended before the body was complete.");
    let mut share = MemoryReservation { memory, taken: 0 };
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are ignored.
        let Ok(data) = frame.map_err(|_| broke_off())?.into_data() else { continue };
        let len = collected.len() + data.len();
        if len > limit {
            return Err(too_large(limit as u64));
        }
        if collected.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        share.grow(len)?;
        // The data is copied, because a slice would keep the whole read buffer allocated.
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

pub(super) fn gunzip(bytes: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let mut decoded = Vec::new();
    // One byte more than the limit is read, to detect a body that is too large.
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

    /// Proves the readiness requirement API-09.
    #[test]
    fn gunzip_stops_at_the_limit() {
        let zipped = gzip(&[b'x'; 100]);
        assert_eq!(gunzip(&zipped, 100).unwrap(), [b'x'; 100].as_slice());
        assert_eq!(gunzip(&zipped, 99).unwrap_err().code, &problems::TOO_LARGE);
        // Consecutive gzip members form one body (RFC 1952, section 2.2).
        assert_eq!(gunzip(&[&*zipped, &zipped].concat(), 200).unwrap().len(), 200);
        assert_eq!(gunzip(&[&*zipped, &zipped].concat(), 199).unwrap_err().code, &problems::TOO_LARGE);
        for broken in [&zipped[..zipped.len() - 1], b"nonsense", b"", &[&*zipped, b"more"].concat()] {
            assert_eq!(gunzip(broken, 1000).unwrap_err().code, &problems::MALFORMED, "{broken:?}");
        }
    }

    /// Proves the readiness requirement API-09.
    #[test]
    fn gzip_bomb_is_rejected_quickly() {
        let bomb = gzip(&vec![b' '; 50 << 20]);
        assert!(bomb.len() < 52 << 10, "the bomb has {} bytes, a thousandth of its content", bomb.len());
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
    async fn large_bodies_share_a_memory_limit() {
        let memory = BodyMemory::new(100_000);
        let receive = |body| collect(body, 256 << 10, &memory);
        let (body, more) = slow(100_000);
        let mut first = pin!(receive(body));
        assert!(poll!(&mut first).is_pending());
        let (body, _more) = slow(100_000);
        let refused = receive(body).await.unwrap_err();
        assert_eq!(refused.code, &problems::UNAVAILABLE);
        let (body, small) = slow(UNCOUNTED_BYTES);
        drop(small);
        assert_eq!(receive(body).await.unwrap().len(), UNCOUNTED_BYTES);
        drop(more);
        assert_eq!(first.await.unwrap().len(), 100_000);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        let (body, more) = slow(100_000);
        drop(more);
        assert_eq!(receive(body).await.unwrap().len(), 100_000);
    }

    #[test]
    fn bodies_with_secrets_are_limited_to_16_kib() {
        let limits = config::Config::default().server;
        let secret = RoutePolicy { is_secret: true, ..RoutePolicy::default() };
        assert_eq!(limit_of(secret, &limits), SECRET_BODY_BYTES);
        assert_eq!(limit_of(RoutePolicy::default(), &limits), 256 << 10);
    }

    #[test]
    fn only_single_gzip_encoding_is_accepted() {
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
