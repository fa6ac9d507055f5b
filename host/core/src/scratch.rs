//! Scratch VMs: states of a data directory's services that are brought back for a query, a comparison or an export, and
//! then dropped.
//!
//! A [`Scratch`] is a separate engine with a few slots and no fleet. It shares nothing with a host. All states come
//! from `rehydrate.rs`. The work here is maintenance: it has the maintenance allowance, and is not charged to any tank.

use crate::data::{self, DataError, FoundService, FoundSnapshot, kept, last_transaction};
use crate::journal::Record;
use crate::snapshot_file::ResumePoint;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::storage::Storage;
use lifeboat_vm::engine::{CodeCache, Engine, EngineError, PoolLimits, Program, load_stored};
use lifeboat_vm::instance::{Attempt, Call, Instance, MoveError};
use lifeboat_vm::rehydrate::{
    MAINTENANCE_DEADLINE, MAINTENANCE_FUEL, Maintenance, RehydrateError, Rehydrated, ReplayContext, rehydrate, restore,
};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::workload::{LoadError, MEMORIES_MAX, Workload};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// The most stores at once: one state, the two states of a comparison, and one that is being dropped.
const STORES: u32 = 4;

/// Brings back states for inspection.
#[derive(Debug)]
pub struct Scratch {
    engine: Arc<Engine>,
    maintenance: Maintenance,
    programs: Mutex<HashMap<WorkloadHash, Arc<Program>>>,
}

/// A workload cannot be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The workload's file cannot be read, or is damaged.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The loader refuses the workload.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The workload cannot be compiled.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ProgramError {
    /// Returns whether another attempt may succeed with a workload that was loaded and compiled before. That is so if
    /// the process could not be started, was killed, or failed for lack of memory.
    pub(crate) fn may_pass_of_stored(&self) -> bool {
        match self {
            Self::Load(error) | Self::Engine(EngineError::Load(error)) => error.may_pass_of_stored(),
            Self::Engine(error) => matches!(error, EngineError::Process { .. } | EngineError::Exceeded { .. }),
            Self::Data(_) => false,
        }
    }
}

/// Reads a stored workload and loads it.
///
/// # Errors
/// [`ProgramError::Data`], [`ProgramError::Load`].
pub fn stored_workload(storage: &dyn Storage, hash: &WorkloadHash) -> Result<Workload, ProgramError> {
    let bytes = data::read_workload(storage, hash)?;
    Ok(load_stored(&hash.to_string(), &bytes)?)
}

/// A state cannot be brought back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The state is not retained, or never existed.
    #[error("the state of '{service}' after transaction {sequence} is not retained: name {kept}")]
    OutOfRange {
        /// The name of the service.
        service: Name,
        /// The requested transaction.
        sequence: Sequence,
        /// The transactions whose states can be brought back.
        kept: Stretches,
    },
    /// There is no snapshot to begin with.
    #[error(
        "no state of '{service}' can be restored: it has no intact snapshot; restore one from a copy of the directory"
    )]
    Nothing {
        /// The name of the service.
        service: Name,
    },
    /// The guest fails, or its replay diverges.
    #[error(transparent)]
    Rehydrate(#[from] RehydrateError),
    /// The directory cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// The transactions whose states can be brought back: the first and the last of each stretch, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretches(pub Vec<(Sequence, Sequence)>);

impl fmt::Display for Stretches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_one = matches!(&self.0[..], [(first, last)] if first == last);
        f.write_str(if is_one { "" } else { "one of " })?;
        for (index, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            write!(f, "{first}")?;
            if first != last {
                write!(f, " to {last}")?;
            }
        }
        Ok(())
    }
}

/// The state of a service after one of its transactions, in an instance.
#[derive(Debug)]
pub struct State {
    instance: Instance,
    /// The snapshot that the state was brought back from.
    base: Arc<Snapshot>,
    /// The last transaction that is part of the state.
    pub sequence: Sequence,
    /// The time of that transaction.
    pub timestamp: Timestamp,
    /// The last record that is part of the state.
    pub record: RecordNumber,
    /// The point at which the service would continue.
    pub resume_point: ResumePoint,
    /// The number of transactions that were executed again.
    pub replayed_transactions: u64,
}

/// The result of a query.
#[derive(Debug)]
pub struct Queried {
    /// The guest's answer.
    pub answer: Answer,
    /// The fuel that the query used.
    pub fuel_used: u64,
    /// The lines that the guest logged.
    pub log: Vec<String>,
}

impl State {
    /// Returns the virtual disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        self.instance.disk()
    }
}

impl Scratch {
    /// Sets up slots for the largest of `sizes`, and for any workload.
    ///
    /// # Errors
    /// [`EngineError::SetUp`].
    pub fn new<'a>(sizes: impl IntoIterator<Item = &'a Size>) -> Result<Self, EngineError> {
        Self::with_memories(MEMORIES_MAX, sizes, None)
    }

    /// Sets up slots for the largest of `sizes`, and for workloads of up to `memories` linear memories. Address space
    /// is reserved for each of these memories. Compiled workloads are taken from `code_cache` and kept there, if there
    /// is one.
    ///
    /// # Errors
    /// [`EngineError::SetUp`].
    pub fn with_memories<'a>(
        memories: u64,
        sizes: impl IntoIterator<Item = &'a Size>,
        code_cache: Option<Arc<CodeCache>>,
    ) -> Result<Self, EngineError> {
        let memory_bytes = sizes.into_iter().map(|size| size.memory_bytes).max().unwrap_or_default();
        let engine = Engine::new(PoolLimits { stores: STORES, memories, memory_bytes })?;
        let engine = Arc::new(engine.with_cache(code_cache));
        let maintenance =
            Maintenance { fuel: MAINTENANCE_FUEL, deadline: MAINTENANCE_DEADLINE, memory_bytes: engine.slot_bytes() };
        Ok(Self { engine, maintenance, programs: Mutex::default() })
    }

    /// Reads and compiles the workload of a service, unless that was done before.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub async fn program(&self, storage: &dyn Storage, found: &FoundService) -> Result<Arc<Program>, ProgramError> {
        let program = self.compiled(storage, &found.entry.workload).await?;
        Ok(found.entry.settings.program.of_service(&found.name, program))
    }

    async fn compiled(&self, storage: &dyn Storage, hash: &WorkloadHash) -> Result<Arc<Program>, ProgramError> {
        let known = self.programs.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        if let Some(program) = known {
            // The file may have been damaged since.
            data::read_workload(storage, hash)?;
            return Ok(program);
        }
        let program = self.compile(stored_workload(storage, hash)?).await?;
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).insert(*hash, Arc::clone(&program));
        Ok(program)
    }

    /// Compiles a workload.
    ///
    /// # Errors
    /// As [`Engine::compile`].
    pub async fn compile(&self, workload: Workload) -> Result<Arc<Program>, EngineError> {
        self.engine.compile(workload).await
    }

    /// Returns the context of a replay.
    #[must_use]
    pub fn replay_context<'a>(
        &self,
        program: &'a Program,
        secret: &'a [u8; 32],
        accepted_divergences: &'a BTreeSet<Sequence>,
    ) -> ReplayContext<'a> {
        ReplayContext { program, secret, accepted_divergences, maintenance: self.maintenance }
    }

    /// Returns the context of a replay of a service that was found in a directory.
    #[must_use]
    pub fn replay_context_of<'a>(&self, program: &'a Program, found: &'a FoundService) -> ReplayContext<'a> {
        self.replay_context(program, &found.entry.secret, &found.entry.accepted_divergences)
    }

    /// Brings back the state of `found` after transaction `at`, or after the last transaction that can be trusted.
    /// Begins with the newest snapshot that can be restored, as the next start would.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn state(
        &self,
        storage: &dyn Storage,
        program: &Program,
        found: &FoundService,
        at: Option<Sequence>,
    ) -> Result<State, StateError> {
        let replay_context = self.replay_context_of(program, found);
        let (mut unusable, mut damaged) = (None, None);
        for candidate in found.trusted() {
            let Some(records) = records_through(found, candidate, at) else { continue };
            let base = match candidate.load(storage) {
                Ok(base) => Arc::new(base),
                // The chunks of its disk are read only here.
                Err(DataError::Snapshot(error)) if error.is_damage() => {
                    damaged = Some(DataError::Snapshot(error));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match rehydrate(replay_context, &base, &kept(records)).await {
                Ok(Rehydrated { instance, replayed_transactions, .. }) => {
                    let (sequence, timestamp) =
                        last_transaction(records).unwrap_or((base.sequence(), base.timestamp()));
                    let record = records.last().map_or(candidate.record(), |(number, _)| *number);
                    let resume_point = found.resume_point(candidate, records);
                    return Ok(State {
                        instance,
                        base,
                        sequence,
                        timestamp,
                        record,
                        resume_point,
                        replayed_transactions,
                    });
                }
                Err(error @ RehydrateError::Diverged { .. }) => return Err(error.into()),
                Err(error) => unusable = Some(error),
            }
        }
        let service = found.name.clone();
        let kept = stretches(found);
        Err(match (unusable, at) {
            (Some(error), _) => error.into(),
            (None, _) if damaged.is_some() => damaged.map_or(StateError::Nothing { service }, StateError::from),
            (None, Some(sequence)) if !kept.0.is_empty() => StateError::OutOfRange { service, sequence, kept },
            _ => StateError::Nothing { service },
        })
    }

    /// Runs a query on a state. This consumes the state, because the query may have changed it.
    pub async fn query(&self, mut state: State, user: &Name, body: &[u8]) -> Queried {
        let call = Call {
            id: "query",
            user,
            sequence: state.sequence,
            timestamp: state.timestamp,
            epoch: state.resume_point.epoch,
            body,
        };
        let Attempt { answer, fuel_used, .. } = state.instance.query(call, self.maintenance.allowance()).await;
        Queried { answer, fuel_used, log: state.instance.take_log() }
    }

    /// Exports a state, and restores the export once to prove it.
    ///
    /// # Errors
    /// [`MoveError`].
    pub async fn export(&self, replay_context: ReplayContext<'_>, state: State) -> Result<Arc<Snapshot>, MoveError> {
        let State { mut instance, base, sequence, timestamp, replayed_transactions, .. } = state;
        // The guest's own export is used as it is, even if the guest cannot repeat it.
        if replayed_transactions == 0 && base.sequence() == sequence && !base.is_birth() {
            return Ok(base);
        }
        let (snapshot, _) = instance.snapshot(sequence, timestamp, self.maintenance.allowance()).await?;
        drop(instance);
        let snapshot = Arc::new(snapshot);
        restore(replay_context, &snapshot).await?;
        Ok(snapshot)
    }

    /// Restores a snapshot to prove that this is possible.
    ///
    /// # Errors
    /// [`MoveError`].
    pub async fn prove(&self, replay_context: ReplayContext<'_>, snapshot: &Arc<Snapshot>) -> Result<(), MoveError> {
        restore(replay_context, snapshot).await.map(drop)
    }
}

/// Returns the records after `base` up to transaction `at`, or all of them. Returns none if they do not lead to `at`.
fn records_through<'a>(
    found: &'a FoundService,
    base: &FoundSnapshot,
    at: Option<Sequence>,
) -> Option<&'a [(RecordNumber, Record)]> {
    let records = found.records_after(base);
    let Some(at) = at else { return Some(records) };
    if at <= base.sequence() {
        return (at == base.sequence()).then_some(&records[..0]);
    }
    let is_it = |record: &Record| matches!(record, Record::Transaction(transaction) if transaction.sequence == at);
    let last = records.iter().position(|(_, record)| is_it(record))?;
    Some(&records[..=last])
}

/// Returns the transactions whose states can be brought back.
fn stretches(found: &FoundService) -> Stretches {
    let mut stretches: Vec<(Sequence, Sequence)> = found
        .trusted()
        .map(|snapshot| {
            let last = last_transaction(found.records_after(snapshot));
            (snapshot.sequence(), last.map_or(snapshot.sequence(), |(sequence, _)| sequence))
        })
        .collect();
    stretches.sort_unstable();
    stretches.dedup_by(|next, stretch| {
        let is_part = next.0 <= stretch.1.next();
        stretch.1 = if is_part { stretch.1.max(next.1) } else { stretch.1 };
        is_part
    });
    Stretches(stretches)
}
