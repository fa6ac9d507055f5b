//! What the catalog knows of a service, and its bytes.
//!
//! The bytes are a version and what postcard makes of [`ServiceEntry`], whose order of fields is therefore the format:
//! a change of any type in here is a new [`ENTRY_VERSION`].

use crate::answers::DeduplicationWindow;
use lifeboat_api::id::Sequence;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_journal::frame::RecordNumber;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The version of an entry that this host writes, and the newest that it reads.
pub const ENTRY_VERSION: u8 = 1;

/// The longest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// A service that is there, whether it runs or not.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Keys the random numbers that the guest sees. Never printed.
    pub secret: [u8; 32],
    /// What it runs.
    pub workload: WorkloadHash,
    /// How it runs.
    pub settings: ServiceSettings,
    /// The last record of the snapshot that it began with, if it was restored from one: then no replay can begin with
    /// the empty state.
    pub first_snapshot: Option<RecordNumber>,
    /// The transactions whose replay may end otherwise than the journal says.
    pub accepted_divergences: BTreeSet<Sequence>,
}

impl fmt::Debug for ServiceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceEntry")
            .field("workload", &self.workload)
            .field("settings", &self.settings)
            .field("first_snapshot", &self.first_snapshot)
            .field("accepted_divergences", &self.accepted_divergences)
            .finish_non_exhaustive()
    }
}

/// How a service runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// The name of the size of its first VM.
    pub size: String,
    /// All sizes that it may have.
    #[serde(with = "stored_sizes")]
    pub sizes: Vec<Size>,
    /// When a resource fails its SLA.
    pub thresholds: Thresholds,
    /// How far back a repetition is recognised.
    pub deduplication_window: DeduplicationWindow,
    /// How it moves into a fresh VM.
    pub failover: FailoverMode,
}

/// Why bytes are no entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryError {
    FutureVersion(u8),
    Unreadable(String),
}

impl ServiceEntry {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let bytes = vec![ENTRY_VERSION];
        postcard::to_extend(self, bytes).expect("postcard knows all types of an entry, and memory does not run out")
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let unreadable = |reason: &str| EntryError::Unreadable(reason.into());
        match bytes.split_first() {
            Some((&ENTRY_VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((entry, [])) => Ok(entry),
                Ok(_) => Err(unreadable("it goes on after its end")),
                Err(error) => Err(unreadable(&error.to_string())),
            },
            Some((&version, _)) if version > ENTRY_VERSION => Err(EntryError::FutureVersion(version)),
            _ => Err(unreadable("it has no version")),
        }
    }
}

/// Sizes as postcard can read them. As configurations have them, a size may be a number or a text, and only a format
/// that describes itself says which it is.
mod stored_sizes {
    use super::Size;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    #[derive(Serialize, Deserialize)]
    struct StoredSize {
        name: String,
        fuel: u64,
        memory_bytes: u64,
        deadline: Duration,
    }

    pub(super) fn serialize<S: Serializer>(sizes: &[Size], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(sizes.iter().cloned().map(StoredSize::from))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Size>, D::Error> {
        Ok(Vec::<StoredSize>::deserialize(deserializer)?.into_iter().map(Size::from).collect())
    }

    impl From<Size> for StoredSize {
        fn from(Size { name, fuel, memory_bytes, deadline }: Size) -> Self {
            Self { name, fuel, memory_bytes, deadline }
        }
    }

    impl From<StoredSize> for Size {
        fn from(StoredSize { name, fuel, memory_bytes, deadline }: StoredSize) -> Self {
            Self { name, fuel, memory_bytes, deadline }
        }
    }
}
