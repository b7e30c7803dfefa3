//! Counters of one node at one moment, in the Prometheus text format.

use std::collections::HashMap;

/// Values of the series in `/api/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Counters(HashMap<String, f64>);

impl Counters {
    /// Parses the Prometheus text format. Lines that are not samples are skipped.
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// Returns the value of a series such as `kith_events_total{kind="bond.ended"}`, or 0 if the series is
    /// absent.
    pub fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    /// Returns the increase of a series since the counters `before`.
    pub fn increase_since(&self, before: &Self, series: &str) -> f64 {
        self.value(series) - before.value(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_is_found_by_name_and_labels() {
        let before = Counters::read("# TYPE a counter\na_total{kind=\"x y\"} 3\nb 0.5\n# EOF\n");
        let after = Counters::read("a_total{kind=\"x y\"} 5\nb 0.5\nc 1\n");
        let grown = |series| after.increase_since(&before, series);
        assert_eq!(
            (grown("a_total{kind=\"x y\"}"), grown("b"), grown("c"), grown("d")),
            (2.0, 0.0, 1.0, 0.0)
        );
    }
}
