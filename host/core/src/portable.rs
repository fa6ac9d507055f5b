//! Portable snapshots: a service's state as one file that may leave the machine, and a new service from it.
//!
//! The file is a snapshot (`snapshot_file.rs`) with more sections: the workload, the settings, and a pack with every
//! chunk of the virtual disk, unless nothing was made on that. It contains no
//! secret, no epoch, no answers and no allow-list. The restored service draws its own secret and epoch. It does not
//! recognise repetitions of ids that were answered before, but it refuses ids that contain an older time. It calls
//! nobody unless its restorer allows it.
//!
//! A restored service begins like any other (`data.rs`), with its snapshot beside the workload: the workload's file,
//! the snapshot's file, the first record of its journal, its entry in the catalog. Until the last step the service does
//! not exist: the next start ends its journal and removes the snapshot. To permit this, the catalog first notes that
//! the service is being created, because a restored and unused service has nothing but the snapshot.

use crate::catalog::{EntryError, SETTINGS_VERSION, ServiceEntry, ServiceSettings};
use crate::data::{DataDirectory, DataError, stored_snapshot};
use crate::journal::{Record, record};
use crate::network::NetworkSettings;
use crate::snapshot_file::{
    self, FIRST_RECORD, ResumePoint, SECTION_PACK, SECTION_SETTINGS, SECTION_WORKLOAD, Section, SnapshotFileError,
    SnapshotHeader,
};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Epoch;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::meter::NetworkAmount;
use lifeboat_api::name::{NAME_BYTES_MAX, Name};
use lifeboat_api::size::{
    Bytes, DEADLINE_MAX, DISK_BYTES_MAX, DISK_BYTES_MIN, NETWORK_BYTES_MIN, NETWORK_CALLS_MIN, Size,
};
use lifeboat_api::text::{is_deceptive, shortened};
use lifeboat_disk::{Export, Packs};
use lifeboat_journal::commit::{Change, Entry};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::storage;
use lifeboat_vm::engine::MEMORY_BYTES_MAX;
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::workload::MODULE_BYTES_MAX;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// A service's state, and what another host needs to continue from it.
#[derive(Debug, Clone)]
pub struct Portable {
    /// The service that was exported.
    pub service: Name,
    /// The state of the service.
    pub snapshot: Arc<Snapshot>,
    /// The point from which the exported service would have resumed. Its epoch and its use of the network are left out.
    pub resume_point: ResumePoint,
    /// The last record of that service's journal that is part of the state.
    pub record: RecordNumber,
    /// The hash of the workload.
    pub workload_hash: WorkloadHash,
    /// The bytes that the workload was loaded from.
    pub workload: bytes::Bytes,
    /// The service's sizes, thresholds, deduplication window and failover mode. The file leaves its network out.
    pub settings: ServiceSettings,
}

/// A failure to write or read a portable snapshot.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PortableError {
    /// There is already a file of this name.
    #[error("'{file}' exists already; name a new file")]
    Exists {
        /// The name of the file.
        file: String,
    },
    /// The file is no snapshot, or is damaged.
    #[error(transparent)]
    File(#[from] SnapshotFileError),
    /// The file lacks a section that makes it portable.
    #[error("'{file}' is a snapshot, but not a portable one: it has no {what}; write one with lifeboat data snapshot")]
    NotPortable {
        /// The name of the file.
        file: String,
        /// The missing section.
        what: &'static str,
    },
    /// The workload in the file is not the one that the header names.
    #[error("'{file}' contains a workload other than the one that it names")]
    OtherWorkload {
        /// The name of the file.
        file: String,
    },
    /// The disk is larger than any size's.
    #[error("'{file}' has a disk with {}, the limit is {}; it was not written by lifeboat", Bytes(*bytes), Bytes(DISK_BYTES_MAX))]
    Disk {
        /// The name of the file.
        file: String,
        /// What is on the disk, in bytes.
        bytes: u64,
    },
    /// A newer host wrote the settings.
    #[error("'{file}' has settings of version {found}, this host reads up to {SETTINGS_VERSION}; use a newer host")]
    FutureSettings {
        /// The name of the file.
        file: String,
        /// The version of the settings.
        found: u8,
    },
    /// A newer host wrote the settings, with one that this host must not ignore.
    #[error("'{file}' has a setting of kind {kind}, which this host does not know; use a newer host")]
    UnknownSetting {
        /// The name of the file.
        file: String,
        /// The kind of the setting.
        kind: u16,
    },
    /// The settings are invalid.
    #[error("'{file}' has invalid settings: {reason}")]
    Settings {
        /// The name of the file.
        file: String,
        /// The reason why they are invalid.
        reason: String,
    },
    /// The file system failed.
    #[error("cannot {action} '{file}'")]
    Storage {
        /// The name of the file.
        file: String,
        /// The action that failed.
        action: &'static str,
        /// The cause of the failure.
        source: io::Error,
    },
}

impl PortableError {
    /// Returns whether the disk, or the quota on it, has no room for the file.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Storage { source, .. } => is_no_room(source),
            Self::File(error) => error.storage_error().is_some_and(is_no_room),
            _ => false,
        }
    }

    /// Returns whether the contents of the file are not those that were written.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::File(error) => error.is_damage(),
            Self::OtherWorkload { .. } | Self::Settings { .. } | Self::Disk { .. } => true,
            _ => false,
        }
    }
}

impl Portable {
    /// Returns the bytes of the state, the disk without holes, and the workload. The file takes a little more.
    #[must_use]
    pub fn bytes_min(&self) -> u64 {
        let disk_bytes = self.export().map_or(0, |export| export.pack_bytes());
        self.snapshot.state_bytes() + disk_bytes + self.workload.len() as u64
    }

    /// Returns the disk with all of its chunks in one pack, unless nothing was ever made on it.
    fn export(&self) -> Option<Export> {
        let disk = self.snapshot.disk();
        (!disk.is_untouched()).then(|| disk.export(self.record.0, &Packs::new()))
    }

    /// Writes the snapshot to `path`. When this returns, the file survives a crash. Before that, there is no file of
    /// that name.
    ///
    /// # Errors
    /// [`PortableError`]. There is no such file then, or only the one that was there before, or the whole file, whose
    /// name may not survive a crash.
    pub fn write(&self, path: &Path) -> Result<(), PortableError> {
        let file = path.display().to_string().escape_debug().to_string();
        let failed = |action| {
            let file = file.clone();
            move |source| PortableError::Storage { file, action, source }
        };
        // A dangling link counts as an existing file, too.
        if path.symlink_metadata().is_ok() {
            return Err(PortableError::Exists { file });
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}.tmp", std::process::id()));
        let aside = Path::new(&aside);
        let created = storage::create_file(aside).map_err(failed("create"))?;
        let settings = without_network(self.settings.clone()).to_bytes();
        let export = self.export();
        let mut header = self.header();
        header.sections = self.sections(settings.len(), export.as_ref());
        let of_disk = export.iter().flat_map(|export| std::iter::once(export.table()).chain(export.pack()));
        let chunks = self.snapshot.chunks().chain([&self.workload[..], &settings[..]]).chain(of_disk);
        let written = snapshot_file::write_to(&*created, &file, &header, chunks)
            .map_err(PortableError::from)
            .and_then(|()| storage::rename_file(aside, path).map_err(failed("name")));
        if written.is_err() {
            // The partial file is useless. The first error is the one to report.
            let _ = std::fs::remove_file(aside);
        }
        written
    }

    /// Returns the sections of the file, in order.
    fn sections(&self, settings_bytes: usize, export: Option<&Export>) -> Vec<Section> {
        let length = |bytes: usize| u32::try_from(bytes).expect("workloads, settings and chunks are below 4 GiB");
        let section = |kind, bytes| Section { kind, is_optional: false, chunk_bytes: vec![length(bytes)] };
        let mut sections = Section::of(&self.snapshot);
        sections.push(section(SECTION_WORKLOAD, self.workload.len()));
        sections.push(section(SECTION_SETTINGS, settings_bytes));
        if let Some(export) = export {
            let chunk_bytes = export.pack().map(|part| length(part.len())).collect();
            sections.push(Section::of_table(export.table()));
            sections.push(Section { kind: SECTION_PACK, is_optional: false, chunk_bytes });
        }
        sections
    }

    /// Returns the header of the file, without its sections.
    fn header(&self) -> SnapshotHeader {
        SnapshotHeader {
            service: self.service.clone(),
            workload_hash: *self.workload_hash.as_bytes(),
            state_version: self.snapshot.state_version(),
            sequence: self.snapshot.sequence(),
            timestamp: self.snapshot.timestamp(),
            record: self.record,
            resume_point: ResumePoint {
                epoch: Epoch::default(),
                network_used: NetworkAmount::default(),
                ..self.resume_point.clone()
            },
            sections: Vec::new(),
        }
    }

    /// Reads a portable snapshot. When this returns, all of it was compared with its hash. Only a scratch VM can show
    /// whether the workload runs and accepts the state.
    ///
    /// # Errors
    /// [`PortableError`].
    pub fn read(path: &Path) -> Result<Self, PortableError> {
        let file = path.display().to_string().escape_debug().to_string();
        let opened = storage::open_file(path);
        let opened = opened.map_err(|source| PortableError::Storage { file: file.clone(), action: "open", source })?;
        let content = snapshot_file::read_from(opened, &file)?;
        let whole = |kind, what| match &content.chunks(kind)[..] {
            [] => Err(PortableError::NotPortable { file: file.clone(), what }),
            chunks => Ok(chunks.iter().flat_map(|at| &content.body[at.clone()]).copied().collect::<Vec<u8>>()),
        };
        let workload = whole(SECTION_WORKLOAD, "workload")?;
        let settings = settings_from_bytes(&file, &whole(SECTION_SETTINGS, "settings")?)?;
        let workload_hash = WorkloadHash::of(&workload);
        if *workload_hash.as_bytes() != content.header.workload_hash || workload.len() as u64 > MODULE_BYTES_MAX {
            return Err(PortableError::OtherWorkload { file });
        }
        let SnapshotHeader { service, resume_point, record, .. } = content.header.clone();
        let disk = content.portable_disk(&file)?;
        if disk.used_bytes() > DISK_BYTES_MAX {
            return Err(PortableError::Disk { file, bytes: disk.used_bytes() });
        }
        let snapshot = Arc::new(content.into_snapshot(disk));
        Ok(Self { service, snapshot, resume_point, record, workload_hash, workload: workload.into(), settings })
    }

    /// Restores the snapshot as a service of a directory. When this returns, the service survives a crash. Call it on a
    /// thread that may block.
    ///
    /// # Errors
    /// [`DataError`]. There is no such service then. The exception is [`DataError::RestoreUnknown`]: only another
    /// attempt shows whether there is one.
    ///
    /// # Panics
    /// If called within an asynchronous task.
    pub fn restore(&self, directory: &DataDirectory, new: NewIdentity) -> Result<(), DataError> {
        let NewIdentity { name, secret, epoch, timestamp, network } = new;
        if directory.catalog().service(&name)?.is_some() {
            return Err(DataError::Exists { service: name });
        }
        directory.check_orphan(&name)?;
        let entry = ServiceEntry {
            secret,
            workload: self.workload_hash,
            settings: ServiceSettings { network, ..self.settings.clone() },
            first_snapshot: Some(FIRST_RECORD),
            accepted_divergences: BTreeSet::new(),
        };
        directory.catalog().note_creation(&name, directory.committer().end())?;
        let _kept = directory.keep_workload(&self.workload_hash, &self.workload)?;
        directory.clear_snapshots(&name)?;
        let header = self.first_header(&name, epoch);
        stored_snapshot::write(&**directory.storage(), header, &self.snapshot, Vec::new(), &Packs::new())?;
        let timestamp = timestamp.max(self.snapshot.timestamp());
        let record = record::encode(&Record::Opened { timestamp, epoch });
        let change = Change::Begin { number: FIRST_RECORD, record };
        let begun = directory.committer().commit_unless_stalled(Entry { service: name.clone(), change });
        let added = begun.map_err(DataError::from).and_then(|()| directory.add_service(&name, &entry));
        match added {
            Ok(()) => Ok(()),
            Err(DataError::OutcomeUnknown { service, source, .. }) => {
                Err(DataError::RestoreUnknown { service, source })
            }
            Err(error) => {
                directory.end_journal(&name);
                // The next start removes the rest of it, or the creation of another service of its name does.
                let _ = directory.clear_snapshots(&name);
                Err(error)
            }
        }
    }

    fn first_header(&self, name: &Name, epoch: Epoch) -> SnapshotHeader {
        SnapshotHeader {
            service: name.clone(),
            record: FIRST_RECORD,
            resume_point: ResumePoint::first(self.settings.size.clone(), epoch, self.resume_point.forgotten_id_time),
            ..self.header()
        }
    }
}

/// The identity of a restored service.
#[derive(Clone)]
pub struct NewIdentity {
    /// The name of the service.
    pub name: Name,
    /// The key from which its guest's random numbers are derived. Drawn for this service alone.
    pub secret: [u8; 32],
    /// The first epoch of the service, which is drawn as well.
    pub epoch: Epoch,
    /// The time at which the service begins.
    pub timestamp: Timestamp,
    /// What the service may call, whatever the exported one could.
    pub network: NetworkSettings,
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns the settings of a service that calls nobody: a copy must not repeat what the service does to others.
fn without_network(settings: ServiceSettings) -> ServiceSettings {
    ServiceSettings { network: NetworkSettings::default(), ..settings }
}

fn settings_from_bytes(file: &str, bytes: &[u8]) -> Result<ServiceSettings, PortableError> {
    let file = file.to_owned();
    let settings = match ServiceSettings::from_bytes(bytes) {
        // No host writes a network into the file, but others may.
        Ok(settings) => without_network(settings),
        Err(EntryError::FutureVersion(found)) => return Err(PortableError::FutureSettings { file, found }),
        Err(EntryError::UnknownPart(kind)) => return Err(PortableError::UnknownSetting { file, kind }),
        Err(EntryError::Unreadable(reason)) => return Err(PortableError::Settings { file, reason }),
    };
    check_settings(&settings).map_err(|reason| PortableError::Settings { file, reason })?;
    Ok(settings)
}

/// Checks what a host could not run, and decoding has not refused. Names of sizes that earlier releases took stay
/// valid.
fn check_settings(settings: &ServiceSettings) -> Result<(), String> {
    let ServiceSettings { size, sizes, .. } = settings;
    if !sizes.iter().any(|candidate| candidate.name == *size) {
        return Err(format!("there is no size '{}'", shortened(size, NAME_BYTES_MAX)));
    }
    for candidate in sizes {
        let Size { name, fuel, memory_bytes, disk_bytes, network_calls, network_bytes, deadline } = candidate;
        if name.len() > NAME_BYTES_MAX || name.contains(is_deceptive) {
            return Err(format!("size '{}' has an invalid name", shortened(name, NAME_BYTES_MAX)));
        }
        let is_valid = *fuel > 0
            && *memory_bytes <= MEMORY_BYTES_MAX
            && (DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(disk_bytes)
            && *network_calls >= NETWORK_CALLS_MIN
            && *network_bytes >= NETWORK_BYTES_MIN
            && !deadline.is_zero()
            && *deadline <= DEADLINE_MAX;
        if !is_valid {
            return Err(format!("size {candidate} is out of bounds"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::DeduplicationWindow;
    use crate::command_line::ProgramSettings;
    use crate::network::{AllowList, Retry, Target};
    use lifeboat_api::sla::{FailoverMode, Thresholds};
    use proptest::prelude::*;
    use std::time::Duration;

    fn settings() -> ServiceSettings {
        ServiceSettings {
            size: "small".into(),
            sizes: Size::built_in(),
            thresholds: Thresholds::default(),
            deduplication_window: DeduplicationWindow::durable(),
            failover: FailoverMode::Shadow,
            network: NetworkSettings::default(),
            program: ProgramSettings::default(),
        }
    }

    fn read(settings: &ServiceSettings) -> Result<ServiceSettings, String> {
        settings_from_bytes("file", &settings.to_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_read_back_as_they_were() {
        assert_eq!(read(&settings()), Ok(settings()));
        let of_earlier_release = settings().to_bytes_of_version_1();
        assert_eq!(settings_from_bytes("file", &of_earlier_release).map_err(|error| error.to_string()), Ok(settings()));
    }

    #[test]
    fn settings_of_a_file_allow_no_call() {
        let allow = AllowList::new(vec!["http://db".parse::<Target>().expect("a target").into()]).expect("one");
        let network = NetworkSettings { allow, retry: Retry::Idempotent };
        let with_network = ServiceSettings { network, ..settings() };
        assert_ne!(with_network.to_bytes(), settings().to_bytes());
        assert_eq!(without_network(with_network.clone()).to_bytes(), settings().to_bytes());
        assert_eq!(read(&with_network), Ok(settings()));
    }

    #[test]
    fn settings_that_no_host_would_have_made_are_refused() {
        let with = |change: fn(&mut ServiceSettings)| {
            let mut settings = settings();
            change(&mut settings);
            read(&settings).expect_err("refused")
        };
        for (refused, words) in [
            (with(|settings| settings.size = "tiny".into()), "there is no size 'tiny'"),
            (with(|settings| settings.sizes.clear()), "there is no size 'small'"),
            (with(|settings| settings.sizes[1].memory_bytes = u64::MAX), "out of bounds"),
            (with(|settings| settings.sizes[0].fuel = 0), "out of bounds"),
            (with(|settings| settings.sizes[0].network_calls = 0), "out of bounds"),
            (with(|settings| settings.sizes[3].network_bytes = 65_535), "out of bounds"),
            (with(|settings| settings.sizes[1].deadline = Duration::ZERO), "out of bounds"),
            (with(|settings| settings.sizes[1].deadline = Duration::MAX), "out of bounds"),
            (with(|settings| settings.sizes[1].name = "\u{1b}[2J".into()), "size '\\u{1b}[2J' has an invalid name"),
            (with(|settings| settings.size = "\u{1b}[2J".repeat(100)), "there is no size '\\u{1b}[2J"),
            (
                with(|settings| settings.thresholds = Thresholds::all(lifeboat_api::meter::Percent::whole(3))),
                "has invalid settings",
            ),
        ] {
            assert!(refused.contains(words), "{refused}");
        }
        let mut bytes = settings().to_bytes();
        bytes.push(0);
        assert!(matches!(settings_from_bytes("file", &bytes), Err(PortableError::Settings { .. })));
        bytes[0] = SETTINGS_VERSION + 1;
        let future = settings_from_bytes("file", &bytes).expect_err("newer").to_string();
        assert_eq!(future, "'file' has settings of version 3, this host reads up to 2; use a newer host");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            of_version in 1..=SETTINGS_VERSION,
        ) {
            if let Some(version) = bytes.first_mut() {
                *version = of_version;
            }
            let _ = settings_from_bytes("file", &bytes);
        }
    }
}
