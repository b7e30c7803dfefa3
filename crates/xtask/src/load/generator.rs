//! Load generation. In a closed loop, requests are sent as fast as the connections allow. In an open loop,
//! they are sent at a fixed rate, and the latency of a request counts from the time at which it was due. A
//! stall of the server is thus not hidden by sending fewer requests (coordinated omission).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::now;

/// Maximum latency that is recorded, in nanoseconds.
const MAX_LATENCY_NS: u64 = 120_000_000_000;

/// Maximum time by which the measured period is extended until the first response arrives.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Source of the requests that the generator sends.
pub trait Source {
    /// Writes the next request to `out`. Returns false if there is none.
    fn next(&self, out: &mut Vec<u8>) -> bool;
}

/// Description of the load to generate.
#[derive(Clone, Copy)]
pub struct Plan {
    pub connections: usize,
    /// Duration of the initial period whose responses are not counted.
    pub warm_up: Duration,
    /// Duration of the measured period, which ends early if the source is exhausted.
    pub length: Duration,
    /// Rate in requests per second. `None` sends as fast as possible.
    pub rate: Option<f64>,
}

/// Results of the measured period.
pub struct LoadResult {
    /// Number of 2xx responses.
    pub answered: u64,
    /// Number of responses with other statuses.
    pub refused: u64,
    pub elapsed: Duration,
    /// Latencies of the 2xx responses, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Increase of each value that `sample` of [`generate_load`] returns, over the measured period.
    pub sampled: [f64; 3],
}

impl LoadResult {
    /// Returns the 2xx responses per second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

struct Shared {
    source: Box<dyn Source>,
    counting: Cell<bool>,
    stop: Cell<bool>,
    answered: Cell<u64>,
    refused: Cell<u64>,
    /// First rejection, for use in the error message.
    refusal: RefCell<Option<String>>,
    latency: RefCell<Histogram<u64>>,
}

/// Generates load on `server`. Calls `sample` at the beginning and the end of the measured period.
///
/// # Errors
/// Returns an error if a connection broke, or if all responses were rejections.
pub async fn generate_load(
    server: SocketAddr,
    plan: Plan,
    source: Box<dyn Source>,
    sample: impl Fn() -> Result<[f64; 3]>,
) -> Result<LoadResult> {
    let shared = Rc::new(Shared {
        source,
        counting: Cell::new(false),
        stop: Cell::new(false),
        answered: Cell::new(0),
        refused: Cell::new(0),
        refusal: RefCell::new(None),
        latency: RefCell::new(Histogram::new_with_max(MAX_LATENCY_NS, 3)?),
    });
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(server).await?);
    }
    let mut work = JoinSet::new();
    let due = plan.rate.map(|rate| start_clock(&mut work, &shared, rate));
    for connection in connections {
        work.spawn_local(run_sequentially(connection, Rc::clone(&shared), due.clone()));
    }
    drop(due);
    sleep(plan.warm_up).await;
    shared.counting.set(true);
    let (began, sampled) = (now(), sample()?);
    // The period ends early if the source is exhausted. Connection errors are reported below.
    let mut early = timeout(plan.length, all(&mut work)).await;
    // A period without any response has no results, so it is extended.
    while early.is_err() && shared.answered.get() == 0 && began.elapsed() < plan.length + FIRST_ANSWER_WITHIN
    {
        early = timeout(plan.length, all(&mut work)).await;
    }
    let (elapsed, at_end) = (began.elapsed(), sample()?);
    let sampled = std::array::from_fn(|i| at_end[i] - sampled[i]);
    shared.counting.set(false);
    shared.stop.set(true);
    match early {
        Ok(ended) => ended?,
        Err(_) => all(&mut work).await?,
    }
    if shared.answered.get() == 0 {
        bail!("no request returned 2xx; the first rejection: {:?}", shared.refusal.take());
    }
    let latency = shared.latency.borrow().clone();
    let (answered, refused) = (shared.answered.get(), shared.refused.get());
    Ok(LoadResult { answered, refused, elapsed, latency, sampled })
}

async fn all(work: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = work.join_next().await {
        ended??;
    }
    Ok(())
}

/// Sends the time at which each request is due to the connections. Busy-waits, because the millisecond
/// resolution of a timer would distort the latencies.
fn start_clock(
    work: &mut JoinSet<Result<()>>,
    shared: &Rc<Shared>,
    rate: f64,
) -> async_channel::Receiver<Instant> {
    let (sender, due) = async_channel::unbounded();
    let shared = Rc::clone(shared);
    work.spawn_local(async move {
        let began = now();
        for tick in 0_u64.. {
            let at = began + Duration::from_secs_f64(tick as f64 / rate);
            while now() < at && !shared.stop.get() {
                tokio::task::yield_now().await;
            }
            if shared.stop.get() || sender.send(at).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    due
}

async fn run_sequentially(
    mut connection: Connection,
    shared: Rc<Shared>,
    due: Option<async_channel::Receiver<Instant>>,
) -> Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !shared.stop.get() {
        let began = match &due {
            Some(due) => match due.recv().await {
                Ok(at) => at,
                Err(_) => return Ok(()),
            },
            None => now(),
        };
        request.clear();
        if !shared.source.next(&mut request) {
            return Ok(());
        }
        let status = connection.call(&request).await?;
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        shared.count(status, took_ns, &connection);
    }
    Ok(())
}

impl Shared {
    fn count(&self, status: u16, took_ns: u64, connection: &Connection) {
        if !(200..300).contains(&status) {
            self.refused.set(self.refused.get() + u64::from(self.counting.get()));
            let mut first = self.refusal.borrow_mut();
            first.get_or_insert_with(|| format!("{status}: {}", String::from_utf8_lossy(connection.body())));
        } else if self.counting.get() {
            self.answered.set(self.answered.get() + 1);
            self.latency.borrow_mut().saturating_record(took_ns);
        }
    }
}
