//! The locations of a service's records: the writer stores them, and the service reads them when it next has work.

use super::frame::RecordNumber;
use super::recovery::Location;
use super::segments::Moved;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The locations and sizes of a service's records. The writer updates it before it completes any ticket, and again when
/// records are relocated.
#[derive(Debug, Default)]
pub struct LocationFeed {
    locations: Mutex<LocationUpdate>,
    /// Whether there is an update since the last [`LocationFeed::take`].
    has_news: AtomicBool,
}

/// An update from a [`LocationFeed`].
#[derive(Debug, Default)]
pub struct LocationUpdate {
    /// The location of each new record, and the bytes that it takes: its own, and its share of its frame's overhead.
    pub records: Vec<(RecordNumber, Location, u64)>,
    /// The new locations of relocated records, later than `records`, by the first record of each entry. If two entries
    /// contain a record, the one with the higher first record is valid.
    pub moved: BTreeMap<RecordNumber, Moved>,
    /// Bytes that the service's records took in the journal since the host started, with its share of every frame's
    /// overhead.
    pub journal_bytes: u64,
}

impl LocationFeed {
    /// Moves the updates since the last call into `taken`, and clears the records that were there. Returns false and
    /// changes nothing if there is no update. `journal_bytes` is a running total and is not reset.
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

    /// Adds relocated records. An idle service may not read the feed for long, while its records are relocated more
    /// than once: so the new entry replaces what older entries contain of the same records.
    pub(crate) fn move_to(&self, moved: Moved) {
        let mut locations = self.locations();
        let (first, end) = (moved.first, moved.end());
        let earlier: Vec<RecordNumber> = locations.moved.range(first..end).map(|(first, _)| *first).collect();
        for first in earlier {
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
    fn a_feed_that_nobody_looks_at_does_not_grow_with_every_relocation() {
        let location_feed = LocationFeed::default();
        let moved = |first: u64, count: u64, segment: u64| Moved {
            service: Name::new("ant").expect("a name"),
            first: RecordNumber(first),
            segment,
            frame_offset: 0,
            record_offsets: (first..first + count).map(|number| u32::try_from(number).expect("few")).collect(),
        };
        for segment in 0..100 {
            // Use frames of different lengths each time.
            let count = 7 + segment % 5;
            (1..100)
                .step_by(usize::try_from(count).expect("few"))
                .for_each(|first| location_feed.move_to(moved(first, count, segment)));
        }
        let locations = taken(&location_feed);
        assert!(locations.moved.len() < 40, "{}", locations.moved.len());
        for number in 1..100 {
            let mut printed = locations.moved.values().rev().filter_map(|moved| moved.location(RecordNumber(number)));
            let location = printed.next().expect("it was moved");
            assert_eq!((location.segment, u64::from(location.record_offset)), (99, number));
        }
    }
}
