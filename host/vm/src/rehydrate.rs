//! The one mechanism: a service's state at N is a snapshot at S and a replay of the transactions S+1 to N.
//!
//! A query must not change the state, but may change the instance: advance a generator, grow memory, reorder a map. A
//! replay therefore also repeats the queries between the transactions, with the same inputs. A query whose answer
//! differs is not a divergence, because no state depends on its answer. It is reported only with a later transaction
//! that differs.
//!
//! Failover, rollback, recovery, and every proof of a state use [`rehydrate`]. It runs in a fresh store on a
//! maintenance allowance: it neither needs nor uses the fuel in the tank of the service's VM.

use crate::engine::Program;
use crate::instance::{Call, Instance, MoveError};
use crate::snapshot::Snapshot;
use crate::store::{Allowance, Inputs};
use crate::tail::{QueriesRecord, QueryRecord, TailEntry, TransactionRecord};
use lifeboat_api::id::Sequence;
use lifeboat_api::size::DISK_BYTES_MAX;
use lifeboat_api::text::{Printable, shortened};
use lifeboat_api::transaction::{Answer, Cause};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The default fuel limit of one instantiation, snapshot or restore: some ten seconds.
pub const MAINTENANCE_FUEL: u64 = 20_000_000_000;

/// The factor on [`MAINTENANCE_FUEL`] for an export after one that ran out of fuel. The deadline stays the same.
pub const EXPORT_FUEL_FACTOR: u64 = 4;

/// The default time limit of one instantiation, snapshot or restore.
pub const MAINTENANCE_DEADLINE: Duration = Duration::from_secs(60);

/// The fuel that each replayed call may burn beyond twice its original fuel: the memory of a restored guest has another
/// layout. All calls of a replay together may burn [`Maintenance::fuel`] more, for what only some of them do: a guest
/// that restored a string or a table without room to grow copies it at the next change, where the original did not.
pub const REPLAY_FUEL_SLACK: u64 = 1_000_000;

/// The cost of a replayed transaction or query besides its fuel, in fuel: the call and the comparison.
pub const REPLAY_OVERHEAD_FUEL: u64 = 1_000;

/// The cost of creating an instance besides its fuel, in fuel.
pub const INSTANTIATE_OVERHEAD_FUEL: u64 = 50_000;

/// The number of query ids that a divergence names.
const QUERIES_NAMED_MAX: usize = 3;

/// The number of queries that a replay repeats between two yields of its thread: short calls end before they would
/// yield.
const QUERIES_AT_ONCE: usize = 16;

/// Returns the cost of a replay of `tail`, in fuel.
#[must_use]
pub fn replay_fuel(tail: &[TailEntry]) -> u64 {
    tail.iter().map(|entry| entry.fuel_used() + entry.calls() as u64 * REPLAY_OVERHEAD_FUEL).sum()
}

/// The limits of maintenance: work done for the service, not for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// The fuel limit of each instantiation, snapshot or restore.
    pub fuel: u64,
    /// The time limit of each of them.
    pub deadline: Duration,
    /// The linear memory in bytes, which is that of the pool's slot.
    pub memory_bytes: u64,
}

impl RehydrateError {
    /// Returns whether another attempt may succeed later: this one took too long on a busy host.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Move(
                MoveError::Instantiate(Cause::Deadline { .. })
                    | MoveError::Failed { cause: Cause::Deadline { .. }, .. }
            )
        )
    }
}

impl Maintenance {
    /// Returns the allowance of an instantiation or a restore.
    #[must_use]
    pub fn allowance(&self) -> Allowance {
        Allowance {
            fuel: self.fuel,
            memory_bytes: self.memory_bytes,
            // No reply depends on the quota: what a kept transaction wrote was within that of its size.
            disk_bytes: DISK_BYTES_MAX,
            inputs: Inputs::Live { deadline: self.deadline },
        }
    }

    /// Returns the allowance of an export, given the needs that earlier exports of the service showed.
    #[must_use]
    pub fn export_allowance(&self, needs: ExportNeeds) -> Allowance {
        let factor = if needs.is_long { EXPORT_FUEL_FACTOR } else { 1 };
        Allowance { fuel: self.fuel.saturating_mul(factor), ..self.allowance() }
    }
}

/// The extra resources that the exports of a service were found to need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportNeeds {
    /// Whether it needs all the memory of a slot, instead of the size's and
    /// [`MAINTENANCE_HEADROOM_BYTES`](crate::engine::MAINTENANCE_HEADROOM_BYTES).
    pub is_large: bool,
    /// Whether it needs [`EXPORT_FUEL_FACTOR`] times the fuel.
    pub is_long: bool,
}

/// An error from rehydrating a state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RehydrateError {
    /// Instantiation or restore failed.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// A replayed transaction ended differently from its first execution.
    #[error(
        "the replay diverged at sequence {sequence}, transaction '{id}': it was {recorded} and is {replayed}; the \
         workload is not deterministic, or its restore does not restore what its snapshot wrote{queries}"
    )]
    Diverged {
        /// The sequence number of the first transaction that differs.
        sequence: Sequence,
        /// The id of that transaction.
        id: String,
        /// Its recorded outcome, shortened.
        recorded: String,
        /// Its outcome in the replay, shortened.
        replayed: String,
        /// A clause about the queries that ran before it, or an empty string.
        queries: String,
    },
    /// The replies are the same, but not the disk.
    #[error(
        "the replay diverged: after sequence {sequence} its disk differs from that of the service, with the same replies; \
         the workload is not deterministic"
    )]
    DiskDiverged {
        /// The sequence number of the last transaction.
        sequence: Sequence,
    },
    /// A query, or a transaction with an accepted divergence, ended an instance that had already run. A replay from the
    /// snapshot can omit it.
    #[error(
        "the replay of a call at sequence {sequence} ended the instance, and only a replay from its snapshot omits it"
    )]
    Lost {
        /// The sequence number of the transaction, or of the last one before the query.
        sequence: Sequence,
    },
}

/// The service whose state is rehydrated, and the terms.
#[derive(Debug, Clone, Copy)]
pub struct ReplayContext<'a> {
    /// The compiled workload.
    pub program: &'a Program,
    /// The key of its random numbers.
    pub secret: &'a [u8; 32],
    /// The sequence numbers of transactions whose divergence an operator has accepted.
    pub accepted_divergences: &'a BTreeSet<Sequence>,
    /// The limits of the work.
    pub maintenance: Maintenance,
}

/// A fresh instance in the requested state.
#[derive(Debug)]
pub struct Rehydrated {
    /// The instance in that state.
    pub instance: Instance,
    /// The number of transactions that were repeated.
    pub replayed_transactions: u64,
    /// The number of queries that were repeated.
    pub replayed_queries: u64,
    /// The queries that a divergence would name.
    queries: QueriesSeen,
    /// The fuel that the restore and the replay burnt.
    pub fuel_used: u64,
    /// The fuel that replayed calls may still burn beyond their own allowances.
    spare_fuel: u64,
}

/// Rehydrates the state after the last transaction of `tail` in a fresh instance.
///
/// `tail` holds the transactions and queries after `snapshot`, in order. Failed ones are skipped, because they changed
/// nothing. The empty snapshot is not restored: a fresh instance has that state. Dropping the future midway drops the
/// instance and has no other effect.
///
/// # Errors
/// [`RehydrateError::Move`] if the guest cannot be instantiated or restored. [`RehydrateError::Diverged`] at the first
/// transaction whose outcome or reply differs from the record, unless that divergence was accepted.
pub async fn rehydrate(
    replay_context: ReplayContext<'_>,
    snapshot: &Arc<Snapshot>,
    tail: &[TailEntry],
) -> Result<Rehydrated, RehydrateError> {
    // Calls that ended the instance: transactions with an accepted divergence count as failed and change nothing, and
    // queries are treated alike.
    let mut omitted = Omitted::default();
    // Attempts share it, so that their number does not multiply it.
    let mut spare_fuel = replay_context.maintenance.fuel;
    loop {
        let mut rehydrated = restore(replay_context, snapshot).await?;
        rehydrated.spare_fuel = spare_fuel;
        match rehydrated.replay_except(replay_context, tail, &omitted).await {
            Ok(()) => return Ok(rehydrated),
            Err(ReplayError::Rehydrate(error)) => return Err(error),
            Err(ReplayError::Lost { entry, call, .. }) => {
                omitted.insert(entry, call);
                spare_fuel = rehydrated.spare_fuel;
            }
        }
    }
}

/// Restores `snapshot` into a fresh instance: a rehydrate without a tail.
///
/// # Errors
/// [`MoveError`] if the guest cannot be instantiated or restored.
pub async fn restore(replay_context: ReplayContext<'_>, snapshot: &Arc<Snapshot>) -> Result<Rehydrated, MoveError> {
    let allowance = replay_context.maintenance.allowance();
    let disk = snapshot.disk().clone();
    let mut instance = Instance::create(replay_context.program, *replay_context.secret, allowance, disk).await?;
    let mut fuel_used = 0;
    if !snapshot.is_birth() {
        fuel_used += instance.restore(snapshot, allowance).await?;
    }
    // The guest's log lines were already reported when the calls first happened.
    instance.take_log();
    Ok(Rehydrated {
        instance,
        replayed_transactions: 0,
        replayed_queries: 0,
        queries: QueriesSeen::default(),
        fuel_used,
        spare_fuel: replay_context.maintenance.fuel,
    })
}

/// The entries of a tail that are omitted from a call number on. A call that ended the instance takes the rest of its
/// record with it, so that the number of records bounds the number of attempts.
type Omitted = BTreeMap<usize, usize>;

/// The reason why a replay did not reach its end.
enum ReplayError {
    Rehydrate(RehydrateError),
    /// A call with an accepted divergence, or a query, ended the instance: the replay must begin again without it.
    Lost {
        sequence: Sequence,
        /// The index of its entry in the tail.
        entry: usize,
        /// The index of the call in the entry.
        call: usize,
    },
}

/// The replayed queries, as far as a divergence names them.
#[derive(Debug, Default)]
struct QueriesSeen {
    /// The number of queries since the last transaction, and the first few of their ids.
    count: usize,
    ids: Vec<Box<str>>,
    /// The number of queries since the snapshot whose answers differed, and the first of them.
    differing: u64,
    first_differing: Option<(Sequence, Box<str>)>,
}

impl QueriesSeen {
    fn see(&mut self, sequence: Sequence, query: &QueryRecord, differs: bool) {
        self.count += 1;
        if self.ids.len() < QUERIES_NAMED_MAX {
            self.ids.push(query.id.clone());
        }
        if differs {
            self.differing += 1;
            self.first_differing.get_or_insert_with(|| (sequence, query.id.clone()));
        }
    }

    fn pass_transaction(&mut self) {
        self.count = 0;
        self.ids.clear();
    }

    /// Returns the clause about them for a divergence.
    fn clause(&self) -> String {
        let mut clause = String::new();
        if self.count > 0 {
            let ids: Vec<String> = self.ids.iter().map(|id| format!("'{}'", Printable(id))).collect();
            let more = match self.count - ids.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            clause += &format!("; queries that ran before it: {}{more}", ids.join(", "));
        }
        if let Some((sequence, id)) = &self.first_differing {
            clause += &format!(
                "; queries that were answered differently since the snapshot: {}, the first of them '{}' after \
                 sequence {sequence}",
                self.differing,
                Printable(id)
            );
        }
        clause
    }
}

impl Rehydrated {
    /// Repeats `tail`, which must follow on the calls that the instance has run.
    ///
    /// # Errors
    /// As for [`rehydrate`]; the instance is unusable afterwards.
    pub async fn replay(
        &mut self,
        replay_context: ReplayContext<'_>,
        tail: &[TailEntry],
    ) -> Result<(), RehydrateError> {
        match self.replay_except(replay_context, tail, &Omitted::new()).await {
            Ok(()) => Ok(()),
            Err(ReplayError::Rehydrate(error)) => Err(error),
            Err(ReplayError::Lost { sequence, .. }) => Err(RehydrateError::Lost { sequence }),
        }
    }

    async fn replay_except(
        &mut self,
        replay_context: ReplayContext<'_>,
        tail: &[TailEntry],
        omitted: &Omitted,
    ) -> Result<(), ReplayError> {
        for (entry, record) in tail.iter().enumerate() {
            let calls = omitted.get(&entry).copied().unwrap_or(usize::MAX);
            match record {
                TailEntry::Transaction(record) if record.answer.is_kept() && calls > 0 => {
                    self.replay_transaction(replay_context, record, entry).await?;
                }
                TailEntry::Transaction(_) => {}
                TailEntry::Queries(record) => self.replay_queries(replay_context, record, entry, calls).await?,
            }
        }
        self.instance.take_log();
        Ok(())
    }

    async fn replay_transaction(
        &mut self,
        replay_context: ReplayContext<'_>,
        record: &TransactionRecord,
        entry: usize,
    ) -> Result<(), ReplayError> {
        let call = Call {
            id: &record.id,
            user: &record.user,
            sequence: record.sequence,
            timestamp: record.timestamp,
            epoch: record.epoch,
            body: &record.body,
        };
        let allowance = self.allowance(replay_context, record.fuel_used);
        let attempt = self.instance.execute(call, allowance, record.replayed_network()).await;
        self.spend(record.fuel_used, attempt.fuel_used);
        if attempt.answer.hash() != record.answer.hash() {
            let is_accepted = replay_context.accepted_divergences.contains(&record.sequence);
            if is_accepted && self.instance.is_dead() {
                return Err(ReplayError::Lost { sequence: record.sequence, entry, call: 0 });
            }
            if !is_accepted {
                return Err(ReplayError::Rehydrate(RehydrateError::Diverged {
                    sequence: record.sequence,
                    id: Printable(&record.id).to_string(),
                    recorded: describe(&record.answer),
                    replayed: describe(&attempt.answer),
                    queries: self.queries.clause(),
                }));
            }
        }
        self.fuel_used += attempt.fuel_used;
        self.replayed_transactions += 1;
        self.queries.pass_transaction();
        Ok(())
    }

    async fn replay_queries(
        &mut self,
        replay_context: ReplayContext<'_>,
        record: &QueriesRecord,
        entry: usize,
        calls: usize,
    ) -> Result<(), ReplayError> {
        for (index, query) in record.queries.iter().enumerate().take(calls) {
            if index % QUERIES_AT_ONCE == QUERIES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let call = Call {
                id: &query.id,
                user: &query.user,
                sequence: record.sequence,
                timestamp: query.timestamp,
                epoch: record.epoch,
                body: &query.body,
            };
            let allowance = self.allowance(replay_context, query.fuel_used);
            let attempt = self.instance.query(call, allowance).await;
            self.spend(query.fuel_used, attempt.fuel_used);
            if self.instance.is_dead() {
                return Err(ReplayError::Lost { sequence: record.sequence, entry, call: index });
            }
            self.queries.see(record.sequence, query, attempt.answer.hash() != query.reply_hash);
            self.fuel_used += attempt.fuel_used;
            self.replayed_queries += 1;
        }
        Ok(())
    }

    /// Returns the allowance for replaying a call that originally burnt `fuel_used`.
    fn allowance(&self, replay_context: ReplayContext<'_>, fuel_used: u64) -> Allowance {
        let fuel = own_fuel(fuel_used).saturating_add(self.spare_fuel);
        Allowance { fuel, inputs: Inputs::Replay, ..replay_context.maintenance.allowance() }
    }

    /// Takes from the spare fuel what a call burnt beyond its own allowance.
    fn spend(&mut self, original_fuel: u64, burnt_fuel: u64) {
        self.spare_fuel = self.spare_fuel.saturating_sub(burnt_fuel.saturating_sub(own_fuel(original_fuel)));
    }
}

/// Returns what the replay of a call that originally burnt `fuel_used` may burn without spare fuel.
fn own_fuel(fuel_used: u64) -> u64 {
    fuel_used.saturating_mul(2).saturating_add(REPLAY_FUEL_SLACK)
}

/// Describes an answer in a few words.
fn describe(answer: &Answer) -> String {
    let shorten = |text: &str| format!("'{}'", shortened(text, 40));
    match answer {
        Answer::Ok(reply) => format!("ok {}", shorten(&String::from_utf8_lossy(reply))),
        Answer::Refused(text) => format!("refused {}", shorten(text)),
        Answer::Failed(cause) => format!("failed {}", shorten(&cause.to_string())),
    }
}
