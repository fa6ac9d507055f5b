//! When the catalog's file is opened anew after a write to it failed: at once the first time, and then after a pause that is
//! twice as long each time, until a change is stored. Each opening reads and checks the whole file, and whoever logs in while
//! the disk takes no writes asks for one. What makes room is ordered by admins and operators, and does not wait for the end of
//! a pause: others may begin the next one as soon as it ends, each time.

use lifeboat_api::clock::Clock;
use lifeboat_journal::storage::Storage;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long the file is not opened anew once it was, if no change was stored since.
pub const REOPEN_RETRY_FIRST: Duration = Duration::from_millis(50);

/// The longest pause between two openings.
pub const REOPEN_RETRY_MAX: Duration = Duration::from_secs(2);

/// What the file is opened anew with.
pub(super) struct Reopening {
    /// Where it is.
    pub(super) storage: Arc<dyn Storage>,
    /// By whose monotonic time the pauses are.
    pub(super) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Reopening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reopening").field("storage", &self.storage).finish_non_exhaustive()
    }
}

/// When it may be opened anew again.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// Of the last opening: until when no other follows, and how long that is after it.
    waiting: Option<(Duration, Duration)>,
}

impl Pauses {
    /// What is left at `now` of the pause; none if there is none.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        let (until, _) = self.waiting?;
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Notes that an opening ended at `now`, with success or not.
    pub(super) fn opened(&mut self, now: Duration) {
        let pause = self.waiting.map_or(REOPEN_RETRY_FIRST, |(_, pause)| (2 * pause).min(REOPEN_RETRY_MAX));
        self.waiting = Some((now.saturating_add(pause), pause));
    }

    /// Notes that a change was stored.
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
