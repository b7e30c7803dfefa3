//! Sends one request over its own connection to a checked address. Connections are not reused, and requests
//! are not retried. Redirects are not followed, and bodies are not decompressed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::resolve::Resolve;
use super::target::{LOCALHOST, Target, TargetError, TargetHost, TargetRules};
use super::{OutboundError, OutboundRequest, OutboundResponse};

/// Maximum number of addresses of a host name to which a connection is attempted.
const MAX_ADDRESSES: usize = 4;
/// Maximum number of headers in a response. A response with more headers, or with a head larger than
/// [`MAX_HEAD_BYTES`], is an error.
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 32 * 1024;
const USER_AGENT: &str = concat!("Kith/", env!("CARGO_PKG_VERSION"));

/// Resolves the host of `target` once and returns its allowed addresses. Returns the reason as an error if
/// there are none.
pub(super) async fn addresses(
    rules: &TargetRules,
    resolver: &dyn Resolve,
    target: &Target,
) -> Result<Vec<IpAddr>, OutboundError> {
    let found = match &target.host {
        TargetHost::Address(ip) => vec![*ip],
        TargetHost::Localhost => LOCALHOST.to_vec(),
        TargetHost::Name(name) => resolver.resolve(name).await.map_err(|_| OutboundError::NotFound)?,
    };
    let mut refused = None;
    let mut allowed = Vec::new();
    for ip in found {
        match rules.address(ip, target.port) {
            Ok(()) => allowed.push(ip.to_canonical()),
            Err(why) => refused = Some(why),
        }
    }
    allowed.truncate(MAX_ADDRESSES);
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(why)) => Err(OutboundError::Refused(why)),
        (true, None) => Err(OutboundError::NotFound),
    }
}

/// Connects to the first address in `ips` that accepts the connection. Each address gets an equal share of
/// the time `within`.
pub(super) async fn connect(
    rules: &TargetRules,
    ips: &[IpAddr],
    port: u16,
    within: Duration,
) -> Result<TcpStream, OutboundError> {
    let share = within / u32::try_from(ips.len().max(1)).unwrap_or(1);
    let mut last = OutboundError::NotFound;
    for ip in ips {
        let address = SocketAddr::new(*ip, port);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return verify_peer(rules, stream, address),
            Ok(Err(error)) => last = OutboundError::Connection(error.kind()),
            Err(_) => last = OutboundError::ConnectTimeout,
        }
    }
    Err(last)
}

/// Checks the remote address of the connection against the rules and against the requested address.
fn verify_peer(
    rules: &TargetRules,
    stream: TcpStream,
    expected: SocketAddr,
) -> Result<TcpStream, OutboundError> {
    let peer = stream.peer_addr().map_err(|error| OutboundError::Connection(error.kind()))?;
    rules.address(peer.ip(), peer.port()).map_err(OutboundError::Refused)?;
    if peer.ip().to_canonical() == expected.ip() && peer.port() == expected.port() {
        Ok(stream)
    } else {
        Err(OutboundError::Refused(TargetError::Unreadable))
    }
}

/// Response whose head was received, but not its body. The connection is closed when this value is dropped.
pub(super) struct PendingResponse {
    head: Parts,
    body: Incoming,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

/// Sends `outgoing` over `stream` and waits for the head of the response. Uses TLS if `tls` is given.
pub(super) async fn exchange(
    stream: TcpStream,
    tls: Option<Arc<ClientConfig>>,
    outgoing: OutboundRequest,
    connect_within: Duration,
) -> Result<PendingResponse, OutboundError> {
    let Some(tls) = tls else { return send_over(stream, outgoing).await };
    let name = ServerName::try_from(outgoing.target.server_name()).map_err(|_| OutboundError::NotFound)?;
    let handshake = TlsConnector::from(tls).connect(name, stream);
    match tokio::time::timeout(connect_within, handshake).await {
        Ok(Ok(stream)) => send_over(stream, outgoing).await,
        Ok(Err(error)) => Err(tls_error(&error)),
        Err(_) => Err(OutboundError::ConnectTimeout),
    }
}

fn tls_error(error: &io::Error) -> OutboundError {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => OutboundError::Certificate,
        Some(_) => OutboundError::Tls,
        None => OutboundError::Connection(error.kind()),
    }
}

async fn send_over<S>(stream: S, outgoing: OutboundRequest) -> Result<PendingResponse, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| protocol(&error))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request(outgoing)?).await.map_err(|error| protocol(&error))?;
    let (head, body) = answer.into_parts();
    Ok(PendingResponse { head, body, _connection })
}

fn request(outgoing: OutboundRequest) -> Result<Request<Full<Bytes>>, OutboundError> {
    let OutboundRequest { target, method, headers, body, .. } = outgoing;
    let mut request = Request::builder().method(method).uri(target.path_and_query());
    let host = HeaderValue::try_from(target.host_header()).map_err(|_| OutboundError::Protocol)?;
    if let Some(own) = request.headers_mut() {
        *own = headers;
        for name in HOP_BY_HOP {
            own.remove(*name);
        }
        own.insert(header::HOST, host);
        own.insert(header::CONNECTION, HeaderValue::from_static("close"));
        own.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        own.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        own.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    }
    request.body(Full::new(body)).map_err(|_| OutboundError::Protocol)
}

/// Headers that apply only to one connection (RFC 9110, section 7.6.1) or describe the framing of the
/// message.
pub(super) const HOP_BY_HOP: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl PendingResponse {
    /// Reads at most `max_body_bytes` of the body. If the body is longer, if reading fails or if `deadline`
    /// passes, returns the part that was read. None of these is an error, because the target has already sent
    /// a status.
    pub(super) async fn read(mut self, max_body_bytes: usize, deadline: Instant) -> OutboundResponse {
        let mut kept = BytesMut::new();
        let is_complete = loop {
            let frame = match tokio::time::timeout_at(deadline.into(), self.body.frame()).await {
                Ok(None) => break true,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) => break false,
            };
            let Ok(data) = frame.into_data() else { continue };
            let room = max_body_bytes - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                break false;
            }
        };
        let Parts { status, headers, .. } = self.head;
        OutboundResponse {
            status: status.as_u16(),
            headers,
            body: kept.freeze(),
            is_complete,
            took: Duration::ZERO,
        }
    }
}

fn protocol(error: &hyper::Error) -> OutboundError {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        Some(cause) => OutboundError::Connection(cause.kind()),
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            OutboundError::Connection(io::ErrorKind::ConnectionReset)
        }
        None => OutboundError::Protocol,
    }
}
