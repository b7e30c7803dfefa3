//! Accepts connections, ends the slow ones, and stops without dropping a request of which a byte was read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::capacity::{ConnectionLimits, LimitReached, OpenConnections, network_of};
use super::connection::{self, Line, Order, Phase};
use super::edge::Edge;
use super::stop::Stop;
use crate::App;
use crate::config::{self, millis};

/// How finely slow connections are told from others.
const TICK: Duration = Duration::from_millis(250);
/// How long what still comes after the last answer is thrown away.
const LINGER: Duration = Duration::from_secs(2);
/// Sent to a connection that there is no room for.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n";
/// How long to leave a listener alone that has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening server.
pub struct Server {
    addr: SocketAddr,
    lines: Arc<Lines>,
    stop: Stop,
    drain: Duration,
    grace: Duration,
    stop_accepting: CancellationToken,
    accepting: JoinHandle<()>,
    ticking: JoinHandle<()>,
}

/// Serves the app's modules on `listener` until [`Server::stop`].
///
/// # Errors
/// The system's, if the listener has no address.
pub fn serve(listener: TcpListener, app: &App) -> io::Result<Server> {
    serve_edge(listener, Arc::new(super::edge(app)), app.stop.clone(), &app.config.server)
}

fn serve_edge(
    listener: TcpListener,
    edge: Arc<Edge>,
    stop: Stop,
    limits: &config::Server,
) -> io::Result<Server> {
    let addr = listener.local_addr()?;
    let lines = Arc::new(Lines::new(limits, edge.connections()));
    let stop_accepting = CancellationToken::new();
    let accepting = tokio::spawn(accept(listener, edge, Arc::clone(&lines), stop_accepting.clone()));
    let ticking = tokio::spawn(tick(Arc::clone(&lines)));
    let (drain, grace) = (millis(limits.drain_ms), millis(limits.shutdown_grace_ms));
    Ok(Server { addr, lines, stop, drain, grace, stop_accepting, accepting, ticking })
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Drains: goes on accepting for a while with every answer ending its connection, then closes the listener and
    /// the idle connections, waits for the requests under way, and cuts what is left after the grace. Says how
    /// many connections were cut.
    pub async fn stop(self) -> usize {
        self.stop.ask();
        if !self.drain.is_zero() {
            tokio::time::sleep(self.drain).await;
        }
        self.stop_accepting.cancel();
        // It only ends early by panicking, and then there is nothing more to accept.
        let _ = self.accepting.await;
        self.lines.order_all(Order::Close);
        let left = self.lines.wait_for_end(self.grace).await;
        self.lines.order_all(Order::Cut);
        self.lines.wait_for_end(self.grace).await;
        self.ticking.abort();
        left
    }
}

async fn accept(listener: TcpListener, edge: Arc<Edge>, lines: Arc<Lines>, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => match lines.make_room(peer, &edge) {
                Ok(()) => lines.open(stream, peer, Arc::clone(&edge)),
                Err(reached) => reject(&stream, reached, &edge),
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted at the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // What the kernel has accepted on our behalf may hold a whole request already.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        lines.open(stream, peer, Arc::clone(&edge));
    }
}

/// Tells a client that there is no room, and closes its connection.
fn reject(stream: &TcpStream, reached: LimitReached, edge: &Edge) {
    edge.count_connection_rejected(reached.as_str());
    // The peer may not read it: the connection is closed in any case.
    let _ = stream.try_write(NO_ROOM);
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn tick(lines: Arc<Lines>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        lines.ticks.fetch_add(1, Ordering::Relaxed);
        lines.end_overdue();
    }
}

/// The open connections.
struct Lines {
    open: Mutex<OpenConnections>,
    limits: ConnectionLimits,
    gauge: Gauge,
    tasks: TaskTracker,
    ticks: Arc<AtomicU32>,
    head_ticks: u32,
    idle_ticks: u32,
    linger_ticks: u32,
}

impl Lines {
    fn new(limits: &config::Server, gauge: Gauge) -> Self {
        let ticks =
            |time: Duration| u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX);
        Self {
            open: Mutex::default(),
            limits: ConnectionLimits::of(limits, getrlimit(Resource::Nofile).current),
            gauge,
            tasks: TaskTracker::new(),
            ticks: Arc::default(),
            // A phase that began just before a tick seems one tick old at once.
            head_ticks: ticks(millis(limits.head_timeout_ms)) + 1,
            idle_ticks: ticks(millis(limits.keep_alive_ms)) + 1,
            linger_ticks: ticks(LINGER),
        }
    }

    fn open(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, edge: Arc<Edge>) {
        // Without it answers are only later; a socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let line = Arc::new(Line::new(Arc::clone(&self.ticks)));
        // Before the task runs, so that no order misses it.
        let entry = Entry::new(self, &line, network_of(peer));
        self.tasks.spawn(async move {
            connection::run(stream, peer, line, edge).await;
            drop(entry);
        });
    }

    fn open_connections(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a connection of `peer` by closing another one, where a limit is reached. Waits for nothing: whoever
    /// waits here keeps everybody from connecting.
    ///
    /// # Errors
    /// The limit, if no connection can be closed for it.
    fn make_room(&self, peer: SocketAddr, edge: &Edge) -> Result<(), LimitReached> {
        let network = network_of(peer);
        let lifts_network = edge.lifts_connections_per_network(peer.ip());
        let mut open = self.open_connections();
        // A network that is full may be one connection too many in total as well.
        for _ in 0..2 {
            let Some(reached) = open.limit_reached(network, self.limits, lifts_network) else {
                return Ok(());
            };
            if !open.evict(network, reached) {
                return Err(reached);
            }
            edge.count_connection_evicted(reached.as_str());
        }
        open.limit_reached(network, self.limits, lifts_network).map_or(Ok(()), Err)
    }

    fn end_overdue(&self) {
        for line in self.open_connections().lines() {
            match line.phase() {
                (Phase::Reading, ticks) if ticks > self.head_ticks => line.order(Order::Cut),
                (Phase::Idle, ticks) if ticks > self.idle_ticks => line.order(Order::Close),
                // The answer is not being fetched. One that is, however slowly, is sent to its end.
                (Phase::Sending, ticks) if ticks > self.idle_ticks && line.is_blocked() => {
                    line.order(Order::Cut)
                }
                (Phase::Closing, ticks) if ticks > self.idle_ticks => line.order(Order::Cut),
                (Phase::Lingering, ticks) if ticks > self.linger_ticks => line.order(Order::Cut),
                _ => {}
            }
        }
    }

    fn order_all(&self, order: Order) {
        for line in self.open_connections().lines() {
            line.order(order);
        }
    }

    /// Waits until no connection is left, at most for `patience`, and says how many are.
    async fn wait_for_end(&self, patience: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(patience, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}

/// Keeps a connection among the open ones for as long as it lives, however it ends.
struct Entry {
    lines: Arc<Lines>,
    id: usize,
}

impl Entry {
    fn new(lines: &Arc<Lines>, line: &Arc<Line>, network: IpAddr) -> Self {
        let id = Arc::as_ptr(line).addr();
        lines.open_connections().insert(id, Arc::clone(line), network);
        lines.gauge.inc();
        Self { lines: Arc::clone(lines), id }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.lines.open_connections().remove(self.id);
        self.lines.gauge.dec();
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
