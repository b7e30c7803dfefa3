//! Kinds of checks that operators can declare in a file, and their execution.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use kith_kernel::{Clock as _, SystemClock, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::{CheckResponse, Run, Shortfall};

/// Maximum size in bytes of a body after decompression.
const MAX_DECODED_BYTES: u64 = 16 << 20;

/// Kind of a declared check, with its parameters.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum CheckKind {
    /// GET request. The status, body and duration of its response are checked.
    Http {
        /// Path on the target, such as `/health`.
        path: String,
        #[serde(default = "default_status")]
        status: u16,
        /// Text that the body must contain.
        must_contain: Option<String>,
        /// Text that the body must not contain.
        must_not_contain: Option<String>,
        /// Maximum duration in milliseconds.
        max_duration_ms: Option<u64>,
    },
    /// GET request. One header of its response is checked.
    Header {
        path: String,
        name: String,
        /// Text that the header must contain. If unset, the header must be present.
        must_contain: Option<String>,
        /// True if the header must be absent.
        #[serde(default)]
        absent: bool,
    },
    /// TLS connection. The certificate must be trusted and remain valid for a minimum time.
    Tls {
        /// Host and port, such as `api.example.org:443`. Without it, host and port of the target.
        host: Option<String>,
        #[serde(default = "default_min_days")]
        min_days: i64,
    },
    /// Instant query to Prometheus (HTTP API, `/api/v1/query`). The value of each series in the result must
    /// be within the bounds.
    Promql {
        /// Base URL of the Prometheus server.
        url: String,
        query: String,
        at_least: Option<f64>,
        at_most: Option<f64>,
    },
    /// Program that is started without a shell. Exit code 0 means pass, 2 that the row could not be measured,
    /// and any other that it does not hold.
    Command {
        argv: Vec<String>,
        #[serde(default = "default_timeout_s")]
        timeout_s: u64,
    },
    /// Statement of a named owner that the row holds, valid until a date.
    Attestation { statement: String, owner: String, until: Timestamp },
}

fn default_status() -> u16 {
    200
}

fn default_min_days() -> i64 {
    21
}

fn default_timeout_s() -> u64 {
    60
}

impl CheckKind {
    /// Checks that the parameters are complete, and that a path cannot lead to another host.
    ///
    /// # Errors
    /// Returns a description of the first fault.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Http { path, .. } | Self::Header { path, .. } if !is_path(path) => {
                Err("`path` must begin with one slash, such as \"/health\"; use --target for another host")
            }
            Self::Attestation { statement, owner, .. }
                if statement.trim().is_empty() || owner.trim().is_empty() =>
            {
                Err("an attestation needs a statement and an owner")
            }
            Self::Command { argv, .. } if argv.first().is_none_or(|program| program.trim().is_empty()) => {
                Err("`argv` must name a program")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn description(&self) -> String {
        match self {
            Self::Http { path, status, .. } => format!("GET {path} and expect {status}"),
            Self::Header { path, name, absent: true, .. } => {
                format!("GET {path} and expect no header {name}")
            }
            Self::Header { path, name, .. } => format!("GET {path} and check the header {name}"),
            Self::Tls { host, min_days } => {
                let host = host.as_deref().unwrap_or("the target");
                format!(
                    "check that the certificate of {host} is trusted and valid for at least {min_days} days"
                )
            }
            Self::Promql { query, .. } => format!("query Prometheus for {query}"),
            Self::Command { argv, .. } => format!("run {}", argv.join(" ")),
            Self::Attestation { owner, until, .. } => format!("attestation by {owner} until {until}"),
        }
    }

    pub(super) async fn run(&self, run: &Run) -> Result<String, Shortfall> {
        match self {
            Self::Http { path, status, must_contain: contains, must_not_contain, max_duration_ms } => {
                let response = get(run, path).await?.expect(*status)?;
                judge_answer(
                    run,
                    &response,
                    contains.as_deref(),
                    must_not_contain.as_deref(),
                    *max_duration_ms,
                )
            }
            Self::Header { path, name, must_contain: contains, absent } => {
                judge_header(&get(run, path).await?, name, contains.as_deref(), *absent)
            }
            Self::Tls { host, min_days } => tls(run, host.as_deref(), *min_days).await,
            Self::Promql { at_least: None, at_most: None, .. } => Err(Shortfall::unmeasured(
                "the check does not say which values are good",
                "set `at_least` or `at_most`",
            )),
            Self::Promql { url, query, at_least, at_most } => {
                promql(run, url, query, *at_least, *at_most).await
            }
            Self::Command { argv, timeout_s } => command(argv, Duration::from_secs(*timeout_s)).await,
            // An attestation is no check that can be run.
            Self::Attestation { .. } => Err(Shortfall::unmeasured("no attestation was given", "")),
        }
    }
}

/// Returns true if `path` is a path on the same host. It must not contain `//` at its beginning, a backslash,
/// a space or a control character.
fn is_path(path: &str) -> bool {
    let is_legal = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'\\';
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(is_legal)
}

/// Sends a GET request and requests a response without content encoding.
async fn get(run: &Run, path: &str) -> Result<CheckResponse, Shortfall> {
    Ok(run.anonymous().with("accept-encoding", "identity").get(path).await?)
}

/// Returns the body as text, after decompressing gzip. If the body cannot be decoded, the row is unmeasured,
/// because `must_not_contain` must not pass on such a body.
fn text(response: &CheckResponse) -> Result<String, Shortfall> {
    const ENCODING_REMEDIATION: &str = "return the body as UTF-8 text, optionally compressed with gzip";
    let unreadable = |reason: &str| {
        Shortfall::unmeasured(
            format!("the body of the response to {} {reason}", response.request),
            ENCODING_REMEDIATION,
        )
    };
    let bytes = match response.header("content-encoding").map(str::to_lowercase).as_deref() {
        None | Some("identity" | "") => response.body.to_vec(),
        Some("gzip" | "x-gzip") => {
            let mut bytes = Vec::new();
            let mut decoder = MultiGzDecoder::new(&*response.body).take(MAX_DECODED_BYTES + 1);
            decoder.read_to_end(&mut bytes).map_err(|_| unreadable("is not valid gzip"))?;
            if bytes.len() as u64 > MAX_DECODED_BYTES {
                return Err(unreadable("is larger than 16 MiB"));
            }
            bytes
        }
        Some(_) => return Err(unreadable("has a content encoding that cannot be read")),
    };
    String::from_utf8(bytes).map_err(|_| unreadable("is not UTF-8"))
}

fn judge_answer(
    run: &Run,
    response: &CheckResponse,
    contains: Option<&str>,
    must_not_contain: Option<&str>,
    max_duration_ms: Option<u64>,
) -> Result<String, Shortfall> {
    let (request, duration_ms) = (&response.request, response.duration.as_millis());
    let body = if contains.is_some() || must_not_contain.is_some() { text(response)? } else { String::new() };
    run.record("duration_ms", u64::try_from(duration_ms).unwrap_or(u64::MAX));
    if let Some(missing) = contains.filter(|text| !body.contains(text)) {
        return Err(Shortfall::fails(format!("the response to {request} does not contain `{missing}`")));
    }
    if let Some(forbidden) = must_not_contain.filter(|text| body.contains(text)) {
        return Err(Shortfall::fails(format!("the response to {request} contains `{forbidden}`")));
    }
    if let Some(max) = max_duration_ms.filter(|max| duration_ms > u128::from(*max)) {
        return Err(Shortfall::fails(format!("{request} took {duration_ms} ms, more than {max}")));
    }
    Ok(format!("{request} returned {} in {duration_ms} ms", response.status))
}

fn judge_header(
    response: &CheckResponse,
    name: &str,
    contains: Option<&str>,
    absent: bool,
) -> Result<String, Shortfall> {
    let request = &response.request;
    match (response.header(name), contains) {
        (Some(value), _) if absent => Err(Shortfall::fails(format!("{request} returns {name}: {value}"))),
        (None, _) if absent => Ok(format!("{request} returns no {name}")),
        (None, _) => Err(Shortfall::fails(format!("{request} returns no {name}"))),
        (Some(value), Some(text)) if !value.contains(text) => {
            Err(Shortfall::fails(format!("{request} returns {name}: {value}, without `{text}`")))
        }
        (Some(value), _) => Ok(format!("{request} returns {name}: {value}")),
    }
}

async fn tls(run: &Run, host: Option<&str>, min_days: i64) -> Result<String, Shortfall> {
    let client = run.anonymous();
    let client = host.map_or(client.clone(), |host| client.with_base_url(&format!("https://{host}")));
    // The client verifies name, dates and chain of the certificate against the certificate authorities of the
    // system.
    let response = client.get("/").await.map_err(|refused| {
        if refused.reason.contains("certificate") { Shortfall::fails(refused.reason) } else { refused.into() }
    })?;
    let Some(days) = response.certificate_days(SystemClock.now()) else {
        return Err(Shortfall::fails(format!("{} presents no certificate", client.base())));
    };
    run.record("days_left", days);
    if days < min_days {
        return Err(Shortfall::fails(format!(
            "the certificate expires in {days} days, less than {min_days}"
        )));
    }
    Ok(format!("the certificate is trusted and expires in {days} days"))
}

async fn promql(
    run: &Run,
    url: &str,
    query: &str,
    at_least: Option<f64>,
    at_most: Option<f64>,
) -> Result<String, Shortfall> {
    let remediation = "check that the Prometheus server is reachable and has data for the query";
    let encoded = reqwest::Url::parse_with_params("http://query", [("query", query)]);
    let encoded = encoded.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
    let response = run.anonymous().with_base_url(url).get(&format!("/api/v1/query?{encoded}")).await?;
    if response.status != 200 {
        let error = response.json()["error"].as_str().unwrap_or("no error message").to_owned();
        return Err(Shortfall::unmeasured(
            format!("Prometheus returned {}: {error}", response.status),
            remediation,
        ));
    }
    let values = sample_values(&response.json()["data"]);
    if values.is_empty() {
        return Err(Shortfall::unmeasured("Prometheus has no data for the query", remediation));
    }
    run.record("values", values.clone());
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // NaN is neither within nor outside of any bounds.
    if values.iter().any(|value| value.is_nan()) {
        return Err(Shortfall::unmeasured("the result is not a number (NaN)", remediation));
    }
    match (at_least, at_most) {
        (Some(least), _) if low < least => Err(Shortfall::fails(format!("{low} is less than {least}"))),
        (_, Some(max)) if high > max => Err(Shortfall::fails(format!("{high} is more than {max}"))),
        _ => Ok(format!("{} series, from {low} to {high}", values.len())),
    }
}

/// Returns the values of a result: those of a vector or scalar, or the last value of each series of a matrix.
fn sample_values(data: &Value) -> Vec<f64> {
    let value = |pair: &Value| pair.get(1)?.as_str()?.parse().ok();
    match (data["resultType"].as_str(), data["result"].as_array()) {
        (Some("scalar"), _) => value(&data["result"]).into_iter().collect(),
        (Some("vector"), Some(series)) => series.iter().filter_map(|one| value(&one["value"])).collect(),
        (Some("matrix"), Some(series)) => {
            series.iter().filter_map(|one| value(one["values"].as_array()?.last()?)).collect()
        }
        _ => Vec::new(),
    }
}

async fn command(argv: &[String], timeout: Duration) -> Result<String, Shortfall> {
    let remediation = "run the command manually and read its output";
    let Some((program, args)) = argv.split_first() else {
        return Err(Shortfall::unmeasured("the check names no program", "name one in `argv`"));
    };
    let mut command = Command::new(program);
    // The program must not inherit secrets from the environment of this process.
    let inherited =
        ["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(inherited);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = match tokio::time::timeout(timeout, command.output()).await {
        Err(_) => {
            return Err(Shortfall::unmeasured(
                format!("the command took longer than {} s", timeout.as_secs()),
                remediation,
            ));
        }
        Ok(Err(error)) => return Err(Shortfall::unmeasured(format!("{program}: {error}"), remediation)),
        Ok(Ok(done)) => done,
    };
    let outputs = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let last = outputs
        .iter()
        .flat_map(|text| text.lines())
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("nothing");
    let last: String = last.chars().take(300).collect();
    match done.status.code() {
        Some(0) => Ok(format!("the command exited with 0: {last}")),
        Some(2) => Err(Shortfall::unmeasured(format!("the command could not measure: {last}"), remediation)),
        Some(code) => Err(Shortfall::fails(format!("the command exited with {code}: {last}"))),
        None => Err(Shortfall::unmeasured("the command was ended by a signal", remediation)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderMap;

    use super::*;

    #[test]
    fn gzip_body_is_decoded_and_invalid_gzip_is_unmeasured() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"an error").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", "gzip".parse().unwrap());
        let response = |body: Vec<u8>| CheckResponse {
            request: "GET /".to_owned(),
            status: 200,
            headers: headers.clone(),
            body: Bytes::from(body),
            duration: Duration::ZERO,
            certificate: None,
        };
        assert_eq!(text(&response(encoder.finish().unwrap())).unwrap(), "an error");
        assert!(matches!(text(&response(b"no gzip".to_vec())), Err(Shortfall::Unmeasured { .. })));
        let plain = CheckResponse { headers: HeaderMap::new(), ..response(vec![0xff, 0xfe]) };
        assert!(matches!(text(&plain), Err(Shortfall::Unmeasured { .. })));
    }
}
