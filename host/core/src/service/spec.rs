//! The definition of a service, its status, and the errors of its start.

use super::QUEUE_MAX;
use crate::answers::DeduplicationWindow;
use crate::catalog::ServiceSettings;
use crate::data::DataError;
use crate::fleet::NoRoom;
use crate::journal::JournalError;
use crate::monitor::UnderPressure;
use crate::network::ServiceNetwork;
use lifeboat_api::event::JournalFill;
use lifeboat_api::id::{Epoch, Sequence, VmId};
use lifeboat_api::meter::Meter;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes as ByteCount, BytesBeside, DISK_BYTES_MAX, DISK_BYTES_MIN, Size};
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_disk::Disk;
use lifeboat_vm::engine::{EngineError, Program};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::workload::LoadError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The definition of a service.
#[derive(Clone)]
pub struct ServiceSpec {
    /// The name of the service.
    pub name: Name,
    /// The compiled workload.
    pub program: Arc<Program>,
    /// The size of its first VM.
    pub size: Arc<Size>,
    /// All sizes that the service may have, in any order. It moves to a larger size when memory runs out.
    pub sizes: Vec<Arc<Size>>,
    /// The thresholds at which a resource fails its SLA.
    pub thresholds: Thresholds,
    /// The key of the random numbers that the guest sees. Never printed.
    pub secret: [u8; 32],
    /// The epoch, which selects the random numbers that its transactions see from now on.
    pub epoch: Epoch,
    /// The transactions at which an operator has accepted that a replay diverges.
    pub accepted_divergences: BTreeSet<Sequence>,
    /// The way in which the service fails over.
    pub failover: FailoverMode,
    /// The period in which a repetition is recognised.
    pub deduplication_window: DeduplicationWindow,
    /// The most requests of one user that may wait, as [`QUEUE_MAX`].
    pub queue_max: usize,
    /// The virtual disk with which its first VM begins, if it is not empty.
    pub disk: Option<Disk>,
    /// The network that its transactions may use.
    pub network: ServiceNetwork,
}

impl ServiceSpec {
    /// Returns the definition of a service that begins with the size that `settings` name. If that size is not among
    /// their sizes, the service begins with the first of them. There is no accepted divergence and no network, and
    /// `queue_max` is [`QUEUE_MAX`].
    #[must_use]
    pub fn new(name: Name, program: Arc<Program>, settings: &ServiceSettings, secret: [u8; 32], epoch: Epoch) -> Self {
        let ServiceSettings { sizes, thresholds, deduplication_window, failover, .. } = settings;
        let first = settings.first_size().cloned().unwrap_or_else(|| Size::built_in().remove(0));
        let program = settings.program.of_service(&name, program);
        Self {
            name,
            program,
            size: Arc::new(first),
            sizes: sizes.iter().cloned().map(Arc::new).collect(),
            thresholds: *thresholds,
            secret,
            epoch,
            accepted_divergences: BTreeSet::new(),
            failover: *failover,
            deduplication_window: *deduplication_window,
            queue_max: QUEUE_MAX,
            disk: None,
            network: ServiceNetwork::default(),
        }
    }
}

impl std::fmt::Debug for ServiceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceSpec").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// The status of a service, as its operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The serving VM.
    pub vm: VmId,
    /// The machine of the serving VM.
    pub machine: Name,
    /// The name of the VM's size.
    pub size: String,
    /// The meter of the serving VM.
    pub meter: Meter,
    /// The last transaction.
    pub sequence: Sequence,
    /// The last transaction in the last proven snapshot. For a durable service, the last one in a snapshot on the disk.
    pub snapshot_sequence: Sequence,
    /// The reason why the service is degraded, if it is.
    pub degraded: Option<String>,
    /// The reason why the service is unmovable, if it is.
    pub unmovable: Option<String>,
    /// How full the journal is, once that was reported.
    pub journal: Option<JournalStatus>,
    /// The reason why the service is stopped, if it is.
    pub stopped: Option<String>,
    /// The counts of the service so far.
    pub counts: Counts,
    /// The calls in doubt.
    pub doubts: usize,
    /// What its current transaction waits for. The rest is the status before that transaction.
    pub waiting: Option<Waiting>,
}

/// A call to the network that a service waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The address of the call: `https://api.example.org`.
    pub target: String,
    /// How long the service has been waiting.
    pub waited: Duration,
}

/// The fill of a journal that no snapshot relieves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStatus {
    /// How full the journal is, and the reason.
    pub fill: JournalFill,
    /// Whether a transaction was denied for that reason.
    pub is_full: bool,
}

/// The counts of a service since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Snapshots that a restore has proven.
    pub snapshots: u64,
    /// Rollbacks of the service to its last kept transaction.
    pub rollbacks: u64,
    /// Transactions that were executed again, for any reason.
    pub replayed_transactions: u64,
    /// Lines of the guest's log that were dropped because the guest logged too much.
    pub log_lines_dropped: u64,
    /// Fuel charged to the tanks of the service's VMs, for kept transactions and answered queries.
    pub fuel_charged: u64,
    /// Fuel of attempts that were rolled back.
    pub fuel_rolled_back: u64,
    /// Fuel of snapshots, restores and replays.
    pub fuel_maintenance: u64,
}

/// The reason why a service cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The service's size does not hold the workload.
    #[error(transparent)]
    Size(#[from] LoadError),
    /// No machine has a slot for the service.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The host is under pressure, and accepts no new service.
    #[error(transparent)]
    UnderPressure(#[from] UnderPressure),
    /// One of the service's sizes is larger than the slots of the host.
    #[error(
        "size '{size}' has {}, the host's slots hold {}; set the host up for larger ones",
        BytesBeside { bytes: *bytes, bound: *largest_bytes }, ByteCount(*largest_bytes)
    )]
    SizeTooLarge {
        /// The name of the size.
        size: String,
        /// The memory of the size, in bytes.
        bytes: u64,
        /// The memory of the largest slot, in bytes.
        largest_bytes: u64,
    },
    /// The disk of a size is too large or too small for this host.
    #[error(
        "size '{size}' has a disk of {}, a disk has {} to {}; choose another size",
        ByteCount(*bytes), ByteCount(DISK_BYTES_MIN), ByteCount(DISK_BYTES_MAX)
    )]
    Disk {
        /// The name of the size.
        size: String,
        /// The disk of the size, in bytes.
        bytes: u64,
    },
    /// The files with which the service would begin do not fit its disk.
    #[error(
        "the files of service '{name}' use {}, the disk of size '{size}' has {}; choose a larger size",
        BytesBeside { bytes: *bytes, bound: *disk_bytes }, ByteCount(*disk_bytes)
    )]
    Files {
        /// The name of the service.
        name: Name,
        /// What the files use of a disk, in bytes.
        bytes: u64,
        /// The name of the size.
        size: String,
        /// The disk of the size, in bytes.
        disk_bytes: u64,
    },
    /// The workload cannot be compiled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The journal could not begin.
    #[error("service '{name}' cannot be created: {error}")]
    Begin {
        /// The name of the service.
        name: Name,
        /// The error of the journal.
        error: JournalError,
    },
    /// The data directory fails.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data directory holds the service, but the host did not start it.
    #[error("service '{name}' is quarantined: {reason}")]
    Quarantined {
        /// The name of the service.
        name: Name,
        /// The reason why it was not started.
        reason: String,
    },
    /// Another service has the name.
    #[error("a service '{name}' exists already; choose another name")]
    Exists {
        /// The name of the service.
        name: Name,
    },
    /// The workload's start function failed, or the pool is exhausted.
    #[error("service '{name}' cannot be started: {}", error.detailed())]
    Instantiate {
        /// The name of the service.
        name: Name,
        /// The error of the instance.
        error: MoveError,
    },
}
