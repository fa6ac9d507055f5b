//! Ids for transactions whose client gave them none.

use crate::clock::Timestamp;
use std::fmt;

/// A UUID of version 7 of this time. A server that has forgotten the answers of its time denies it, and never executes
/// it twice.
#[must_use]
pub fn uuid_v7(time: Timestamp, random: [u8; 10]) -> String {
    uuid::Builder::from_unix_timestamp_millis(time.0 / 1_000_000, &random).into_uuid().to_string()
}

/// Ids for the lines of a file, which are the same each time that it is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct LineIds {
    /// When it was sent first.
    pub time: Timestamp,
    /// What nobody else has.
    pub seed: [u8; 32],
}

impl fmt::Debug for LineIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineIds").field("time", &self.time).finish_non_exhaustive()
    }
}

impl LineIds {
    /// The id of line `number`.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        let hash = blake3::keyed_hash(&self.seed, &number.to_le_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.as_bytes()[..10]);
        uuid_v7(self.time, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_id_and_no_two_share_one() {
        let ids = LineIds { time: Timestamp(1_645_557_742_000_000_000), seed: [7; 32] };
        let id = ids.id(1);
        assert_eq!(ids.id(1), id);
        assert_ne!(ids.id(2), id);
        assert_ne!(LineIds { seed: [8; 32], ..ids }.id(1), id);
        // RFC 9562, appendix A.6, has this time.
        assert!(id.starts_with("017f22e2-79b0-7"), "{id}");
    }
}
