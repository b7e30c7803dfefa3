//! Whether two kinds of requests can be told apart by how long they take: pairs of both, judged by Wilcoxon's signed ranks.

use fastrand::Rng;

/// How often the order within all pairs is drawn anew, and how often pairs are drawn for an interval.
const DRAWS: usize = 1_000;
/// Less than this, and chance does not explain the difference.
const CHANCE: f64 = 0.01;

/// What pairs of times come to, in milliseconds.
#[derive(Debug)]
pub struct Comparison {
    /// Median and 95th percentile of the first of each pair.
    pub first: [f64; 2],
    /// The same of the second.
    pub second: [f64; 2],
    /// The median of first minus second.
    pub difference: f64,
    /// Where that lies, with 99 % confidence.
    pub interval: [f64; 2],
    /// In how many of all pairs the first took longer.
    pub first_slower: f64,
    /// How probable ranks as one-sided as these are where nothing differs.
    pub p: f64,
}

impl Comparison {
    /// Of pairs that were measured right after each other, in an order drawn for each.
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
            p: chance_of(&differences, rng),
        }
    }

    /// Whether whoever measures as often can tell the two apart.
    pub fn tells_apart(&self) -> bool {
        self.p < CHANCE
    }
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    let at = ((values.len() - 1) as f64 * q).round() as usize;
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}

/// By drawing as many pairs from the pairs, again and again.
fn interval(differences: &[f64], rng: &mut Rng) -> [f64; 2] {
    let draw = |rng: &mut Rng| {
        let drawn = (0..differences.len()).map(|_| differences[rng.usize(..differences.len())]);
        quantile(drawn.collect(), 0.5)
    };
    let medians: Vec<_> = (0..DRAWS).map(|_| draw(rng)).collect();
    [quantile(medians.clone(), 0.005), quantile(medians, 0.995)]
}

/// The share of drawn orders in which the signed ranks are as far from balance as they are.
fn chance_of(differences: &[f64], rng: &mut Rng) -> f64 {
    let mut sorted = differences.to_vec();
    sorted.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    let ranks = 1..=sorted.len() as i64;
    let seen: i64 = sorted.iter().zip(ranks.clone()).map(|(d, rank)| d.signum() as i64 * rank).sum();
    let as_far = (0..DRAWS).filter(|_| {
        let drawn: i64 = ranks.clone().map(|rank| if rng.bool() { rank } else { -rank }).sum();
        drawn.abs() >= seen.abs()
    });
    (1 + as_far.count()) as f64 / (1 + DRAWS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times with the long tail that times have, the first longer by `by`.
    fn pairs(by: f64, rng: &mut Rng) -> Vec<[f64; 2]> {
        let mut time = || 20.0 - (1.0 - rng.f64()).ln();
        (0..500).map(|_| [time() + by, time()]).collect()
    }

    #[test]
    fn a_shift_is_seen_and_chance_is_not_taken_for_one() {
        let mut rng = Rng::with_seed(7);
        let mut found = |by| {
            let pairs = pairs(by, &mut rng);
            let found = Comparison::of(&pairs, &mut rng);
            assert!(found.interval[0] <= found.difference && found.difference <= found.interval[1]);
            found
        };
        let told_apart = (0..10).filter(|_| found(0.0).tells_apart()).count();
        assert!(told_apart <= 1, "{told_apart} of 10 that are the same");
        for by in [0.4, -0.4] {
            let shifted = found(by);
            assert!(shifted.tells_apart(), "{shifted:?}");
            assert!(shifted.interval[0] <= by && by <= shifted.interval[1], "{shifted:?}");
            assert_eq!(shifted.first_slower > 0.5, by > 0.0, "{shifted:?}");
        }
    }
}
