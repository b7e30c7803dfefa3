//! Socket of a connection that records in the connection's state when bytes are received and written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection_state::{ConnectionState, Phase};

/// Maximum number of input bytes that are discarded after a response was sent before its request body
/// arrived.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Socket that records received and written bytes, and that can be closed without losing the last response.
pub(super) struct WatchedStream {
    pub stream: TcpStream,
    pub state: Arc<ConnectionState>,
    /// Bytes that hyper read but did not use. They are read again.
    pub unread: Bytes,
    pub lingered: usize,
}

impl WatchedStream {
    /// Closes the socket. If it were closed while input is unread, the connection would be reset, and the
    /// client could lose the response, such as a 413. Therefore input is discarded until the client closes
    /// its side, too.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingered == 0 {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        let mut discarded = [0; 4096];
        loop {
            let mut to = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(cx, &mut to) {
                Poll::Ready(Ok(())) if !to.filled().is_empty() && self.lingered < LINGER_BYTES => {
                    if self.lingered == 0 {
                        self.state.enter(Phase::Lingering);
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
            self.state.bytes_received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.state.record_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.state.record_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Keeps the socket open, because bytes that hyper read but did not use may belong to another request.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
