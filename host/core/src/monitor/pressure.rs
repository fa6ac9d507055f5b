//! Decides when a resource of the host is under pressure. This is pure: samples and their times are arguments.
//!
//! Each resource has a window of the length [`WINDOW`]. A sample stands for the time since the sample before it. So the
//! mean over the window is right at any rate of sampling, and after a gap. There is no decision before a window is
//! full: the load of a host's first minute is not pressure.
//!
//! ```text
//!            mean >= threshold
//!   free  ----------------------->  under pressure
//!         <-----------------------
//!            mean < threshold - HYSTERESIS_POINTS
//! ```

use super::HostThresholds;
use lifeboat_api::event::HostPressure;
use lifeboat_api::meter::{HostResource, Percent, Usage};
use lifeboat_api::sla::HYSTERESIS_POINTS;
use std::collections::VecDeque;
use std::time::Duration;

/// The time over which utilisation is averaged.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The pressure on each resource of a host.
#[derive(Debug, Clone)]
pub struct Pressure {
    thresholds: HostThresholds,
    windows: [Window; HostResource::ALL.len()],
}

/// A change of a resource's pressure.
#[derive(Debug, Clone, PartialEq)]
pub enum Crossing {
    /// The mean of the resource reached the threshold.
    Begins(HostPressure),
    /// The mean of the resource fell below the threshold by more than the hysteresis.
    Ends(HostPressure),
}

impl Pressure {
    /// Creates empty windows.
    #[must_use]
    pub fn new(thresholds: HostThresholds) -> Self {
        Self { thresholds, windows: Default::default() }
    }

    /// Adds a sample of each resource, or none for a resource that could not be read. Returns the changes of pressure.
    /// `at` is the time since any fixed point. A sample that is not later than the last one is ignored.
    pub fn observe(&mut self, at: Duration, usage: impl Fn(HostResource) -> Option<Usage>) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        for resource in HostResource::ALL {
            let window = &mut self.windows[resource as usize];
            let threshold_percent = self.thresholds.of(resource);
            let was_pressed = window.is_pressed;
            // A limit of zero means that the resource does not exist.
            let observed = match usage(resource).filter(|usage| usage.limit > 0) {
                Some(sample) => window.observe(at, sample, threshold_percent),
                None => window.forget_if_old(at),
            };
            let Some(usage) = observed else { continue };
            let pressure = HostPressure { resource, usage, threshold_percent };
            match (was_pressed, window.is_pressed) {
                (false, true) => crossings.push(Crossing::Begins(pressure)),
                (true, false) => crossings.push(Crossing::Ends(pressure)),
                _ => {}
            }
        }
        crossings
    }

    /// Returns the resources that are under pressure, with their means.
    pub fn current(&self) -> impl Iterator<Item = HostPressure> {
        HostResource::ALL.into_iter().filter_map(|resource| {
            let window = &self.windows[resource as usize];
            let usage = window.mean.filter(|_| window.is_pressed)?;
            Some(HostPressure { resource, usage, threshold_percent: self.thresholds.of(resource) })
        })
    }
}

/// The recent samples of one resource.
#[derive(Debug, Clone, Default)]
struct Window {
    /// The times of the first and the last sample.
    span: Option<(Duration, Duration)>,
    /// The samples that reach into the window, oldest first, without gaps.
    samples: VecDeque<Sample>,
    mean: Option<Usage>,
    is_pressed: bool,
}

/// The use between two times.
#[derive(Debug, Clone, Copy)]
struct Sample {
    from: Duration,
    until: Duration,
    used: u64,
}

impl Window {
    /// Adds a sample. Returns the mean, with the present limit, once the window is full.
    fn observe(&mut self, at: Duration, usage: Usage, threshold: Percent) -> Option<Usage> {
        let Some((first, last)) = self.span else {
            // The first sample stands for a time of which nothing is known.
            self.span = Some((at, at));
            return None;
        };
        if at <= last {
            return None;
        }
        self.span = Some((first, at));
        self.samples.push_back(Sample { from: last, until: at, used: usage.used });
        let start = at.checked_sub(WINDOW).filter(|start| *start >= first)?;
        while self.samples.front().is_some_and(|sample| sample.until <= start) {
            self.samples.pop_front();
        }
        let weighted = |sample: &Sample| u128::from(sample.used) * (sample.until - sample.from.max(start)).as_nanos();
        let sum: u128 = self.samples.iter().map(weighted).sum();
        let used = u64::try_from(sum / WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let mean = Usage { used, limit: usage.limit };
        let bound = if self.is_pressed { threshold.less_points(HYSTERESIS_POINTS) } else { threshold };
        self.is_pressed = bound.reached(mean.used, mean.limit);
        self.mean = Some(mean);
        self.mean
    }

    /// Handles a missing sample: a resource that can no longer be read must not stay under pressure for ever. Returns
    /// the last mean when the window is reset.
    fn forget_if_old(&mut self, at: Duration) -> Option<Usage> {
        let is_old = self.span.is_some_and(|(_, last)| at.saturating_sub(last) >= WINDOW);
        if !(self.is_pressed && is_old) {
            return None;
        }
        let mean = self.mean;
        *self = Self::default();
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pressure() -> Pressure {
        Pressure::new(HostThresholds::default())
    }

    /// Adds a sample of memory for each second from `from` on.
    fn feed(pressure: &mut Pressure, from: u64, used: impl IntoIterator<Item = u64>) -> Vec<(u64, Crossing)> {
        let mut crossings = Vec::new();
        for (second, used) in (from..).zip(used) {
            let memory = |resource| (resource == HostResource::Memory).then_some(Usage { used, limit: 1_000 });
            let crossed = pressure.observe(Duration::from_secs(second), memory);
            crossings.extend(crossed.into_iter().map(|crossing| (second, crossing)));
        }
        crossings
    }

    fn printed(used: u64) -> HostPressure {
        HostPressure {
            resource: HostResource::Memory,
            usage: Usage { used, limit: 1_000 },
            threshold_percent: Percent::whole(98),
        }
    }

    #[test]
    fn pressure_begins_after_a_whole_minute_at_the_threshold() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [980; 60]), []);
        assert_eq!(pressure.current().count(), 0);
        assert_eq!(feed(&mut pressure, 60, [980]), [(60, Crossing::Begins(printed(980)))]);
        assert_eq!(pressure.current().collect::<Vec<_>>(), [printed(980)]);
    }

    #[test]
    fn a_peak_within_a_minute_is_none() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [970; 61]), []);
        assert_eq!(feed(&mut pressure, 61, [1_000; 19]), []);
        assert_eq!(feed(&mut pressure, 80, [1_000]), [(80, Crossing::Begins(printed(980)))]);
    }

    #[test]
    fn pressure_is_reported_once_until_hysteresis_relieves_it() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [1_000; 200]).len(), 1);
        assert_eq!(feed(&mut pressure, 200, [930; 200]), [], "93 % is not below");
        assert_eq!(feed(&mut pressure, 400, [929]), [(400, Crossing::Ends(printed(929)))]);
        assert_eq!(feed(&mut pressure, 401, [979; 200]), []);
        assert_eq!(feed(&mut pressure, 601, [1_000; 60]).len(), 1);
    }

    #[test]
    fn pressure_ends_a_minute_after_the_last_reading() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [990; 61]).len(), 1);
        let mut blind = |second| pressure.observe(Duration::from_secs(second), |_| None);
        assert_eq!((61..120).flat_map(&mut blind).collect::<Vec<_>>(), []);
        assert_eq!(blind(120), [Crossing::Ends(printed(990))]);
        assert_eq!(blind(121), []);
        assert_eq!(pressure.current().count(), 0);
    }

    #[test]
    fn a_sample_after_a_gap_stands_for_the_gap() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [0]), []);
        assert_eq!(feed(&mut pressure, 600, [990]), [(600, Crossing::Begins(printed(990)))]);
        assert_eq!(feed(&mut pressure, 600, [0]), [], "time stood still");
        assert_eq!(feed(&mut pressure, 599, [0]), [], "time went back");
        assert_eq!(feed(&mut pressure, 660, [0]), [(660, Crossing::Ends(printed(0)))]);
    }

    #[test]
    fn a_larger_limit_relieves_at_once() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [1_000; 61]).len(), 1);
        let crossings = pressure.observe(Duration::from_secs(62), |resource| {
            (resource == HostResource::Memory).then_some(Usage { used: 1_000, limit: 2_000 })
        });
        assert!(matches!(&crossings[..], [Crossing::Ends(ended)] if ended.usage.limit == 2_000));
    }

    #[test]
    fn a_usage_without_a_limit_is_no_sample() {
        let mut pressure = pressure();
        assert_eq!(feed(&mut pressure, 0, [1_000; 61]).len(), 1);
        assert_eq!(pressure.observe(Duration::from_secs(61), |_| Some(Usage { used: 0, limit: 0 })), []);
        assert_eq!(pressure.current().count(), 1);
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        let mut pressure = pressure();
        for second in 0..200 {
            pressure.observe(Duration::from_secs(second), |_| Some(Usage { used: u64::MAX, limit: u64::MAX }));
        }
        assert_eq!(pressure.current().count(), HostResource::ALL.len());
    }

    proptest! {
        /// The model records the use of each second, and adds up the last 60.
        #[test]
        fn pressure_is_what_a_naive_model_says(
            samples in prop::collection::vec((0u64..40, 0u64..=100, prop::bool::weighted(0.8)), 1..200),
            threshold in 20u16..=100,
        ) {
            let threshold = Percent::whole(threshold);
            let mut pressure = Pressure::new(HostThresholds { disk: threshold, ..HostThresholds::default() });
            let mut seconds: Vec<u64> = Vec::new();
            let (mut now, mut is_first, mut is_pressed) = (0, true, false);
            for (gap, used, is_high) in samples {
                let used = if is_high { 1_000 - used / 4 } else { used * 10 };
                now += gap;
                let disk = |resource| (resource == HostResource::Disk).then_some(Usage { used, limit: 1_000 });
                let crossings = pressure.observe(Duration::from_secs(now), disk);
                if !is_first {
                    seconds.extend(std::iter::repeat_n(used, usize::try_from(gap).expect("small")));
                }
                is_first = false;
                let was_pressed = is_pressed;
                if gap > 0 && let Some(last) = seconds.last_chunk::<60>() {
                    let mean = last.iter().sum::<u64>() / 60;
                    let points = u16::from(threshold.whole_points());
                    let bound = u64::from(if is_pressed { points - HYSTERESIS_POINTS } else { points });
                    is_pressed = mean * 100 >= 1_000 * bound;
                }
                let expected = usize::from(is_pressed != was_pressed);
                prop_assert_eq!(crossings.len(), expected);
                if let Some(crossing) = crossings.first() {
                    prop_assert_eq!(matches!(crossing, Crossing::Begins(_)), is_pressed);
                }
                prop_assert_eq!(pressure.current().count(), usize::from(is_pressed));
            }
        }
    }
}
