//! Two strategies, measured side by side.

use std::time::Duration;

/// The fewest pairs that a median is taken of.
pub(crate) const PAIRS_MIN: usize = 15;

/// Nanoseconds per unit of both strategies, pair by pair.
pub(crate) struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Runs `a` and `b` in turns, `count` times each, after one turn that is not counted. Each does `units` units of
    /// work and says how long the timed part of that took.
    pub(crate) fn measure(
        count: usize,
        units: u32,
        mut a: impl FnMut() -> Duration,
        mut b: impl FnMut() -> Duration,
    ) -> Self {
        assert!(count >= PAIRS_MIN, "a median of {count} pairs says too little");
        let per_unit = |elapsed: Duration| elapsed.as_secs_f64() * 1e9 / f64::from(units);
        a();
        b();
        Self((0..count).map(|_| (per_unit(a()), per_unit(b()))).collect())
    }

    /// The geometric means of several measurements, pair by pair.
    pub(crate) fn geometric_mean(all: &[Self]) -> Self {
        let count = all.iter().map(|pairs| pairs.0.len()).min().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let mean =
            |of: &dyn Fn(&Self) -> f64| (all.iter().map(|pairs| of(pairs).ln()).sum::<f64>() / all.len() as f64).exp();
        Self((0..count).map(|index| (mean(&|pairs| pairs.0[index].0), mean(&|pairs| pairs.0[index].1))).collect())
    }

    /// The median of A, in nanoseconds per unit.
    pub(crate) fn a_ns(&self) -> f64 {
        median(self.0.iter().map(|(a, _)| *a))
    }

    /// The median of B, in nanoseconds per unit.
    pub(crate) fn b_ns(&self) -> f64 {
        median(self.0.iter().map(|(_, b)| *b))
    }

    /// The median of A / B.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    /// The least and the greatest A / B.
    pub(crate) fn range(&self) -> (f64, f64) {
        self.ratios().fold((f64::INFINITY, 0.0), |(least, greatest), ratio| (least.min(ratio), greatest.max(ratio)))
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|(a, b)| a / b)
    }
}

/// The middle of `values`; of an even number, the lower of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}
