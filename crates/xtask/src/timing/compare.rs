//! Statistical comparison of the durations of two kinds of requests, by Wilcoxon's signed-rank test on pairs.

use fastrand::Rng;

/// Number of random permutations in the test, and of resamples for the confidence interval.
const RESAMPLES: usize = 1_000;
/// p-value below which a difference is significant.
const SIGNIFICANCE_LEVEL: f64 = 0.01;

/// Result of the comparison. All durations are in milliseconds.
#[derive(Debug)]
pub struct Comparison {
    /// Median and 95th percentile of the durations of the first kind.
    pub first: [f64; 2],
    /// Median and 95th percentile of the durations of the second kind.
    pub second: [f64; 2],
    /// Median of the differences, first minus second.
    pub difference: f64,
    /// 99 % confidence interval of the median of the differences.
    pub interval: [f64; 2],
    /// Fraction of pairs in which the first request took longer.
    pub first_slower: f64,
    /// p-value: probability of a rank sum at least as far from zero, if the two kinds do not differ.
    pub p: f64,
}

impl Comparison {
    /// Compares pairs of durations in milliseconds. The two requests of each pair were sent directly after
    /// each other, in random order.
    pub fn of(pairs: &[[f64; 2]], rng: &mut Rng) -> Self {
        let column = |at: usize| pairs.iter().map(|pair| pair[at]).collect::<Vec<_>>();
        let differences: Vec<_> = pairs.iter().map(|[first, second]| first - second).collect();
        let slower = differences.iter().filter(|difference| **difference > 0.0).count();
        Self {
            first: [quantile(column(0), 0.5), quantile(column(0), 0.95)],
            second: [quantile(column(1), 0.5), quantile(column(1), 0.95)],
            difference: quantile(differences.clone(), 0.5),
            interval: interval(&differences, rng),
            first_slower: slower as f64 / pairs.len() as f64,
            p: p_value(&differences, rng),
        }
    }

    /// Returns true if the durations of the two kinds differ significantly.
    pub fn is_significant(&self) -> bool {
        self.p < SIGNIFICANCE_LEVEL
    }
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    let at = ((values.len() - 1) as f64 * q).round() as usize;
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}

/// Returns the 99 % confidence interval of the median, by bootstrap.
fn interval(differences: &[f64], rng: &mut Rng) -> [f64; 2] {
    let draw = |rng: &mut Rng| {
        let drawn = (0..differences.len()).map(|_| differences[rng.usize(..differences.len())]);
        quantile(drawn.collect(), 0.5)
    };
    let medians: Vec<_> = (0..RESAMPLES).map(|_| draw(rng)).collect();
    [quantile(medians.clone(), 0.005), quantile(medians, 0.995)]
}

/// Returns the p-value of the signed-rank test. It is estimated by random permutation of the signs.
fn p_value(differences: &[f64], rng: &mut Rng) -> f64 {
    let mut sorted = differences.to_vec();
    sorted.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    let ranks = 1..=sorted.len() as i64;
    let seen: i64 = sorted.iter().zip(ranks.clone()).map(|(d, rank)| d.signum() as i64 * rank).sum();
    let as_far = (0..RESAMPLES).filter(|_| {
        let drawn: i64 = ranks.clone().map(|rank| if rng.bool() { rank } else { -rank }).sum();
        drawn.abs() >= seen.abs()
    });
    (1 + as_far.count()) as f64 / (1 + RESAMPLES) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns pairs of durations with an exponential tail. The first of each pair is longer by `by`.
    fn pairs(by: f64, rng: &mut Rng) -> Vec<[f64; 2]> {
        let mut time = || 20.0 - (1.0 - rng.f64()).ln();
        (0..500).map(|_| [time() + by, time()]).collect()
    }

    #[test]
    fn shifted_durations_differ_significantly_and_noise_does_not() {
        let mut rng = Rng::with_seed(7);
        let mut found = |by| {
            let pairs = pairs(by, &mut rng);
            let found = Comparison::of(&pairs, &mut rng);
            assert!(found.interval[0] <= found.difference && found.difference <= found.interval[1]);
            found
        };
        let significant = (0..10).filter(|_| found(0.0).is_significant()).count();
        assert!(significant <= 1, "{significant} of 10 equal samples differ significantly");
        for by in [0.4, -0.4] {
            let shifted = found(by);
            assert!(shifted.is_significant(), "{shifted:?}");
            assert!(shifted.interval[0] <= by && by <= shifted.interval[1], "{shifted:?}");
            assert_eq!(shifted.first_slower > 0.5, by > 0.0, "{shifted:?}");
        }
    }
}
