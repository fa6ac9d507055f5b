//! Services in the catalog, and their encoding.
//!
//! The encoding is a version and a list of parts (`parts.rs`). The layout of a part never changes: if a type in this
//! module changes, its part gets another kind. Entries of version 1, which had fixed fields, are still read.

use crate::answers::DeduplicationWindow;
use crate::command_line::ProgramSettings;
use crate::network::{AllowList, Allowed, NetworkSettings, Retry};
use crate::parts::{PartKind, Parts, PartsError, exactly};
use lifeboat_api::id::Sequence;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::meter::{NetworkAmount, Percent};
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds, deserialize_threshold, threshold};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_net::TargetError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// The version of an entry that this host writes, and the newest that it reads.
pub const ENTRY_VERSION: u8 = 2;

/// The version of settings that this host writes, and the newest that it reads.
pub const SETTINGS_VERSION: u8 = 2;

/// The longest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// The kinds of an entry's parts.
mod entry_part {
    pub(super) const SECRET: u16 = 1;
    pub(super) const WORKLOAD: u16 = 2;
    /// A nested list of parts.
    pub(super) const SETTINGS: u16 = 3;
    /// Absent if the service was not restored from a snapshot.
    pub(super) const FIRST_SNAPSHOT: u16 = 4;
    /// Absent if there are no accepted divergences.
    pub(super) const ACCEPTED_DIVERGENCES: u16 = 5;
    pub(super) const KNOWN: [u16; 5] = [SECRET, WORKLOAD, SETTINGS, FIRST_SNAPSHOT, ACCEPTED_DIVERGENCES];
}

/// The kinds of the parts of settings.
mod settings_part {
    pub(super) const SIZE: u16 = 1;
    pub(super) const SIZES: u16 = 2;
    pub(super) const THRESHOLDS: u16 = 3;
    pub(super) const DEDUPLICATION_WINDOW: u16 = 4;
    pub(super) const FAILOVER: u16 = 5;
    /// The disk of each size, in bytes, and the threshold of the disk. Absent from earlier releases.
    pub(super) const DISK: u16 = 6;
    /// The allowance of network of each size (calls and bytes), and the threshold of the network. Absent from earlier
    /// releases.
    pub(super) const NETWORK: u16 = 7;
    /// The addresses that the service may call, and what it does about calls in doubt. Absent if it is the default.
    pub(super) const CALLS: u16 = 8;
    /// The arguments and the variables of a program. Absent if there are none.
    pub(super) const PROGRAM: u16 = 9;
    pub(super) const KNOWN: [u16; 9] =
        [SIZE, SIZES, THRESHOLDS, DEDUPLICATION_WINDOW, FAILOVER, DISK, NETWORK, CALLS, PROGRAM];
}

/// A service that exists, whether it runs or not.
#[derive(Clone, PartialEq)]
pub struct ServiceEntry {
    /// The key from which the guest's random numbers are derived. Never printed.
    pub secret: [u8; 32],
    /// The workload of the service.
    pub workload: WorkloadHash,
    /// The settings of the service.
    pub settings: ServiceSettings,
    /// The last record of the first snapshot, if the service was restored from one. No replay of such a service can
    /// begin with the empty state.
    pub first_snapshot: Option<RecordNumber>,
    /// The transactions whose replay may end differently from the journal.
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

/// The settings of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    /// The name of the size of the first VM.
    pub size: String,
    /// All sizes that the service may have.
    pub sizes: Vec<Size>,
    /// The thresholds at which a resource fails its SLA.
    pub thresholds: Thresholds,
    /// How far back repeated ids are recognised.
    pub deduplication_window: DeduplicationWindow,
    /// How the service moves into a fresh VM.
    pub failover: FailoverMode,
    /// What the service may call. A portable snapshot does not contain it.
    pub network: NetworkSettings,
    /// What each run of a program gets. A workload of the world sees nothing of it.
    pub program: ProgramSettings,
}

/// The reason why bytes cannot be decoded as an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EntryError {
    /// A newer host wrote the entry, in a newer version of the format.
    FutureVersion(u8),
    /// A newer host wrote the entry, with a part that this host does not know.
    UnknownPart(PartKind),
    /// No host writes such an entry.
    Unreadable(String),
}

impl From<PartsError> for EntryError {
    fn from(error: PartsError) -> Self {
        match error {
            PartsError::Unknown(kind) => Self::UnknownPart(kind),
            PartsError::Malformed(reason) => Self::Unreadable(reason),
        }
    }
}

/// Splits `bytes` into their version, which is at most `newest`, and the rest.
pub(super) fn versioned(bytes: &[u8], newest: u8) -> Result<(u8, &[u8]), EntryError> {
    match bytes.split_first() {
        Some((&version, _)) if version > newest => Err(EntryError::FutureVersion(version)),
        Some((&version, rest)) if version > 0 => Ok((version, rest)),
        _ => Err(EntryError::Unreadable("it has no version".into())),
    }
}

impl ServiceEntry {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut parts = Parts::default()
            .with(entry_part::SECRET, &self.secret)
            .with(entry_part::WORKLOAD, &self.workload)
            .with(entry_part::SETTINGS, &self.settings.to_bytes());
        if let Some(record) = &self.first_snapshot {
            parts = parts.with(entry_part::FIRST_SNAPSHOT, record);
        }
        if !self.accepted_divergences.is_empty() {
            parts = parts.with(entry_part::ACCEPTED_DIVERGENCES, &self.accepted_divergences);
        }
        parts.append_to(vec![ENTRY_VERSION])
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let (version, rest) = versioned(bytes, ENTRY_VERSION)?;
        if version == 1 {
            return Ok(exactly::<version_1::ServiceEntry>(rest)?.into());
        }
        let parts = Parts::read(rest, &entry_part::KNOWN)?;
        let settings: Vec<u8> = parts.get(entry_part::SETTINGS)?;
        Ok(Self {
            secret: parts.get(entry_part::SECRET)?,
            workload: parts.get(entry_part::WORKLOAD)?,
            settings: ServiceSettings::from_bytes(&settings)?,
            first_snapshot: parts.find(entry_part::FIRST_SNAPSHOT)?,
            accepted_divergences: parts.find(entry_part::ACCEPTED_DIVERGENCES)?.unwrap_or_default(),
        })
    }
}

impl ServiceSettings {
    /// Returns the size of the first VM. If the settings do not have it, that is the first of their sizes.
    #[must_use]
    pub fn first_size(&self) -> Option<&Size> {
        self.sizes.iter().find(|size| size.name == self.size).or(self.sizes.first())
    }

    /// Encodes the settings as an entry and a portable snapshot store them.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { size, sizes, thresholds, deduplication_window, failover, network, program } = self;
        let disks: Vec<u64> = sizes.iter().map(|size| size.disk_bytes).collect();
        let networks: Vec<(u64, u64)> = sizes.iter().map(|size| (size.network_calls, size.network_bytes)).collect();
        let sizes: Vec<_> = sizes.iter().cloned().map(StoredSize::from).collect();
        let mut parts = Parts::default()
            .with(settings_part::SIZE, size)
            .with(settings_part::SIZES, &sizes)
            .with(settings_part::THRESHOLDS, &StoredThresholds::from(*thresholds))
            .with(settings_part::DEDUPLICATION_WINDOW, deduplication_window)
            .with(settings_part::FAILOVER, failover)
            .with(settings_part::DISK, &(disks, thresholds.disk))
            .with(settings_part::NETWORK, &(networks, thresholds.network));
        if *network != NetworkSettings::default() {
            parts = parts.with(settings_part::CALLS, &StoredCalls::from(network.clone()));
        }
        if *program != ProgramSettings::default() {
            parts = parts.with(settings_part::PROGRAM, program);
        }
        parts.append_to(vec![SETTINGS_VERSION])
    }

    /// Decodes settings that [`Self::to_bytes`] or an earlier release encoded.
    ///
    /// # Errors
    /// [`EntryError`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let (version, rest) = versioned(bytes, SETTINGS_VERSION)?;
        if version == 1 {
            return Ok(exactly::<version_1::ServiceSettings>(rest)?.into());
        }
        let parts = Parts::read(rest, &settings_part::KNOWN)?;
        let sizes: Vec<StoredSize> = parts.get(settings_part::SIZES)?;
        let mut sizes: Vec<Size> = sizes.into_iter().map(Size::from).collect();
        let mut thresholds = Thresholds::from(parts.get::<StoredThresholds>(settings_part::THRESHOLDS)?);
        if let Some((disks, threshold)) = parts.find::<(Vec<u64>, Percent)>(settings_part::DISK)? {
            if disks.len() != sizes.len() {
                let reason = format!("it has {} disks for {} sizes", disks.len(), sizes.len());
                return Err(EntryError::Unreadable(reason));
            }
            sizes.iter_mut().zip(disks).for_each(|(size, disk_bytes)| size.disk_bytes = disk_bytes);
            thresholds.disk = check_threshold(threshold)?;
        }
        if let Some((networks, threshold)) = parts.find::<(Vec<(u64, u64)>, Percent)>(settings_part::NETWORK)? {
            if networks.len() != sizes.len() {
                let reason = format!("it has {} allowances of network for {} sizes", networks.len(), sizes.len());
                return Err(EntryError::Unreadable(reason));
            }
            for (size, (calls, bytes)) in sizes.iter_mut().zip(networks) {
                (size.network_calls, size.network_bytes) = (calls, bytes);
            }
            thresholds.network = check_threshold(threshold)?;
        }
        let network = parts.find::<StoredCalls>(settings_part::CALLS)?.map(NetworkSettings::try_from).transpose()?;
        Ok(Self {
            size: parts.get(settings_part::SIZE)?,
            sizes,
            thresholds,
            deduplication_window: parts.get(settings_part::DEDUPLICATION_WINDOW)?,
            failover: parts.get(settings_part::FAILOVER)?,
            network: network.unwrap_or_default(),
            program: parts.find(settings_part::PROGRAM)?.unwrap_or_default(),
        })
    }
}

/// A size in the form that postcard can read. In a configuration, a size may be a number or a text, and only a
/// self-describing format shows which it is.
#[derive(Serialize, Deserialize)]
struct StoredSize {
    name: String,
    fuel: u64,
    memory_bytes: u64,
    deadline: Duration,
}

impl From<Size> for StoredSize {
    fn from(Size { name, fuel, memory_bytes, deadline, .. }: Size) -> Self {
        Self { name, fuel, memory_bytes, deadline }
    }
}

impl From<StoredSize> for Size {
    /// Returns the size with the disk and the network of a size that was stored without them.
    fn from(StoredSize { name, fuel, memory_bytes, deadline }: StoredSize) -> Self {
        let disk_bytes = Self::disk_bytes_for(memory_bytes);
        let NetworkAmount { calls: network_calls, bytes: network_bytes } = Self::network_for(memory_bytes);
        Self { name, fuel, memory_bytes, disk_bytes, network_calls, network_bytes, deadline }
    }
}

/// Thresholds in their first layout. Those of the disk and of the network are in parts of their own.
#[derive(Serialize, Deserialize)]
struct StoredThresholds {
    #[serde(deserialize_with = "deserialize_threshold")]
    cpu: Percent,
    #[serde(deserialize_with = "deserialize_threshold")]
    memory: Percent,
}

impl From<Thresholds> for StoredThresholds {
    fn from(Thresholds { cpu, memory, .. }: Thresholds) -> Self {
        Self { cpu, memory }
    }
}

impl From<StoredThresholds> for Thresholds {
    fn from(StoredThresholds { cpu, memory }: StoredThresholds) -> Self {
        Self { cpu, memory, ..Self::default() }
    }
}

/// The network of a service: the addresses that it may call, each with whether it may be private, and the retry.
#[derive(Serialize, Deserialize)]
struct StoredCalls(Vec<(String, bool)>, Retry);

impl From<NetworkSettings> for StoredCalls {
    fn from(NetworkSettings { allow, retry }: NetworkSettings) -> Self {
        let entries = Vec::from(allow).into_iter();
        Self(entries.map(|Allowed { target, private }| (target.to_string(), private)).collect(), retry)
    }
}

impl TryFrom<StoredCalls> for NetworkSettings {
    type Error = EntryError;

    fn try_from(StoredCalls(entries, retry): StoredCalls) -> Result<Self, EntryError> {
        let allowed = |(text, private): (String, bool)| {
            let target = text.parse().map_err(|error: TargetError| EntryError::Unreadable(error.to_string()))?;
            Ok(Allowed { target, private })
        };
        let entries = entries.into_iter().map(allowed).collect::<Result<_, EntryError>>()?;
        let allow = AllowList::new(entries).map_err(|error| EntryError::Unreadable(error.to_string()))?;
        Ok(Self { allow, retry })
    }
}

fn check_threshold(percent: Percent) -> Result<Percent, EntryError> {
    threshold(percent.into()).map_err(EntryError::Unreadable)
}

/// Version 1: the postcard encoding of these types. The order of their fields is therefore the format, and never
/// changes.
pub(super) mod version_1 {
    use super::{
        BTreeSet, DeduplicationWindow, Deserialize, FailoverMode, NetworkSettings, ProgramSettings, RecordNumber,
        Sequence, Size, StoredSize, StoredThresholds, WorkloadHash,
    };
    #[cfg(test)]
    use serde::Serialize;

    #[derive(Deserialize)]
    #[cfg_attr(test, derive(Serialize))]
    pub(in crate::catalog) struct ServiceEntry {
        secret: [u8; 32],
        workload: WorkloadHash,
        settings: ServiceSettings,
        first_snapshot: Option<RecordNumber>,
        accepted_divergences: BTreeSet<Sequence>,
    }

    #[derive(Deserialize)]
    #[cfg_attr(test, derive(Serialize))]
    pub(in crate::catalog) struct ServiceSettings {
        size: String,
        sizes: Vec<StoredSize>,
        thresholds: StoredThresholds,
        deduplication_window: DeduplicationWindow,
        failover: FailoverMode,
    }

    impl From<ServiceEntry> for super::ServiceEntry {
        fn from(entry: ServiceEntry) -> Self {
            let ServiceEntry { secret, workload, settings, first_snapshot, accepted_divergences } = entry;
            Self { secret, workload, settings: settings.into(), first_snapshot, accepted_divergences }
        }
    }

    impl From<ServiceSettings> for super::ServiceSettings {
        fn from(settings: ServiceSettings) -> Self {
            let ServiceSettings { size, sizes, thresholds, deduplication_window, failover } = settings;
            let sizes = sizes.into_iter().map(Size::from).collect();
            let (thresholds, network) = (thresholds.into(), NetworkSettings::default());
            let program = ProgramSettings::default();
            Self { size, sizes, thresholds, deduplication_window, failover, network, program }
        }
    }

    #[cfg(test)]
    impl super::ServiceEntry {
        /// Encodes the entry as an earlier release would have stored it.
        pub(in crate::catalog) fn to_bytes_of_version_1(&self) -> Vec<u8> {
            let Self { secret, workload, settings, first_snapshot, accepted_divergences } = self.clone();
            let settings = of_version_1(settings);
            let entry = ServiceEntry { secret, workload, settings, first_snapshot, accepted_divergences };
            postcard::to_extend(&entry, vec![1]).expect("encoded")
        }
    }

    #[cfg(test)]
    fn of_version_1(settings: super::ServiceSettings) -> ServiceSettings {
        let super::ServiceSettings { size, sizes, thresholds, deduplication_window, failover, .. } = settings;
        let sizes = sizes.into_iter().map(StoredSize::from).collect();
        ServiceSettings { size, sizes, thresholds: thresholds.into(), deduplication_window, failover }
    }

    #[cfg(test)]
    impl super::ServiceSettings {
        /// Encodes the settings as an earlier release would have put them into a portable snapshot.
        pub(crate) fn to_bytes_of_version_1(&self) -> Vec<u8> {
            postcard::to_extend(&of_version_1(self.clone()), vec![1]).expect("encoded")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ServiceSettings {
        let percent = Percent::whole;
        let mut sizes = Size::built_in();
        (sizes[0].disk_bytes, sizes[0].network_calls, sizes[1].network_bytes) = (65_536, 1, 65_536);
        ServiceSettings {
            size: "small".into(),
            sizes,
            thresholds: Thresholds { cpu: percent(50), memory: percent(60), disk: percent(70), network: percent(80) },
            deduplication_window: DeduplicationWindow::durable(),
            failover: FailoverMode::Shadow,
            network: NetworkSettings::default(),
            program: ProgramSettings::default(),
        }
    }

    /// Changes the parts of settings, and decodes them.
    fn changed(settings: &ServiceSettings, change: impl FnOnce(Parts) -> Parts) -> Result<ServiceSettings, EntryError> {
        let bytes = settings.to_bytes();
        let parts = change(Parts::read(&bytes[1..], &settings_part::KNOWN).expect("parts"));
        ServiceSettings::from_bytes(&parts.append_to(vec![bytes[0]]))
    }

    #[test]
    fn settings_of_releases_without_a_network_have_the_allowances_of_the_built_in_sizes() {
        let settings = settings();
        assert_eq!(changed(&settings, |parts| parts), Ok(settings.clone()));
        let earlier = changed(&settings, |parts| parts.without(settings_part::NETWORK)).expect("it is read");
        let expected = Size::built_in().iter().map(Size::network).collect::<Vec<_>>();
        assert_eq!(earlier.sizes.iter().map(Size::network).collect::<Vec<_>>(), expected);
        assert_eq!(earlier.sizes[0].disk_bytes, 65_536);
        let network = Thresholds::default().network;
        assert_eq!(earlier.thresholds, Thresholds { network, ..settings.thresholds });
    }

    #[test]
    fn allowances_for_other_sizes_are_refused() {
        let with = |part: (Vec<(u64, u64)>, Percent)| {
            changed(&settings(), |parts| parts.without(settings_part::NETWORK).with(settings_part::NETWORK, &part))
        };
        let few = with((vec![(1, 65_536)], Percent::whole(98)));
        assert_eq!(few, Err(EntryError::Unreadable("it has 1 allowances of network for 4 sizes".into())));
        let low = with((vec![(1, 65_536); 4], Percent::whole(3)));
        assert!(matches!(low, Err(EntryError::Unreadable(_))), "{low:?}");
    }
}
