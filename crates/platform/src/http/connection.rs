//! One connection: knows whether bytes of an unanswered request have been read, and obeys the orders to end it.
//!
//! hyper alone would drop a request whose head has half arrived when a connection is asked to close.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use axum::Router;
use futures_util::task::AtomicWaker;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;

/// Most bytes of a request's head.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;
/// Most bytes thrown away after an answer that did not wait for the body.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing was asked since the last answer.
    Idle,
    /// Bytes of a request have come, not yet its whole head.
    Reading,
    /// A request is being answered.
    Answering,
    /// The last answer was sent; what still comes is thrown away.
    Lingering,
}

/// What a connection is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Close, unless a request has begun to arrive; then after its answer.
    Close = 1,
    /// End now.
    Cut = 2,
}

/// What others see of a connection.
#[derive(Debug)]
pub(super) struct Line {
    phase: AtomicU8,
    /// The tick at which the phase began.
    since: AtomicU32,
    order: AtomicU8,
    waker: AtomicWaker,
    /// Counts up a few times a second: a clock that costs nothing to read.
    ticks: Arc<AtomicU32>,
}

impl Line {
    pub fn new(ticks: Arc<AtomicU32>) -> Self {
        let since = AtomicU32::new(ticks.load(Ordering::Relaxed));
        Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            since,
            order: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            ticks,
        }
    }

    /// What it is doing, and for how many ticks.
    pub fn phase(&self) -> (Phase, u32) {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Reading,
            2 => Phase::Answering,
            _ => Phase::Lingering,
        };
        (phase, self.ticks.load(Ordering::Relaxed).wrapping_sub(self.since.load(Ordering::Relaxed)))
    }

    /// Gives an order. A stronger one that was given before stays.
    pub fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Whether an order waits to be taken.
    #[cfg(test)]
    pub fn is_told(&self) -> bool {
        self.order.load(Ordering::Acquire) != 0
    }

    fn take_order(&self) -> Option<Order> {
        if self.order.load(Ordering::Acquire) == 0 {
            return None;
        }
        match self.order.swap(0, Ordering::AcqRel) {
            1 => Some(Order::Close),
            _ => Some(Order::Cut),
        }
    }

    fn enter(&self, phase: Phase) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn bytes_came(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.enter(Phase::Reading);
        }
    }
}

/// Answers what comes on `stream` until it ends or is told to end.
pub(super) async fn run(stream: TcpStream, line: Arc<Line>, router: Router) {
    let io = TokioIo::new(Watched { stream, line: Arc::clone(&line), lingered: 0 });
    let of_requests = Arc::clone(&line);
    let service = service_fn(move |request: Request<Incoming>| {
        let line = Arc::clone(&of_requests);
        line.enter(Phase::Answering);
        let answer = router.clone().call(request);
        async move {
            let answer = answer.await;
            line.enter(Phase::Idle);
            answer
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_LIMIT_BYTES)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    std::future::poll_fn(|cx| {
        line.waker.register(cx.waker());
        loop {
            // First, so that what has already arrived is read before an order to close is weighed. How a
            // connection ended interests nobody: its requests have been logged.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match line.take_order() {
                None => return Poll::Pending,
                Some(Order::Cut) => return Poll::Ready(()),
                // Once draining, the answer to a request that has begun to arrive ends the connection by itself.
                Some(Order::Close) if line.phase().0 == Phase::Reading => {}
                Some(Order::Close) => connection.as_mut().graceful_shutdown(),
            }
        }
    })
    .await;
}

/// A socket that tells its line when bytes come, and that is closed without losing the last answer.
struct Watched {
    stream: TcpStream,
    line: Arc<Line>,
    lingered: usize,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, to))?;
        if to.filled().len() > before {
            self.line.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closing a socket with unread bytes resets it, and the reset can overtake the answer on its way out (a 413 to
    /// someone who still sends). So what has come is thrown away until the other side has closed too.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
