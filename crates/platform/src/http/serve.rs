//! Accepts connections and closes slow ones. When the server stops, answers all requests that have begun to
//! arrive.

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
use super::connection;
use super::connection_state::{CloseRequest, ConnectionState, Phase};
use super::edge::Edge;
use super::stop::Stop;
use crate::App;
use crate::config::{self, millis};

/// Interval at which connection timeouts are checked.
const TICK: Duration = Duration::from_millis(250);
/// Maximum time for which input is discarded after the last response.
const LINGER: Duration = Duration::from_secs(2);
/// Response that is sent on a connection that exceeds a connection limit.
const OVERLOADED_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n";
/// Pause after a connection could not be accepted, for example because there was no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Server that listens for connections.
pub struct Server {
    addr: SocketAddr,
    connections: Arc<Connections>,
    stop: Stop,
    drain: Duration,
    grace: Duration,
    stop_accepting: CancellationToken,
    accepting: JoinHandle<()>,
    ticking: JoinHandle<()>,
}

/// Serves the app's modules on `listener` until [`Server::stop`] is called.
///
/// # Errors
/// Returns the I/O error if the listener has no local address.
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
    let connections = Arc::new(Connections::new(limits, edge.connections()));
    let stop_accepting = CancellationToken::new();
    let accepting = tokio::spawn(accept(listener, edge, Arc::clone(&connections), stop_accepting.clone()));
    let ticking = tokio::spawn(close_overdue_connections(Arc::clone(&connections)));
    let (drain, grace) = (millis(limits.drain_ms), millis(limits.shutdown_grace_ms));
    Ok(Server { addr, connections, stop, drain, grace, stop_accepting, accepting, ticking })
}

impl Server {
    /// Returns the address of the listener.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops the server. First, for the drain time, it accepts connections and closes each one after its
    /// response. Then it closes the listener and idle connections, and waits for requests in progress. After
    /// the grace period, it aborts the remaining connections. Returns the number of connections that were
    /// open when the grace period ended.
    pub async fn stop(self) -> usize {
        self.stop.ask();
        if !self.drain.is_zero() {
            tokio::time::sleep(self.drain).await;
        }
        self.stop_accepting.cancel();
        // The task ends early only if it panics. In this case there is nothing more to accept.
        let _ = self.accepting.await;
        self.connections.send_order(CloseRequest::Close);
        let left = self.connections.wait_for_end(self.grace).await;
        self.connections.send_order(CloseRequest::Cut);
        self.connections.wait_for_end(self.grace).await;
        self.ticking.abort();
        left
    }
}

async fn accept(
    listener: TcpListener,
    edge: Arc<Edge>,
    connections: Arc<Connections>,
    stop: CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => match connections.make_room(peer, &edge) {
                Ok(()) => connections.open(stream, peer, Arc::clone(&edge)),
                Err(reached) => reject(&stream, reached, &edge),
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Connections in the kernel's accept queue may already contain complete requests, so they are accepted.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        connections.open(stream, peer, Arc::clone(&edge));
    }
}

/// Rejects a connection with 503 and closes it.
fn reject(stream: &TcpStream, reached: LimitReached, edge: &Edge) {
    edge.record_connection_rejected(reached.as_str());
    // The client may not read the response. The connection is closed in any case.
    let _ = stream.try_write(OVERLOADED_RESPONSE);
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn close_overdue_connections(connections: Arc<Connections>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        connections.ticks.fetch_add(1, Ordering::Relaxed);
        connections.end_overdue();
    }
}

/// Open connections of a server.
struct Connections {
    open: Mutex<OpenConnections>,
    limits: ConnectionLimits,
    gauge: Gauge,
    tasks: TaskTracker,
    ticks: Arc<AtomicU32>,
    head_ticks: u32,
    idle_ticks: u32,
    linger_ticks: u32,
}

impl Connections {
    fn new(limits: &config::Server, gauge: Gauge) -> Self {
        let ticks =
            |time: Duration| u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX);
        Self {
            open: Mutex::default(),
            limits: ConnectionLimits::of(limits, getrlimit(Resource::Nofile).current),
            gauge,
            tasks: TaskTracker::new(),
            ticks: Arc::default(),
            // A phase that began just before a tick already has an age of one tick after it.
            head_ticks: ticks(millis(limits.head_timeout_ms)) + 1,
            idle_ticks: ticks(millis(limits.keep_alive_ms)) + 1,
            linger_ticks: ticks(LINGER),
        }
    }

    fn open(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, edge: Arc<Edge>) {
        // If this fails, responses are only delayed. A socket for which it fails is broken anyway.
        let _ = stream.set_nodelay(true);
        let state = Arc::new(ConnectionState::new(Arc::clone(&self.ticks)));
        // The connection is registered before its task runs, so that it receives every order to close.
        let entry = ConnectionGuard::new(self, &state, network_of(peer));
        self.tasks.spawn(async move {
            connection::run(stream, peer, state, edge).await;
            drop(entry);
        });
    }

    fn open_connections(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ensures that a connection from `peer` can be opened. If a limit is reached, closes another connection.
    /// Does not wait until that one has ended, because this would block all other connections.
    ///
    /// # Errors
    /// Returns the limit that is reached if no connection can be closed.
    fn make_room(&self, peer: SocketAddr, edge: &Edge) -> Result<(), LimitReached> {
        let network = network_of(peer);
        let lifts_network = edge.exempts_from_network_limit(peer.ip());
        let mut open = self.open_connections();
        // Both limits can be reached: the limit per network and the total limit.
        for _ in 0..2 {
            let Some(reached) = open.limit_reached(network, self.limits, lifts_network) else {
                return Ok(());
            };
            if !open.evict(network, reached) {
                return Err(reached);
            }
            edge.record_connection_evicted(reached.as_str());
        }
        open.limit_reached(network, self.limits, lifts_network).map_or(Ok(()), Err)
    }

    fn end_overdue(&self) {
        for state in self.open_connections().states() {
            match state.phase() {
                (Phase::Reading, ticks) if ticks > self.head_ticks => state.order(CloseRequest::Cut),
                (Phase::Idle, ticks) if ticks > self.idle_ticks => state.order(CloseRequest::Close),
                // The client does not read the response. A response that is read, even if slowly, is sent
                // completely.
                (Phase::Sending, ticks) if ticks > self.idle_ticks && state.is_blocked() => {
                    state.order(CloseRequest::Cut)
                }
                (Phase::Closing, ticks) if ticks > self.idle_ticks => state.order(CloseRequest::Cut),
                (Phase::Lingering, ticks) if ticks > self.linger_ticks => state.order(CloseRequest::Cut),
                _ => {}
            }
        }
    }

    fn send_order(&self, order: CloseRequest) {
        for state in self.open_connections().states() {
            state.order(order);
        }
    }

    /// Waits at most `max_wait` until no connection is open. Returns the number of connections that are still
    /// open.
    async fn wait_for_end(&self, max_wait: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(max_wait, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}

/// Registration of an open connection. It is removed when the guard is dropped.
struct ConnectionGuard {
    connections: Arc<Connections>,
    id: usize,
}

impl ConnectionGuard {
    fn new(connections: &Arc<Connections>, state: &Arc<ConnectionState>, network: IpAddr) -> Self {
        let id = Arc::as_ptr(state).addr();
        connections.open_connections().insert(id, Arc::clone(state), network);
        connections.gauge.inc();
        Self { connections: Arc::clone(connections), id }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.open_connections().remove(self.id);
        self.connections.gauge.dec();
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
