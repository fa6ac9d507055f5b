//! The events that a host reports about its services and itself: SLA failures, failovers, and changes of condition.
//!
//! An event is created by the service that it is about, in the order of what happened, or by the host's monitor. It
//! goes to the host's one [`EventSink`]. Operators read its text, and tests search it.

use crate::call::{DoubtReason, Retry};
use crate::clock::{Timestamp, Utc};
use crate::id::WorkloadHash;
use crate::id::{Sequence, VmId};
use crate::meter::{HostResource, Percent, Resource, Unit, Usage};
use crate::name::Name;
use crate::size::{Bytes, BytesBeside, grouped};
use crate::sla::HYSTERESIS_POINTS;
use crate::text::Printable;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A receiver of every event of a host, called from any thread. It must not block.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

/// An event of a service or of the host.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The utilisation of a resource reached the threshold.
    SlaFailure(SlaFailure),
    /// A service moved to a fresh VM.
    Failover(Failover),
    /// A resource reached its threshold without a failover, and the service continues in its VM.
    Degraded {
        /// The VM that continues.
        vm: VmId,
        /// The reason.
        reason: String,
    },
    /// The service is no longer degraded.
    Recovered {
        /// The VM that continues.
        vm: VmId,
    },
    /// The guest's state could not be exported or restored. The service continues, and can be moved only by its last
    /// intact snapshot and a replay.
    Unmovable {
        /// The VM that continues.
        vm: VmId,
        /// The reason.
        reason: String,
    },
    /// The guest's state was exported and restored again.
    Movable {
        /// The VM that continues.
        vm: VmId,
    },
    /// A trial of a service's state failed: an export and a restore in the background, at its deployment or after the
    /// first transactions of its workload. The service continues as before.
    Fragile {
        /// The VM that continues.
        vm: VmId,
        /// The reason.
        reason: String,
    },
    /// No snapshot of the service succeeds, and its history since the last one takes much of its permitted room.
    JournalFilling(JournalFill),
    /// That room is used up: the service denies transactions until a snapshot succeeds.
    JournalFull(JournalFill),
    /// The history of a service whose journal had filled up is short again.
    JournalRelieved {
        /// The VM that continues.
        vm: VmId,
    },
    /// A transaction exhausted a resource, and neither a full tank nor a larger size was enough.
    NotCured {
        /// The VM that continues, rolled back to before the transaction.
        vm: VmId,
        /// The resource.
        resource: Resource,
        /// The id of the transaction or query.
        transaction: String,
    },
    /// A call to the network is in doubt: the next attempt of its transaction does not know its outcome.
    CallInDoubt {
        /// The service.
        service: Name,
        /// The call.
        #[serde(flatten)]
        call: NamedCall,
        /// Why its outcome is unknown.
        reason: DoubtReason,
        /// What the service does about it. None if the client gave no id, so that no attempt follows.
        retry: Option<Retry>,
    },
    /// An operator settled a call in doubt.
    CallSettled {
        /// The service.
        service: Name,
        /// The call.
        #[serde(flatten)]
        call: NamedCall,
        /// The operator.
        by: Name,
        /// The status of its response. None if it was not made.
        status: Option<u16>,
    },
    /// The answer to a transaction with a call in doubt was forgotten. The call cannot be settled any more, and an id
    /// without a time executes anew.
    CallForgotten {
        /// The service.
        service: Name,
        /// The call.
        #[serde(flatten)]
        call: NamedCall,
    },
    /// A service was created, and accepts transactions.
    Created {
        /// Its first VM.
        vm: VmId,
        /// The machine of the VM.
        machine: Name,
        /// The name of its size.
        size: String,
        /// The workload that it runs.
        workload: WorkloadHash,
    },
    /// An operator replaced the workload of a service, which continues with its state in the next VM.
    Replaced {
        /// The last VM of the workload before.
        from: VmId,
        /// The VM that serves from now on.
        to: VmId,
        /// The workload that it runs.
        workload: WorkloadHash,
        /// The length of the state that the new workload has restored, in bytes.
        state_bytes: u64,
        /// The time for which the service was paused.
        #[serde(rename = "pause_us", serialize_with = "microseconds")]
        pause: Duration,
    },
    /// An operator started a service that was stopped or quarantined.
    Started {
        /// The service.
        service: Name,
    },
    /// The service stopped, because its state could not be restored or on an operator's request.
    Stopped {
        /// The service.
        service: Name,
        /// The reason.
        reason: String,
    },
    /// A service was restored from its data directory.
    Restored {
        /// The serving VM.
        vm: VmId,
        /// The last transaction.
        sequence: Sequence,
        /// The last transaction of the snapshot from which it was restored.
        snapshot_sequence: Sequence,
        /// The number of transactions that were replayed after that.
        replayed_transactions: u64,
        /// The duration of the restoration.
        #[serde(rename = "took_us", serialize_with = "microseconds")]
        took: Duration,
    },
    /// The host's clock is far behind the last transaction: it was ahead then, or is wrong now.
    ClockBehind {
        /// The service.
        service: Name,
        /// The time of the clock.
        #[serde(serialize_with = "date")]
        now: Timestamp,
        /// The time of the last transaction.
        #[serde(serialize_with = "date")]
        last: Timestamp,
        /// The number of retained ids whose times are too far ahead to be recorded when the ids are forgotten.
        ids_ahead: usize,
    },
    /// A service cannot be restored, because its records are lost or its guest fails. It waits for an operator.
    Quarantined {
        /// The service.
        service: Name,
        /// The reason.
        reason: String,
    },
    /// An operator removed a service permanently.
    Removed {
        /// The service.
        service: Name,
    },
    /// The file of a snapshot is damaged.
    SnapshotDamaged {
        /// The service.
        service: Name,
        /// The name of the file.
        file: String,
        /// The damage.
        reason: String,
        /// What the service is brought back from instead.
        instead: Fallback,
    },
    /// A snapshot could not be restored.
    SnapshotUnusable {
        /// The service.
        service: Name,
        /// The last transaction of the snapshot.
        sequence: Sequence,
        /// The reason.
        reason: String,
        /// What the service is brought back from instead.
        instead: Fallback,
    },
    /// A snapshot could not be written. The older ones are retained.
    SnapshotNotKept {
        /// The service.
        service: Name,
        /// The reason.
        reason: String,
    },
    /// Snapshots that a service no longer needs could not be removed or opened. The next snapshot tries again.
    OldSnapshotsNotRemoved {
        /// The service.
        service: Name,
        /// The reason, which names the first of them.
        reason: String,
    },
    /// A part of the journal is damaged.
    JournalDamaged {
        /// The part, and the kind of damage.
        damage: String,
    },
    /// A service with damaged records pins the journal of all services, which grows: damaged records are never
    /// truncated.
    JournalPinned {
        /// The service.
        service: Name,
        /// The length of the journal, in bytes.
        journal_bytes: u64,
    },
    /// The last frame of the journal was being written when the host went down.
    JournalTorn {
        /// The position of the frame.
        position: u64,
    },
    /// The journal cannot begin its next segment, and retries until it succeeds. Transactions are denied if the last
    /// segment has no room for them. The event is repeated with the services that a reclaim would relocate if it had
    /// the room.
    JournalStalled {
        /// What is missing.
        reason: String,
    },
    /// The journal can begin its next segment again.
    JournalResumed,
    /// The mean utilisation of a resource of the host reached its threshold.
    HostPressure(HostPressure),
    /// A resource of the host is no longer under pressure.
    HostRelieved(HostPressure),
    /// A line that the guest wrote to its standard output or error.
    Log {
        /// The service.
        service: Name,
        /// The line, without its line ending.
        line: String,
    },
}

/// Defines the names of all kinds, and a method that returns an event's kind.
macro_rules! kinds {
    ($($event:pat => $kind:literal,)*) => {
        /// All results of [`kind`](Self::kind).
        pub const KINDS: &'static [&'static str] = &[$($kind),*];

        /// Returns the kind, which the event's JSON has in `event`.
        #[must_use]
        pub fn kind(&self) -> &'static str {
            match self {
                $($event => $kind,)*
            }
        }
    };
}

impl Event {
    /// Returns the service that the event is about, or none if it is about the host.
    #[must_use]
    pub fn service(&self) -> Option<&Name> {
        match self {
            Self::SlaFailure(failure) => Some(&failure.vm.service),
            Self::Failover(failover) => Some(&failover.to.service),
            Self::Replaced { to, .. } => Some(&to.service),
            Self::JournalFilling(fill) | Self::JournalFull(fill) => Some(&fill.vm.service),
            Self::JournalRelieved { vm }
            | Self::Degraded { vm, .. }
            | Self::Recovered { vm }
            | Self::Unmovable { vm, .. }
            | Self::Movable { vm }
            | Self::Fragile { vm, .. }
            | Self::NotCured { vm, .. }
            | Self::Created { vm, .. }
            | Self::Restored { vm, .. } => Some(&vm.service),
            Self::Started { service }
            | Self::ClockBehind { service, .. }
            | Self::Stopped { service, .. }
            | Self::Quarantined { service, .. }
            | Self::Removed { service }
            | Self::SnapshotDamaged { service, .. }
            | Self::SnapshotUnusable { service, .. }
            | Self::SnapshotNotKept { service, .. }
            | Self::OldSnapshotsNotRemoved { service, .. }
            | Self::JournalPinned { service, .. }
            | Self::CallInDoubt { service, .. }
            | Self::CallSettled { service, .. }
            | Self::CallForgotten { service, .. }
            | Self::Log { service, .. } => Some(service),
            Self::JournalDamaged { .. }
            | Self::JournalTorn { .. }
            | Self::JournalStalled { .. }
            | Self::JournalResumed
            | Self::HostPressure(_)
            | Self::HostRelieved(_) => None,
        }
    }

    kinds! {
        Self::SlaFailure(_) => "sla_failure",
        Self::Failover(_) => "failover",
        Self::Degraded { .. } => "degraded",
        Self::Recovered { .. } => "recovered",
        Self::Unmovable { .. } => "unmovable",
        Self::Movable { .. } => "movable",
        Self::Fragile { .. } => "fragile",
        Self::JournalFilling(_) => "journal_filling",
        Self::JournalFull(_) => "journal_full",
        Self::JournalRelieved { .. } => "journal_relieved",
        Self::NotCured { .. } => "not_cured",
        Self::CallInDoubt { .. } => "call_in_doubt",
        Self::CallSettled { .. } => "call_settled",
        Self::CallForgotten { .. } => "call_forgotten",
        Self::Created { .. } => "created",
        Self::Replaced { .. } => "replaced",
        Self::Started { .. } => "started",
        Self::Stopped { .. } => "stopped",
        Self::Restored { .. } => "restored",
        Self::ClockBehind { .. } => "clock_behind",
        Self::Quarantined { .. } => "quarantined",
        Self::Removed { .. } => "removed",
        Self::SnapshotDamaged { .. } => "snapshot_damaged",
        Self::SnapshotUnusable { .. } => "snapshot_unusable",
        Self::SnapshotNotKept { .. } => "snapshot_not_kept",
        Self::OldSnapshotsNotRemoved { .. } => "old_snapshots_not_removed",
        Self::JournalDamaged { .. } => "journal_damaged",
        Self::JournalPinned { .. } => "journal_pinned",
        Self::JournalTorn { .. } => "journal_torn",
        Self::JournalStalled { .. } => "journal_stalled",
        Self::JournalResumed => "journal_resumed",
        Self::HostPressure(_) => "host_pressure",
        Self::HostRelieved(_) => "host_relieved",
        Self::Log { .. } => "log",
    }
}

/// A call to the network, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedCall {
    /// The user who sent its transaction.
    pub user: Name,
    /// The id of its transaction.
    pub transaction: String,
    /// Its place among the calls of the transaction, from 0.
    pub index: u32,
    /// The method of its request.
    pub method: String,
    /// The address of its request.
    pub target: String,
}

impl fmt::Display for NamedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, transaction, index, method, target } = self;
        let (transaction, method, target) = (Printable(transaction), Printable(method), Printable(target));
        write!(f, "call {index} of transaction '{transaction}' of {user}, {method} {target}")
    }
}

/// An SLA failure: the utilisation of a resource reached the service's threshold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlaFailure {
    /// The VM with the resource.
    pub vm: VmId,
    /// The resource.
    pub resource: Resource,
    /// The usage and the limit when the threshold was reached.
    #[serde(flatten)]
    pub usage: Usage,
    /// The unit of the usage.
    pub unit: Unit,
    /// The threshold.
    pub threshold_percent: Percent,
    /// The id of the transaction or query that reached it.
    pub transaction: String,
    /// The last transaction that is part of the state.
    pub sequence: Sequence,
    /// The time by the service's clock; absent from records of earlier versions. A forwarded event has the forwarder's
    /// own time.
    #[serde(skip)]
    pub timestamp: Option<Timestamp>,
}

/// The fill level of the journal of a service whose state cannot be snapshotted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalFill {
    /// The serving VM.
    pub vm: VmId,
    /// The length of the history since the last snapshot, in bytes.
    pub bytes: u64,
    /// The limit, in bytes. Beyond it, transactions are denied.
    pub limit_bytes: u64,
    /// The reason why no snapshot succeeded, if it is known.
    pub reason: Option<String>,
}

impl fmt::Display for JournalFill {
    /// Writes the fill level, the reason, and the remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm: VmId { service, .. }, bytes, limit_bytes, reason } = self;
        let usage = Usage { used: *bytes, limit: *limit_bytes };
        write!(
            f,
            "its history since the last snapshot takes {} of at most {} ({:.0}%), and no snapshot succeeded{}{}; fix \
             the cause, and run lifeboat failover {service}, which takes a snapshot (if the export lacks memory, \
             configure a larger size first); or remove the service with lifeboat remove {service}",
            BytesBeside { bytes: *bytes, bound: *limit_bytes },
            Bytes(*limit_bytes),
            usage.utilisation_percent(),
            if reason.is_some() { ": " } else { "" },
            reason.as_deref().unwrap_or_default(),
        )
    }
}

/// The utilisation of a resource of the host, as the mean over the monitor's window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPressure {
    /// The resource.
    pub resource: HostResource,
    /// The mean usage, and the limit.
    #[serde(flatten)]
    pub usage: Usage,
    /// The threshold.
    pub threshold_percent: Percent,
}

impl HostPressure {
    /// Returns the share below which the resource is relieved.
    fn relief(&self) -> Percent {
        self.threshold_percent.less_points(HYSTERESIS_POINTS)
    }
}

impl fmt::Display for HostPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, usage, threshold_percent } = self;
        let (utilisation_percent, amounts) = (usage.utilisation_percent(), resource.amounts(*usage));
        let relief = self.relief();
        write!(
            f,
            "{resource} {utilisation_percent:.1}% ({amounts}, threshold {threshold_percent}, relieved below {relief})"
        )
    }
}

/// The reason for a service's failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailoverCause {
    /// The tank was nearly empty, or empty.
    Cpu,
    /// Memory was nearly full, or full.
    Memory,
    /// An operator requested the failover.
    Forced,
    /// The virtual disk was nearly full, or full.
    Disk,
    /// The allowance of network was nearly used up, or used up.
    Network,
}

impl FailoverCause {
    /// Every cause, in the order of reports.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Network, Self::Memory, Self::Disk, Self::Forced];

    /// Returns the resource that was exhausted, or none if an operator requested the failover.
    #[must_use]
    pub fn resource(self) -> Option<Resource> {
        Resource::ALL.into_iter().find(|resource| Self::from(*resource) == self)
    }
}

impl From<Resource> for FailoverCause {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Cpu => Self::Cpu,
            Resource::Memory => Self::Memory,
            Resource::Disk => Self::Disk,
            Resource::Network => Self::Network,
        }
    }
}

impl fmt::Display for FailoverCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Forced => "forced",
        })
    }
}

/// What a service is brought back from, in place of a snapshot that is damaged or cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Another snapshot, whose last transaction this is.
    Snapshot(Sequence),
    /// The beginning of its journal: there is no intact snapshot.
    Beginning,
    /// Nothing: the service is quarantined.
    Nothing,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(sequence) => write!(f, "uses its snapshot of transaction {}", grouped(sequence.0)),
            Self::Beginning => f.write_str("has no intact one, and is replayed from the beginning of its journal"),
            Self::Nothing => f.write_str("is quarantined"),
        }
    }
}

impl Fallback {
    /// Returns the remedy for a snapshot that this replaces.
    fn remedy(self) -> &'static str {
        match self {
            Self::Snapshot(_) | Self::Beginning => {
                "with the server stopped, lifeboat data verify --data DIR checks the rest of its data"
            }
            Self::Nothing => {
                "put back an intact copy of the file, or restore a portable snapshot of the service under another name \
                 (lifeboat data restore)"
            }
        }
    }
}

/// The move of a service to a fresh VM.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failover {
    /// The reason for the failover.
    pub cause: FailoverCause,
    /// The VM that served until now.
    pub from: VmId,
    /// The machine of that VM.
    pub from_machine: Name,
    /// The VM that serves from now on.
    pub to: VmId,
    /// The machine of that VM.
    pub to_machine: Name,
    /// The name of the fresh VM's size.
    pub size: String,
    /// The last transaction that is part of the moved state.
    pub sequence: Sequence,
    /// The length of the exported state that the fresh VM was restored from, in bytes.
    pub snapshot_bytes: u64,
    /// What is on the virtual disk, in bytes; 0 if the guest uses no disk, and from records of earlier versions.
    pub disk_bytes: u64,
    /// The number of transactions that were replayed after that.
    pub replayed_transactions: u64,
    /// The fuel that the old VM burnt in its life.
    pub fuel_used: u64,
    /// The time for which the service was paused.
    #[serde(rename = "pause_us", serialize_with = "microseconds")]
    pub pause: Duration,
    /// The user who forced the failover; absent if nobody did, and from records of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_by: Option<Name>,
    /// The time by the service's clock; absent from records of earlier versions. A forwarded event has the forwarder's
    /// own time.
    #[serde(skip)]
    pub timestamp: Option<Timestamp>,
}

/// A failover that a client's request caused, as reported to the client. If it has ended, its text is that of the
/// event.
#[derive(Debug, Clone, PartialEq)]
pub enum Triggered {
    /// The failover has ended: the service is in its fresh VM.
    Over(Failover),
    /// A shadow has begun the failover. The old VM serves until the shadow has caught up. The event comes then.
    Begun {
        /// The reason for the failover.
        cause: FailoverCause,
        /// The VM that serves until then.
        from: VmId,
        /// The machine of that VM.
        from_machine: Name,
    },
}

impl fmt::Display for Triggered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over(failover) => failover.fmt(f),
            Self::Begun { from, from_machine, .. } => write!(
                f,
                "Failover started: {from} on {from_machine} serves until its shadow has caught up; then the service \
                 continues in a fresh VM"
            ),
        }
    }
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Trigger process failover: triggered: {} on {} -> {} on {} (state {}, {}replayed {}, pause {:.1} ms)",
            self.from,
            self.from_machine,
            self.to,
            self.to_machine,
            Bytes(self.snapshot_bytes),
            if self.disk_bytes > 0 { format!("disk {:#}, ", Bytes(self.disk_bytes)) } else { String::new() },
            grouped(self.replayed_transactions),
            self.pause.as_secs_f64() * 1e3,
        )?;
        match &self.forced_by {
            Some(user) => write!(f, " forced by {user}"),
            None if self.cause == FailoverCause::Forced => f.write_str(" forced by an operator"),
            None => Ok(()),
        }
    }
}

fn date<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:.9}", Utc(*time)))
}

fn microseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlaFailure(SlaFailure { vm, resource, usage, unit, threshold_percent, .. }) => write!(
                f,
                "SLA failure: {vm} {resource} {:.1}% ({} of {} {unit}, threshold {threshold_percent})",
                usage.utilisation_percent(),
                grouped(usage.used),
                grouped(usage.limit),
            ),
            Self::Failover(failover) => failover.fmt(f),
            Self::Degraded { vm, reason } => {
                write!(f, "Degraded: {vm} continues to serve within its limits: {}", Printable(reason))
            }
            Self::Recovered { vm } => write!(f, "Recovered: {vm} is no longer degraded"),
            Self::Unmovable { vm, reason } => write!(
                f,
                "Unmovable: {vm} continues, but its state could not be moved: {}; until that is fixed, it fails over \
                 by replay",
                Printable(reason)
            ),
            Self::Movable { vm } => write!(f, "Movable: the state of {vm} was exported and restored again"),
            Self::Fragile { vm, reason } => write!(
                f,
                "Fragile: {vm} continues, but a trial of its state failed: {}; find the cause with `lifeboat check` before \
                 the service fails over",
                Printable(reason)
            ),
            Self::JournalFilling(fill) => write!(f, "Journal filling: {}: {fill}", fill.vm),
            Self::JournalFull(fill) => write!(f, "Journal full: {} denies transactions: {fill}", fill.vm),
            Self::JournalRelieved { vm } => {
                write!(f, "Journal relieved: a snapshot of {vm} was taken, and its history since then is short")
            }
            Self::NotCured { vm, resource, transaction } => write!(
                f,
                "No failover: {vm} was rolled back: transaction '{transaction}' exhausted its {resource}, and no fresh \
                 VM that is available to it has enough",
                transaction = Printable(transaction)
            ),
            Self::CallInDoubt { service, call, reason, retry } => write!(
                f,
                "Call in doubt: {service}: {call}: {reason}; {}",
                match retry {
                    Some(Retry::Ask) =>
                        "the id of the transaction is denied until an operator settles the call (lifeboat doubts, lifeboat data doubts)",
                    Some(Retry::Never) => "the next attempt does not make it, and learns that it is in doubt",
                    Some(Retry::Idempotent) =>
                        "the next attempt makes it again, under the same key, if the service may still call the address",
                    None => "no attempt follows, because the client gave no id",
                }
            ),
            Self::CallSettled { service, call, by, status } => {
                write!(f, "Call settled: {service}: {call}: {by} decided that it ")?;
                match status {
                    Some(status) => write!(f, "was answered with status {status}"),
                    None => f.write_str("was not made"),
                }
            }
            Self::CallForgotten { service, call } => write!(
                f,
                "Call forgotten: {service}: {call}: it was in doubt, and the answer to its transaction is forgotten; \
                 if the id is sent again, it is denied as too old, or executed as a new one"
            ),
            Self::Created { vm, machine, size, workload } => {
                write!(f, "Created: {vm} on {machine} (size {size}, workload {workload})")
            }
            Self::Replaced { from, to, workload, state_bytes, pause } => write!(
                f,
                "Replaced: {from} -> {to} (workload {workload}, state {}, pause {:.1} ms)",
                Bytes(*state_bytes),
                pause.as_secs_f64() * 1e3,
            ),
            Self::Started { service } => write!(f, "Started: {service}, by an operator"),
            Self::Stopped { service, reason } => write!(f, "Stopped: {service}: {}", Printable(reason)),
            Self::Restored { vm, sequence, snapshot_sequence, replayed_transactions, took } => write!(
                f,
                "Restored: {vm} at transaction {} (snapshot of {}, replayed {}, {:.1} ms)",
                grouped(sequence.0),
                grouped(snapshot_sequence.0),
                grouped(*replayed_transactions),
                took.as_secs_f64() * 1e3,
            ),
            Self::ClockBehind { service, now, last, ids_ahead } => write!(
                f,
                "Clock behind: the last transaction of {service} has the time {}, and the host's clock shows {}: the \
                 clock was ahead then, or is wrong now; check it. Until it has caught up, the guest's time advances by \
                 a nanosecond per transaction, and {} ids whose own times are far ahead are retained no longer than \
                 ids without a time",
                Utc(*last),
                Utc(*now),
                grouped(*ids_ahead as u64),
            ),
            Self::Quarantined { service, reason } => {
                write!(f, "Quarantined: {service} is not started, and its data stays unchanged: {}", Printable(reason))
            }
            Self::Removed { service } => write!(f, "Removed: {service}, with its history"),
            Self::SnapshotDamaged { service, file, reason, instead } => {
                write!(f, "Snapshot damaged: {service} {instead}: {reason}; ")?;
                if *instead != Fallback::Nothing {
                    write!(f, "the damaged file is renamed to '{file}.damaged'; ")?;
                }
                f.write_str(instead.remedy())
            }
            Self::SnapshotUnusable { service, sequence, reason, instead } => write!(
                f,
                "Snapshot unusable: {service} {instead}: its snapshot of transaction {}: {}",
                grouped(sequence.0),
                Printable(reason)
            ),
            Self::SnapshotNotKept { service, reason } => {
                write!(f, "Snapshot not written: {service} retains its older ones: {}", Printable(reason))
            }
            Self::OldSnapshotsNotRemoved { service, reason } => write!(
                f,
                "Old snapshots not removed: {service} does not need them, but they take space: {}; remove the file, or let \
                 this user remove it: the next snapshot tries again",
                Printable(reason)
            ),
            Self::JournalDamaged { damage } => write!(
                f,
                "Journal damaged: {damage}; with the server stopped, lifeboat data verify --data DIR reports what is \
                 affected"
            ),
            Self::JournalPinned { service, journal_bytes } => write!(
                f,
                "Journal pinned: it takes {}, because records of {service} are damaged, and damaged records are not \
                 truncated; stop the host and restore the damaged segment from a copy, or remove {service}",
                Bytes(*journal_bytes)
            ),
            Self::JournalTorn { position } => write!(
                f,
                "Journal torn: the frame at position {} is incomplete: the host went down while it wrote the frame, \
                 and nothing in it was acknowledged; or the disk damaged the last frame: have clients send their last \
                 requests again",
                grouped(*position)
            ),
            Self::JournalStalled { reason } => write!(
                f,
                "Journal stalled: it {reason}; when its last segment is full, transactions are denied, and nothing is \
                 lost"
            ),
            Self::JournalResumed => f.write_str("Journal resumed: its next segment is ready"),
            Self::HostPressure(pressure) => {
                write!(f, "SLA failure: host {pressure}; new services and scratch work wait, failovers continue")
            }
            // If the level is still above relief, it can no longer be read: the resource is not under pressure for
            // ever.
            Self::HostRelieved(pressure) if pressure.relief().reached(pressure.usage.used, pressure.usage.limit) => {
                write!(
                    f,
                    "Relieved: the utilisation of the host's {} can no longer be read; it was {pressure}",
                    pressure.resource
                )
            }
            Self::HostRelieved(pressure) => write!(f, "Relieved: host {pressure}"),
            Self::Log { service, line } => write!(f, "{service}: {}", Printable(line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_cannot_drive_a_terminal() {
        let service = Name::new("bank").expect("a name");
        let event = Event::Log { service, line: "it's \u{1b}[2J \u{e9}".into() };
        assert_eq!(event.to_string(), "bank: it's \\u{1b}[2J \u{e9}");
    }

    #[test]
    fn an_id_of_an_older_journal_cannot_forge_a_line_of_the_log() {
        let vm = VmId { service: Name::new("spin").expect("a name"), number: 1 };
        let transaction = "x\nTrigger process failover: triggered: spin/1 on m1 -> spin/2 on m2\u{1b}[2J".into();
        let printed = Event::NotCured { vm, resource: Resource::Cpu, transaction }.to_string();
        assert!(printed.contains("'x\\nTrigger") && !printed.chars().any(char::is_control), "{printed}");
    }

    #[test]
    fn a_resource_that_can_no_longer_be_read_is_not_reported_as_below_its_bound() {
        let relieved = |used| {
            let usage = Usage { used, limit: 1_000 };
            let resource = HostResource::Memory;
            Event::HostRelieved(HostPressure { resource, usage, threshold_percent: Percent::whole(98) }).to_string()
        };
        assert!(relieved(929).starts_with("Relieved: host memory 92.9% ("), "{}", relieved(929));
        let printed = "Relieved: the utilisation of the host's memory can no longer be read; it was memory 99.0% (";
        assert!(relieved(990).starts_with(printed), "{}", relieved(990));
    }

    #[test]
    fn a_damaged_snapshot_is_reported_with_what_replaces_it() {
        let printed = |instead| {
            let (service, reason) = (Name::new("bank").expect("a name"), "it is short".into());
            Event::SnapshotDamaged { service, file: "bank.7.snapshot".into(), reason, instead }.to_string()
        };
        let verify = "the damaged file is renamed to 'bank.7.snapshot.damaged'; with the server stopped, lifeboat data \
                      verify --data DIR checks the rest of its data";
        assert_eq!(
            printed(Fallback::Snapshot(Sequence(1_234))),
            format!("Snapshot damaged: bank uses its snapshot of transaction 1,234: it is short; {verify}")
        );
        assert_eq!(
            printed(Fallback::Beginning),
            format!(
                "Snapshot damaged: bank has no intact one, and is replayed from the beginning of its journal: it is \
                 short; {verify}"
            )
        );
        assert_eq!(
            printed(Fallback::Nothing),
            "Snapshot damaged: bank is quarantined: it is short; put back an intact copy of the file, or restore a \
             portable snapshot of the service under another name (lifeboat data restore)"
        );
    }

    #[test]
    fn events_of_calls_in_doubt_name_the_call_and_what_follows() {
        let call = || NamedCall {
            user: Name::new("ada").expect("a name"),
            transaction: "p-1".into(),
            index: 0,
            method: "POST".into(),
            target: "https://api.example.org".into(),
        };
        let service = || Name::new("post").expect("a name");
        let named = "post: call 0 of transaction 'p-1' of ada, POST https://api.example.org";
        let follows = [
            (
                Some(Retry::Ask),
                "the id of the transaction is denied until an operator settles the call (lifeboat doubts, lifeboat data doubts)",
            ),
            (Some(Retry::Never), "the next attempt does not make it, and learns that it is in doubt"),
            (
                Some(Retry::Idempotent),
                "the next attempt makes it again, under the same key, if the service may still call the address",
            ),
            (None, "no attempt follows, because the client gave no id"),
        ];
        for (retry, then) in follows {
            let event =
                Event::CallInDoubt { service: service(), call: call(), reason: DoubtReason::Interrupted, retry };
            let expected = format!("Call in doubt: {named}: the host stopped before its outcome was recorded; {then}");
            assert_eq!(event.to_string(), expected);
        }
        let by = Name::new("eve").expect("a name");
        for (status, decided) in [(Some(202), "was answered with status 202"), (None, "was not made")] {
            let event = Event::CallSettled { service: service(), call: call(), by: by.clone(), status };
            assert_eq!(event.to_string(), format!("Call settled: {named}: eve decided that it {decided}"));
        }
        let event = Event::CallForgotten { service: service(), call: call() };
        let json = serde_json::to_value(&event).expect("JSON");
        assert_eq!(
            (&json["event"], &json["user"], &json["index"]),
            (&"call_forgotten".into(), &"ada".into(), &0.into())
        );
        assert!(event.to_string().starts_with(&format!("Call forgotten: {named}: it was in doubt, ")), "{event}");
    }

    #[test]
    fn a_replacement_names_both_vms_the_workload_the_state_and_the_pause() {
        let vm = |number| VmId { service: Name::new("bank").expect("a name"), number };
        let (workload, pause) = (WorkloadHash::of(b"another"), Duration::from_micros(900));
        let event = Event::Replaced { from: vm(1), to: vm(2), workload, state_bytes: 22_800, pause };
        let expected = format!("Replaced: bank/1 -> bank/2 (workload {workload}, state 22.8 kB, pause 0.9 ms)");
        assert_eq!(event.to_string(), expected);
        assert_eq!((event.kind(), event.service().map(ToString::to_string)), ("replaced", Some("bank".into())));
        let json = serde_json::to_value(&event).expect("JSON");
        let expected = serde_json::json!({
            "event": "replaced", "from": "bank/1", "to": "bank/2", "workload": workload.to_string(),
            "state_bytes": 22_800, "pause_us": 900,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn events_read_as_documented() {
        let vm = |number| VmId { service: Name::new("bank").expect("a name"), number };
        let failed = |resource, unit, used, limit| {
            Event::SlaFailure(SlaFailure {
                vm: vm(1),
                resource,
                usage: Usage { used, limit },
                unit,
                threshold_percent: Percent::whole(98),
                transaction: "t".into(),
                sequence: Sequence(9),
                timestamp: None,
            })
        };
        for (failure, expected) in [
            (
                failed(Resource::Cpu, Unit::Fuel, 49_150_221, 50_000_000),
                "SLA failure: bank/1 cpu 98.3% (49,150,221 of 50,000,000 fuel, threshold 98%)",
            ),
            (
                failed(Resource::Network, Unit::Calls, 980, 1_000),
                "SLA failure: bank/1 network 98.0% (980 of 1,000 calls, threshold 98%)",
            ),
            (
                failed(Resource::Network, Unit::Bytes, 65_800_000, 64 << 20),
                "SLA failure: bank/1 network 98.0% (65,800,000 of 67,108,864 bytes, threshold 98%)",
            ),
        ] {
            assert_eq!(failure.to_string(), expected);
        }
        let json = serde_json::to_value(failed(Resource::Network, Unit::Calls, 980, 1_000)).expect("JSON");
        assert_eq!(
            (&json["resource"], &json["unit"], &json["used"]),
            (&"network".into(), &"calls".into(), &980.into())
        );
        let failover = Event::Failover(Failover {
            cause: FailoverCause::Cpu,
            from: vm(1),
            from_machine: Name::new("m1").expect("a name"),
            to: vm(2),
            to_machine: Name::new("m2").expect("a name"),
            size: "small".into(),
            sequence: Sequence(9),
            snapshot_bytes: 22_800,
            disk_bytes: 0,
            replayed_transactions: 0,
            fuel_used: 49_150_221,
            pause: Duration::from_micros(900),
            forced_by: None,
            timestamp: None,
        });
        let begun =
            Triggered::Begun { cause: FailoverCause::Cpu, from: vm(1), from_machine: Name::new("m1").expect("a name") };
        assert!(begun.to_string().starts_with("Failover started: bank/1 on m1 "), "{begun}");
        assert_eq!(
            failover.to_string(),
            "Trigger process failover: triggered: bank/1 on m1 -> bank/2 on m2 (state 22.8 kB, replayed 0, pause 0.9 ms)"
        );
        let Event::Failover(failover) = failover else { panic!("it is one") };
        let with_disk = Event::Failover(Failover { disk_bytes: 64_000_000, ..failover }).to_string();
        assert!(with_disk.ends_with("(state 22.8 kB, disk 64.0 MB, replayed 0, pause 0.9 ms)"), "{with_disk}");
    }
}
