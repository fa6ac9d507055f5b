//! Which transaction answered which id: the index by which a repetition is recognised.

use crate::clock::Timestamp;
use crate::name::Name;
use crate::transaction::Sequence;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How far back repetitions are recognised. Exactly once holds within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// How many ids are kept.
    pub ids: usize,
    /// How long an id is kept.
    pub age: Duration,
    /// How many bytes of answers are kept.
    pub bytes: u64,
}

impl Default for Horizon {
    /// A million ids, a day, or 256 MiB of answers.
    fn default() -> Self {
        Self { ids: 1_000_000, age: Duration::from_secs(24 * 60 * 60), bytes: 256 * 1024 * 1024 }
    }
}

type Key = [u8; 16];

/// Points from (user, id) at the sequence whose record holds the answer: 24 bytes an id, and its place in the order.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    sequences: HashMap<Key, Sequence>,
    in_order: VecDeque<Kept>,
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    sequence: Sequence,
    timestamp: Timestamp,
    key: Key,
    bytes: u64,
}

impl Answers {
    pub(crate) fn find(&self, user: &Name, id: &str) -> Option<Sequence> {
        self.sequences.get(&key(user, id)).copied()
    }

    /// Remembers the answer of `id`, which takes `bytes`. A later answer of the same id, after one that could be
    /// retried, replaces it.
    pub(crate) fn insert(&mut self, user: &Name, id: &str, sequence: Sequence, timestamp: Timestamp, bytes: u64) {
        let key = key(user, id);
        self.sequences.insert(key, sequence);
        self.in_order.push_back(Kept { sequence, timestamp, key, bytes });
        self.bytes += bytes;
    }

    /// Forgets what lies beyond `horizon`. Returns the first sequence whose answer is still needed, if any was
    /// forgotten.
    pub(crate) fn trim(&mut self, horizon: Horizon, now: Timestamp) -> Option<Sequence> {
        let mut trimmed = None;
        while let Some(&Kept { sequence, timestamp, key, bytes }) = self.in_order.front() {
            let is_within =
                self.in_order.len() <= horizon.ids && now <= timestamp.plus(horizon.age) && self.bytes <= horizon.bytes;
            if is_within {
                break;
            }
            self.in_order.pop_front();
            self.bytes -= bytes;
            if self.sequences.get(&key) == Some(&sequence) {
                self.sequences.remove(&key);
            }
            trimmed = Some(sequence.next());
        }
        trimmed
    }
}

/// The first 128 bits of the BLAKE3 hash of both. A name contains no zero byte, so the two cannot run together.
fn key(user: &Name, id: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(user.as_bytes()).update(&[0]).update(id.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
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
            answers.insert(&ada, &sequence.to_string(), Sequence(sequence), Timestamp(sequence), 10);
        }
        assert_eq!(answers.find(&ada, "3"), Some(Sequence(3)));
        assert_eq!(answers.find(&bob, "3"), None);
        let by_count = Horizon { ids: 4, age: Duration::from_secs(1), bytes: 1_000 };
        assert_eq!(answers.trim(by_count, Timestamp(5)), Some(Sequence(2)));
        assert_eq!(answers.find(&ada, "1"), None);
        let by_age = Horizon { age: Duration::from_nanos(1), ..by_count };
        assert_eq!(answers.trim(by_age, Timestamp(5)), Some(Sequence(4)));
        assert_eq!(answers.find(&ada, "4"), Some(Sequence(4)));
        assert_eq!(answers.trim(by_age, Timestamp(5)), None);
        let by_bytes = Horizon { bytes: 19, ..by_count };
        assert_eq!(answers.trim(by_bytes, Timestamp(5)), Some(Sequence(5)));
        assert_eq!((answers.find(&ada, "4"), answers.find(&ada, "5")), (None, Some(Sequence(5))));
    }
}
