//! Strict parser for OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>). It supports
//! counters, gauges, histograms and info, and does not interpret the metrics.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use kith_readiness::{Run, Shortfall};

pub(super) const METRICS: &str = "/api/metrics";
const ADDRESS_REMEDIATION: &str = "run it on a machine whose address is in server.metrics_addresses";

/// Parsed response of the metrics endpoint.
pub(super) struct MetricsScrape {
    pub duration: Duration,
    /// Values by name and sorted labels of the series, such as `kith_http_requests_total{method="GET",…}`.
    series: HashMap<String, f64>,
    /// Types of the metric families, by name.
    pub families: BTreeMap<String, String>,
}

impl MetricsScrape {
    /// Requests the metrics without a token and parses them.
    pub async fn now(run: &Run) -> Result<Self, Shortfall> {
        let response = run.anonymous().get(METRICS).await?;
        if response.status == 403 && response.code().as_deref() == Some("address_not_listed") {
            return Err(Shortfall::unmeasured(
                "metrics are not open to this machine's address",
                ADDRESS_REMEDIATION,
            ));
        }
        let response = response.expect(200)?;
        let text =
            std::str::from_utf8(&response.body).map_err(|_| Shortfall::fails("the metrics are not UTF-8"))?;
        let (families, series) = parse(text).map_err(Shortfall::fails)?;
        Ok(Self { duration: response.duration, series, families })
    }

    /// Returns the value of the series with exactly these labels, if there is one.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.series.get(&series_of(name, labels.iter().copied())).copied()
    }

    /// Returns the value of the series, or fails if it is missing.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64, Shortfall> {
        let missing =
            || Shortfall::fails(format!("there is no series {}", series_of(name, labels.iter().copied())));
        self.find(name, labels).ok_or_else(missing)
    }

    pub fn series(&self) -> usize {
        self.series.len()
    }
}

fn series_of<'l>(name: &str, labels: impl Iterator<Item = (&'l str, &'l str)>) -> String {
    let mut labels: Vec<_> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

type Parsed = (BTreeMap<String, String>, HashMap<String, f64>);

/// Parses a response. Returns a description of the first fault if it is invalid.
fn parse(text: &str) -> Result<Parsed, String> {
    let Some(lines) = text.strip_suffix("# EOF\n") else {
        return Err("the metrics do not end with # EOF".to_owned());
    };
    let (mut families, mut series, mut typed) = (BTreeMap::new(), HashMap::new(), HashSet::new());
    let mut family = String::new();
    for (n, line) in lines.lines().enumerate() {
        let fault = |what: &str| format!("line {} of the metrics {what}: {line}", n + 1);
        if let Some(words) = line.strip_prefix("# ") {
            let mut words = words.splitn(3, ' ');
            let (Some(kind), Some(name), Some(value)) = (words.next(), words.next(), words.next()) else {
                return Err(fault("is a comment without a metric name"));
            };
            if name != family {
                // All samples of a family must follow each other.
                if !typed.insert(name.to_owned()) {
                    return Err(fault("repeats a metric family"));
                }
                name.clone_into(&mut family);
            }
            match kind {
                "TYPE" if families.insert(name.to_owned(), value.to_owned()).is_some() => {
                    return Err(fault("repeats the type of a metric family"));
                }
                "TYPE" | "HELP" | "UNIT" => {}
                _ => return Err(fault("is neither TYPE, HELP nor UNIT")),
            }
            continue;
        }
        let (name, labels, value) = sample(line).ok_or_else(|| fault("is not a sample"))?;
        let kind = families.get(&family).ok_or_else(|| fault("belongs to no metric family"))?;
        if !belongs(name, &family, kind) {
            return Err(fault("does not belong to the preceding metric family"));
        }
        let counted = kind == "counter" || (kind == "histogram" && !name.ends_with("_sum"));
        if counted && (value.is_nan() || value < 0.0) {
            return Err(fault("has an impossible value for a counter"));
        }
        if series
            .insert(series_of(name, labels.iter().map(|(name, value)| (*name, &**value))), value)
            .is_some()
        {
            return Err(fault("repeats a series"));
        }
    }
    Ok((families, series))
}

/// Returns true if a sample with this name may belong to the metric family.
fn belongs(name: &str, family: &str, kind: &str) -> bool {
    let Some(suffix) = name.strip_prefix(family) else { return false };
    match kind {
        "counter" => ["_total", "_created"].contains(&suffix),
        "gauge" | "unknown" => suffix.is_empty(),
        "histogram" => ["_bucket", "_count", "_sum", "_created"].contains(&suffix),
        "info" => suffix == "_info",
        _ => false,
    }
}

type Sample<'t> = (&'t str, Vec<(&'t str, String)>, f64);

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return None;
    }
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if !is_name(label) || labels.iter().any(|(known, _)| *known == label) {
                return None;
            }
            labels.push((label, value));
            rest = match after.strip_prefix(',') {
                Some(more) if !more.starts_with('}') => more,
                Some(_) => return None,
                None => after.starts_with('}').then_some(after)?,
            };
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ')?;
    let number = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        digits if digits.starts_with(|c: char| c.is_ascii_digit() || c == '-') => digits.parse().ok()?,
        _ => return None,
    };
    Some((name, labels, number))
}

/// Returns the unescaped text before the closing quote, and the rest after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_openmetrics_is_parsed() {
        let text = "# HELP a_b Things. With words.\n# TYPE a_b counter\na_b_total{x=\"1\",y=\"a \\\"q\\\" }\"} 3\n\
                    # TYPE h histogram\nh_sum 0.5\nh_count 2\nh_bucket{le=\"+Inf\"} 2\n# TYPE g gauge\ng -1.5e3\n# EOF\n";
        let (families, series) = parse(text).unwrap();
        assert_eq!((families.len(), series.len()), (3, 5));
        let found = series_of("a_b_total", [("y", "a \"q\" }"), ("x", "1")].into_iter());
        assert_eq!((series[&found], series["g{}"]), (3.0, -1500.0));
    }

    #[test]
    fn invalid_openmetrics_is_rejected() {
        for (text, word) in [
            ("# TYPE a counter\na_total 1\n", "EOF"),
            ("a_total 1\n# EOF\n", "no metric family"),
            ("# TYPE a counter\na_total 1\na_total 1\n# EOF\n", "repeats"),
            ("# TYPE a counter\na_total{x=\"1\",y=\"2\"} 1\na_total{y=\"2\",x=\"1\"} 1\n# EOF\n", "repeats"),
            ("# TYPE a counter\na_total -1\n# EOF\n", "impossible"),
            ("# TYPE a counter\na 1\n# EOF\n", "not belong to the preceding"),
            ("# TYPE a gauge\na one\n# EOF\n", "not a sample"),
            ("# TYPE a gauge\na{x=1} 1\n# EOF\n", "not a sample"),
            ("# TYPE a gauge\na{x=\"1\"\n# EOF\n", "not a sample"),
            ("# TYPE a gauge\na{x=\"1\",} 1\n# EOF\n", "not a sample"),
            ("# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\n# EOF\n", "repeats a metric family"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(word), "{text}: {fault}");
        }
    }
}
