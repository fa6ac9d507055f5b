//! The identities of things: a transaction's sequence, a VM, a workload, and an epoch of the host.

use crate::clock::Timestamp;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The number of a transaction in the history of its service: 1 for the first. 0 means before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Returns the next number.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that is drawn anew at each start of the host. With the service's secret, it determines the random numbers of
/// the transactions after that start.
///
/// It is journalled. If two copies of a data directory are both started, their guests see different random numbers,
/// although the copies share the secret and count the same sequences. It is zero for services whose history is in
/// memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub [u8; 16]);

impl Epoch {
    /// Returns the key of the random numbers of a service with this secret.
    #[must_use]
    pub fn key(self, secret: &[u8; 32]) -> [u8; 32] {
        if self == Self::default() { *secret } else { *blake3::keyed_hash(secret, &self.0).as_bytes() }
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Epoch")
    }
}

/// One incarnation of a service, written `bank/3`. Numbers start at 1 and are never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmId {
    /// The service of the VM.
    pub service: Name,
    /// The number of the incarnation.
    pub number: u64,
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.number)
    }
}

impl Serialize for VmId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The BLAKE3 hash that identifies a workload. It is displayed, parsed and serialised as 64 lower-case hexadecimal
/// digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WorkloadHash([u8; 32]);

impl WorkloadHash {
    /// Hashes the bytes of a workload as they were loaded.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the hash with these stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for WorkloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for WorkloadHash {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*blake3::Hash::from_hex(text)?.as_bytes()))
    }
}

impl From<WorkloadHash> for String {
    fn from(hash: WorkloadHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for WorkloadHash {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Returns the time in an id that is a UUID of version 7 ([RFC
/// 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.7)).
#[must_use]
pub fn id_time(id: &str) -> Option<Timestamp> {
    let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    let (seconds, nanoseconds) = uuid.get_timestamp()?.to_unix();
    Some(Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_an_id_is_that_of_a_version_7_uuid() {
        // The example of RFC 9562, appendix A.6: 2022-02-22T19:22:22Z.
        let id = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        assert_eq!(id_time(id), Some(Timestamp(1_645_557_742_000_000_000)));
        for other in ["", "t1", "919108f7-52d1-4320-9bac-f847db4148a8", "017F22E2-79B0-7CC3-98C4-DC0C0C07398"] {
            assert_eq!(id_time(other), None, "{other}");
        }
    }
}
