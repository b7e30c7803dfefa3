//! Keep-alive connections of the load generator. Also sends batches of requests over several connections.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::http::{self, ResponseHead};
use super::now;

/// Maximum time in which a server must recover after its database was unavailable.
const MAX_WAIT: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Keep-alive connection that sends one request at a time.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    response: ResponseHead,
}

impl Connection {
    /// Opens a connection.
    pub async fn open(server: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(server).await.with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::with_capacity(4096), response: ResponseHead { status: 0, body: 0..0 } })
    }

    /// Sends a request, waits for the complete response, and returns its status.
    ///
    /// # Errors
    /// Returns an error if the connection ends before the response is complete.
    pub async fn call(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.input.clear();
        loop {
            if self.stream.read_buf(&mut self.input).await? == 0 {
                bail!("the server ended the connection");
            }
            if let Some(response) = http::parse_head(&self.input)?
                && self.input.len() >= response.body.end
            {
                self.response = response;
                return Ok(self.response.status);
            }
        }
    }

    /// Returns the body of the last response.
    pub fn body(&self) -> &[u8] {
        &self.input[self.response.body.clone()]
    }

    /// Returns the body of the last response as JSON, or null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or(Value::Null)
    }
}

/// Sends all `requests` over `connections` connections. Returns the status and body of each response, in the
/// order of the requests.
pub async fn send_all(
    server: SocketAddr,
    connections: usize,
    requests: Vec<Vec<u8>>,
) -> Result<Vec<(u16, Value)>> {
    let responses = Rc::new(RefCell::new(vec![(0, Value::Null); requests.len()]));
    let (requests, next) = (Rc::new(requests), Rc::new(Cell::new(0)));
    let mut sending = JoinSet::new();
    for _ in 0..connections.min(requests.len()) {
        let (requests, next, responses) = (Rc::clone(&requests), Rc::clone(&next), Rc::clone(&responses));
        sending.spawn_local(async move {
            let mut connection = Connection::open(server).await?;
            loop {
                let index = next.replace(next.get() + 1);
                let Some(request) = requests.get(index) else { return anyhow::Ok(()) };
                let status = connection.call(request).await?;
                responses.borrow_mut()[index] = (status, connection.json());
            }
        });
    }
    while let Some(ended) = sending.join_next().await {
        ended??;
    }
    Ok(responses.take())
}

/// Sends requests like [`send_all`], and repeats those that were answered with 503.
///
/// # Errors
/// Also returns the errors of [`send_all`], and an error if requests are still answered with 503 after `MAX_WAIT`.
pub async fn send_all_patiently(
    server: SocketAddr,
    connections: usize,
    requests: Vec<Vec<u8>>,
) -> Result<Vec<(u16, Value)>> {
    let began = now();
    let mut responses = send_all(server, connections, requests.clone()).await?;
    loop {
        let refused: Vec<_> = (0..responses.len()).filter(|i| responses[*i].0 == 503).collect();
        let Some(first) = refused.first() else { return Ok(responses) };
        if began.elapsed() > MAX_WAIT {
            bail!("{} requests are still rejected: {}", refused.len(), responses[*first].1);
        }
        sleep(BETWEEN_TRIES).await;
        let again = refused.iter().map(|i| requests[*i].clone()).collect();
        for (i, response) in refused.iter().zip(send_all(server, connections, again).await?) {
            responses[*i] = response;
        }
    }
}
