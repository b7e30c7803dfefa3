//! State of one connection: the phase of its current request, the progress of writes, and orders to close.

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
    pub waker: AtomicWaker,
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

    /// Requests that the connection be closed as described by `order`. A stronger pending request is kept.
    pub fn order(&self, order: CloseOrder) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Returns true if an order is pending.
    pub fn has_order(&self) -> bool {
        self.order.load(Ordering::Acquire) != 0
    }

    pub fn is_cut(&self) -> bool {
        self.order.load(Ordering::Acquire) == CloseOrder::Cut as u8
    }

    pub fn take_close(&self) -> bool {
        let taken =
            self.order.compare_exchange(CloseOrder::Close as u8, 0, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Returns true if the peer does not read the response. The age in [`ConnectionState::phase`] then tells
    /// since when.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    pub fn enter(&self, phase: Phase) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Records the result of a write. Progress restarts the age of the phase, except while a request head
    /// arrives.
    pub fn record_write(&self, written: &Poll<io::Result<usize>>) {
        self.is_blocked.store(written.is_pending(), Ordering::Release);
        if written.is_ready() && self.phase.load(Ordering::Relaxed) != Phase::Reading as u8 {
            self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Enters `phase` if the current one is `from`.
    pub fn transition(&self, from: Phase, phase: Phase) {
        if self.phase.load(Ordering::Relaxed) == from as u8 {
            self.enter(phase);
        }
    }

    /// Ends [`Phase::Sending`].
    pub fn finish_sending(&self) {
        self.transition(Phase::Sending, Phase::Idle);
    }

    pub fn bytes_received(&self) {
        self.transition(Phase::Idle, Phase::Reading);
    }
}
