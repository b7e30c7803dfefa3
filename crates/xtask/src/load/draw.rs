//! Who is drawn: people by Zipf for reads, pairs that never repeat for writes. All of it repeats from a seed.

use fastrand::Rng;

/// The skew that the YCSB benchmark made customary.
const EXPONENT: f64 = 0.99;

/// Draws from `0..n`, a few often and most seldom.
pub struct Zipf {
    /// For each rank, the probability of it or one before it.
    cumulative: Vec<f64>,
    /// Who has which rank.
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

/// Pairs of `0..n` in an order that spreads them over everybody; no pair comes twice, in either direction.
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

    /// Everybody with the next in a circle, then everybody with the one after that; half-way round, each pair was met.
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
    fn a_few_are_drawn_often_and_most_are_drawn_sometimes() {
        let mut rng = Rng::with_seed(1);
        let zipf = Zipf::new(1_000, &mut rng);
        let mut counts = vec![0_u32; 1_000];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut rng)] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // The first rank weighs 1/7.5 of all, the second half of that.
        assert!((12_500..14_500).contains(&counts[0]), "{}", counts[0]);
        assert!((6_000..7_500).contains(&counts[1]), "{}", counts[1]);
        assert!(counts.iter().filter(|count| **count > 0).count() > 950);
    }

    #[test]
    fn no_pair_comes_twice_and_nobody_is_paired_with_themselves() {
        for n in [0, 1, 2, 3, 7, 100, 101] {
            let mut seen = HashSet::new();
            for (a, b) in Pairs::new(n, &mut Rng::with_seed(2)) {
                assert!(a != b && a < n && b < n);
                assert!(seen.insert((a.min(b), a.max(b))), "{n}: {a} and {b} again");
            }
            let all = n * n.saturating_sub(1) / 2;
            // Of an even circle, opposite pairs are left out.
            assert_eq!(seen.len(), if n % 2 == 0 { all - n / 2 } else { all }, "{n}");
        }
    }
}
