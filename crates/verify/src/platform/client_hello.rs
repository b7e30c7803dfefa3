//! Minimal TLS handshake: sends a `ClientHello` that offers one version, and parses the server's reply (RFC
//! 5246, 7.4.1; RFC 8446, 4.1). The handshake is not completed.

use kith_kernel::{Random as _, SystemRandom};

pub const SSL_3: u16 = 0x0300;
pub const TLS_1_0: u16 = 0x0301;
pub const TLS_1_1: u16 = 0x0302;
pub const TLS_1_2: u16 = 0x0303;
pub const TLS_1_3: u16 = 0x0304;
/// Record type of handshake messages.
pub const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;

/// Cipher suites of versions before TLS 1.2: ECDHE and RSA with AES-CBC, and 3DES.
pub const OLD_SUITES: &[u16] = &[0xc013, 0xc014, 0xc009, 0xc00a, 0x002f, 0x0035, 0x0033, 0x0039, 0x000a];
/// Insecure cipher suites: NULL, export, RC4, DES, 3DES and anonymous suites.
pub const WEAK_SUITES: &[u16] = &[
    0x0001, 0x0002, 0x003b, 0x0003, 0x0008, 0x0004, 0x0005, 0xc011, 0xc007, 0x0009, 0x000a, 0xc012, 0x0018,
    0x0034, 0xc018,
];
/// Secure cipher suites: AEAD suites of TLS 1.2 with ECDHE, and all suites of TLS 1.3.
pub const STRONG_SUITES: &[u16] = &[0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca8, 0xcca9, 0x1301, 0x1302, 0x1303];

/// Contents of a `ClientHello` message.
pub struct ClientHello<'h> {
    pub version: u16,
    pub suites: &'h [u16],
    /// Server name (RFC 6066). `None` for an IP address.
    pub name: Option<&'h str>,
}

/// Reply of the server to a `ClientHello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The server replied with a `ServerHello`.
    Accepts {
        /// IANA number of the cipher suite that the server chose.
        suite: u16,
    },
    /// The server replied with an alert, or not at all.
    Refuses,
}

impl ClientHello<'_> {
    /// Encodes the message as a TLS record.
    pub fn to_bytes(&self) -> Vec<u8> {
        // TLS versions after 1.2 are negotiated by an extension. This field then contains 1.2.
        let legacy_version = self.version.min(TLS_1_2);
        let mut random = [0; 32];
        SystemRandom.fill(&mut random);
        let mut body = legacy_version.to_be_bytes().to_vec();
        body.extend(random);
        body.push(0);
        body.extend(with_length(&u16s(self.suites)));
        body.extend([1, 0]);
        body.extend(with_length(&self.extensions()));
        let [_, a, b, c] = (body.len() as u32).to_be_bytes();
        let handshake = [&[1, a, b, c][..], &body].concat();
        let mut record = vec![HANDSHAKE];
        record.extend(legacy_version.min(TLS_1_0).to_be_bytes());
        record.extend(with_length(&handshake));
        record
    }

    fn extensions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut add = |kind: u16, content: Vec<u8>| {
            all.extend(kind.to_be_bytes());
            all.extend(with_length(&content));
        };
        if let Some(name) = self.name {
            let entry = [&[0][..], &with_length(name.as_bytes())].concat();
            add(0, with_length(&entry));
        }
        // Supported groups x25519, P-256 and P-384, and the uncompressed point format.
        add(10, with_length(&u16s(&[0x001d, 0x0017, 0x0018])));
        add(11, vec![1, 0]);
        if self.version >= TLS_1_2 {
            let algorithms = [0x0403, 0x0503, 0x0603, 0x0807, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601];
            add(13, with_length(&u16s(&algorithms)));
        }
        if self.version == TLS_1_3 {
            add(43, [&[2][..], &TLS_1_3.to_be_bytes()].concat());
            // There is no key share. A server that supports TLS 1.3 then answers with HelloRetryRequest (RFC
            // 8446, 4.2.8).
            add(51, vec![0, 0]);
        }
        all
    }
}

fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// Returns `content` with its length in two bytes before it.
fn with_length(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

impl Reply {
    /// Parses the first bytes of a reply.
    pub fn read(bytes: &[u8]) -> Self {
        let suite = || {
            // Record header (5 bytes), handshake header (4), version (2) and random (32), then the session id
            // with its length.
            let is_hello = *bytes.first()? == HANDSHAKE && *bytes.get(5)? == SERVER_HELLO;
            let at = 44 + usize::from(*bytes.get(43)?);
            let suite = [*bytes.get(at)?, *bytes.get(at + 1)?];
            is_hello.then_some(u16::from_be_bytes(suite))
        };
        suite().map_or(Self::Refuses, |suite| Self::Accepts { suite })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_hello_lengths_are_correct() {
        for version in [SSL_3, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3] {
            let bytes = ClientHello { version, suites: STRONG_SUITES, name: Some("kith.example") }.to_bytes();
            assert_eq!(usize::from(u16::from_be_bytes([bytes[3], bytes[4]])), bytes.len() - 5);
            assert_eq!(u32::from_be_bytes([0, bytes[6], bytes[7], bytes[8]]) as usize, bytes.len() - 9);
            assert_eq!(u16::from_be_bytes([bytes[9], bytes[10]]), version.min(TLS_1_2));
        }
    }

    #[test]
    fn alert_no_reply_and_truncated_hello_count_as_refusals() {
        let mut hello = vec![HANDSHAKE, 3, 3, 0, 80, SERVER_HELLO, 0, 0, 76, 3, 3];
        hello.extend([7; 32]);
        hello.extend([2, 9, 9, 0xc0, 0x2f, 0]);
        assert_eq!(Reply::read(&hello), Reply::Accepts { suite: 0xc02f });
        assert_eq!(Reply::read(&hello[..40]), Reply::Refuses);
        assert_eq!(Reply::read(&[21, 3, 3, 0, 2, 2, 70]), Reply::Refuses);
        assert_eq!(Reply::read(&[]), Reply::Refuses);
    }
}
