//! Proofs: that what a data directory holds of a service is whole, and gives what it gave.
//!
//! The journal and the files are compared with their hashes where they are read. What is proven here is what they mean:
//! from the oldest snapshot on every transaction is executed again, in scratch VMs, and every answer compared; at each
//! newer snapshot the state that the replay led to is compared with the one that was stored. Each stretch begins with a
//! stored snapshot, so that all of them are restored, and a difference lies between two of them. The last state is
//! exported and restored as a failover would: a service that was never moved shows here whether it can be.
//!
//! Two exports of equal states may differ in bytes, since an instance may have lived through more than its state tells.
//! So if bytes differ, both are restored and exported once more: what differs then is the state.

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

/// Transactions that are executed between two reports of progress.
const PROGRESS_TRANSACTIONS: usize = 256;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The service cannot be brought back.
    Quarantined {
        /// Why.
        reason: String,
    },
    /// A snapshot's file is not what was written.
    SnapshotDamaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The workload cannot be read, or not be run.
    Workload {
        /// Why.
        reason: String,
    },
    /// A snapshot cannot be restored.
    SnapshotUnusable {
        /// The last transaction that is part of it.
        sequence: Sequence,
        /// Why.
        reason: String,
    },
    /// A transaction ended in another way than it did at first.
    Diverged {
        /// The transaction.
        sequence: Sequence,
        /// How.
        reason: String,
    },
    /// Every answer is the same, but the state that they led to is not the one that was stored.
    StateDiverged {
        /// The last transaction of the snapshot that the replay began with.
        after: Sequence,
        /// The last transaction of the snapshot that it was compared with.
        through: Sequence,
    },
    /// The last state cannot be exported and restored, so that no failover can move it.
    Unmovable {
        /// The last transaction that is part of it.
        sequence: Sequence,
        /// Why.
        reason: String,
    },
    /// The state that a replay led to cannot be compared.
    NotCompared {
        /// The last transaction that is part of it.
        sequence: Sequence,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantined { reason } => write!(f, "quarantined: {reason}"),
            Self::SnapshotDamaged { reason, .. } => write!(f, "snapshot damaged: {reason}"),
            Self::Workload { reason } => write!(f, "workload: {reason}"),
            Self::SnapshotUnusable { sequence, reason } => {
                write!(f, "snapshot of transaction {sequence} cannot be restored: {reason}")
            }
            Self::Diverged { reason, .. } => f.write_str(reason),
            Self::StateDiverged { after, through } => write!(
                f,
                "the state diverged between transaction {after} and {through}, with the same answers: the snapshot of \
                 {through} holds another state than a replay from {after} leads to"
            ),
            Self::Unmovable { sequence, reason } => write!(
                f,
                "the state after transaction {sequence} cannot be exported and restored, and so not be moved by a failover: \
                 {reason}; replays bring it back, until the journal is full"
            ),
            Self::NotCompared { sequence, reason } => {
                write!(f, "the state after transaction {sequence} cannot be compared with its snapshot: {reason}")
            }
        }
    }
}

/// What was proven of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The service.
    pub service: Name,
    /// The last transaction of the oldest snapshot: the history is proven from there.
    pub after: Sequence,
    /// The last transaction that was reached.
    pub through: Sequence,
    /// The last transaction whose state can be brought back, behind a gap in the records too. None if none can.
    pub trusted: Option<Sequence>,
    /// Transactions that were executed again, all with the same answers.
    pub replayed_transactions: u64,
    /// Transactions beside them that had failed, and changed nothing.
    pub failed_transactions: u64,
    /// Queries between them that were run again.
    pub replayed_queries: u64,
    /// Snapshots that a replay from the one before led to.
    pub agreeing_snapshots: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// There is no proof, for or against.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It took longer than the guest has for it, which says nothing on a host that is busy.
    #[error("service '{service}': {error}; try again when the machine is less busy")]
    TooSlow {
        /// The service.
        service: Name,
        /// What.
        error: RehydrateError,
    },
}

/// Transactions that a proof of `found` executes.
#[must_use]
pub fn transactions(found: &FoundService) -> u64 {
    let oldest = found.usable().last();
    oldest.map_or(0, |oldest| count(&kept(found.records_after(oldest))))
}

/// Proves what there is of `found`, as far as the first divergence. `progress` is told now and then how many more
/// transactions were executed.
///
/// # Errors
/// [`VerifyError`]. What is wrong with the service is none: it is told in the [`Proof`].
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
    let program = scratch.program(storage, &found.entry.workload).await;
    let of_workload = program.as_ref().err().map(|error| chain(error));
    // A workload that cannot be read is a finding of its own.
    if let Err(reason) = &found.standing
        && of_workload.as_ref() != Some(reason)
    {
        proof.findings.push(Finding::Quarantined { reason: reason.clone() });
    }
    for (file, reason) in &found.damaged_snapshots {
        proof.findings.push(Finding::SnapshotDamaged { file: file.clone(), reason: reason.clone() });
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

/// A proof under way.
struct Replay<'a> {
    scratch: &'a Scratch,
    storage: &'a dyn Storage,
    found: &'a FoundService,
    program: &'a Program,
    proof: &'a mut Proof,
    progress: &'a mut dyn FnMut(u64),
}

impl Replay<'_> {
    /// Goes from snapshot to snapshot, and from the last one to the end. Snapshots that no replay leads to, since the
    /// records between are lost, are restored only.
    async fn run(mut self) -> Result<(), VerifyError> {
        let mut snapshots: Vec<&FoundSnapshot> = self.found.usable().collect();
        snapshots.reverse();
        for (index, base) in snapshots.iter().enumerate() {
            let next = snapshots.get(index + 1).copied();
            if !self.stretch(base, next).await? {
                return Ok(());
            }
        }
        for behind in self.found.trusted().filter(|snapshot| !snapshots.contains(snapshot)) {
            self.restore_only(behind).await?;
        }
        Ok(())
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

    /// Proves what lies between two snapshots, or after the last. False at a divergence.
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
            // A state that was just restored, and not changed since, is proven.
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

    /// Rehydrates in parts, for the sake of progress.
    async fn replay(
        &mut self,
        replay_context: ReplayContext<'_>,
        snapshot: &Arc<Snapshot>,
        tail: &[TailEntry],
    ) -> Result<Rehydrated, RehydrateError> {
        let mut rehydrated = restore(replay_context, snapshot).await?;
        let mut told = 0;
        for part in tail.chunks(PROGRESS_TRANSACTIONS) {
            match rehydrated.replay(replay_context, part).await {
                Ok(()) => {
                    told += count(part);
                    (self.progress)(count(part));
                }
                // An accepted divergence that left no instance: without that transaction, and so from the beginning.
                Err(RehydrateError::Lost { .. }) => {
                    drop(rehydrated);
                    let rehydrated = rehydrate(replay_context, snapshot, tail).await?;
                    (self.progress)(count(tail) - told);
                    return Ok(rehydrated);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(rehydrated)
    }
}

/// How many transactions a replay of `tail` executes.
fn count(tail: &[TailEntry]) -> u64 {
    tail.iter().map(TailEntry::transactions).sum()
}

/// Whether two exports are of the same state: whether instances that were restored from them export the same.
async fn is_same_state(
    replay_context: ReplayContext<'_>,
    one: &Arc<Snapshot>,
    other: &Arc<Snapshot>,
) -> Result<bool, MoveError> {
    Ok(canonical(replay_context, one).await? == canonical(replay_context, other).await?)
}

/// The hash of what an instance exports that was restored from `snapshot` and did nothing since.
async fn canonical(replay_context: ReplayContext<'_>, snapshot: &Arc<Snapshot>) -> Result<blake3::Hash, MoveError> {
    let mut restored = restore(replay_context, snapshot).await?;
    let allowance = replay_context.maintenance.allowance();
    let (again, _) = restored.instance.snapshot(snapshot.sequence(), snapshot.timestamp(), allowance).await?;
    Ok(hash(&again))
}

/// The hash of an export, however it was cut into chunks.
fn hash(snapshot: &Snapshot) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&snapshot.state_version().to_le_bytes());
    for section in snapshot.sections() {
        hasher.update(&section.bytes().to_le_bytes());
        for chunk in &section.chunks {
            hasher.update(chunk);
        }
    }
    hasher.finalize()
}
