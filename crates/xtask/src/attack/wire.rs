//! Raw HTTP/1.1 client: sends arbitrary bytes and parses all responses of a connection.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::load::now;

/// Maximum time to wait for a response. It is longer than the server's own request timeout of 30 s.
const ANSWERS_WITHIN: Duration = Duration::from_secs(40);

/// HTTP response.
#[derive(Clone, Debug, Default)]
pub struct RawResponse {
    /// Status, or 0 if the connection ended without a response.
    pub status: u16,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Time from the first byte sent to the last byte received.
    pub took: Duration,
}

impl RawResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as JSON, or null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Returns the `code` of a problem, or an empty string.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the body if the response has this status.
    ///
    /// # Errors
    /// Returns an error with the actual status and body.
    pub fn expect(&self, status: u16) -> Result<Value> {
        if self.status != status {
            let body = String::from_utf8_lossy(&self.body);
            bail!("{} instead of {status}: {}", self.status, body.chars().take(300).collect::<String>());
        }
        Ok(self.json())
    }
}

/// Returns a well-formed request. A body is sent as JSON.
pub fn request(
    method: &str,
    path: &str,
    token: Option<&str>,
    more: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    if let Some(token) = token {
        head += &format!("authorization: Bearer {token}\r\n");
    }
    for (name, value) in more {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    let mut out = (head + "\r\n").into_bytes();
    out.extend_from_slice(body.unwrap_or_default());
    out
}

/// Opens a connection with timeouts for reading and writing.
pub fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    Ok(stream)
}

/// Sends `bytes` on a new connection and reads the first response.
pub fn send(server: SocketAddr, bytes: &[u8]) -> Result<RawResponse> {
    let began = now();
    let mut stream = connect(server)?;
    // A server that rejects a request early may close the connection during the write. Its response is read
    // anyway.
    let _ = stream.write_all(bytes);
    let mut input = Vec::new();
    loop {
        if let Some((mut answer, _)) = parse_first_response(&input, false)? {
            answer.took = began.elapsed();
            return Ok(answer);
        }
        if read_more(&mut stream, &mut input)? == 0 {
            let mut answer =
                parse_first_response(&input, true)?.map(|(answer, _)| answer).unwrap_or_default();
            answer.took = began.elapsed();
            return Ok(answer);
        }
    }
}

/// Sends `bytes` and reads all responses until the server closes the connection or sends nothing for `quiet`.
pub fn send_for_all(server: SocketAddr, bytes: &[u8], quiet: Duration) -> Result<Vec<RawResponse>> {
    let mut stream = connect(server)?;
    stream.set_read_timeout(Some(quiet))?;
    let _ = stream.write_all(bytes);
    let mut input = Vec::new();
    let mut is_over = false;
    while !is_over {
        is_over = match read_more(&mut stream, &mut input) {
            Ok(read) => read == 0,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => true,
            Err(error) => return Err(error.into()),
        };
    }
    let mut answers = Vec::new();
    while let Some((answer, length)) = parse_first_response(&input, true)? {
        answers.push(answer);
        input.drain(..length.min(input.len()));
    }
    Ok(answers)
}

/// Reads more bytes into `input` and returns their number. A connection reset counts as the end of the input.
fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<usize> {
    let mut block = vec![0; 64 << 10];
    match stream.read(&mut block) {
        Ok(read) => {
            input.extend_from_slice(&block[..read]);
            Ok(read)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        Err(error) => Err(error),
    }
}

/// Returns the first final response in `bytes` with its length, or `None` if it is incomplete. Interim
/// responses (1xx) are skipped.
fn parse_first_response(bytes: &[u8], is_over: bool) -> Result<Option<(RawResponse, usize)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).context("not an HTTP response")? else {
        return Ok(None);
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = response.headers.iter().map(|one| (one.name.to_ascii_lowercase(), text(one.value)));
    let status = response.code.context("no status")?;
    let answer = RawResponse { status, headers: headers.collect(), ..RawResponse::default() };
    let rest = &bytes[head..];
    if status < 200 {
        return Ok(parse_first_response(rest, is_over)?.map(|(answer, length)| (answer, head + length)));
    }
    let whole =
        |body: &[u8], length| Some((RawResponse { body: body.to_vec(), ..answer.clone() }, head + length));
    if matches!(status, 204 | 304) {
        return Ok(whole(b"", 0));
    }
    if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().context("content-length")?;
        return Ok(rest.get(..length).and_then(|body| whole(body, length)));
    }
    if answer.header("transfer-encoding").is_some() {
        return Ok(unchunk(rest)?.and_then(|(body, length)| whole(&body, length)));
    }
    Ok(if is_over { whole(rest, rest.len()) } else { None })
}

/// Decodes a chunked body (RFC 9112, 7.1). Returns the body and its encoded length, or `None` if it is
/// incomplete.
fn unchunk(mut rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let (whole, mut body) = (rest.len(), Vec::new());
    loop {
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end])?.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("a chunk's size")?;
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { return Ok(None) };
        let Some(after) = rest.get(end + 2 + size + 2..) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = after;
        if size == 0 {
            return Ok(Some((body, whole - rest.len())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_end_is_found_by_length_chunks_or_close() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\
                      transfer-encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\n\r\nHTTP/1.0 400 Bad\r\n\r\nend";
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while let Some((answer, length)) = parse_first_response(rest, true).unwrap() {
            seen.push((answer.status, String::from_utf8(answer.body).unwrap()));
            rest = &rest[length..];
        }
        let expected = [(200, "ab"), (200, "cd"), (400, "end")];
        assert_eq!(seen, expected.map(|(status, body)| (status, body.to_owned())));
        for short in 0..40 {
            assert!(parse_first_response(&bytes[..short.min(39)], false).unwrap().is_none(), "{short}");
        }
    }
}
