//! The measurement of two strategies side by side.

use std::time::Duration;

/// The minimum number of pairs for a median.
pub(crate) const PAIRS_MIN: usize = 15;

/// The unit of a measurement's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Measure {
    Nanoseconds,
    Bytes,
}

/// The measured values of both strategies per unit of work, pair by pair.
pub(crate) struct Pairs {
    values: Vec<(f64, f64)>,
    /// The unit of the values.
    pub(crate) measure: Measure,
    /// The number of pairs that were measured but do not count.
    dropped: usize,
}

impl Pairs {
    /// Runs `a` and `b` alternately, `count` times each, after one turn that is not counted. Each does `units` units of
    /// work and returns the time of its timed part.
    pub(crate) fn measure(
        count: usize,
        units: u32,
        mut a: impl FnMut() -> Duration,
        mut b: impl FnMut() -> Duration,
    ) -> Self {
        assert!(count >= PAIRS_MIN, "a median of {count} pairs says too little");
        a();
        b();
        Self::of((0..count).map(|_| (a(), b())), units)
    }

    /// Creates pairs from measured times, each for `units` units of work.
    pub(crate) fn of(pairs: impl IntoIterator<Item = (Duration, Duration)>, units: u32) -> Self {
        let per_unit = |elapsed: Duration| elapsed.as_secs_f64() * 1e9 / f64::from(units);
        let values = pairs.into_iter().map(|(a, b)| (per_unit(a), per_unit(b))).collect();
        Self { values, measure: Measure::Nanoseconds, dropped: 0 }
    }

    /// Creates pairs of byte counts, each for `units` units.
    pub(crate) fn of_bytes(pairs: impl IntoIterator<Item = (u64, u64)>, units: u32) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let per_unit = |bytes: u64| bytes as f64 / f64::from(units);
        let values = pairs.into_iter().map(|(a, b)| (per_unit(a), per_unit(b))).collect();
        Self { values, measure: Measure::Bytes, dropped: 0 }
    }

    /// Returns the geometric means of several measurements, pair by pair.
    pub(crate) fn geometric_mean(all: &[Self]) -> Self {
        let count = all.iter().map(|pairs| pairs.values.len()).min().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let mean =
            |of: &dyn Fn(&Self) -> f64| (all.iter().map(|pairs| of(pairs).ln()).sum::<f64>() / all.len() as f64).exp();
        let means = |index: usize| (mean(&|pairs| pairs.values[index].0), mean(&|pairs| pairs.values[index].1));
        Self { values: (0..count).map(means).collect(), measure: Measure::Nanoseconds, dropped: 0 }
    }

    /// Returns the median of A, per unit.
    pub(crate) fn a(&self) -> f64 {
        median(self.values.iter().map(|(a, _)| *a))
    }

    /// Returns the median of B, per unit.
    pub(crate) fn b(&self) -> f64 {
        median(self.values.iter().map(|(_, b)| *b))
    }

    /// Returns the median of A / B.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    /// Returns the least and the greatest A / B.
    pub(crate) fn range(&self) -> (f64, f64) {
        self.ratios().fold((f64::INFINITY, 0.0), |(least, greatest), ratio| (least.min(ratio), greatest.max(ratio)))
    }

    /// Returns the number of pairs that count, and the number of all pairs.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.values.len(), self.values.len() + self.dropped)
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.values.iter().map(|(a, b)| a / b)
    }
}

/// The turns of a measurement, without those that do not count.
pub(crate) struct Turns<T> {
    kept: Vec<T>,
    dropped: usize,
}

impl<T> Turns<T> {
    /// Runs `count` turns after one that is not counted, with a `probe` of the disk before and after each. A turn is
    /// discarded if other programs used the disk as well: if its probes took more than twice their median.
    pub(crate) fn measure(count: usize, mut probe: impl FnMut() -> Duration, mut turn: impl FnMut() -> T) -> Self {
        turn();
        let turns: Vec<(f64, T)> = (0..count)
            .map(|_| {
                let before = probe();
                let turn = turn();
                ((before + probe()).as_secs_f64(), turn)
            })
            .collect();
        let bound = 2.0 * median(turns.iter().map(|(probe, _)| *probe));
        Self::of(turns.into_iter().map(|(probe, turn)| (probe <= bound).then_some(turn)))
    }

    /// Collects turns, of which `None` stands for a failed one.
    pub(crate) fn of(turns: impl IntoIterator<Item = Option<T>>) -> Self {
        let mut dropped = 0;
        let kept: Vec<T> = turns.into_iter().inspect(|turn| dropped += usize::from(turn.is_none())).flatten().collect();
        assert!(kept.len() >= PAIRS_MIN, "a median of {} turns says too little: {dropped} are no good", kept.len());
        Self { kept, dropped }
    }

    /// Returns a pair for each turn, for `units` units of work.
    pub(crate) fn pairs(&self, units: u32, pair: impl Fn(&T) -> (Duration, Duration)) -> Pairs {
        Pairs { dropped: self.dropped, ..Pairs::of(self.kept.iter().map(pair), units) }
    }
}

/// Returns the middle of `values`; for an even number of them, the lower of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}
