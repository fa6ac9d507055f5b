//! Proofs that a data directory's history of a service is complete, and that a replay reproduces it.
//!
//! The journal and the files are compared with their hashes when they are read. A proof checks their meaning. From the
//! oldest snapshot on, every transaction is executed again in scratch VMs, and every answer is compared. At each newer
//! snapshot, the replayed state is compared with the stored one. Each stretch begins with a stored snapshot. So all
//! snapshots are restored, and a difference lies between two of them. The last state is exported and restored, as in a
//! failover. So a proof shows whether a service that was never moved can be moved.
//!
//! Two exports of equal states may differ in bytes, because an instance may have lived through more than its state
//! shows. So if the bytes differ, both are restored and exported once more. A difference between these exports is a
//! difference between the states.

use crate::data::{DataError, FoundService, FoundSnapshot, count_transactions, kept, last_transaction};
use crate::journal::TailEntry;
use crate::scratch::{ProgramError, Scratch};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_journal::storage::Storage;
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::rehydrate::{RehydrateError, Rehydrated, ReplayContext, rehydrate, restore};
use lifeboat_vm::snapshot::Snapshot;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The number of transactions between two reports of progress.
const PROGRESS_TRANSACTIONS: usize = 256;

/// A fault that a proof found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The service cannot be brought back.
    Quarantined {
        /// The reason for the quarantine.
        reason: String,
    },
    /// A snapshot's file is damaged.
    SnapshotDamaged {
        /// The name of the file.
        file: String,
        /// The damage.
        reason: String,
    },
    /// The file of a snapshot that the service does not need cannot be read.
    SnapshotUnreadable {
        /// The name of the file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// The workload cannot be read or run.
    Workload {
        /// Why the workload is unusable.
        reason: String,
    },
    /// A snapshot cannot be restored.
    SnapshotUnusable {
        /// The last transaction that is part of the snapshot.
        sequence: Sequence,
        /// Why the restore failed.
        reason: String,
    },
    /// A transaction ended differently from its first execution.
    Diverged {
        /// The transaction that diverged.
        sequence: Sequence,
        /// The difference.
        reason: String,
    },
    /// Every answer is the same, but the replayed state differs from the stored one.
    StateDiverged {
        /// The last transaction of the snapshot that the replay began with.
        after: Sequence,
        /// The last transaction of the snapshot that the replay was compared with.
        through: Sequence,
    },
    /// The last state cannot be exported and restored, so no failover can move it.
    Unmovable {
        /// The last transaction that is part of the state.
        sequence: Sequence,
        /// Why the export or the restore failed.
        reason: String,
    },
    /// A replayed state cannot be compared.
    NotCompared {
        /// The last transaction that is part of the state.
        sequence: Sequence,
        /// Why the comparison failed.
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantined { reason } => write!(f, "quarantined: {reason}"),
            Self::SnapshotDamaged { reason, .. } => write!(f, "snapshot damaged: {reason}"),
            Self::SnapshotUnreadable { reason, .. } => write!(f, "old snapshot unreadable, and not needed: {reason}"),
            Self::Workload { reason } => write!(f, "workload: {reason}"),
            Self::SnapshotUnusable { sequence, reason } => {
                write!(f, "snapshot of transaction {sequence} cannot be restored: {reason}")
            }
            Self::Diverged { reason, .. } => f.write_str(reason),
            Self::StateDiverged { after, through } => write!(
                f,
                "the state diverged between transaction {after} and {through}, with the same answers: the snapshot of \
                 {through} contains a state other than the one that a replay from {after} gives"
            ),
            Self::Unmovable { sequence, reason } => write!(
                f,
                "the state after transaction {sequence} cannot be exported and restored, so a failover cannot move it: \
                 {reason}; replays restore it until the journal is full"
            ),
            Self::NotCompared { sequence, reason } => {
                write!(f, "the state after transaction {sequence} cannot be compared with its snapshot: {reason}")
            }
        }
    }
}

/// The result of a proof of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The name of the service.
    pub service: Name,
    /// The last transaction of the oldest snapshot. The proof begins there.
    pub after: Sequence,
    /// The last transaction that the proof reached.
    pub through: Sequence,
    /// The last transaction whose state can be brought back, also behind a gap in the records. None if there is none.
    pub trusted: Option<Sequence>,
    /// The number of transactions that were executed again, all with the same answers.
    pub replayed_transactions: u64,
    /// The number of other transactions, which had failed and changed nothing, and were not executed again.
    pub failed_transactions: u64,
    /// The number of queries that were run again.
    pub replayed_queries: u64,
    /// The number of snapshots that a replay from the snapshot before reproduced.
    pub agreeing_snapshots: u64,
    /// The faults that the proof found.
    pub findings: Vec<Finding>,
}

/// Why there is no proof, for or against.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The directory cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A replay exceeded the guest's time. On a busy host that proves nothing.
    #[error("service '{service}': {error}; try again when the machine is less busy")]
    TooSlow {
        /// The name of the service.
        service: Name,
        /// The operation that took too long.
        error: RehydrateError,
    },
}

/// Returns how many transactions a proof of `found` executes.
#[must_use]
pub fn transactions(found: &FoundService) -> u64 {
    let oldest = found.usable().last();
    oldest.map_or(0, |oldest| count(&kept(found.records_after(oldest))))
}

/// Proves the history of `found`, as far as the first divergence. Calls `progress` from time to time with the number of
/// newly executed transactions.
///
/// # Errors
/// [`VerifyError`]. Faults of the service are not errors: the [`Proof`] reports them.
pub async fn verify(
    scratch: &Scratch,
    storage: &dyn Storage,
    found: &FoundService,
    progress: &mut dyn FnMut(u64),
) -> Result<Proof, VerifyError> {
    let oldest = found.usable().last().map(FoundSnapshot::sequence).unwrap_or_default();
    let mut proof = Proof {
        service: found.name.clone(),
        after: oldest,
        through: oldest,
        trusted: None,
        replayed_transactions: 0,
        failed_transactions: 0,
        replayed_queries: 0,
        agreeing_snapshots: 0,
        findings: Vec::new(),
    };
    let program = scratch.program(storage, found).await;
    let of_workload = program.as_ref().err().map(|error| chain(error));
    // A workload that cannot be read is a separate finding.
    if let Err(reason) = &found.standing
        && of_workload.as_ref() != Some(reason)
    {
        proof.findings.push(Finding::Quarantined { reason: reason.clone() });
    }
    for (file, reason) in &found.damaged_snapshots {
        proof.findings.push(Finding::SnapshotDamaged { file: file.clone(), reason: reason.clone() });
    }
    for (file, reason) in &found.unreadable_snapshots {
        proof.findings.push(Finding::SnapshotUnreadable { file: file.clone(), reason: reason.clone() });
    }
    match program {
        Ok(program) => {
            let replay = Replay { scratch, storage, found, program: &program, proof: &mut proof, progress };
            replay.run().await?;
        }
        // The disk fails.
        Err(ProgramError::Data(error @ DataError::Storage { .. })) => return Err(error.into()),
        Err(error) => proof.findings.push(Finding::Workload { reason: chain(&error) }),
    }
    Ok(proof)
}

/// A proof in progress.
struct Replay<'a> {
    scratch: &'a Scratch,
    storage: &'a dyn Storage,
    found: &'a FoundService,
    program: &'a Program,
    proof: &'a mut Proof,
    progress: &'a mut dyn FnMut(u64),
}

impl Replay<'_> {
    /// Goes from snapshot to snapshot, and from the last one to the end. Snapshots that no replay reaches, because the
    /// records between are lost, are only restored.
    async fn run(mut self) -> Result<(), VerifyError> {
        let mut snapshots = Vec::new();
        for snapshot in self.found.usable() {
            if self.is_disk_intact(snapshot)? {
                snapshots.push(snapshot);
            }
        }
        snapshots.reverse();
        for (index, base) in snapshots.iter().enumerate() {
            let next = snapshots.get(index + 1).copied();
            if !self.stretch(base, next).await? {
                return Ok(());
            }
        }
        let usable: Vec<&FoundSnapshot> = self.found.usable().collect();
        for behind in self.found.trusted().filter(|snapshot| !usable.contains(snapshot)) {
            if self.is_disk_intact(behind)? {
                self.restore_only(behind).await?;
            }
        }
        Ok(())
    }

    /// Checks every chunk of a snapshot's disk. Damage is a finding.
    fn is_disk_intact(&mut self, snapshot: &FoundSnapshot) -> Result<bool, VerifyError> {
        match snapshot.check_disk(self.storage) {
            Ok(()) => Ok(true),
            Err(DataError::Snapshot(error)) if error.is_damage() => {
                let file = snapshot.file.clone().unwrap_or_default();
                self.proof.findings.push(Finding::SnapshotDamaged { file, reason: error.to_string() });
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn restore_only(&mut self, snapshot: &FoundSnapshot) -> Result<(), VerifyError> {
        let replay_context = self.scratch.replay_context_of(self.program, self.found);
        let restored = restore(replay_context, &Arc::new(snapshot.load(self.storage)?)).await;
        match restored.map_err(RehydrateError::from) {
            Ok(_) => self.trust(snapshot.sequence()),
            Err(error) if error.is_transient() => {
                return Err(VerifyError::TooSlow { service: self.found.name.clone(), error });
            }
            Err(error) => {
                let (sequence, reason) = (snapshot.sequence(), error.to_string());
                self.proof.findings.push(Finding::SnapshotUnusable { sequence, reason });
            }
        }
        Ok(())
    }

    fn trust(&mut self, sequence: Sequence) {
        self.proof.trusted = self.proof.trusted.max(Some(sequence));
    }

    /// Proves the history between two snapshots, or after the last one. Returns false at a divergence.
    async fn stretch(&mut self, base: &FoundSnapshot, next: Option<&FoundSnapshot>) -> Result<bool, VerifyError> {
        let replay_context = self.scratch.replay_context_of(self.program, self.found);
        let records = self.found.records_after(base);
        let end = next.map_or(records.len(), |next| records.partition_point(|(number, _)| *number <= next.record()));
        let tail = kept(&records[..end]);
        let snapshot = Arc::new(base.load(self.storage)?);
        let mut rehydrated = match self.replay(replay_context, &snapshot, &tail).await {
            Ok(rehydrated) => rehydrated,
            Err(error @ RehydrateError::Diverged { sequence, .. }) => {
                self.proof.findings.push(Finding::Diverged { sequence, reason: error.to_string() });
                return Ok(false);
            }
            Err(error) if error.is_transient() => {
                return Err(VerifyError::TooSlow { service: self.found.name.clone(), error });
            }
            Err(error) => {
                let (sequence, reason) = (base.sequence(), error.to_string());
                self.proof.findings.push(Finding::SnapshotUnusable { sequence, reason });
                return Ok(true);
            }
        };
        self.proof.replayed_transactions += rehydrated.replayed_transactions;
        self.proof.failed_transactions += count_transactions(&records[..end]) as u64 - count(&tail);
        self.proof.replayed_queries += rehydrated.replayed_queries;
        self.proof.through = next.map_or_else(
            || last_transaction(records).map_or(base.sequence(), |(sequence, _)| sequence),
            FoundSnapshot::sequence,
        );
        self.trust(self.proof.through);
        let Some(next) = next else {
            // A state that was just restored and not changed since needs no further proof.
            if base.file.is_none() || !tail.is_empty() {
                let last = last_transaction(records).unwrap_or((base.sequence(), base.timestamp()));
                self.move_last(rehydrated, last).await?;
            }
            return Ok(true);
        };
        let stored = Arc::new(next.load(self.storage)?);
        let allowance = replay_context.maintenance.allowance();
        let exported = rehydrated.instance.snapshot(next.sequence(), next.timestamp(), allowance).await;
        drop(rehydrated);
        let is_same = match exported {
            Ok((exported, _)) if hash(&exported) == hash(&stored) => Ok(true),
            Ok((exported, _)) => is_same_state(replay_context, &stored, &Arc::new(exported)).await,
            Err(error) => Err(error),
        };
        match is_same {
            Ok(true) => self.proof.agreeing_snapshots += 1,
            Ok(false) => {
                let (after, through) = (base.sequence(), next.sequence());
                self.proof.findings.push(Finding::StateDiverged { after, through });
                return Ok(false);
            }
            Err(error) => {
                let error = RehydrateError::from(error);
                if error.is_transient() {
                    return Err(VerifyError::TooSlow { service: self.found.name.clone(), error });
                }
                let (sequence, reason) = (next.sequence(), error.to_string());
                self.proof.findings.push(Finding::NotCompared { sequence, reason });
            }
        }
        Ok(true)
    }

    /// Exports the last state, and restores it.
    async fn move_last(
        &mut self,
        mut rehydrated: Rehydrated,
        (sequence, timestamp): (Sequence, Timestamp),
    ) -> Result<(), VerifyError> {
        let replay_context = self.scratch.replay_context_of(self.program, self.found);
        let exported = rehydrated.instance.snapshot(sequence, timestamp, replay_context.maintenance.allowance()).await;
        drop(rehydrated);
        let moved = match exported {
            Ok((exported, _)) => restore(replay_context, &Arc::new(exported)).await.map(drop),
            Err(error) => Err(error),
        };
        match moved.map_err(RehydrateError::from) {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                return Err(VerifyError::TooSlow { service: self.found.name.clone(), error });
            }
            Err(error) => self.proof.findings.push(Finding::Unmovable { sequence, reason: error.to_string() }),
        }
        Ok(())
    }

    /// Rehydrates in parts, to report progress.
    async fn replay(
        &mut self,
        replay_context: ReplayContext<'_>,
        snapshot: &Arc<Snapshot>,
        tail: &[TailEntry],
    ) -> Result<Rehydrated, RehydrateError> {
        let mut rehydrated = restore(replay_context, snapshot).await?;
        let mut counted = 0;
        for part in tail.chunks(PROGRESS_TRANSACTIONS) {
            match rehydrated.replay(replay_context, part).await {
                Ok(()) => {
                    counted += count(part);
                    (self.progress)(count(part));
                }
                // An accepted divergence left no instance. So the replay begins again, without that transaction.
                Err(RehydrateError::Lost { .. }) => {
                    drop(rehydrated);
                    let rehydrated = rehydrate(replay_context, snapshot, tail).await?;
                    (self.progress)(count(tail) - counted);
                    return Ok(rehydrated);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(rehydrated)
    }
}

/// Returns how many transactions a replay of `tail` executes.
fn count(tail: &[TailEntry]) -> u64 {
    tail.iter().map(TailEntry::transactions).sum()
}

/// Returns whether two exports hold the same state: whether instances that are restored from them export the same
/// bytes.
async fn is_same_state(
    replay_context: ReplayContext<'_>,
    one: &Arc<Snapshot>,
    other: &Arc<Snapshot>,
) -> Result<bool, MoveError> {
    Ok(canonical(replay_context, one).await? == canonical(replay_context, other).await?)
}

/// Returns the hash of the export of an instance that was restored from `snapshot` and did nothing since.
async fn canonical(replay_context: ReplayContext<'_>, snapshot: &Arc<Snapshot>) -> Result<blake3::Hash, MoveError> {
    let mut restored = restore(replay_context, snapshot).await?;
    let allowance = replay_context.maintenance.allowance();
    let (again, _) = restored.instance.snapshot(snapshot.sequence(), snapshot.timestamp(), allowance).await?;
    Ok(hash(&again))
}

/// Returns the hash of an export with its disk, independent of its division into chunks.
fn hash(snapshot: &Snapshot) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&snapshot.state_version().to_le_bytes());
    for section in snapshot.sections() {
        hasher.update(&section.bytes().to_le_bytes());
        for chunk in &section.chunks {
            hasher.update(chunk);
        }
    }
    hasher.update(&snapshot.disk().digest());
    hasher.finalize()
}
