//! Time as an argument: code that needs the current time takes a [`Timestamp`] or a [`Clock`].

use crate::text::Printable;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
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

    /// Returns the time of year, month, day, hour, minute and second in UTC, or `None` if one of them is out of its
    /// range. A time before 1970 becomes 1970, and a time after the last representable one becomes the last.
    #[must_use]
    pub fn of_utc([year, month, day, hour, minute, second]: [i64; 6]) -> Option<Self> {
        let is_time = (0..10_000).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..61).contains(&second);
        if !is_time {
            return None;
        }
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`: years begin in March.
        let year = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
        Some(Self(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000)))
    }
}

impl fmt::Display for Timestamp {
    /// Writes the seconds since 1970 with nine decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Returns the days of a month in the Gregorian calendar.
fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A point in time in the format for people, which is also one of RFC 3339: `2026-03-01T12:00:00.123Z`. The seconds have
/// three decimals unless the format's precision asks for another number, up to nine.
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

impl FromStr for Utc {
    type Err = String;

    /// Parses what [`Utc`] displays.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (whole, fraction) = match text.strip_suffix('Z')?.split_once('.') {
                Some((whole, fraction)) if (1..=9).contains(&fraction.len()) => (whole, fraction),
                Some(_) => return None,
                None => (text.strip_suffix('Z')?, "0"),
            };
            let is_shaped = whole.len() == 19
                && whole.bytes().enumerate().all(|(place, byte)| match place {
                    4 | 7 => byte == b'-',
                    10 => byte == b'T',
                    13 | 16 => byte == b':',
                    _ => byte.is_ascii_digit(),
                });
            if !is_shaped || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let mut numbers = whole.split(['-', 'T', ':']).map(|digits| digits.parse().ok());
            let mut next = || numbers.next().flatten();
            let Timestamp(whole) = Timestamp::of_utc([next()?, next()?, next()?, next()?, next()?, next()?])?;
            let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
            Some(Self(Timestamp(whole.saturating_add(fraction))))
        };
        parse().ok_or_else(|| format!("'{}' is not a time such as 2026-03-01T12:00:00.123Z", Printable(text)))
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

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "Z",
            "2026-03-01T12:00:00",
            "2026-13-01T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "1900-02-29T12:00:00Z",
            "2026-04-31T12:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01 12:00:00Z",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00.1234567890Z",
            "2026-03-01T12:00:00.-1Z",
            "+026-03-01T12:00:00Z",
            "2026-03-01T12:00:00+01:00Z",
        ] {
            let refused = text.parse::<Utc>().expect_err("no date");
            assert!(refused.contains("is not a time such as"), "{refused}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_date_is_read_as_it_was_printed(nanoseconds: u64) {
            let time = Utc(Timestamp(nanoseconds));
            proptest::prop_assert_eq!(format!("{time:.9}").parse(), Ok(time));
            let seconds = Utc(Timestamp(nanoseconds / 1_000_000_000 * 1_000_000_000));
            proptest::prop_assert_eq!(format!("{time:.0}").parse(), Ok(seconds));
        }
    }
}
