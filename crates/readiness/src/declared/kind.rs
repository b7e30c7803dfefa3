//! Kinds of checks that a file can declare, and their execution.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use kith_kernel::{Clock as _, SystemClock, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::{Answer, Run, Shortfall};

/// Maximum size of a decoded body.
const MAX_DECODED_BYTES: u64 = 16 << 20;

/// Kind of a declared check, with its parameters.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Kind {
    /// GET request whose status, body and duration are checked.
    Http {
        /// Path on the target, such as `/health`.
        path: String,
        #[serde(default = "ok")]
        status: u16,
        /// Text that the body must contain.
        contains: Option<String>,
        /// Text that the body must not contain.
        lacks: Option<String>,
        /// Maximum duration in milliseconds.
        within_ms: Option<u64>,
    },
    /// GET request of which one header is checked.
    Header {
        path: String,
        name: String,
        /// Text that the header must contain. If unset, the header must be present.
        contains: Option<String>,
        /// True if the header must be absent.
        #[serde(default)]
        absent: bool,
    },
    /// Trusted TLS certificate with a minimum remaining validity.
    Tls {
        /// Host and port, such as `api.example.org:443`. Default: those of the target.
        host: Option<String>,
        #[serde(default = "three_weeks")]
        least_days: i64,
    },
    /// Instant query (Prometheus HTTP API, `/api/v1/query`). Each series of the result must be within the
    /// bounds.
    Promql {
        /// Base URL of the Prometheus server.
        url: String,
        query: String,
        at_least: Option<f64>,
        at_most: Option<f64>,
    },
    /// Program, started without a shell. Exit code 0 passes, 2 means that it could not measure, any other
    /// fails.
    Command {
        argv: Vec<String>,
        #[serde(default = "a_minute")]
        timeout_s: u64,
    },
    /// Attestation by a named owner, valid until a date.
    Attestation { statement: String, owner: String, until: Timestamp },
}

fn ok() -> u16 {
    200
}

fn three_weeks() -> i64 {
    21
}

fn a_minute() -> u64 {
    60
}

impl Kind {
    /// Checks that the parameters are complete and that a path stays on the target.
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

    pub(super) fn does(&self) -> String {
        match self {
            Self::Http { path, status, .. } => format!("GET {path} and expect {status}"),
            Self::Header { path, name, absent: true, .. } => {
                format!("GET {path} and expect no header {name}")
            }
            Self::Header { path, name, .. } => format!("GET {path} and check the header {name}"),
            Self::Tls { host, least_days } => {
                let host = host.as_deref().unwrap_or("the target");
                format!(
                    "check that the certificate of {host} is trusted and valid for at least {least_days} days"
                )
            }
            Self::Promql { query, .. } => format!("query Prometheus for {query}"),
            Self::Command { argv, .. } => format!("run {}", argv.join(" ")),
            Self::Attestation { owner, until, .. } => format!("attestation by {owner} until {until}"),
        }
    }

    pub(super) async fn run(&self, run: &Run) -> Result<String, Shortfall> {
        match self {
            Self::Http { path, status, contains, lacks, within_ms } => {
                let answer = get(run, path).await?.expect(*status)?;
                judge_answer(run, &answer, contains.as_deref(), lacks.as_deref(), *within_ms)
            }
            Self::Header { path, name, contains, absent } => {
                judge_header(&get(run, path).await?, name, contains.as_deref(), *absent)
            }
            Self::Tls { host, least_days } => tls(run, host.as_deref(), *least_days).await,
            Self::Promql { at_least: None, at_most: None, .. } => Err(Shortfall::unmeasured(
                "the check does not say which values are good",
                "set `at_least` or `at_most`",
            )),
            Self::Promql { url, query, at_least, at_most } => {
                promql(run, url, query, *at_least, *at_most).await
            }
            Self::Command { argv, timeout_s } => command(argv, Duration::from_secs(*timeout_s)).await,
            // An attestation has nothing to run.
            Self::Attestation { .. } => Err(Shortfall::unmeasured("no attestation was given", "")),
        }
    }
}

/// Returns true if `path` is a path on the same host: no `//`, backslash or control character.
fn is_path(path: &str) -> bool {
    let is_legal = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'\\';
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(is_legal)
}

/// Sends a GET request that accepts no content encoding.
async fn get(run: &Run, path: &str) -> Result<Answer, Shortfall> {
    Ok(run.anonymous().with("accept-encoding", "identity").get(path).await?)
}

/// Returns the body as text. Decodes gzip. A body that cannot be decoded counts as unmeasured: `lacks` must
/// not pass on it.
fn text(answer: &Answer) -> Result<String, Shortfall> {
    const ENCODING_REMEDIATION: &str = "return the body as UTF-8 text, optionally compressed with gzip";
    let unreadable = |why: &str| {
        Shortfall::unmeasured(
            format!("the body of the response to {} {why}", answer.asked),
            ENCODING_REMEDIATION,
        )
    };
    let bytes = match answer.header("content-encoding").map(str::to_lowercase).as_deref() {
        None | Some("identity" | "") => answer.body.to_vec(),
        Some("gzip" | "x-gzip") => {
            let mut bytes = Vec::new();
            let mut decoder = MultiGzDecoder::new(&*answer.body).take(MAX_DECODED_BYTES + 1);
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
    answer: &Answer,
    contains: Option<&str>,
    lacks: Option<&str>,
    within_ms: Option<u64>,
) -> Result<String, Shortfall> {
    let (asked, took_ms) = (&answer.asked, answer.took.as_millis());
    let body = if contains.is_some() || lacks.is_some() { text(answer)? } else { String::new() };
    run.figure("took_ms", u64::try_from(took_ms).unwrap_or(u64::MAX));
    if let Some(missing) = contains.filter(|text| !body.contains(text)) {
        return Err(Shortfall::fails(format!("the response to {asked} does not contain `{missing}`")));
    }
    if let Some(there) = lacks.filter(|text| body.contains(text)) {
        return Err(Shortfall::fails(format!("the response to {asked} contains `{there}`")));
    }
    if let Some(most) = within_ms.filter(|most| took_ms > u128::from(*most)) {
        return Err(Shortfall::fails(format!("{asked} took {took_ms} ms, more than {most}")));
    }
    Ok(format!("{asked} returned {} in {took_ms} ms", answer.status))
}

fn judge_header(
    answer: &Answer,
    name: &str,
    contains: Option<&str>,
    absent: bool,
) -> Result<String, Shortfall> {
    let asked = &answer.asked;
    match (answer.header(name), contains) {
        (Some(value), _) if absent => Err(Shortfall::fails(format!("{asked} returns {name}: {value}"))),
        (None, _) if absent => Ok(format!("{asked} returns no {name}")),
        (None, _) => Err(Shortfall::fails(format!("{asked} returns no {name}"))),
        (Some(value), Some(text)) if !value.contains(text) => {
            Err(Shortfall::fails(format!("{asked} returns {name}: {value}, without `{text}`")))
        }
        (Some(value), _) => Ok(format!("{asked} returns {name}: {value}")),
    }
}

async fn tls(run: &Run, host: Option<&str>, least_days: i64) -> Result<String, Shortfall> {
    let client = run.anonymous();
    let client = host.map_or(client.clone(), |host| client.at(&format!("https://{host}")));
    // The client verifies name, dates and chain against the system's certificate authorities.
    let answer = client.get("/").await.map_err(|refused| {
        if refused.why.contains("certificate") { Shortfall::fails(refused.why) } else { refused.into() }
    })?;
    let Some(days) = answer.certificate_days(SystemClock.now()) else {
        return Err(Shortfall::fails(format!("{} presents no certificate", client.base())));
    };
    run.figure("days_left", days);
    if days < least_days {
        return Err(Shortfall::fails(format!(
            "the certificate expires in {days} days, less than {least_days}"
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
    let mend = "check that the Prometheus server is reachable and has data for the query";
    let encoded = reqwest::Url::parse_with_params("http://query", [("query", query)]);
    let encoded = encoded.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
    let answer = run.anonymous().at(url).get(&format!("/api/v1/query?{encoded}")).await?;
    if answer.status != 200 {
        let error = answer.json()["error"].as_str().unwrap_or("no error message").to_owned();
        return Err(Shortfall::unmeasured(format!("Prometheus returned {}: {error}", answer.status), mend));
    }
    let values = samples(&answer.json()["data"]);
    if values.is_empty() {
        return Err(Shortfall::unmeasured("Prometheus has no data for the query", mend));
    }
    run.figure("values", values.clone());
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // NaN is neither within nor outside the bounds.
    if values.iter().any(|value| value.is_nan()) {
        return Err(Shortfall::unmeasured("the result is not a number (NaN)", mend));
    }
    match (at_least, at_most) {
        (Some(least), _) if low < least => Err(Shortfall::fails(format!("{low} is less than {least}"))),
        (_, Some(most)) if high > most => Err(Shortfall::fails(format!("{high} is more than {most}"))),
        _ => Ok(format!("{} series, from {low} to {high}", values.len())),
    }
}

/// Returns the values of a vector or scalar, or the last value of each series of a matrix.
fn samples(data: &Value) -> Vec<f64> {
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
    let mend = "run the command manually and read its output";
    let Some((program, args)) = argv.split_first() else {
        return Err(Shortfall::unmeasured("the check names no program", "name one in `argv`"));
    };
    let mut command = Command::new(program);
    // The program must not inherit secrets from this process's environment.
    let kept = ["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = match tokio::time::timeout(timeout, command.output()).await {
        Err(_) => {
            return Err(Shortfall::unmeasured(
                format!("the command took longer than {} s", timeout.as_secs()),
                mend,
            ));
        }
        Ok(Err(error)) => return Err(Shortfall::unmeasured(format!("{program}: {error}"), mend)),
        Ok(Ok(done)) => done,
    };
    let said = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let last =
        said.iter().flat_map(|text| text.lines()).rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    let last: String = last.chars().take(300).collect();
    match done.status.code() {
        Some(0) => Ok(format!("the command exited with 0: {last}")),
        Some(2) => Err(Shortfall::unmeasured(format!("the command could not measure: {last}"), mend)),
        Some(code) => Err(Shortfall::fails(format!("the command exited with {code}: {last}"))),
        None => Err(Shortfall::unmeasured("the command was ended by a signal", mend)),
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
        let answer = |body: Vec<u8>| Answer {
            asked: "GET /".to_owned(),
            status: 200,
            headers: headers.clone(),
            body: Bytes::from(body),
            took: Duration::ZERO,
            certificate: None,
        };
        assert_eq!(text(&answer(encoder.finish().unwrap())).unwrap(), "an error");
        assert!(matches!(text(&answer(b"no gzip".to_vec())), Err(Shortfall::Unmeasured { .. })));
        let plain = Answer { headers: HeaderMap::new(), ..answer(vec![0xff, 0xfe]) };
        assert!(matches!(text(&plain), Err(Shortfall::Unmeasured { .. })));
    }
}
