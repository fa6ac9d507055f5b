//! Ids that missed their deadline, which are refused for a while.
//!
//! A deadline is the host's, so that the same transaction may succeed later, and a client repeats it. One that misses it
//! every time keeps the service busy for its whole length each time: after [`DEADLINE_MISSES_MAX`] misses its id is refused,
//! and twice as long after each further one. Times are those of a clock that never goes back, and are given.

use super::IdKey;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How often an id may miss its deadline before it is refused for a while.
pub const DEADLINE_MISSES_MAX: u32 = 2;

/// How long it is refused then. Each further miss doubles that.
pub const DEADLINE_REFUSAL: Duration = Duration::from_secs(30);

/// The longest that an id is refused.
pub const DEADLINE_REFUSAL_MAX: Duration = Duration::from_secs(3600);

/// Ids of a service of which misses are known: the oldest makes room for the next.
pub const MISSED_IDS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Missed {
    count: u32,
    refused_until: Duration,
}

/// The ids that missed their deadline.
#[derive(Debug, Default)]
pub(super) struct DeadlineMisses {
    ids: HashMap<IdKey, Missed>,
    /// In the order of their first miss; some may be answered by now.
    order: VecDeque<IdKey>,
}

impl DeadlineMisses {
    /// An id missed its deadline.
    pub(super) fn miss(&mut self, key: IdKey, now: Duration) {
        if !self.ids.contains_key(&key) {
            self.order.push_back(key);
            while self.order.len() > MISSED_IDS_MAX {
                if let Some(oldest) = self.order.pop_front() {
                    self.ids.remove(&oldest);
                }
            }
        }
        let missed = self.ids.entry(key).or_insert(Missed { count: 0, refused_until: Duration::ZERO });
        missed.count = missed.count.saturating_add(1);
        if let Some(further) = missed.count.checked_sub(DEADLINE_MISSES_MAX) {
            let factor = 2_u32.saturating_pow(further);
            missed.refused_until = now + DEADLINE_REFUSAL.saturating_mul(factor).min(DEADLINE_REFUSAL_MAX);
        }
    }

    /// Whether no id missed its deadline.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// An id was answered in time.
    pub(super) fn answer(&mut self, key: &IdKey) {
        if !self.is_empty() && self.ids.remove(key).is_some() {
            self.order.retain(|other| other != key);
        }
    }

    /// How often an id that is refused now missed its deadline, and for how long it is refused.
    pub(super) fn refused(&self, key: &IdKey, now: Duration) -> Option<(u32, Duration)> {
        let missed = self.ids.get(key)?;
        let left = missed.refused_until.checked_sub(now).filter(|left| !left.is_zero())?;
        Some((missed.count, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn key(id: usize) -> IdKey {
        IdKey::new(&Name::new("ada").expect("a name"), 0, &id.to_string())
    }

    #[test]
    fn an_id_is_refused_after_two_misses_and_twice_as_long_after_each_more() {
        let mut misses = DeadlineMisses::default();
        let mut now = Duration::from_secs(5);
        misses.miss(key(1), now);
        assert_eq!(misses.refused(&key(1), now), None);
        for (count, factor) in [(2, 1), (3, 2), (4, 4)] {
            misses.miss(key(1), now);
            assert_eq!(misses.refused(&key(1), now), Some((count, DEADLINE_REFUSAL * factor)));
            assert_eq!(misses.refused(&key(2), now), None);
            now += DEADLINE_REFUSAL * factor;
            assert_eq!(misses.refused(&key(1), now), None);
        }
        for _ in 0..100 {
            misses.miss(key(1), now);
        }
        assert_eq!(misses.refused(&key(1), now).map(|(_, left)| left), Some(DEADLINE_REFUSAL_MAX));
        misses.answer(&key(1));
        assert_eq!(misses.refused(&key(1), now), None);
        misses.miss(key(1), now);
        assert_eq!(misses.refused(&key(1), now), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut misses = DeadlineMisses::default();
        for id in 0..2 * MISSED_IDS_MAX {
            misses.miss(key(id), Duration::ZERO);
            misses.miss(key(id), Duration::ZERO);
        }
        assert_eq!((misses.ids.len(), misses.order.len()), (MISSED_IDS_MAX, MISSED_IDS_MAX));
        assert_eq!(misses.refused(&key(0), Duration::ZERO), None);
        assert!(misses.refused(&key(2 * MISSED_IDS_MAX - 1), Duration::ZERO).is_some());
    }
}
