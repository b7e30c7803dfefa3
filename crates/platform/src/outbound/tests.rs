//! DRV-14: connections are made only to allowed addresses, and the size of responses is limited.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Method};
use kith_verify::spellings::{LOOPBACK, PRIVATE, SPELLINGS};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::{Inputs, Mode};

/// Internal addresses that a resolver could return.
const INTERNAL: &[&str] = &[
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "ff02::1",
];

/// Resolver that returns the given answers one after the other, and then repeats the last one.
struct ScriptedResolver {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    requests: AtomicUsize,
}

impl ScriptedResolver {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |ips: &&[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            requests: AtomicUsize::new(0),
        })
    }
}

impl Resolve for ScriptedResolver {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

fn config(lines: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kith.toml");
    // Development mode allows loopback addresses unless the networks are set.
    let networks = if lines.contains("allowed_networks") { "" } else { "allowed_networks = []\n" };
    std::fs::write(&file, format!("[outbound]\n{networks}{lines}")).unwrap();
    Config::load(&Inputs { file: Some(file), ..Inputs::default() }, &[]).unwrap()
}

fn outbound(lines: &str, resolver: Arc<dyn Resolve>) -> Outbound {
    Outbound::with(&config(lines), resolver, None)
}

fn get(target: Target) -> OutboundRequest {
    OutboundRequest {
        target,
        method: Method::GET,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout: None,
    }
}

/// Server that sends the same bytes on each connection and records the requests. If `stays_open` is true, it
/// never closes a connection.
struct TestReceiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl TestReceiver {
    async fn at(address: &str, answer: impl Into<Vec<u8>>, stays_open: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), answer.into());
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (seen, answer) = (Arc::clone(&seen), answer.clone());
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    let n = stream.read(&mut bytes).await.unwrap_or(0);
                    seen.lock().unwrap().push(String::from_utf8_lossy(&bytes[..n]).into_owned());
                    let _ = stream.write_all(&answer).await;
                    if stays_open {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, requests, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn allowed(&self) -> String {
        format!("allowed_networks = [\"{}\"]\n", self.address)
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn hostile_url_variants_are_rejected() {
    let outbound = outbound("", ScriptedResolver::new(&[&["93.184.216.34"]]));
    for spelling in SPELLINGS {
        let read = outbound.target(spelling);
        assert!(read.is_err(), "{spelling:?} was parsed as {read:?}");
        let https = spelling.replace("http:", "https:");
        assert!(outbound.target(&https).is_err(), "{https:?}");
    }
    let long = format!("https://example.org/{}", "x".repeat(2_048));
    assert_eq!(outbound.target(&long), Err(TargetError::TooLong));
    for good in [
        "https://example.org/hook?a=b",
        "http://93.184.216.34:8080/",
        "https://bücher.example/",
        "https://[2606:4700::1]/",
    ] {
        assert!(outbound.target(good).is_ok(), "{good}");
    }
}

/// DRV-14: the table of URLs in `kith verify` classifies each form of an address in the same way as the
/// server.
#[test]
fn verify_and_server_classify_urls_alike() {
    let usual = outbound("", ScriptedResolver::new(&[]));
    for spelling in SPELLINGS {
        let https = spelling.replacen("http:", "https:", 1);
        let (private, loopback) = match usual.target(&https) {
            Err(TargetError::InternalAddress(AddressClass::Private | AddressClass::CarrierGrade)) => {
                (true, false)
            }
            Err(TargetError::InternalAddress(AddressClass::Loopback | AddressClass::EmbeddedIpv4)) => {
                (false, true)
            }
            _ => (false, false),
        };
        let stands_in = |table: &[(&str, &str)]| table.iter().any(|(one, _)| one == spelling);
        assert_eq!((stands_in(PRIVATE), stands_in(LOOPBACK)), (private, loopback), "{spelling}");
    }
    for (spelling, address) in PRIVATE.iter().chain(LOOPBACK) {
        let address: SocketAddr = address.parse().unwrap();
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        let bits = if canonical.is_ipv4() { 32 } else { 128 };
        let listed = match canonical.ip() {
            IpAddr::V4(ip) => format!("{ip}/{bits}:{}", address.port()),
            IpAddr::V6(ip) => format!("[{ip}/{bits}]:{}", address.port()),
        };
        let listing = outbound(&format!("allowed_networks = [\"{listed}\"]"), ScriptedResolver::new(&[]));
        let https = spelling.replacen("http:", "https:", 1);
        assert!(listing.target(&https).is_ok(), "{spelling} is allowed by {listed}");
    }
}

#[tokio::test]
async fn names_with_internal_addresses_are_rejected() {
    let receiver = TestReceiver::at("127.0.0.1:0", OK, false).await;
    let port = receiver.address.port();
    for ip in INTERNAL {
        let outbound = outbound(&format!("ports = [{port}]"), ScriptedResolver::new(&[&[*ip]]));
        let target = outbound.target(&format!("http://internal.example.org:{port}/")).unwrap();
        let error = outbound.send(get(target)).await.unwrap_err();
        assert!(matches!(error, OutboundError::Refused(TargetError::InternalAddress(_))), "{ip}: {error:?}");
        assert!(!error.to_string().contains(ip), "{error}");
    }
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn dns_rebinding_is_rejected() {
    let inside = TestReceiver::at("127.0.0.2:0", OK, false).await;
    let port = inside.address.port();
    let outside = TestReceiver::at(&format!("127.0.0.1:{port}"), OK, false).await;
    // The address that is checked is the address that is connected to. The next request resolves and checks
    // the name again.
    let script = ScriptedResolver::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let outbound = outbound(&outside.allowed(), script.clone());
    let target = outbound.target(&format!("http://rebinds.example.org:{port}/")).unwrap();
    assert_eq!(outbound.send(get(target.clone())).await.unwrap().status, 200);
    assert_eq!(script.requests.load(Ordering::SeqCst), 1, "one request makes one DNS query");
    for _ in 0..3 {
        let refused = outbound.send(get(target.clone())).await.unwrap_err();
        assert_eq!(refused.code(), "target_refused");
    }
    assert_eq!((outside.count(), inside.count()), (1, 0));
}

#[tokio::test]
async fn only_permitted_addresses_are_connected() {
    let inside = TestReceiver::at("127.0.0.2:0", OK, false).await;
    let port = inside.address.port();
    let outside = TestReceiver::at(&format!("127.0.0.1:{port}"), OK, false).await;
    let script = ScriptedResolver::new(&[&["127.0.0.2", "169.254.169.254", "127.0.0.1"]]);
    let outbound = outbound(&outside.allowed(), script);
    let target = outbound.target(&format!("http://mixed.example.org:{port}/")).unwrap();
    assert_eq!(outbound.send(get(target)).await.unwrap().status, 200);
    assert_eq!((outside.count(), inside.count()), (1, 0));
}

#[tokio::test]
async fn peer_address_is_checked_after_connecting() {
    let receiver = TestReceiver::at("127.0.0.1:0", OK, false).await;
    let rules = TargetRules::new(&config(""));
    // The address is not allowed by the rules; it simulates an address that was not checked.
    let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let refused = exchange::connect(&rules, &ips, receiver.address.port(), Duration::from_secs(5)).await;
    assert_eq!(refused.unwrap_err().code(), "target_refused");
    // Linux connects to the loopback address if the address is 0.0.0.0.
    let ips = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let refused = exchange::connect(&rules, &ips, receiver.address.port(), Duration::from_secs(5)).await;
    assert_eq!(refused.unwrap_err().code(), "target_refused");
    assert!(receiver.requests.lock().unwrap().iter().all(String::is_empty), "no request data was sent");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let inside = TestReceiver::at("127.0.0.2:0", OK, false).await;
    for status in [301, 302, 303, 307, 308] {
        let answer = format!(
            "HTTP/1.1 {status} Elsewhere\r\nlocation: http://{}/secrets\r\ncontent-length: 0\r\n\r\n",
            inside.address
        );
        let outside = TestReceiver::at("127.0.0.1:0", answer, false).await;
        let outbound = outbound(&outside.allowed(), ScriptedResolver::new(&[]));
        let target = outbound.target(&format!("http://{}/", outside.address)).unwrap();
        let received = outbound.send(get(target)).await.unwrap();
        assert_eq!((received.status, outside.count(), inside.count()), (status, 1, 0));
        assert!(received.headers.contains_key("location"));
    }
}

#[tokio::test]
async fn allowed_network_is_limited_to_its_port() {
    let receiver = TestReceiver::at("127.0.0.1:0", OK, false).await;
    let port = receiver.address.port();
    let outbound = outbound(&receiver.allowed(), ScriptedResolver::new(&[]));
    for reached in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
    ] {
        let target = outbound.target(&reached).unwrap();
        assert_eq!(outbound.send(get(target)).await.unwrap().body, "ok", "{reached}");
    }
    for refused in
        ["http://127.0.0.1/", "http://localhost/", &format!("http://127.0.0.2:{port}/"), "http://10.0.0.1/"]
    {
        assert!(outbound.target(refused).is_err(), "{refused}");
    }
    let hosts: Vec<_> =
        receiver.requests.lock().unwrap().iter().filter_map(|request| host(request)).collect();
    assert_eq!(
        hosts,
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::ffff:7f00:1]:{port}")]
    );
}

fn host(request: &str) -> Option<String> {
    request.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

#[test]
fn plain_http_requires_development_mode_or_setting() {
    let mut production = config("");
    production.server.mode = Mode::Production;
    let target = |config: &Config| Outbound::new(config).target("http://example.org/");
    assert_eq!(target(&production), Err(TargetError::PlainHttp));
    production.outbound.allow_plain_http = true;
    assert!(target(&production).is_ok() && target(&config("")).is_ok());
}

#[tokio::test]
async fn response_body_is_truncated_at_limit() {
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n{}", "x".repeat(1_000_000));
    let receiver = TestReceiver::at("127.0.0.1:0", huge, true).await;
    let outbound =
        outbound(&format!("{}max_response_bytes = 1000", receiver.allowed()), ScriptedResolver::new(&[]));
    let target = outbound.target(&format!("http://{}/", receiver.address)).unwrap();
    let received = outbound.send(get(target)).await.unwrap();
    assert_eq!((received.status, received.body.len(), received.is_complete), (200, 1_000, false));

    let exact = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour";
    let receiver = TestReceiver::at("127.0.0.1:0", exact, false).await;
    let outbound =
        self::outbound(&format!("{}max_response_bytes = 4", receiver.allowed()), ScriptedResolver::new(&[]));
    let target = outbound.target(&format!("http://{}/", receiver.address)).unwrap();
    let received = outbound.send(get(target)).await.unwrap();
    assert_eq!((&received.body[..], received.is_complete), (&b"four"[..], true));
}

#[tokio::test]
async fn responses_are_not_decompressed() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut bomb, &vec![0; 10_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
    let receiver = TestReceiver::at("127.0.0.1:0", [head.as_bytes(), &bomb].concat(), false).await;
    let outbound = outbound(&receiver.allowed(), ScriptedResolver::new(&[]));
    let target = outbound.target(&format!("http://{}/", receiver.address)).unwrap();
    let received = outbound.send(get(target)).await.unwrap();
    assert_eq!(received.body, bomb[..bomb.len().min(16_384)]);
    assert!(receiver.requests.lock().unwrap()[0].contains("accept-encoding: identity"));
}

#[tokio::test]
async fn slow_and_invalid_responses_fail() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x-filler: yes\r\n".repeat(200));
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}", "x".repeat(100_000));
    for (answer, stays_open, code) in [
        (String::new(), true, "timeout"),
        ("HTTP/1.1 200 OK\r\ncontent-le".to_owned(), true, "timeout"),
        (String::new(), false, "connection_failed"),
        ("220 smtp.example.org ESMTP\r\n".to_owned(), true, "not_http"),
        (endless + "\r\n", true, "not_http"),
        (long, true, "not_http"),
    ] {
        let receiver = TestReceiver::at("127.0.0.1:0", answer.clone(), stays_open).await;
        let outbound =
            outbound(&format!("{}timeout_ms = 300", receiver.allowed()), ScriptedResolver::new(&[]));
        let target = outbound.target(&format!("http://{}/", receiver.address)).unwrap();
        let error = outbound.send(get(target)).await.unwrap_err();
        assert_eq!(error.code(), code, "{:?}", answer.get(..40));
    }
    // If the status was received, an incomplete body is not an error.
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun";
    for stays_open in [true, false] {
        let receiver = TestReceiver::at("127.0.0.1:0", begun, stays_open).await;
        let outbound =
            outbound(&format!("{}timeout_ms = 300", receiver.allowed()), ScriptedResolver::new(&[]));
        let target = outbound.target(&format!("http://{}/", receiver.address)).unwrap();
        let received = outbound.send(get(target)).await.unwrap();
        assert_eq!((received.status, &received.body[..], received.is_complete), (200, &b"begun"[..], false));
    }
}

#[tokio::test]
async fn connection_headers_cannot_be_overridden() {
    let receiver = TestReceiver::at("127.0.0.1:0", OK, false).await;
    let outbound = outbound(&receiver.allowed(), ScriptedResolver::new(&[]));
    let target = outbound.target(&format!("http://{}/hook?x=1#part", receiver.address)).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "internal"),
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive"),
        ("authorization", "Bearer of-theirs"),
    ] {
        headers.insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let body = Bytes::from_static(b"GET /smuggled HTTP/1.1\r\n\r\n");
    let outgoing = OutboundRequest { method: Method::POST, headers, body, ..get(target) };
    assert_eq!(outbound.send(outgoing).await.unwrap().status, 200);
    let request = receiver.requests.lock().unwrap()[0].to_ascii_lowercase();
    assert!(request.starts_with("post /hook?x=1 http/1.1\r\n"), "{request}");
    for wanted in ["content-length: 26", "connection: close", "authorization: bearer of-theirs"] {
        assert!(request.contains(wanted), "{request}");
    }
    for unwanted in ["internal", "chunked", "keep-alive", "content-length: 0", "#part"] {
        assert!(!request.contains(unwanted), "{request}");
    }
    assert!(is_own_header(&"Webhook-Signature".parse().unwrap()));
    assert!(is_own_header(&"Transfer-Encoding".parse().unwrap()));
    assert!(!is_own_header(&"authorization".parse().unwrap()));
}

/// Starts a server with a certificate for `name`. Returns its address and the authority that signed the
/// certificate.
async fn tls_server(name: &str) -> (SocketAddr, RootCertStore) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (listener, acceptor) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)));
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(OK.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, roots)
}

#[tokio::test]
async fn certificates_are_verified_for_the_name() {
    let (address, roots) = tls_server("hooks.example.org").await;
    let (_, strangers) = tls_server("hooks.example.org").await;
    let config = config(&format!("allowed_networks = [\"{address}\"]"));
    let script = ScriptedResolver::new(&[&["127.0.0.1"]]);
    let ask = async |name: &str, roots: &RootCertStore| {
        let outbound = Outbound::with(&config, script.clone(), Some(roots.clone()));
        let target = outbound.target(&format!("https://{name}:{}/", address.port())).unwrap();
        outbound.send(get(target)).await.map(|received| received.status)
    };
    assert_eq!(ask("hooks.example.org", &roots).await, Ok(200));
    assert_eq!(ask("HOOKS.example.org.", &roots).await, Ok(200));
    assert_eq!(ask("other.example.org", &roots).await, Err(OutboundError::Certificate));
    assert_eq!(ask("hooks.example.org", &strangers).await, Err(OutboundError::Certificate));
    assert_eq!(ask("hooks.example.org", &RootCertStore::empty()).await, Err(OutboundError::NoAuthorities));
    let plain = TestReceiver::at("127.0.0.1:0", "HTTP/1.1 400 Bad\r\n\r\n", false).await;
    let outbound = Outbound::with(&self::config(&plain.allowed()), script.clone(), Some(roots));
    let target = outbound.target(&format!("https://127.0.0.1:{}/", plain.address.port())).unwrap();
    assert_eq!(outbound.send(get(target)).await.unwrap_err().code(), "tls_failed");
}
