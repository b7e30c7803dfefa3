//! State of one connection: the phase of its current request, the progress of writes, and the order to close
//! it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No byte has arrived since the last response.
    Idle,
    /// Part of a request head has arrived.
    Reading,
    /// A handler processes the request, and the head of the response does not exist yet.
    Answering,
    /// A handler waits for the rest of the request body.
    ReadingBody,
    /// The head of the response exists, and the body is being sent. For an event stream, this takes as long
    /// as the stream.
    Sending,
    /// The connection was shut down while it was idle. The last response may still be on the way to the
    /// client.
    Closing,
    /// The last response was sent. Further input is discarded.
    Lingering,
}

/// Order to close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum CloseRequest {
    /// Close when the connection is idle. If a request has begun to arrive, close after its response.
    Close = 1,
    /// Close immediately.
    Cut = 2,
}

/// State of a connection, which the server observes from outside.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: AtomicU8,
    /// Tick at which the phase began, or at which a write last made progress.
    since: AtomicU32,
    order: AtomicU8,
    /// True while the client accepts no more bytes.
    is_blocked: AtomicBool,
    pub waker: AtomicWaker,
    /// Clock with low resolution, which is incremented four times a second.
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

    /// Returns the phase and the number of ticks since it began or a write last made progress.
    pub fn phase(&self) -> (Phase, u32) {
        // The ordering `Acquire` ensures that a new phase is not combined with the age of the previous phase,
        // which could exceed a limit.
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

    /// Requests that the connection be closed as described by `order`. A stronger pending order remains.
    pub fn order(&self, order: CloseRequest) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Returns true if an order to close is pending.
    pub fn is_close_requested(&self) -> bool {
        self.order.load(Ordering::Acquire) != 0
    }

    pub fn is_cut(&self) -> bool {
        self.order.load(Ordering::Acquire) == CloseRequest::Cut as u8
    }

    pub fn take_close(&self) -> bool {
        let taken =
            self.order.compare_exchange(CloseRequest::Close as u8, 0, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Returns true if the client does not read the response. [`ConnectionState::phase`] then returns for how
    /// long.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    pub fn enter(&self, phase: Phase) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Records the result of a write. Progress resets the age of the phase, except while a request head is
    /// arriving.
    pub fn record_write(&self, written: &Poll<io::Result<usize>>) {
        self.is_blocked.store(written.is_pending(), Ordering::Release);
        if written.is_ready() && self.phase.load(Ordering::Relaxed) != Phase::Reading as u8 {
            self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Enters `phase` if the current phase is `from`.
    pub fn transition(&self, from: Phase, phase: Phase) {
        if self.phase.load(Ordering::Relaxed) == from as u8 {
            self.enter(phase);
        }
    }

    /// Enters [`Phase::Idle`] if the current phase is [`Phase::Sending`].
    pub fn finish_sending(&self) {
        self.transition(Phase::Sending, Phase::Idle);
    }

    pub fn bytes_received(&self) {
        self.transition(Phase::Idle, Phase::Reading);
    }
}
