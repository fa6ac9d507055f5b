//! Where a service's records are: the writer notes it, and the service looks it up when it has something to do.

use super::frame::RecordNumber;
use super::recovery::Location;
use super::segments::Moved;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the records of a service are, and what they take: the writer writes it here before it tells any ticket, and
/// again when records are relocated.
#[derive(Debug, Default)]
pub struct LocationFeed {
    locations: Mutex<LocationUpdate>,
    /// Whether anything came since the last time that it was taken.
    has_news: AtomicBool,
}

/// What a [`LocationFeed`] shows.
#[derive(Debug, Default)]
pub struct LocationUpdate {
    /// Where new records are, and the bytes that each took: its own, and its share of what else its frame has.
    pub records: Vec<(RecordNumber, Location, u64)>,
    /// Where records are that were relocated elsewhere, which was later, by the first of each. If two tell of a record, the
    /// one that begins later is right.
    pub moved: BTreeMap<RecordNumber, Moved>,
    /// Bytes that the service's records took in the journal since the host started: its share of every frame.
    pub journal_bytes: u64,
}

impl LocationFeed {
    /// Puts what came since the last time into `taken`, whose records are forgotten. False, and nothing is changed, if
    /// nothing came. `journal_bytes` stays.
    pub fn take(&self, taken: &mut LocationUpdate) -> bool {
        if !self.has_news.swap(false, Ordering::Acquire) {
            return false;
        }
        taken.records.clear();
        taken.moved.clear();
        let mut locations = self.locations();
        std::mem::swap(&mut locations.records, &mut taken.records);
        std::mem::swap(&mut locations.moved, &mut taken.moved);
        taken.journal_bytes = locations.journal_bytes;
        true
    }

    pub(crate) fn add(&self, number: RecordNumber, location: Location, journal_bytes: u64) {
        let mut locations = self.locations();
        locations.records.push((number, location, journal_bytes));
        locations.journal_bytes += journal_bytes;
        drop(locations);
        self.has_news.store(true, Ordering::Release);
    }

    /// A service that is idle may not look for long, and its records be relocated more than once: of what was told before,
    /// only that stays which is not told again.
    pub(crate) fn move_to(&self, moved: Moved) {
        let mut locations = self.locations();
        let (first, end) = (moved.first, moved.end());
        let told_before: Vec<RecordNumber> = locations.moved.range(first..end).map(|(first, _)| *first).collect();
        for first in told_before {
            if let Some(mut older) = locations.moved.remove(&first)
                && older.end() > end
            {
                let again = usize::try_from(end.0 - older.first.0).unwrap_or(usize::MAX);
                older.record_offsets.drain(..again);
                older.first = end;
                locations.moved.insert(end, older);
            }
        }
        locations.moved.insert(first, moved);
        drop(locations);
        self.has_news.store(true, Ordering::Release);
    }

    fn locations(&self) -> MutexGuard<'_, LocationUpdate> {
        // No code that can panic runs under the lock.
        self.locations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::name::Name;

    fn taken(location_feed: &LocationFeed) -> LocationUpdate {
        let mut locations = LocationUpdate::default();
        location_feed.take(&mut locations);
        locations
    }

    #[test]
    fn a_board_that_nobody_looks_at_does_not_grow_with_every_relocation() {
        let location_feed = LocationFeed::default();
        let moved = |first: u64, count: u64, segment: u64| Moved {
            service: Name::new("ant").expect("a name"),
            first: RecordNumber(first),
            segment,
            frame_offset: 0,
            record_offsets: (first..first + count).map(|number| u32::try_from(number).expect("few")).collect(),
        };
        for segment in 0..100 {
            // Frames of other lengths each time.
            let count = 7 + segment % 5;
            (1..100)
                .step_by(usize::try_from(count).expect("few"))
                .for_each(|first| location_feed.move_to(moved(first, count, segment)));
        }
        let locations = taken(&location_feed);
        assert!(locations.moved.len() < 40, "{}", locations.moved.len());
        for number in 1..100 {
            let mut told = locations.moved.values().rev().filter_map(|moved| moved.location(RecordNumber(number)));
            let location = told.next().expect("it was moved");
            assert_eq!((location.segment, u64::from(location.record_offset)), (99, number));
        }
    }
}
