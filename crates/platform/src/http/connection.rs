//! State of one connection: tracks whether a request has begun to arrive, and executes orders to close.
//!
//! On its own, hyper would drop a request whose head has arrived partly when a connection is shut down.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::ClientAddress;
use super::edge::Edge;

/// Maximum size of a request head in bytes.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;
/// Maximum number of bytes discarded after a response that did not wait for the body.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No byte has arrived since the last response.
    Idle,
    /// Part of a request head has arrived.
    Reading,
    /// A handler processes the request; the response has no head yet.
    Answering,
    /// A handler waits for the rest of the request body.
    ReadingBody,
    /// The response has a head, and its body is being sent. Lasts as long as an event stream does.
    Sending,
    /// The connection was shut down while idle; the last response may still be in transit.
    Closing,
    /// The last response was sent; further input is discarded.
    Lingering,
}

/// Order to close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum CloseOrder {
    /// Close when idle. If a request has begun to arrive, close after its response.
    Close = 1,
    /// Close immediately.
    Cut = 2,
}

/// State of a connection that the server observes.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: AtomicU8,
    /// Tick at which the phase began, or at which a write last made progress.
    since: AtomicU32,
    order: AtomicU8,
    /// True while the peer accepts no more bytes.
    is_blocked: AtomicBool,
    waker: AtomicWaker,
    /// Coarse clock that counts up four times a second.
    ticks: Arc<AtomicU32>,
}

impl ConnectionState {
    pub fn new(ticks: Arc<AtomicU32>) -> Self {
        let since = AtomicU32::new(ticks.load(Ordering::Relaxed));
        Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            since,
            order: AtomicU8::new(0),
            is_blocked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            ticks,
        }
    }

    /// Returns the phase and its age in ticks.
    pub fn phase(&self) -> (Phase, u32) {
        // Acquire: a phase must not be seen with the age of the previous one, which could exceed a limit.
        let phase = match self.phase.load(Ordering::Acquire) {
            0 => Phase::Idle,
            1 => Phase::Reading,
            2 => Phase::Answering,
            3 => Phase::ReadingBody,
            4 => Phase::Sending,
            5 => Phase::Closing,
            _ => Phase::Lingering,
        };
        (phase, self.ticks.load(Ordering::Relaxed).wrapping_sub(self.since.load(Ordering::Relaxed)))
    }

    /// Gives an order. A pending stronger order stays.
    pub fn order(&self, order: CloseOrder) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Returns true if an order is pending.
    pub fn has_order(&self) -> bool {
        self.order.load(Ordering::Acquire) != 0
    }

    fn is_cut(&self) -> bool {
        self.order.load(Ordering::Acquire) == CloseOrder::Cut as u8
    }

    fn take_close(&self) -> bool {
        let taken =
            self.order.compare_exchange(CloseOrder::Close as u8, 0, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Returns true if the peer does not read the response. The age in [`ConnectionState::phase`] then tells since when.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    pub fn enter(&self, phase: Phase) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Records the result of a write. Progress restarts the age of the phase, except while a request head
    /// arrives.
    fn record_write(&self, written: &Poll<io::Result<usize>>) {
        self.is_blocked.store(written.is_pending(), Ordering::Release);
        if written.is_ready() && self.phase.load(Ordering::Relaxed) != Phase::Reading as u8 {
            self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Enters `phase` if the present one is `from`.
    fn transition(&self, from: Phase, phase: Phase) {
        if self.phase.load(Ordering::Relaxed) == from as u8 {
            self.enter(phase);
        }
    }

    /// Ends [`Phase::Sending`].
    fn finish_sending(&self) {
        self.transition(Phase::Sending, Phase::Idle);
    }

    fn bytes_received(&self) {
        self.transition(Phase::Idle, Phase::Reading);
    }
}

/// Serves `stream` until it ends or is ordered to close.
pub(super) async fn run(stream: TcpStream, peer: SocketAddr, line: Arc<ConnectionState>, edge: Arc<Edge>) {
    let io = WatchedStream { stream, line: Arc::clone(&line), unread: Bytes::new(), lingered: 0 };
    let mut conversation = pin!(serve_requests(io, peer, &line, edge));
    std::future::poll_fn(|cx| {
        line.waker.register(cx.waker());
        if line.is_cut() { Poll::Ready(()) } else { conversation.as_mut().poll(cx) }
    })
    .await;
}

async fn serve_requests(
    mut io: WatchedStream,
    peer: SocketAddr,
    line: &Arc<ConnectionState>,
    edge: Arc<Edge>,
) {
    // A client that closes its side of the connection is treated as gone, and its request is cancelled.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(HEAD_LIMIT_BYTES).half_close(false);
    loop {
        let (of_requests, edge) = (Arc::clone(line), Arc::clone(&edge));
        let service =
            service_fn(move |request| answer(request, peer, Arc::clone(&of_requests), Arc::clone(&edge)));
        let (parts, done) = until_end(http.serve_connection(TokioIo::new(io), service), line).await;
        // hyper rejected the input itself, with a response without a body; no handler has seen it.
        if let Some(error) = done.err().filter(hyper::Error::is_parse) {
            tracing::info!(target: "kith::request", %error, "rejected input that is not a valid HTTP request");
        }
        io = parts.io.into_inner();
        if line.phase().0 != Phase::Closing || parts.read_buf.is_empty() {
            break;
        }
        // The connection was shut down as idle, but part of a request had arrived. Read and answer that
        // request.
        io.unread = parts.read_buf;
        line.enter(Phase::Reading);
        http.keep_alive(false);
    }
    // Errors of closing are irrelevant: the requests have been logged.
    let _ = std::future::poll_fn(|cx| io.poll_close(cx)).await;
}

fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    line: Arc<ConnectionState>,
    edge: Arc<Edge>,
) -> impl Future<Output = Result<http::Response<SentBody>, Infallible>> {
    line.enter(Phase::Answering);
    let mut request = request.map(|body| Body::new(ReceivedBody { body, line: Arc::clone(&line) }));
    request.extensions_mut().insert(ClientAddress::new(peer.ip()));
    async move {
        let answer = edge.answer(request).await;
        line.enter(Phase::Sending);
        Ok(answer.map(|body| SentBody { body, line }))
    }
}

/// Request body that updates the phase while a handler waits for it.
struct ReceivedBody {
    body: Incoming,
    line: Arc<ConnectionState>,
}

impl hyper::body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => self.line.transition(Phase::Answering, Phase::ReadingBody),
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => {}
            Poll::Ready(_) => self.line.transition(Phase::ReadingBody, Phase::Answering),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReceivedBody {
    fn drop(&mut self) {
        self.line.transition(Phase::ReadingBody, Phase::Answering);
    }
}

/// Response body. hyper drops it when it is written or the client has disconnected.
struct SentBody {
    body: Body,
    line: Arc<ConnectionState>,
}

impl hyper::body::Body for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        self.line.finish_sending();
    }
}

/// Runs the hyper connection until it ends, and returns its parts.
async fn until_end<S>(
    mut connection: http1::Connection<TokioIo<WatchedStream>, S>,
    line: &ConnectionState,
) -> (Parts<TokioIo<WatchedStream>, S>, hyper::Result<()>)
where
    S: HttpService<Incoming, ResBody = SentBody, Error = Infallible>,
{
    let done = std::future::poll_fn(|cx| {
        loop {
            // First, so that received bytes are read before an order to close is considered.
            if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(done);
            }
            if !line.take_close() {
                return Poll::Pending;
            }
            match line.phase().0 {
                // While draining, the response to this request closes the connection.
                Phase::Reading => {}
                Phase::Idle => {
                    line.enter(Phase::Closing);
                    Pin::new(&mut connection).graceful_shutdown();
                }
                _ => Pin::new(&mut connection).graceful_shutdown(),
            }
        }
    })
    .await;
    (connection.into_parts(), done)
}

/// Socket that reports received bytes, and is closed without losing the last response.
struct WatchedStream {
    stream: TcpStream,
    line: Arc<ConnectionState>,
    /// Bytes that hyper read but did not use, to be read again.
    unread: Bytes,
    lingered: usize,
}

impl WatchedStream {
    /// Closes the socket. Closing with unread input would reset the connection, and the reset could overtake
    /// the response in transit, such as a 413. Therefore input is discarded until the peer closes too.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingered == 0 {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        let mut waste = [0; 4096];
        loop {
            let mut to = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(cx, &mut to) {
                Poll::Ready(Ok(())) if !to.filled().is_empty() && self.lingered < LINGER_BYTES => {
                    if self.lingered == 0 {
                        self.line.enter(Phase::Lingering);
                    }
                    self.lingered += to.filled().len();
                }
                Poll::Pending if self.lingered > 0 => return Poll::Pending,
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let length = self.unread.len().min(to.remaining());
            to.put_slice(&self.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, to))?;
        if to.filled().len() > before {
            self.line.bytes_received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.line.record_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.line.record_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Leaves the socket open: bytes that hyper read but did not use may belong to another request.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
