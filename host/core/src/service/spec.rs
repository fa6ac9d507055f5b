//! What a service is made of, how it is seen from outside, and why it cannot be started.

use super::{QUEUE_MAX, Work};
use crate::answers::DeduplicationWindow;
use crate::catalog::ServiceSettings;
use crate::data::DataError;
use crate::fleet::NoRoom;
use crate::journal::JournalError;
use crate::monitor::UnderPressure;
use lifeboat_api::event::JournalFill;
use lifeboat_api::id::{Epoch, Sequence, VmId};
use lifeboat_api::meter::Meter;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes as ByteCount, BytesBeside, Size};
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Kind};
use lifeboat_vm::engine::{EngineError, Program};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::workload::LoadError;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a service is made of.
#[derive(Clone)]
pub struct ServiceSpec {
    /// Its name.
    pub name: Name,
    /// What it runs.
    pub program: Arc<Program>,
    /// The size of its first VM.
    pub size: Arc<Size>,
    /// All sizes that it may have, in any order; those larger than its own are where it goes when memory runs out.
    pub sizes: Vec<Arc<Size>>,
    /// When a resource fails its SLA.
    pub thresholds: Thresholds,
    /// Keys the random numbers that the guest sees. Never printed.
    pub secret: [u8; 32],
    /// Which random numbers its transactions see from now on.
    pub epoch: Epoch,
    /// Transactions at which an operator has accepted that a replay ends in another way.
    pub accepted_divergences: BTreeSet<Sequence>,
    /// How a failover goes about it.
    pub failover: FailoverMode,
    /// How far back a repetition is recognised.
    pub deduplication_window: DeduplicationWindow,
    /// How many requests may wait.
    pub queue_max: usize,
    /// Breaks the promise on purpose, to show that the reconciliation notices.
    #[doc(hidden)]
    pub sabotage: Option<Sabotage>,
}

impl ServiceSpec {
    /// A service that begins with the size that its settings name, or with the first of theirs if that is none of them. What
    /// is rarely set apart has its default: no accepted divergence, and [`QUEUE_MAX`].
    #[must_use]
    pub fn new(name: Name, program: Arc<Program>, settings: &ServiceSettings, secret: [u8; 32], epoch: Epoch) -> Self {
        let ServiceSettings { size, sizes, thresholds, deduplication_window, failover } = settings;
        let sizes: Vec<_> = sizes.iter().cloned().map(Arc::new).collect();
        let first = sizes.iter().find(|candidate| candidate.name == *size).or(sizes.first());
        Self {
            name,
            program,
            size: first.cloned().unwrap_or_else(|| Arc::new(Size::built_in().remove(0))),
            sizes,
            thresholds: *thresholds,
            secret,
            epoch,
            accepted_divergences: BTreeSet::new(),
            failover: *failover,
            deduplication_window: *deduplication_window,
            queue_max: QUEUE_MAX,
            sabotage: None,
        }
    }
}

impl std::fmt::Debug for ServiceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceSpec").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// A way to break the promise at one transaction.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The first `ok` from this sequence on is answered, and forgotten.
    DropOne(Sequence),
    /// The first `ok` from this sequence on is answered, and executed twice.
    DoubleOne(Sequence),
    /// Every answer is told before its record is durable.
    AckBeforeSync,
}

impl Sabotage {
    pub(super) fn hits(self, work: &Work, answer: &Answer) -> bool {
        let (Self::DropOne(from) | Self::DoubleOne(from)) = self else { return false };
        work.kind == Kind::Transaction && work.sequence >= from && matches!(answer, Answer::Ok(_))
    }
}

/// A service as its operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The VM that serves.
    pub vm: VmId,
    /// Its machine.
    pub machine: Name,
    /// The name of its size.
    pub size: String,
    /// Its meter.
    pub meter: Meter,
    /// The last transaction.
    pub sequence: Sequence,
    /// The last transaction of the last proven snapshot; of a durable service, of the last that is on the disk.
    pub snapshot_sequence: Sequence,
    /// Why it is degraded, if it is.
    pub degraded: Option<String>,
    /// Why it is unmovable, if it is.
    pub unmovable: Option<String>,
    /// How full its journal is, once that is reported.
    pub journal: Option<JournalStatus>,
    /// Why it is stopped, if it is.
    pub stopped: Option<String>,
    /// What it has done so far.
    pub counts: Counts,
}

/// How full the journal of a service is whose state cannot be snapshotted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStatus {
    /// How full, and why.
    pub fill: JournalFill,
    /// Whether it denied a transaction for it.
    pub is_full: bool,
}

/// What a service has done in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Snapshots that were restored into the store that serves.
    pub snapshots: u64,
    /// Rollbacks.
    pub rollbacks: u64,
    /// Transactions that were executed again, for any reason.
    pub replayed_transactions: u64,
    /// Lines of its guest's log that were dropped, since it logged too much.
    pub log_lines_dropped: u64,
    /// Fuel charged to the tanks of its VMs: kept transactions and answered queries.
    pub fuel_charged: u64,
    /// Fuel burnt by attempts that were rolled back.
    pub fuel_rolled_back: u64,
    /// Fuel of snapshots, restores and replays.
    pub fuel_maintenance: u64,
}

/// A service cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Its size does not hold the workload.
    #[error(transparent)]
    Size(#[from] LoadError),
    /// There is no slot for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The host takes on nothing new.
    #[error(transparent)]
    UnderPressure(#[from] UnderPressure),
    /// One of its sizes is larger than what the host was set up for.
    #[error(
        "size '{size}' has {}, the host's slots hold {}; set the host up for larger ones",
        BytesBeside { bytes: *bytes, bound: *largest_bytes }, ByteCount(*largest_bytes)
    )]
    SizeTooLarge {
        /// The size.
        size: String,
        /// Its memory.
        bytes: u64,
        /// What a slot holds.
        largest_bytes: u64,
    },
    /// Its workload cannot be compiled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its journal could not begin.
    #[error("service '{name}' cannot be created: {error}")]
    Begin {
        /// The name.
        name: Name,
        /// Why.
        error: JournalError,
    },
    /// Its data directory fails.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its data directory has it, but it was not started.
    #[error("service '{name}' is quarantined: {reason}")]
    Quarantined {
        /// The name.
        name: Name,
        /// Why.
        reason: String,
    },
    /// Another service has the name.
    #[error("a service '{name}' exists already; choose another name")]
    Exists {
        /// The name.
        name: Name,
    },
    /// The workload's start function failed, or the pool is exhausted.
    #[error("service '{name}' cannot be started: {error}")]
    Instantiate {
        /// The service.
        name: Name,
        /// Why.
        error: MoveError,
    },
}
