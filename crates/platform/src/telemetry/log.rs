//! Writes log lines to standard error, in JSON or readable form. A separate thread writes them, so that
//! requests do not wait for the output.
//!
//! Lines at the level WARN or above are written at once, other lines within 20 ms. All lines stay in order.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use super::json_format::JsonEventFormat;
use crate::config::{Log, LogFormat};

const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Buffer size in bytes above which log calls write the lines themselves. No line is dropped.
const PENDING_BYTES: usize = 1024 * 1024;

/// Number of panics in this process, including panics that were caught.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of panics in this process since [`init`] was called.
pub(super) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Guard that writes the buffered lines to standard error when it is dropped.
#[must_use = "dropping the guard writes the last lines"]
pub struct LogFlushGuard(Arc<LogBuffer>);

impl Drop for LogFlushGuard {
    fn drop(&mut self) {
        self.0.write_out();
    }
}

/// Minimum level of logged events, which can differ per target. It can be changed at run time. Clones share
/// the level.
#[derive(Clone, Debug)]
pub struct LogLevel(Arc<LevelInner>);

#[derive(Debug)]
struct LevelInner {
    current_level: Mutex<String>,
    /// `None` in a process whose log this crate does not manage.
    filter: Option<Handle<Targets, Registry>>,
}

/// Error for a text that is not a log level.
#[derive(Debug, Error)]
#[error("must be a level such as \"info\", or levels per target such as \"warn,kith_store=debug\"")]
pub struct InvalidLogLevel;

impl LogLevel {
    /// Creates a level that has no effect when it is set, for a process whose log this crate does not manage.
    pub fn detached(level: &str) -> Self {
        Self(Arc::new(LevelInner { current_level: Mutex::new(level.to_owned()), filter: None }))
    }

    /// Returns the current level.
    pub fn get(&self) -> String {
        self.0.current_level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the level for all following events, until the process ends.
    ///
    /// # Errors
    /// Returns [`InvalidLogLevel`] if `level` cannot be parsed. The level then stays unchanged.
    pub fn set(&self, level: &str) -> Result<(), InvalidLogLevel> {
        let targets = parse_level(level)?;
        let mut current = self.0.current_level.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = &self.0.filter {
            // This fails only if the subscriber no longer exists, and then nothing is logged.
            let _ = filter.reload(targets);
        }
        level.clone_into(&mut current);
        Ok(())
    }
}

/// Parses a level such as `info` or `warn,kith_store=debug`. Rejects a target without a level, because it is
/// probably a misspelt level.
pub(crate) fn parse_level(text: &str) -> Result<Targets, InvalidLogLevel> {
    let mut targets = Targets::new();
    for directive in text.split(',') {
        let (target, level) = directive.split_once('=').map_or((None, directive), |(t, l)| (Some(t), l));
        // The parser of `LevelFilter` accepts an empty text, so it is rejected here.
        let level = Some(level.trim()).filter(|level| !level.is_empty()).ok_or(InvalidLogLevel)?;
        let level: LevelFilter = level.parse().map_err(|_| InvalidLogLevel)?;
        targets = match target.map(str::trim) {
            None => targets.with_default(level),
            Some("") => return Err(InvalidLogLevel),
            Some(target) => targets.with_target(target, level),
        };
    }
    Ok(targets)
}

/// Installs the subscriber of this process, which writes to standard error. Returns the guard of the buffer,
/// and the handle with which the level can be changed.
///
/// # Errors
/// Returns an error if the process already has a subscriber.
pub fn init(config: &Log) -> Result<(LogFlushGuard, LogLevel), TryInitError> {
    let lines = Arc::new(LogBuffer::to(Box::new(io::stderr())));
    let pretty = match config.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    let (subscriber, filter) = subscriber(&config.level, pretty, Writer(Arc::clone(&lines)));
    subscriber.try_init()?;
    let level = LevelInner { current_level: Mutex::new(config.level.clone()), filter: Some(filter) };
    let writer = Arc::clone(&lines);
    let started = std::thread::Builder::new().name("kith-log".into()).spawn(move || writer.run());
    if started.is_err() {
        // Without the writing thread, each line is written by the thread that logs it.
        lines.pending().has_no_thread = true;
    }
    log_panics();
    Ok((LogFlushGuard(lines), LogLevel(Arc::new(level))))
}

/// Creates a subscriber that writes each event at or above `level` as one line to `writer`. If `level` is
/// invalid, uses `info`.
pub(crate) fn subscriber<W>(
    level: &str,
    pretty: bool,
    writer: W,
) -> (impl Subscriber + Send + Sync + use<W>, Handle<Targets, Registry>)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let plain = fmt::layer().with_writer(writer);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if pretty {
        plain.with_ansi(io::stderr().is_terminal()).boxed()
    } else {
        plain.event_format(JsonEventFormat).boxed()
    };
    let targets = parse_level(level).unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let (filter, handle) = reload::Layer::new(targets);
    (tracing_subscriber::registry().with(layer.with_filter(filter)), handle)
}

/// Logs each panic as one event and counts it.
///
/// If the message was formatted at run time, it may contain user input. In this case, only the location is
/// logged.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(text withheld)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic = text, place, "panicked");
    }));
}

struct LogBuffer {
    pending: Mutex<Pending>,
    has_some: Condvar,
    /// Output. It is locked while lines are written, so that they stay in order.
    out: Mutex<Box<dyn Write + Send>>,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    has_no_thread: bool,
}

impl LogBuffer {
    fn to(out: Box<dyn Write + Send>) -> Self {
        Self { pending: Mutex::default(), has_some: Condvar::new(), out: Mutex::new(out) }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let some = self.has_some.wait_while(self.pending(), |pending| pending.bytes.is_empty());
            let some = some.unwrap_or_else(PoisonError::into_inner);
            // Waits for more lines, so that they are written together.
            drop(self.has_some.wait_timeout_while(some, WRITE_EVERY, |p| p.bytes.len() < PENDING_BYTES / 2));
            self.write_out();
        }
    }

    fn write_out(&self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut self.pending().bytes);
        // An error cannot be reported, because the log itself has failed.
        let _ = out.write_all(&bytes);
    }

    fn add(&self, line: &[u8], urgent: bool) {
        let mut pending = self.pending();
        let was_empty = pending.bytes.is_empty();
        pending.bytes.extend_from_slice(line);
        let now = urgent || pending.has_no_thread || pending.bytes.len() >= PENDING_BYTES;
        drop(pending);
        if now {
            self.write_out();
        } else if was_empty {
            self.has_some.notify_one();
        }
    }
}

/// Writer for the line of one event.
struct LogLineWriter<'l> {
    lines: &'l LogBuffer,
    urgent: bool,
}

impl Write for LogLineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer(Arc<LogBuffer>);

impl<'l> MakeWriter<'l> for Writer {
    type Writer = LogLineWriter<'l>;

    fn make_writer(&'l self) -> LogLineWriter<'l> {
        LogLineWriter { lines: &self.0, urgent: true }
    }

    fn make_writer_for(&'l self, meta: &Metadata<'_>) -> LogLineWriter<'l> {
        LogLineWriter { lines: &self.0, urgent: *meta.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Writer that sends each written text to the test through a channel.
    struct ChannelWriter(Sender<String>);

    impl Write for ChannelWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The test may have dropped the receiver.
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Arc<LogBuffer>, Receiver<String>) {
        let (page, read) = channel();
        (Arc::new(LogBuffer::to(Box::new(ChannelWriter(page)))), read)
    }

    #[test]
    fn urgent_line_flushes_buffered_lines() {
        let (lines, read) = lines();
        lines.add(b"calm\n", false);
        assert!(read.try_recv().is_err());
        lines.add(b"urgent\n", true);
        assert_eq!(read.try_recv().unwrap(), "calm\nurgent\n");
    }

    #[test]
    fn dropped_guard_flushes_buffer() {
        let (lines, read) = lines();
        lines.add(b"last\n", false);
        drop(LogFlushGuard(lines));
        assert_eq!(read.try_recv().unwrap(), "last\n");
    }

    #[test]
    fn normal_lines_are_written_in_order() {
        let (lines, read) = lines();
        let writer = Arc::clone(&lines);
        std::thread::spawn(move || writer.run());
        let current: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        current.split_inclusive('\n').for_each(|line| lines.add(line.as_bytes(), false));
        let mut written = String::new();
        while written.len() < current.len() {
            written += &read.recv().unwrap();
        }
        assert_eq!(written, current);
    }

    #[test]
    fn full_buffer_is_written_without_loss() {
        let (lines, read) = lines();
        let line = [b'x'; 1024];
        (0..=PENDING_BYTES / line.len()).for_each(|_| lines.add(&line, false));
        assert_eq!(read.try_recv().unwrap().len(), PENDING_BYTES);
        lines.write_out();
        assert_eq!(read.try_recv().unwrap().len(), line.len());
    }
}
