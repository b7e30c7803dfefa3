//! Random selection of accounts: a Zipf distribution for reads, and pairs without repetition for writes. A
//! seed makes the selection reproducible.

use fastrand::Rng;

/// Skew of the Zipf distribution, as in the YCSB benchmark.
const EXPONENT: f64 = 0.99;

/// Zipf distribution over `0..n`.
pub struct Zipf {
    /// Cumulative probability of each rank.
    cumulative: Vec<f64>,
    /// Index of the account at each rank.
    order: Vec<usize>,
}

impl Zipf {
    pub fn new(n: usize, rng: &mut Rng) -> Self {
        let weights = (1..=n).map(|rank| (rank as f64).powf(-EXPONENT));
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|up_to| *up_to /= sum);
        Self { cumulative, order: shuffled(n, rng) }
    }

    pub fn draw(&self, rng: &mut Rng) -> usize {
        let at = rng.f64();
        let rank = self.cumulative.partition_point(|up_to| *up_to < at);
        self.order[rank.min(self.order.len() - 1)]
    }
}

/// Iterator over pairs of the numbers `0..n`. All numbers occur equally often, and no pair occurs twice, in
/// either order.
pub struct Pairs {
    order: Vec<usize>,
    next: usize,
}

impl Pairs {
    pub fn new(n: usize, rng: &mut Rng) -> Self {
        Self { order: shuffled(n, rng), next: 0 }
    }
}

impl Iterator for Pairs {
    type Item = (usize, usize);

    /// Arranges the numbers in a circle. Pairs each one with its successor, then with the second next, and so
    /// on. Ends half-way around the circle, where pairs would repeat.
    fn next(&mut self) -> Option<(usize, usize)> {
        let n = self.order.len();
        let (distance, first) = (1 + self.next / n.max(1), self.next % n.max(1));
        if 2 * distance >= n {
            return None;
        }
        self.next += 1;
        Some((self.order[first], self.order[(first + distance) % n]))
    }
}

fn shuffled(n: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn zipf_distribution_is_skewed() {
        let mut rng = Rng::with_seed(1);
        let zipf = Zipf::new(1_000, &mut rng);
        let mut counts = vec![0_u32; 1_000];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut rng)] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // Expected frequencies: rank 1 has about 1/7.5 of the weight, rank 2 half of that.
        assert!((12_500..14_500).contains(&counts[0]), "{}", counts[0]);
        assert!((6_000..7_500).contains(&counts[1]), "{}", counts[1]);
        assert!(counts.iter().filter(|count| **count > 0).count() > 950);
    }

    #[test]
    fn pairs_are_distinct_and_unique() {
        for n in [0, 1, 2, 3, 7, 100, 101] {
            let mut seen = HashSet::new();
            for (a, b) in Pairs::new(n, &mut Rng::with_seed(2)) {
                assert!(a != b && a < n && b < n);
                assert!(seen.insert((a.min(b), a.max(b))), "{n}: the pair {a} and {b} is repeated");
            }
            let all = n * n.saturating_sub(1) / 2;
            // If the number of elements is even, opposite elements of the circle are not paired.
            assert_eq!(seen.len(), if n % 2 == 0 { all - n / 2 } else { all }, "{n}");
        }
    }
}
