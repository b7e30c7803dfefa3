//! Log lines on standard error, JSON or pretty, written by a thread of its own so that no request waits for the reader.
//!
//! A line at WARN or above is written at once; others within 20 ms, all of them in order.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::config::{Log, LogFormat};

const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Past this much unwritten, lines wait for the reader after all: none is dropped.
const PENDING_BYTES: usize = 1024 * 1024;

/// Writes what is pending when dropped.
#[must_use = "the last lines are written when it is dropped"]
#[derive(Debug)]
pub struct Flush(Arc<Lines>);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.write_out();
    }
}

/// Sends this process's log lines to standard error.
///
/// # Errors
/// If the process already has a subscriber.
pub fn init(config: &Log) -> Result<Flush, TryInitError> {
    let lines = Arc::new(Lines::default());
    let pretty = match config.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    let plain = fmt::layer().with_writer(Writer(Arc::clone(&lines)));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if pretty {
        plain.with_ansi(io::stderr().is_terminal()).boxed()
    } else {
        plain.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    let levels: Targets = config.level.parse().unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    tracing_subscriber::registry().with(layer.with_filter(levels)).try_init()?;
    let writer = Arc::clone(&lines);
    let started = std::thread::Builder::new().name("kith-log".into()).spawn(move || writer.run());
    if started.is_err() {
        // Then each line is written by whoever says it.
        lines.pending().alone = true;
    }
    log_panics();
    Ok(Flush(lines))
}

/// A panic is one line like any other, and what ends it decides what becomes of the process.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("(no text)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic = text, place, "panicked");
    }));
}

#[derive(Debug, Default)]
struct Lines {
    pending: Mutex<Pending>,
    has_some: Condvar,
    /// Held while writing, so that lines stay in order.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    alone: bool,
}

impl Lines {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let some = self.has_some.wait_while(self.pending(), |pending| pending.bytes.is_empty());
            let some = some.unwrap_or_else(PoisonError::into_inner);
            // More lines are likely to follow: one write for all of them.
            drop(self.has_some.wait_timeout_while(some, WRITE_EVERY, |p| p.bytes.len() < PENDING_BYTES / 2));
            self.write_out();
        }
    }

    fn write_out(&self) {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut self.pending().bytes);
        // Nobody can be told that nobody listens.
        let _ = io::stderr().write_all(&bytes);
    }

    fn add(&self, line: &[u8], urgent: bool) {
        let mut pending = self.pending();
        let was_empty = pending.bytes.is_empty();
        pending.bytes.extend_from_slice(line);
        let now = urgent || pending.alone || pending.bytes.len() >= PENDING_BYTES;
        drop(pending);
        if now {
            self.write_out();
        } else if was_empty {
            self.has_some.notify_one();
        }
    }
}

/// Writes one event's line.
struct Line<'l> {
    lines: &'l Lines,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer(Arc<Lines>);

impl<'l> MakeWriter<'l> for Writer {
    type Writer = Line<'l>;

    fn make_writer(&'l self) -> Line<'l> {
        Line { lines: &self.0, urgent: true }
    }

    fn make_writer_for(&'l self, meta: &Metadata<'_>) -> Line<'l> {
        Line { lines: &self.0, urgent: *meta.level() <= Level::WARN }
    }
}
