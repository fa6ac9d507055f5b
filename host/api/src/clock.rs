//! Time as an argument: code that needs the current time takes a [`Timestamp`] or a [`Clock`].

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(
    /// Nanoseconds since 1970-01-01T00:00:00Z; the range ends in the year 2554.
    pub u64,
);

impl Timestamp {
    /// Returns the time `duration` later, or the end of the representable range.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// Writes the seconds since 1970 with nine decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// A point in time in the format for people: `2026-03-01T12:00:00.123Z`. The seconds have three decimals unless the
/// format's precision asks for another number, up to nine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc(
    /// The time.
    pub Timestamp,
);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Timestamp(nanoseconds)) = *self;
        let (seconds, nanoseconds) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin in March.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let decimals = f.precision().unwrap_or(3).min(9);
        let fraction = &format!("{nanoseconds:09}")[..decimals];
        let point = if decimals == 0 { "" } else { "." };
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{point}{fraction}Z")
    }
}

/// How far the clock may be behind the last recorded time before an event reports that.
pub const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(60);

/// The same moment by both times of a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The result of [`Clock::now`].
    pub wall: Timestamp,
    /// The result of [`Clock::monotonic`].
    pub monotonic: Duration,
}

/// A source of time. Services read it once for each transaction.
pub trait Clock: Send + Sync {
    /// Returns the current time. It may stand still, go back, or be wrong by years. Each time that a service passes to
    /// a guest is later than the one before, whatever this returns.
    fn now(&self) -> Timestamp;

    /// Returns the time since some moment of this process. It never goes back, and measures rates and intervals.
    fn monotonic(&self) -> Duration;

    /// Reads both times.
    fn read(&self) -> ClockReading {
        ClockReading { wall: self.now(), monotonic: self.monotonic() }
    }
}

/// The operating system's wall clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// A clock that advances only on request: the time of simulations and tests.
#[derive(Debug, Default)]
pub struct VirtualClock {
    now: AtomicU64,
    /// The nanoseconds by which it was advanced.
    elapsed: AtomicU64,
}

impl VirtualClock {
    /// Returns a clock that stands at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { now: AtomicU64::new(start.0), elapsed: AtomicU64::new(0) }
    }

    /// Moves the clock forward by `duration`.
    pub fn advance(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.now.fetch_add(nanoseconds, Ordering::Relaxed);
        self.elapsed.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Sets the wall clock to another time, as an operator might. The monotonic time stays.
    pub fn set(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.elapsed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_645_557_742, "2022-02-22T19:22:22Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(format!("{:.0}", Utc(Timestamp(seconds * 1_000_000_000))), text);
        }
        assert_eq!(Utc(Timestamp(1_002_003_004)).to_string(), "1970-01-01T00:00:01.002Z");
        assert_eq!(format!("{:.9}", Utc(Timestamp(1_002_003_004))), "1970-01-01T00:00:01.002003004Z");
        assert_eq!(Utc(Timestamp(u64::MAX)).to_string(), "2554-07-21T23:34:33.709Z");
    }
}
