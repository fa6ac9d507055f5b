//! The times at which the catalog's file is reopened after a failed write.
//!
//! The file is reopened at once the first time. After that there is a pause, which is twice as long each time, until a
//! change is stored. Each reopening reads and checks the whole file, and every log-in requests one while the disk
//! accepts no writes. Changes that make room come from admins and operators, and do not wait for the end of a pause.
//! Otherwise other callers could begin the next pause each time one ends.

use lifeboat_api::clock::Clock;
use lifeboat_journal::storage::Storage;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The first pause after a reopening, if no change was stored since.
pub const REOPEN_RETRY_FIRST: Duration = Duration::from_millis(50);

/// The longest pause between two reopenings.
pub const REOPEN_RETRY_MAX: Duration = Duration::from_secs(2);

/// The means to reopen the file.
pub(super) struct Reopening {
    /// The storage that contains the file.
    pub(super) storage: Arc<dyn Storage>,
    /// The clock whose monotonic time measures the pauses.
    pub(super) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Reopening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reopening").field("storage", &self.storage).finish_non_exhaustive()
    }
}

/// The time at which the file may be reopened again.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// The end of the pause after the last reopening, and its length.
    waiting: Option<(Duration, Duration)>,
}

impl Pauses {
    /// Returns the rest of the pause at `now`, or none if there is no pause.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        let (until, _) = self.waiting?;
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Records that a reopening ended at `now`, successfully or not.
    pub(super) fn opened(&mut self, now: Duration) {
        let pause = self.waiting.map_or(REOPEN_RETRY_FIRST, |(_, pause)| (2 * pause).min(REOPEN_RETRY_MAX));
        self.waiting = Some((now.saturating_add(pause), pause));
    }

    /// Records that a change was stored.
    pub(super) fn stored(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_longest_one_until_a_change_is_stored() {
        let mut pauses = Pauses::default();
        let mut now = Duration::from_secs(9);
        let mut seen = Vec::new();
        for _ in 0..8 {
            assert_eq!(pauses.left(now), None);
            pauses.opened(now);
            let pause = pauses.left(now).expect("it has just been opened");
            assert_eq!(pauses.left(now + pause - Duration::from_nanos(1)), Some(Duration::from_nanos(1)));
            seen.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(seen, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        pauses.opened(now);
        pauses.stored();
        assert_eq!(pauses.left(now), None);
    }
}
