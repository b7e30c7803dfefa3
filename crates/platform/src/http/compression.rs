//! Content codings of responses: negotiates a coding and compresses bodies.

use std::io::Write;

use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap};

/// Content coding of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Brotli,
}

/// Compression effort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// Fast compression, for a response that is sent only once.
    Low,
    /// Strong compression, for a response that is compressed once and sent many times.
    High,
}

impl Coding {
    pub const ALL: [Self; 2] = [Self::Gzip, Self::Brotli];

    /// Returns the name of the coding in headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
        }
    }

    /// Compresses `bytes`.
    pub fn encode(self, bytes: &[u8], effort: Effort) -> Vec<u8> {
        let written = "writing to a Vec does not fail";
        match self {
            Self::Gzip => {
                let level = Compression::new(if effort == Effort::Low { 4 } else { 9 });
                let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2), level);
                encoder.write_all(bytes).expect(written);
                encoder.finish().expect(written)
            }
            Self::Brotli => {
                let (quality, window) = if effort == Effort::Low { (3, 18) } else { (9, 22) };
                let encoded = Vec::with_capacity(bytes.len() / 2);
                let mut encoder = CompressorWriter::new(encoded, 4096, quality, window);
                encoder.write_all(bytes).expect(written);
                encoder.into_inner()
            }
        }
    }
}

/// Encoder that compresses a streamed body chunk by chunk.
pub(super) enum StreamEncoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

impl Coding {
    /// Creates an encoder for a streamed body.
    pub fn encoder(self) -> StreamEncoder {
        match self {
            Self::Gzip => StreamEncoder::Gzip(GzEncoder::new(Vec::new(), Compression::new(4))),
            Self::Brotli => StreamEncoder::Brotli(Box::new(CompressorWriter::new(Vec::new(), 4096, 3, 18))),
        }
    }
}

impl StreamEncoder {
    /// Compresses a chunk and flushes the encoder, so that the receiver can decode the whole chunk at once.
    pub fn encode(&mut self, chunk: &[u8]) -> Vec<u8> {
        let written = "writing to a Vec does not fail";
        match self {
            Self::Gzip(encoder) => {
                encoder.write_all(chunk).and_then(|()| encoder.flush()).expect(written);
                std::mem::take(encoder.get_mut())
            }
            Self::Brotli(encoder) => {
                encoder.write_all(chunk).and_then(|()| encoder.flush()).expect(written);
                std::mem::take(encoder.get_mut())
            }
        }
    }

    /// Ends the compressed body and returns its remaining bytes.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.finish().expect("writing to a Vec does not fail"),
            Self::Brotli(encoder) => encoder.into_inner(),
        }
    }
}

/// Weights of the codings in `Accept-Encoding`, in thousandths. 0 means not acceptable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AcceptedCodings {
    gzip: u16,
    brotli: u16,
    identity: u16,
}

impl AcceptedCodings {
    pub fn of(headers: &HeaderMap) -> Self {
        let (mut gzip, mut brotli, mut identity, mut others) = (None, None, None, None);
        for list in headers.get_all(header::ACCEPT_ENCODING) {
            for entry in list.to_str().unwrap_or_default().split(',') {
                let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
                let slot = match name.trim() {
                    name if name.eq_ignore_ascii_case("gzip") => &mut gzip,
                    name if name.eq_ignore_ascii_case("br") => &mut brotli,
                    name if name.eq_ignore_ascii_case("identity") => &mut identity,
                    "*" => &mut others,
                    _ => continue,
                };
                *slot = Some(thousandths(weight));
            }
        }
        let unnamed = others.unwrap_or(0);
        Self {
            gzip: gzip.unwrap_or(unnamed),
            brotli: brotli.unwrap_or(unnamed),
            // Identity is acceptable unless it is excluded (RFC 9110, section 12.5.3).
            identity: identity.or(others).unwrap_or(1),
        }
    }

    /// Returns the coding with the highest weight. If the weights are equal, returns `first`. Returns `None`
    /// if identity is preferred or nothing is acceptable; the response is then not compressed.
    pub fn best(self, first: Coding) -> Option<Coding> {
        let weight = |coding| match coding {
            Coding::Gzip => self.gzip,
            Coding::Brotli => self.brotli,
        };
        let second = if first == Coding::Gzip { Coding::Brotli } else { Coding::Gzip };
        let best = if weight(second) > weight(first) { second } else { first };
        (weight(best) > 0 && weight(best) >= self.identity).then_some(best)
    }
}

/// Parses a weight such as `q=0.5` as 500. An invalid weight counts as 0.
fn thousandths(weight: &str) -> u16 {
    let weight = weight.trim();
    if weight.is_empty() {
        return 1_000;
    }
    let value = weight.strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('='));
    let value =
        value.and_then(|value| value.trim().parse::<f32>().ok()).filter(|value| (0.0..=1.0).contains(value));
    value.map_or(0, |value| (value * 1_000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn best(accept: &str) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(accept).unwrap());
        AcceptedCodings::of(&headers).best(Coding::Brotli)
    }

    /// Proves the readiness requirement API-10.
    #[test]
    fn coding_with_highest_weight_is_selected() {
        use Coding::{Brotli, Gzip};
        for (accept, coding) in [
            ("", None),
            ("gzip", Some(Gzip)),
            ("GZIP", Some(Gzip)),
            ("br", Some(Brotli)),
            ("gzip, deflate, br, zstd", Some(Brotli)),
            ("gzip;q=1, br;q=0.9", Some(Gzip)),
            ("gzip; q=0.5 , br ; q=0.8", Some(Brotli)),
            ("br;q=0, gzip;q=0", None),
            ("br;q=0, gzip;q=0.001", Some(Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("*", Some(Brotli)),
            ("*;q=0", None),
            ("*, br;q=0", Some(Gzip)),
            ("identity;q=0", None),
            ("gzip;q=2", None),
            ("gzip;q=x", None),
            ("gzip;level=1", None),
            ("deflate, zstd", None),
            (";q=1,,,", None),
        ] {
            assert_eq!(best(accept), coding, "{accept}");
        }
        assert_eq!(AcceptedCodings::of(&HeaderMap::new()).best(Gzip), None);
    }
}
