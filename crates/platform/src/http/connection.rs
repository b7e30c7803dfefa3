//! Serves one connection with hyper, and closes it when ordered.
//!
//! If a connection is shut down while a request head has arrived only in part, hyper alone would drop the
//! request. This module reads and answers it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::ClientAddress;
use super::connection_state::{ConnectionState, Phase};
use super::edge::Edge;
use super::watched_stream::WatchedStream;

/// Maximum size of the request line and headers in bytes.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// Serves `stream` until the connection ends or an order closes it.
pub(super) async fn run(stream: TcpStream, peer: SocketAddr, state: Arc<ConnectionState>, edge: Arc<Edge>) {
    let io = WatchedStream { stream, state: Arc::clone(&state), unread: Bytes::new(), lingered: 0 };
    let mut conversation = pin!(serve_requests(io, peer, &state, edge));
    std::future::poll_fn(|cx| {
        state.waker.register(cx.waker());
        if state.is_cut() { Poll::Ready(()) } else { conversation.as_mut().poll(cx) }
    })
    .await;
}

async fn serve_requests(
    mut io: WatchedStream,
    peer: SocketAddr,
    state: &Arc<ConnectionState>,
    edge: Arc<Edge>,
) {
    // If the client closes its side of the connection, it is treated as disconnected, and its request is
    // cancelled.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(HEAD_LIMIT_BYTES).half_close(false);
    loop {
        let (of_requests, edge) = (Arc::clone(state), Arc::clone(&edge));
        let service =
            service_fn(move |request| answer(request, peer, Arc::clone(&of_requests), Arc::clone(&edge)));
        let (parts, done) = until_end(http.serve_connection(TokioIo::new(io), service), state).await;
        // hyper itself rejected the input and sent a response without a body. No handler has seen the
        // request.
        if let Some(error) = done.err().filter(hyper::Error::is_parse) {
            tracing::info!(target: "kith::request", %error, "rejected input that is not a valid HTTP request");
        }
        io = parts.io.into_inner();
        if state.phase().0 != Phase::Closing || parts.read_buf.is_empty() {
            break;
        }
        // The connection was shut down because it was idle, but part of a request had already arrived. That
        // request is read and answered.
        io.unread = parts.read_buf;
        state.enter(Phase::Reading);
        http.keep_alive(false);
    }
    // Errors of closing the connection do not matter, because all requests have been logged.
    let _ = std::future::poll_fn(|cx| io.poll_close(cx)).await;
}

fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    state: Arc<ConnectionState>,
    edge: Arc<Edge>,
) -> impl Future<Output = Result<http::Response<SentBody>, Infallible>> {
    state.enter(Phase::Answering);
    let mut request = request.map(|body| Body::new(ReceivedBody { body, state: Arc::clone(&state) }));
    request.extensions_mut().insert(ClientAddress::new(peer.ip()));
    async move {
        let answer = edge.answer(request).await;
        state.enter(Phase::Sending);
        Ok(answer.map(|body| SentBody { body, state }))
    }
}

/// Request body that updates the phase of the connection while a handler waits for the body.
struct ReceivedBody {
    body: Incoming,
    state: Arc<ConnectionState>,
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
            Poll::Pending => self.state.transition(Phase::Answering, Phase::ReadingBody),
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => {}
            Poll::Ready(_) => self.state.transition(Phase::ReadingBody, Phase::Answering),
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
        self.state.transition(Phase::ReadingBody, Phase::Answering);
    }
}

/// Response body. hyper drops it when it has been written, or when the client has disconnected.
struct SentBody {
    body: Body,
    state: Arc<ConnectionState>,
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
        self.state.finish_sending();
    }
}

/// Runs the hyper connection until it ends. Returns its parts.
async fn until_end<S>(
    mut connection: http1::Connection<TokioIo<WatchedStream>, S>,
    state: &ConnectionState,
) -> (Parts<TokioIo<WatchedStream>, S>, hyper::Result<()>)
where
    S: HttpService<Incoming, ResBody = SentBody, Error = Infallible>,
{
    let done = std::future::poll_fn(|cx| {
        loop {
            // The connection is polled first, so that received bytes are read before an order to close is
            // executed.
            if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(done);
            }
            if !state.take_close() {
                return Poll::Pending;
            }
            match state.phase().0 {
                // The server is stopping, so the response to this request will close the connection.
                Phase::Reading => {}
                Phase::Idle => {
                    state.enter(Phase::Closing);
                    Pin::new(&mut connection).graceful_shutdown();
                }
                _ => Pin::new(&mut connection).graceful_shutdown(),
            }
        }
    })
    .await;
    (connection.into_parts(), done)
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
