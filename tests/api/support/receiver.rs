//! Somebody else's server: it keeps what it is sent and answers as it was told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What it answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status, header lines and a body.
    Answer(u16, String, String),
    /// Nothing, for as long as anybody waits.
    Silence,
}

impl Reply {
    /// A status and nothing more.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), String::new())
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// `POST /hook HTTP/1.1`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Arrived {
    /// A header's value.
    ///
    /// # Panics
    /// If it is not there.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }
}

/// A server on the loopback.
pub struct Receiver {
    address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts one that answers with `reply`.
    pub async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (reply, arrived) = (Arc::new(Mutex::new(reply)), Arc::new(Mutex::new(Vec::new())));
        let (answers, kept) = (Arc::clone(&reply), Arc::clone(&arrived));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&kept)));
            }
        });
        Self { address, reply, arrived, task }
    }

    /// Its address, with this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on it answers otherwise.
    pub fn replies(&self, reply: Reply) {
        *self.reply.lock().expect("no panic before") = reply;
    }

    /// All that has arrived, in order.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("no panic before").clone()
    }

    /// How much has arrived.
    pub fn count(&self) -> usize {
        self.arrived.lock().expect("no panic before").len()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, reply: Arc<Mutex<Reply>>, kept: Arc<Mutex<Vec<Arrived>>>) {
    let Some(arrived) = read(&mut stream).await else { return };
    kept.lock().expect("no panic before").push(arrived);
    let reply = reply.lock().expect("no panic before").clone();
    match reply {
        Reply::Silence => std::future::pending().await,
        Reply::Answer(status, headers, body) => {
            let head = format!("HTTP/1.1 {status} Told\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
            // Whoever does not want all of it hangs up.
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Arrived> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let line = lines.next()?.to_owned();
            let headers: Vec<_> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length = length.map_or(0, |(_, value)| value.parse().expect("a length"));
            if body.len() >= length {
                return Some(Arrived { line, headers, body: body.to_owned() });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
