//! What a replay repeats since the last proven snapshot, in memory.

use super::TailEntry;
use lifeboat_journal::frame::RecordNumber;
use std::collections::VecDeque;

/// An entry of the tail since the last proven snapshot.
#[derive(Debug, Clone)]
struct InTail {
    number: RecordNumber,
    entry: TailEntry,
    /// The bytes of this entry and all earlier ones, since the journal was opened.
    bytes_through: u64,
}

/// The number of entries of a tail that are stored and released together.
pub(crate) const TAIL_PART: usize = 1024;

/// The released part of a tail.
#[derive(Debug, Default)]
pub(crate) struct ForgottenTail(Vec<Vec<InTail>>);

impl ForgottenTail {
    /// Returns whether there are no entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The entries that a replay repeats since the last proven snapshot, in parts of which none is empty. Parts make the
/// release cheap: a client waits while all but the last entries of a tail of a million transactions are released.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    parts: VecDeque<Vec<InTail>>,
    bytes_through: u64,
    bytes_forgotten: u64,
}

impl Tail {
    /// Returns the bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_through - self.bytes_forgotten
    }

    /// Appends an entry. Its number must be above all others.
    pub(crate) fn push(&mut self, number: RecordNumber, entry: TailEntry) {
        self.bytes_through += entry.bytes();
        let last = InTail { number, entry, bytes_through: self.bytes_through };
        match self.parts.back_mut().filter(|part| part.len() < TAIL_PART) {
            Some(part) => part.push(last),
            None => {
                let mut part = Vec::with_capacity(TAIL_PART);
                part.push(last);
                self.parts.push_back(part);
            }
        }
    }

    /// Returns how many parts, from the first on, hold nothing after `number`.
    fn parts_through(&self, number: RecordNumber) -> usize {
        self.parts.partition_point(|part| part.last().is_none_or(|last| last.number <= number))
    }

    /// Returns the entries after `number`, in order.
    pub(crate) fn after(&self, number: RecordNumber) -> Vec<TailEntry> {
        let kept = self.parts.range(self.parts_through(number)..).flatten();
        kept.skip_while(|kept| kept.number <= number).map(|kept| kept.entry.clone()).collect()
    }

    /// Releases the entries up to `through`. This takes as long as moving one part, and a pointer for each of the
    /// others.
    pub(crate) fn forget(&mut self, through: RecordNumber) -> ForgottenTail {
        let mut forgotten: Vec<_> = self.parts.drain(..self.parts_through(through)).collect();
        if let Some(part) = self.parts.front_mut() {
            let count = part.partition_point(|kept| kept.number <= through);
            if count > 0 {
                forgotten.push(part.drain(..count).collect());
            }
        }
        if let Some(last) = forgotten.last().and_then(|part| part.last()) {
            self.bytes_forgotten = last.bytes_through;
        }
        ForgottenTail(forgotten)
    }
}

impl FromIterator<(RecordNumber, TailEntry)> for Tail {
    fn from_iter<I: IntoIterator<Item = (RecordNumber, TailEntry)>>(entries: I) -> Self {
        let mut tail = Self::default();
        entries.into_iter().for_each(|(number, entry)| tail.push(number, entry));
        tail
    }
}
