//! Log lines on standard error, JSON or pretty, written by a thread of its own so that no request waits for the reader.
//!
//! A line at WARN or above is written at once; others within 20 ms, all of them in order.

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

use super::json_line::JsonLine;
use crate::config::{Log, LogFormat};

const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Past this much unwritten, lines wait for the reader after all: none is dropped.
const PENDING_BYTES: usize = 1024 * 1024;

/// Panics of this process, also those that an edge has caught.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How often something has panicked in this process since its log is ours.
pub(super) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Writes what is pending when dropped.
#[must_use = "the last lines are written when it is dropped"]
pub struct Flush(Arc<Lines>);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.write_out();
    }
}

/// What is logged at least, by target where wanted. It can be changed while the process runs; clones share it.
#[derive(Clone, Debug)]
pub struct LogLevel(Arc<LevelInner>);

#[derive(Debug)]
struct LevelInner {
    said: Mutex<String>,
    /// None in a process whose log is not ours.
    filter: Option<Handle<Targets, Registry>>,
}

/// Not a level.
#[derive(Debug, Error)]
#[error("is not a level such as \"info\" or \"warn,kith_store=debug\"")]
pub struct NotALevel;

impl LogLevel {
    /// The level of a process whose log is not ours: it can be said and changed, and that is all.
    pub fn unheard(level: &str) -> Self {
        Self(Arc::new(LevelInner { said: Mutex::new(level.to_owned()), filter: None }))
    }

    /// The level as it was set last.
    pub fn get(&self) -> String {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it from the next line on; it lasts until the process ends.
    ///
    /// # Errors
    /// [`NotALevel`]; then nothing has changed.
    pub fn set(&self, level: &str) -> Result<(), NotALevel> {
        let targets = parse_level(level)?;
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = &self.0.filter {
            // It fails only where the process's subscriber is gone, and nothing is logged.
            let _ = filter.reload(targets);
        }
        level.clone_into(&mut said);
        Ok(())
    }
}

/// Reads `info` or `warn,kith_store=debug`. A name without a level is refused: more likely a level is misspelt.
pub(crate) fn parse_level(text: &str) -> Result<Targets, NotALevel> {
    let mut targets = Targets::new();
    for directive in text.split(',') {
        let (target, level) = directive.split_once('=').map_or((None, directive), |(t, l)| (Some(t), l));
        // The parser takes nothing at all for a level, too.
        let level = Some(level.trim()).filter(|level| !level.is_empty()).ok_or(NotALevel)?;
        let level: LevelFilter = level.parse().map_err(|_| NotALevel)?;
        targets = match target.map(str::trim) {
            None => targets.with_default(level),
            Some("") => return Err(NotALevel),
            Some(target) => targets.with_target(target, level),
        };
    }
    Ok(targets)
}

/// Sends this process's log lines to standard error, and says how to change their level.
///
/// # Errors
/// If the process already has a subscriber.
pub fn init(config: &Log) -> Result<(Flush, LogLevel), TryInitError> {
    let lines = Arc::new(Lines::to(Box::new(io::stderr())));
    let pretty = match config.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    let (subscriber, filter) = subscriber(&config.level, pretty, Writer(Arc::clone(&lines)));
    subscriber.try_init()?;
    let level = LevelInner { said: Mutex::new(config.level.clone()), filter: Some(filter) };
    let writer = Arc::clone(&lines);
    let started = std::thread::Builder::new().name("kith-log".into()).spawn(move || writer.run());
    if started.is_err() {
        // Then each line is written by whoever says it.
        lines.pending().alone = true;
    }
    log_panics();
    Ok((Flush(lines), LogLevel(Arc::new(level))))
}

/// Writes each event at or above `level` as a line to `writer`.
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
        plain.event_format(JsonLine).boxed()
    };
    let targets = parse_level(level).unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let (filter, handle) = reload::Layer::new(targets);
    (tracing_subscriber::registry().with(layer.with_filter(filter)), handle)
}

/// A panic is one line like any other, and what ends it decides what becomes of the process.
///
/// A text put together at run time may quote what a person sent, so only the place is told then.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(text withheld)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic = text, place, "panicked");
    }));
}

struct Lines {
    pending: Mutex<Pending>,
    has_some: Condvar,
    /// Locked while writing, so that lines stay in order.
    out: Mutex<Box<dyn Write + Send>>,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    alone: bool,
}

impl Lines {
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
            // More lines are likely to follow: one write for all of them.
            drop(self.has_some.wait_timeout_while(some, WRITE_EVERY, |p| p.bytes.len() < PENDING_BYTES / 2));
            self.write_out();
        }
    }

    fn write_out(&self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut self.pending().bytes);
        // Nobody can be told that nobody listens.
        let _ = out.write_all(&bytes);
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Hands each write to the test.
    struct Page(Sender<String>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The test may have seen enough.
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Arc<Lines>, Receiver<String>) {
        let (page, read) = channel();
        (Arc::new(Lines::to(Box::new(Page(page)))), read)
    }

    #[test]
    fn an_urgent_line_takes_those_before_it_along_at_once() {
        let (lines, read) = lines();
        lines.add(b"calm\n", false);
        assert!(read.try_recv().is_err());
        lines.add(b"urgent\n", true);
        assert_eq!(read.try_recv().unwrap(), "calm\nurgent\n");
    }

    #[test]
    fn the_last_lines_are_written_at_the_end() {
        let (lines, read) = lines();
        lines.add(b"last\n", false);
        drop(Flush(lines));
        assert_eq!(read.try_recv().unwrap(), "last\n");
    }

    #[test]
    fn calm_lines_are_written_soon_and_in_order() {
        let (lines, read) = lines();
        let writer = Arc::clone(&lines);
        std::thread::spawn(move || writer.run());
        let said: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        said.split_inclusive('\n').for_each(|line| lines.add(line.as_bytes(), false));
        let mut written = String::new();
        while written.len() < said.len() {
            written += &read.recv().unwrap();
        }
        assert_eq!(written, said);
    }

    #[test]
    fn nothing_is_dropped_when_there_is_too_much() {
        let (lines, read) = lines();
        let line = [b'x'; 1024];
        (0..=PENDING_BYTES / line.len()).for_each(|_| lines.add(&line, false));
        assert_eq!(read.try_recv().unwrap().len(), PENDING_BYTES);
        lines.write_out();
        assert_eq!(read.try_recv().unwrap().len(), line.len());
    }
}
