//! The rate limit of a guest's log.

use std::time::Duration;

/// The most bytes that a service may log at once.
pub const LOG_BURST_BYTES: u64 = 256 * 1024;

/// The bytes that a service may log in a second on average.
pub const LOG_BYTES_PER_SECOND: u64 = 64 * 1024;

/// The cost of a line beside its bytes. Each line is retained, printed and sent with a time and the name of its
/// service.
pub const LOG_LINE_BYTES: u64 = 128;

/// The shortest interval between two reports of dropped lines.
pub const LOG_DROPPED_INTERVAL: Duration = Duration::from_secs(1);

/// A token bucket of size [`LOG_BURST_BYTES`], refilled at [`LOG_BYTES_PER_SECOND`].
///
/// Times are those of [`Clock::monotonic`](lifeboat_api::clock::Clock::monotonic).
#[derive(Debug)]
pub(crate) struct LogBucket {
    bytes: u64,
    refilled: Duration,
    /// The number of dropped lines that are not reported yet.
    dropped_lines: u64,
    /// The time of the last report of dropped lines.
    reported: Option<Duration>,
}

/// The outcome of [`LogBucket::pass`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// The lines to pass on, including reports of dropped lines.
    pub(crate) lines: Vec<String>,
    /// The number of lines that were dropped.
    pub(crate) dropped_lines: u64,
}

impl LogBucket {
    pub(crate) fn new(now: Duration) -> Self {
        Self { bytes: LOG_BURST_BYTES, refilled: now, dropped_lines: 0, reported: None }
    }

    /// Returns those of `lines` that are within the rate, and drops the others. Also returns a report of dropped lines:
    /// the first at once, and later ones at most once in [`LOG_DROPPED_INTERVAL`].
    ///
    /// `room` is the number of bytes left for events that wait to be reported. Lines beyond it are dropped as well.
    pub(crate) fn pass(&mut self, lines: Vec<String>, room: u64, now: Duration) -> Passed {
        self.refill(now);
        let mut room = room;
        let mut passed = Passed::default();
        // First report the lines that earlier calls dropped.
        passed.lines.extend(self.report(&mut room, now));
        for line in lines {
            let bytes = line.len() as u64 + LOG_LINE_BYTES;
            if bytes > self.bytes.min(room) {
                self.dropped_lines += 1;
                passed.dropped_lines += 1;
                continue;
            }
            self.bytes -= bytes;
            room -= bytes;
            passed.lines.push(line);
        }
        passed.lines.extend(self.report(&mut room, now));
        passed
    }

    fn report(&mut self, room: &mut u64, now: Duration) -> Option<String> {
        let is_due = self.reported.is_none_or(|reported| now.saturating_sub(reported) >= LOG_DROPPED_INTERVAL);
        let dropped_lines = self.dropped_lines;
        if dropped_lines == 0 || !is_due {
            return None;
        }
        let lines = if dropped_lines == 1 { "line" } else { "lines" };
        let report = format!(
            "({dropped_lines} {lines} dropped: a service may log {LOG_BYTES_PER_SECOND} bytes a second, and {LOG_LINE_BYTES} more for each line)"
        );
        // Without room, the report is made later.
        *room = room.checked_sub(report.len() as u64 + LOG_LINE_BYTES)?;
        self.reported = Some(now);
        self.dropped_lines = 0;
        Some(report)
    }

    fn refill(&mut self, now: Duration) {
        let elapsed_ns = now.saturating_sub(self.refilled).as_nanos();
        let bytes = elapsed_ns * u128::from(LOG_BYTES_PER_SECOND) / 1_000_000_000;
        // An interval too short for a whole byte counts in the next call.
        if bytes > 0 {
            self.bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(self.bytes).min(LOG_BURST_BYTES);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_log_lines_is_cut_with_a_report() {
        let start = Duration::ZERO;
        let mut bucket = LogBucket::new(start);
        let line = "x".repeat(1024 - 128);
        let Passed { lines, dropped_lines } = bucket.pass(vec![line.clone(); 300], u64::MAX, start);
        assert_eq!((lines.len(), dropped_lines), (256 + 1, 44));
        assert!(lines[256].starts_with("(44 lines dropped: "), "{}", lines[256]);
        // Further dropped lines are counted, and reported when the interval has passed.
        let soon = LOG_DROPPED_INTERVAL - Duration::from_nanos(1);
        for _ in 0..100 {
            assert_eq!(
                bucket.pass(vec![line.clone()], u64::MAX, start),
                Passed { lines: Vec::new(), dropped_lines: 1 }
            );
        }
        let Passed { lines, dropped_lines } = bucket.pass(vec![line.clone(); 64], u64::MAX, soon);
        assert_eq!((lines.len(), dropped_lines), (63, 1));
        let Passed { lines, dropped_lines } = bucket.pass(vec![line], u64::MAX, start + LOG_DROPPED_INTERVAL);
        // The call reports earlier dropped lines. There is room for the next line a moment later.
        assert_eq!((lines.len(), dropped_lines), (1, 1));
        assert!(lines[0].starts_with("(101 lines dropped: "), "{}", lines[0]);
    }

    #[test]
    fn lines_without_room_are_counted_as_dropped() {
        let start = Duration::ZERO;
        let mut bucket = LogBucket::new(start);
        let line = "x".repeat(1024 - 128);
        let Passed { lines, dropped_lines } = bucket.pass(vec![line.clone(); 5], 3 * 1024 + 512, start);
        assert_eq!((lines.len(), dropped_lines), (3 + 1, 2));
        assert!(lines[3].starts_with("(2 lines dropped: "), "{}", lines[3]);
        let later = start + LOG_DROPPED_INTERVAL;
        let Passed { lines, dropped_lines } = bucket.pass(vec![line.clone()], 100, later);
        assert_eq!((lines.len(), dropped_lines), (0, 1));
        let Passed { lines, dropped_lines } = bucket.pass(vec![line], u64::MAX, later);
        assert_eq!((lines.len(), dropped_lines), (2, 0));
        assert!(lines[0].starts_with("(1 line dropped: "), "{}", lines[0]);
    }
}
