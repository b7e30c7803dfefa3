//! One kept-alive connection of the load generator, and many requests sent over a few of them.

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

use super::http::{self, Answer};
use super::now;

/// How long a server may take to be itself again after its database was gone.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// A connection that carries one request at a time.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    answer: Answer,
}

impl Connection {
    /// Connects.
    pub async fn open(server: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(server).await.with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::with_capacity(4096), answer: Answer { status: 0, body: 0..0 } })
    }

    /// Sends a request and waits for the whole answer; gives its status.
    ///
    /// # Errors
    /// The connection ended before the answer did.
    pub async fn call(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.input.clear();
        loop {
            if self.stream.read_buf(&mut self.input).await? == 0 {
                bail!("the server ended the connection");
            }
            if let Some(answer) = http::parse(&self.input)?
                && self.input.len() >= answer.body.end
            {
                self.answer = answer;
                return Ok(self.answer.status);
            }
        }
    }

    /// The last answer's body.
    pub fn body(&self) -> &[u8] {
        &self.input[self.answer.body.clone()]
    }

    /// The last answer's body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or(Value::Null)
    }
}

/// Sends all `requests` over `connections` and gives each one's status and body, in their order.
pub async fn send_all(
    server: SocketAddr,
    connections: usize,
    requests: Vec<Vec<u8>>,
) -> Result<Vec<(u16, Value)>> {
    let answers = Rc::new(RefCell::new(vec![(0, Value::Null); requests.len()]));
    let (requests, next) = (Rc::new(requests), Rc::new(Cell::new(0)));
    let mut sending = JoinSet::new();
    for _ in 0..connections.min(requests.len()) {
        let (requests, next, answers) = (Rc::clone(&requests), Rc::clone(&next), Rc::clone(&answers));
        sending.spawn_local(async move {
            let mut connection = Connection::open(server).await?;
            loop {
                let index = next.replace(next.get() + 1);
                let Some(request) = requests.get(index) else { return anyhow::Ok(()) };
                let status = connection.call(request).await?;
                answers.borrow_mut()[index] = (status, connection.json());
            }
        });
    }
    while let Some(ended) = sending.join_next().await {
        ended??;
    }
    Ok(answers.take())
}

/// Like [`send_all`], but sends again what was answered with 503, until all are answered otherwise.
///
/// # Errors
/// Also if some are still refused after `PATIENCE`.
pub async fn send_all_patiently(
    server: SocketAddr,
    connections: usize,
    requests: Vec<Vec<u8>>,
) -> Result<Vec<(u16, Value)>> {
    let began = now();
    let mut answers = send_all(server, connections, requests.clone()).await?;
    loop {
        let refused: Vec<_> = (0..answers.len()).filter(|i| answers[*i].0 == 503).collect();
        let Some(first) = refused.first() else { return Ok(answers) };
        if began.elapsed() > PATIENCE {
            bail!("{} requests are still refused: {}", refused.len(), answers[*first].1);
        }
        sleep(BETWEEN_TRIES).await;
        let again = refused.iter().map(|i| requests[*i].clone()).collect();
        for (i, answer) in refused.iter().zip(send_all(server, connections, again).await?) {
            answers[*i] = answer;
        }
    }
}
