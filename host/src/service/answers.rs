//! Which transaction answered which id: the index by which a repetition is recognised.

use crate::clock::Timestamp;
use crate::name::Name;
use crate::transaction::Sequence;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// How far ahead of the host's clock the time in an id may be. One that is further ahead is an id like any other.
pub const ID_CLOCK_SKEW_MAX: Duration = Duration::from_secs(60 * 60);

/// How far back repetitions are recognised. Exactly once holds within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    /// How many ids are kept.
    pub ids: usize,
    /// How long an id is kept.
    pub age: Duration,
    /// How many bytes are kept for their sake: of answers in memory, of the service's records in a durable journal.
    pub bytes: u64,
}

impl Default for Horizon {
    /// A million ids, a day, or 256 MiB of answers in memory.
    fn default() -> Self {
        Self { ids: 1_000_000, age: Duration::from_secs(24 * 60 * 60), bytes: 256 * 1024 * 1024 }
    }
}

impl Horizon {
    /// A million ids, a day, or 1 GiB of the journal: what durable services keep unless configured otherwise.
    #[must_use]
    pub fn durable() -> Self {
        Self { bytes: 1024 * 1024 * 1024, ..Self::default() }
    }
}

/// The first 128 bits of the BLAKE3 hash of a user's name and an id of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdKey([u8; 16]);

impl IdKey {
    /// The key of the id `id` of `user`.
    #[must_use]
    pub fn new(user: &Name, id: &str) -> Self {
        // A name contains no zero byte, so the two cannot run together.
        let mut hasher = blake3::Hasher::new();
        hasher.update(user.as_bytes()).update(&[0]).update(id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(key)
    }
}

/// The time in an id that is a UUID of version 7 ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.7)), if
/// it can be: no later than [`ID_CLOCK_SKEW_MAX`] after `now`.
#[must_use]
pub fn id_time(id: &str, now: Timestamp) -> Option<Timestamp> {
    let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    let (seconds, nanoseconds) = uuid.get_timestamp()?.to_unix();
    let time = Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds.into())?);
    (time <= now.plus(ID_CLOCK_SKEW_MAX)).then_some(time)
}

/// Points from (user, id) at the sequence whose record holds the answer: the key twice, and where and when.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    sequences: HashMap<IdKey, Sequence>,
    in_order: VecDeque<Kept>,
    forgotten_id_time: Option<Timestamp>,
}

/// An id whose answer is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) key: IdKey,
    pub(crate) sequence: Sequence,
    /// When it was answered.
    pub(crate) timestamp: Timestamp,
    /// The time that it carries itself.
    pub(crate) id_time: Option<Timestamp>,
}

impl Answers {
    /// The index of a service that has forgotten ids up to `forgotten_id_time`.
    pub(crate) fn new(forgotten_id_time: Option<Timestamp>) -> Self {
        Self { forgotten_id_time, ..Self::default() }
    }

    pub(crate) fn find(&self, key: &IdKey) -> Option<Sequence> {
        self.sequences.get(key).copied()
    }

    /// The newest time in an id that was forgotten: one that is not found and no newer may be one of those.
    pub(crate) fn forgotten_id_time(&self) -> Option<Timestamp> {
        self.forgotten_id_time
    }

    /// Remembers an answer. A later one of the same id, after one that could be retried, replaces it.
    pub(crate) fn insert(&mut self, kept: Kept) {
        self.sequences.insert(kept.key, kept.sequence);
        self.in_order.push_back(kept);
    }

    /// Forgets the oldest answer if it lies beyond `horizon` when `bytes` are kept for the sake of all. Returns the
    /// first sequence whose answer may still be needed, if one was forgotten: then ask again.
    pub(crate) fn trim(&mut self, horizon: Horizon, now: Timestamp, bytes: u64) -> Option<Sequence> {
        let Kept { timestamp, .. } = *self.in_order.front()?;
        let is_within =
            self.in_order.len() <= horizon.ids && now <= timestamp.plus(horizon.age) && bytes <= horizon.bytes;
        if is_within { None } else { self.forget_oldest() }
    }

    fn forget_oldest(&mut self) -> Option<Sequence> {
        let Kept { key, sequence, id_time, .. } = self.in_order.pop_front()?;
        if self.sequences.get(&key) == Some(&sequence) {
            self.sequences.remove(&key);
        }
        self.forgotten_id_time = self.forgotten_id_time.max(id_time);
        Some(sequence.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_forgotten_by_count_age_and_bytes_oldest_first() {
        let ada = Name::new("ada").expect("a name");
        let bob = Name::new("bob").expect("a name");
        let mut answers = Answers::default();
        for sequence in 1..=5 {
            let key = IdKey::new(&ada, &sequence.to_string());
            let (sequence, timestamp) = (Sequence(sequence), Timestamp(sequence));
            answers.insert(Kept { key, sequence, timestamp, id_time: Some(Timestamp(10 - timestamp.0)) });
        }
        assert_eq!(answers.find(&IdKey::new(&ada, "3")), Some(Sequence(3)));
        assert_eq!((answers.find(&IdKey::new(&bob, "3")), answers.forgotten_id_time()), (None, None));
        let by_count = Horizon { ids: 4, age: Duration::from_secs(1), bytes: 1_000 };
        assert_eq!(answers.trim(by_count, Timestamp(5), 0), Some(Sequence(2)));
        assert_eq!(answers.trim(by_count, Timestamp(5), 0), None);
        assert_eq!(answers.find(&IdKey::new(&ada, "1")), None);
        let by_age = Horizon { age: Duration::from_nanos(1), ..by_count };
        assert_eq!(answers.trim(by_age, Timestamp(5), 0), Some(Sequence(3)));
        assert_eq!(answers.trim(by_age, Timestamp(5), 0), Some(Sequence(4)));
        assert_eq!(answers.find(&IdKey::new(&ada, "4")), Some(Sequence(4)));
        assert_eq!(answers.trim(by_age, Timestamp(5), 0), None);
        let by_bytes = Horizon { bytes: 19, ..by_count };
        assert_eq!(answers.trim(by_bytes, Timestamp(5), 20), Some(Sequence(5)));
        assert_eq!(answers.trim(by_bytes, Timestamp(5), 10), None);
        assert_eq!(
            (answers.find(&IdKey::new(&ada, "4")), answers.find(&IdKey::new(&ada, "5"))),
            (None, Some(Sequence(5)))
        );
        assert_eq!(answers.forgotten_id_time(), Some(Timestamp(9)));
    }

    #[test]
    fn the_time_in_an_id_is_that_of_a_version_7_uuid_and_not_far_ahead() {
        // The example of RFC 9562, appendix A.6: 2022-02-22T19:22:22Z.
        let id = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        let time = Timestamp(1_645_557_742_000_000_000);
        assert_eq!(id_time(id, time), Some(time));
        let skew = u64::try_from(ID_CLOCK_SKEW_MAX.as_nanos()).expect("an hour");
        assert_eq!(id_time(id, Timestamp(time.0 - skew)), Some(time));
        assert_eq!(id_time(id, Timestamp(time.0 - skew - 1)), None);
        for other in ["", "t1", "919108f7-52d1-4320-9bac-f847db4148a8", "017F22E2-79B0-7CC3-98C4-DC0C0C07398"] {
            assert_eq!(id_time(other, time), None, "{other}");
        }
    }
}
