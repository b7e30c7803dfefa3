//! Minimal HTTP/1.1 for the load generator: encodes requests and finds the end of responses.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};

/// Appends an encoded request to `out`. A body is sent as JSON.
pub fn append_request(out: &mut Vec<u8>, method: &str, path: &str, token: Option<&str>, body: Option<&[u8]>) {
    out.extend_from_slice(format!("{method} {path} HTTP/1.1\r\nhost: kith\r\n").as_bytes());
    if let Some(token) = token {
        out.extend_from_slice(format!("authorization: Bearer {token}\r\n").as_bytes());
    }
    if let Some(body) = body {
        let head = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        out.extend_from_slice(head.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.unwrap_or_default());
}

/// Returns an encoded request. A body is sent as JSON.
pub fn encode_request(method: &str, path: &str, token: Option<&str>, body: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    append_request(&mut out, method, path, token, body);
    out
}

/// Status of a response, and the range of its body.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub body: Range<usize>,
}

/// Parses the head of a response. Returns `None` if the head is incomplete. The range of the body may extend
/// beyond `bytes`.
///
/// # Errors
/// Returns an error if the response is malformed or has no content length, for example because it is chunked.
pub fn parse_head(bytes: &[u8]) -> Result<Option<ResponseHead>> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).context("not an HTTP response")? else {
        return Ok(None);
    };
    let status = response.code.context("no status")?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        Some(header) => std::str::from_utf8(header.value)?.trim().parse().context("content-length")?,
        None if matches!(status, 204 | 304) => 0,
        None => bail!("a response with {status} without content-length"),
    };
    Ok(Some(ResponseHead { status, body: head..head + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_head_is_not_parsed() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        let head = whole.len() - 5;
        for short in 0..head {
            assert_eq!(parse_head(&whole[..short]).unwrap(), None);
        }
        let answer = ResponseHead { status: 201, body: head..whole.len() };
        assert_eq!(parse_head(&whole[..head]).unwrap().as_ref(), Some(&answer));
        assert_eq!(parse_head(whole).unwrap(), Some(answer));
        assert_eq!(&whole[parse_head(whole).unwrap().unwrap().body], b"hello");
    }

    #[test]
    fn content_length_is_required_except_for_204_and_304() {
        let answer = parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert!(answer.status == 204 && answer.body.is_empty());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse_head(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[test]
    fn request_contains_content_length() {
        let post = encode_request("POST", "/a", Some("t"), Some(b"{}"));
        let expected = "POST /a HTTP/1.1\r\nhost: kith\r\nauthorization: Bearer t\r\n\
                        content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(String::from_utf8(post).unwrap(), expected);
    }
}
