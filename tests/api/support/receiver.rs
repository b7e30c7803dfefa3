//! HTTP server that records requests and sends configurable replies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Reply of the server.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, header lines and body.
    Response(u16, String, String),
    /// No reply. The connection stays open until the client closes it.
    NoResponse,
}

impl Reply {
    /// Returns a reply with a status only.
    pub fn status(status: u16) -> Self {
        Self::Response(status, String::new(), String::new())
    }
}

/// Received request.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Request line, such as `POST /hook HTTP/1.1`.
    pub line: String,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl ReceivedRequest {
    /// Returns the value of a header.
    ///
    /// # Panics
    /// Panics if the header is absent.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value).unwrap_or_else(|| panic!("{name} is missing in {:?}", self.headers))
    }
}

/// Running server on loopback.
pub struct Receiver {
    address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    arrived: Arc<Mutex<Vec<ReceivedRequest>>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts a server that sends `reply`.
    pub async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (reply, arrived) = (Arc::new(Mutex::new(reply)), Arc::new(Mutex::new(Vec::new())));
        let (responses, kept) = (Arc::clone(&reply), Arc::clone(&arrived));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, Arc::clone(&responses), Arc::clone(&kept)));
            }
        });
        Self { address, reply, arrived, task }
    }

    /// Returns the server's URL with this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Changes the reply for further requests.
    pub fn replies(&self, reply: Reply) {
        *self.reply.lock().expect("no thread panicked while it held the lock") = reply;
    }

    /// Returns all received requests, in order.
    pub fn arrived(&self) -> Vec<ReceivedRequest> {
        self.arrived.lock().expect("no thread panicked while it held the lock").clone()
    }

    /// Returns the number of received requests.
    pub fn count(&self) -> usize {
        self.arrived.lock().expect("no thread panicked while it held the lock").len()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, reply: Arc<Mutex<Reply>>, kept: Arc<Mutex<Vec<ReceivedRequest>>>) {
    let Some(arrived) = read(&mut stream).await else { return };
    kept.lock().expect("no thread panicked while it held the lock").push(arrived);
    let reply = reply.lock().expect("no thread panicked while it held the lock").clone();
    match reply {
        Reply::NoResponse => std::future::pending().await,
        Reply::Response(status, headers, body) => {
            let head = format!("HTTP/1.1 {status} Reply\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
            // The client may have closed the connection.
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<ReceivedRequest> {
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
                return Some(ReceivedRequest { line, headers, body: body.to_owned() });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
