//! How much of what a guest logs is passed on.

use crate::clock::Timestamp;

/// The most bytes that a service may log at once.
pub const LOG_BURST_BYTES: u64 = 256 * 1024;

/// Bytes that a service may log in a second on average.
pub const LOG_BYTES_PER_SECOND: u64 = 64 * 1024;

/// What a line costs beside its bytes: it is kept, printed and sent with a time and the name of its service.
pub const LOG_LINE_BYTES: u64 = 128;

/// A token bucket of size [`LOG_BURST_BYTES`], refilled at [`LOG_BYTES_PER_SECOND`].
#[derive(Debug)]
pub(crate) struct LogBucket {
    bytes: u64,
    refilled: Timestamp,
    dropped_lines: u64,
}

impl LogBucket {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { bytes: LOG_BURST_BYTES, refilled: now, dropped_lines: 0 }
    }

    /// Passes on those of `lines` that are within the rate, and says how many were not as soon as one is again.
    pub(crate) fn pass(&mut self, lines: Vec<String>, now: Timestamp) -> Vec<String> {
        self.refill(now);
        let mut passed = Vec::new();
        for line in lines {
            let bytes = line.len() as u64 + LOG_LINE_BYTES;
            if bytes > self.bytes {
                self.dropped_lines += 1;
                continue;
            }
            self.bytes -= bytes;
            if self.dropped_lines > 0 {
                passed.push(format!(
                    "({} lines dropped: a service may log {LOG_BYTES_PER_SECOND} bytes a second, and {LOG_LINE_BYTES} more for each line)",
                    std::mem::take(&mut self.dropped_lines)
                ));
            }
            passed.push(line);
        }
        passed
    }

    fn refill(&mut self, now: Timestamp) {
        let elapsed_ns = now.0.saturating_sub(self.refilled.0);
        let bytes = u128::from(elapsed_ns) * u128::from(LOG_BYTES_PER_SECOND) / 1_000_000_000;
        // Time too short for a whole byte is kept for the next call.
        if bytes > 0 {
            self.bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(self.bytes).min(LOG_BURST_BYTES);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_of_log_lines_is_cut_and_counted() {
        let start = Timestamp(0);
        let mut bucket = LogBucket::new(start);
        let line = "x".repeat(1024 - 128);
        let passed = bucket.pass(vec![line.clone(); 300], start);
        assert_eq!(passed.len(), 256);
        assert!(bucket.pass(vec![line.clone()], start).is_empty());
        let passed = bucket.pass(vec![line], start.plus(Duration::from_secs(1)));
        assert_eq!(passed.len(), 2);
        assert!(passed[0].starts_with("(45 lines dropped"), "{}", passed[0]);
    }
}
