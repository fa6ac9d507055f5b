//! Ids for transactions to which the client assigned none.

use lifeboat_api::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The maximum number of lines of a file with ids of one time. It is small enough that no id is old when it is sent,
/// and large enough that a time is seldom written to disk.
pub const ID_BLOCK_LINES_MAX: u64 = 4_096;

/// The longest period in which lines get ids of one time, if they arrive slowly.
pub const ID_BLOCK_AGE_MAX: Duration = Duration::from_secs(60);

/// Returns a UUID of version 7 with this time. A server that no longer has the answers of this time denies the id, and
/// never executes it twice.
#[must_use]
pub fn uuid_v7(time: Timestamp, random: [u8; 10]) -> String {
    uuid::Builder::from_unix_timestamp_millis(time.0 / 1_000_000, &random).into_uuid().to_string()
}

/// The start of a block of lines with ids of one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdBlock {
    /// The number of the first line.
    pub line: u64,
    /// The time at which the block was first sent.
    pub time: Timestamp,
}

/// Ids for the lines of a file. They are the same each time that the file is sent.
///
/// An id derives from a seed, the line's number, and the time at which its block of lines was first sent. With the time
/// of the first line, the ids at the end of a long file would be too old for a server. Therefore a caller stores each
/// [`IdBlock`] before it sends a line of it, and passes all stored blocks to [`LineIds::new`] to send the file again.
#[derive(Clone, PartialEq, Eq)]
pub struct LineIds {
    seed: [u8; 32],
    blocks: Vec<IdBlock>,
    /// Lines before this one may have been sent with ids of the stored blocks.
    settled_before: u64,
}

impl fmt::Debug for LineIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineIds").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl LineIds {
    /// Creates ids from the `seed` and from the blocks that were stored before, in their order. The ids are unique if
    /// the seed is.
    ///
    /// Any line of the last block may have been sent, so all of its lines retain its time. A server that gets them much
    /// later denies them as too old, including up to [`ID_BLOCK_LINES_MAX`] lines that were never sent.
    #[must_use]
    pub fn new(seed: [u8; 32], blocks: Vec<IdBlock>) -> Self {
        let settled_before = blocks.last().map_or(0, |last| last.line.saturating_add(ID_BLOCK_LINES_MAX));
        Self { seed, blocks, settled_before }
    }

    /// Returns the block that line `number` begins if it is sent `now`, or `None` if the line belongs to a block that
    /// has begun. The caller must ask in the order of lines.
    #[must_use]
    pub fn next_block(&self, number: u64, now: Timestamp) -> Option<IdBlock> {
        let is_known = number < self.settled_before
            || self.blocks.last().is_some_and(|last| {
                let is_of_now = now <= last.time.plus(ID_BLOCK_AGE_MAX) && last.time <= now.plus(ID_BLOCK_AGE_MAX);
                // A block from a clock that was ahead is not continued either.
                number.saturating_sub(last.line) < ID_BLOCK_LINES_MAX && is_of_now
            });
        (!is_known).then_some(IdBlock { line: number, time: now })
    }

    /// Returns whether line `number` may have been sent before the stored blocks were passed to [`LineIds::new`].
    #[must_use]
    pub fn may_be_sent(&self, number: u64) -> bool {
        number < self.settled_before
    }

    /// Begins a block. The caller must have stored it durably.
    pub fn begin(&mut self, block: IdBlock) {
        self.blocks.push(block);
    }

    /// Returns the id of line `number`, whose block must have begun.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        let hash = blake3::keyed_hash(&self.seed, &number.to_le_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.as_bytes()[..10]);
        let block = self.blocks.partition_point(|block| block.line <= number).saturating_sub(1);
        uuid_v7(self.blocks.get(block).map(|block| block.time).unwrap_or_default(), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::id::id_time;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const START: Timestamp = Timestamp(1_645_557_742_000_000_000);

    fn id_of(seed: u8, line: u64) -> String {
        LineIds::new([seed; 32], vec![IdBlock { line: 1, time: START }]).id(line)
    }

    #[test]
    fn a_line_has_the_same_id_in_every_attempt() {
        assert_eq!(id_of(7, 1), id_of(7, 1));
    }

    #[test]
    fn no_two_lines_share_an_id() {
        assert_ne!(id_of(7, 2), id_of(7, 1));
        assert_ne!(id_of(8, 1), id_of(7, 1));
    }

    #[test]
    fn an_id_begins_with_its_time() {
        // This time is that of RFC 9562, appendix A.6.
        assert!(id_of(7, 1).starts_with("017f22e2-79b0-7"), "{}", id_of(7, 1));
    }

    #[test]
    fn ids_are_of_the_time_at_which_they_are_sent_however_long_the_file_is() {
        let mut ids = LineIds::new([7; 32], Vec::new());
        let (mut now, mut blocks) = (START, 0);
        for number in 1..=1_000_000 {
            now = now.plus(Duration::from_millis(100));
            if let Some(block) = ids.next_block(number, now) {
                ids.begin(block);
                blocks += 1;
            }
            let time = id_time(&ids.id(number)).expect("a UUID of version 7");
            assert!(time.plus(ID_BLOCK_AGE_MAX) >= Timestamp(now.0 - 1_000_000), "line {number} is of {time} at {now}");
        }
        assert!(blocks < 2_000, "{blocks} times are written down");
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Send(u64),
        Wait(Duration),
        Crash,
        /// The crash happens after the block was stored and before a line of it was sent.
        CrashAfterBlock,
        /// The crash happens before the block was stored.
        CrashBeforeBlock,
    }

    proptest! {
        #[test]
        fn a_line_that_may_have_been_sent_has_one_id_over_all_crashes(steps in prop::collection::vec(
            prop_oneof![
                4 => (1..3 * ID_BLOCK_LINES_MAX).prop_map(Step::Send),
                2 => (0u64..200).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
                1 => Just(Step::Crash),
                1 => Just(Step::CrashAfterBlock),
                1 => Just(Step::CrashBeforeBlock),
            ],
            1..25,
        )) {
            let mut written: Vec<IdBlock> = Vec::new();
            let mut sent: BTreeMap<u64, String> = BTreeMap::new();
            let mut ids = LineIds::new([7; 32], written.clone());
            let (mut now, mut line) = (START, 1);
            for step in steps {
                match step {
                    Step::Send(lines) => for _ in 0..lines {
                        if let Some(block) = ids.next_block(line, now) {
                            written.push(block);
                            ids.begin(block);
                        }
                        let id = ids.id(line);
                        prop_assert_eq!(sent.entry(line).or_insert_with(|| id.clone()), &id, "line {}", line);
                        line += 1;
                    },
                    Step::Wait(time) => now = now.plus(time),
                    Step::Crash | Step::CrashAfterBlock | Step::CrashBeforeBlock => {
                        if matches!(step, Step::CrashAfterBlock) {
                            written.extend(ids.next_block(line, now));
                        }
                        ids = LineIds::new([7; 32], written.clone());
                        line = 1;
                    }
                }
            }
        }
    }
}
