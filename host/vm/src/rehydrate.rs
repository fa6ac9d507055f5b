//! The one mechanism: the state of a service at N is a snapshot at S and a replay of the transactions S+1 to N.
//!
//! A query must not change the state, but may change the instance: move a generator, grow memory, reorder a map. So a
//! replay repeats the queries between the transactions as well, with what each of them saw. A query whose answer differs
//! is no divergence, since no answer was derived from it; it is reported with a transaction that differs after it.
//!
//! Failover, rollback, recovery, and every proof of a state go through [`rehydrate`]. It runs in a fresh store on a
//! maintenance allowance: what the service's VM has left in its tank is neither needed nor touched.

use crate::engine::Program;
use crate::instance::{Call, Instance, MoveError};
use crate::snapshot::Snapshot;
use crate::store::{Allowance, Inputs};
use crate::tail::{QueriesRecord, QueryRecord, TailEntry, TransactionRecord};
use lifeboat_api::id::Sequence;
use lifeboat_api::text::{Printable, shortened};
use lifeboat_api::transaction::{Answer, Cause};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Fuel that one instantiation, snapshot or restore may burn, unless configured otherwise: some ten seconds.
pub const MAINTENANCE_FUEL: u64 = 20_000_000_000;

/// How much more fuel an export may burn than [`MAINTENANCE_FUEL`] says after one that this was not enough for. The deadline
/// stays.
pub const EXPORT_FUEL_FACTOR: u64 = 4;

/// How long one instantiation, snapshot or restore may take, unless configured otherwise.
pub const MAINTENANCE_DEADLINE: Duration = Duration::from_secs(60);

/// A replayed transaction may burn twice the fuel that it burnt at first, and this much more: a restored guest has
/// its memory laid out in another way.
const REPLAY_FUEL_SLACK: u64 = 1_000_000;

/// What a replayed transaction or query costs beside its fuel, as fuel: the call and the comparison.
pub const REPLAY_OVERHEAD_FUEL: u64 = 1_000;

/// What bringing an instance into being costs beside its fuel, as fuel.
pub const INSTANTIATE_OVERHEAD_FUEL: u64 = 50_000;

/// Ids of queries that a divergence names.
const QUERIES_NAMED_MAX: usize = 3;

/// Queries that are replayed between two points at which the thread is yielded: short calls end before any of them would.
const QUERIES_AT_ONCE: usize = 16;

/// What a replay of `tail` costs, as fuel.
#[must_use]
pub fn replay_fuel(tail: &[TailEntry]) -> u64 {
    tail.iter().map(|entry| entry.fuel_used() + entry.calls() as u64 * REPLAY_OVERHEAD_FUEL).sum()
}

/// What maintenance may use: work that is done for the service, not for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// Fuel for each instantiation, snapshot or restore.
    pub fuel: u64,
    /// Time for each of them.
    pub deadline: Duration,
    /// Linear memory, in bytes: the pool's slot.
    pub memory_bytes: u64,
}

impl RehydrateError {
    /// Whether the same may succeed later: it took too long on a host that was busy.
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
    /// What an instantiation or a restore may use.
    #[must_use]
    pub fn allowance(&self) -> Allowance {
        Allowance { fuel: self.fuel, memory_bytes: self.memory_bytes, inputs: Inputs::Live { deadline: self.deadline } }
    }

    /// What an export may use, by how the service's last ones went.
    #[must_use]
    pub fn export_allowance(&self, needs: ExportNeeds) -> Allowance {
        let factor = if needs.is_long { EXPORT_FUEL_FACTOR } else { 1 };
        Allowance { fuel: self.fuel.saturating_mul(factor), ..self.allowance() }
    }
}

/// What the exports of a service were found to need beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportNeeds {
    /// All the memory of a slot, instead of the size's and [`MAINTENANCE_HEADROOM_BYTES`](crate::engine::MAINTENANCE_HEADROOM_BYTES).
    pub is_large: bool,
    /// Fuel by [`EXPORT_FUEL_FACTOR`].
    pub is_long: bool,
}

/// The state could not be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RehydrateError {
    /// Instantiation or restore failed.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// What is to be replayed cannot be read.
    #[error("the journal cannot be read: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
    /// A replayed transaction ended in another way than it did at first.
    #[error(
        "the replay diverged at sequence {sequence}, transaction '{id}': it was {recorded} and is {replayed}; the \
         workload is not deterministic, or its restore does not bring back what snapshot wrote{queries}"
    )]
    Diverged {
        /// The first transaction that differs.
        sequence: Sequence,
        /// Its id.
        id: String,
        /// How it ended at first, shortened.
        recorded: String,
        /// How it ended in the replay, shortened.
        replayed: String,
        /// A clause about the queries that ran before it. Empty if there were none.
        queries: String,
    },
    /// A transaction whose divergence was accepted, or a query, ended an instance in the midst of its life. A replay from
    /// the snapshot can omit it.
    #[error(
        "the replay of a call at sequence {sequence} ended the instance, and only a replay from its snapshot omits it"
    )]
    Lost {
        /// The transaction, or the last one before the query.
        sequence: Sequence,
    },
}

/// Whose state is brought back, and on what terms.
#[derive(Debug, Clone, Copy)]
pub struct ReplayContext<'a> {
    /// What it runs.
    pub program: &'a Program,
    /// Keys its random numbers.
    pub secret: &'a [u8; 32],
    /// Transactions at which an operator has accepted that a replay ends in another way.
    pub accepted_divergences: &'a BTreeSet<Sequence>,
    /// What the work may use.
    pub maintenance: Maintenance,
}

/// A fresh instance in the state that was asked for.
#[derive(Debug)]
pub struct Rehydrated {
    /// The instance.
    pub instance: Instance,
    /// Transactions that were executed again.
    pub replayed_transactions: u64,
    /// Queries that were run again.
    pub replayed_queries: u64,
    /// The queries among them that a divergence names.
    queries: QueriesSeen,
    /// Fuel of the restore and the replay.
    pub fuel_used: u64,
}

/// Brings the state after the last transaction of `tail` into a fresh instance.
///
/// `tail` holds the transactions and queries after `snapshot`, in order; those that failed are skipped, as they changed
/// nothing.
/// The empty snapshot is not restored: a fresh instance is in that state. Dropping the future midway drops the
/// instance and nothing else.
///
/// # Errors
/// [`RehydrateError::Move`] if the guest cannot be instantiated or restored, [`RehydrateError::Diverged`] at the first
/// transaction whose outcome or reply differs from the recorded one, unless that was accepted.
pub async fn rehydrate(
    replay_context: ReplayContext<'_>,
    snapshot: &Arc<Snapshot>,
    tail: &[TailEntry],
) -> Result<Rehydrated, RehydrateError> {
    // Accepted divergences that left no instance: their transactions count as failed, and change nothing. So do queries.
    let mut omitted = Omitted::default();
    loop {
        let mut rehydrated = restore(replay_context, snapshot).await?;
        match rehydrated.replay_except(replay_context, tail, &omitted).await {
            Ok(()) => return Ok(rehydrated),
            Err(ReplayError::Rehydrate(error)) => return Err(error),
            Err(ReplayError::Lost { entry, call, .. }) => {
                omitted.insert(entry, call);
            }
        }
    }
}

/// Brings `snapshot` into a fresh instance: a rehydrate without a tail.
///
/// # Errors
/// [`MoveError`].
pub async fn restore(replay_context: ReplayContext<'_>, snapshot: &Arc<Snapshot>) -> Result<Rehydrated, MoveError> {
    let allowance = replay_context.maintenance.allowance();
    let mut instance = Instance::create(replay_context.program, *replay_context.secret, allowance).await?;
    let mut fuel_used = 0;
    if !snapshot.is_birth() {
        fuel_used += instance.restore(snapshot, allowance).await?;
    }
    // What the guest logged, it logged when it happened first.
    instance.take_log();
    Ok(Rehydrated {
        instance,
        replayed_transactions: 0,
        replayed_queries: 0,
        queries: QueriesSeen::default(),
        fuel_used,
    })
}

/// Entries of a tail of which the calls from a certain one on are not repeated: a call that ended the instance takes the
/// rest of its record with it, so that the number of attempts is bounded by that of the records.
type Omitted = BTreeMap<usize, usize>;

/// Why a replay did not reach its end.
enum ReplayError {
    Rehydrate(RehydrateError),
    /// A call ended the instance, which was accepted: begin again without it.
    Lost {
        sequence: Sequence,
        /// Its entry in the tail.
        entry: usize,
        /// Its number in the entry.
        call: usize,
    },
}

/// Queries that were replayed, as far as a divergence is to name them.
#[derive(Debug, Default)]
struct QueriesSeen {
    /// Those since the last transaction, and the ids of the first of them.
    count: usize,
    ids: Vec<Box<str>>,
    /// Those since the snapshot that were answered in another way, and the first of them.
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

    /// What a divergence says of them.
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
                "; queries that were answered in another way since the snapshot: {}, the first of them '{}' after sequence \
                 {sequence}",
                self.differing,
                Printable(id)
            );
        }
        clause
    }
}

impl Rehydrated {
    /// Executes `tail` again, which follows on what the instance has seen.
    ///
    /// # Errors
    /// As [`rehydrate`]; the instance is of no use then.
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
        let attempt = self.instance.execute(call, allowance(replay_context, record.fuel_used)).await;
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
            let attempt = self.instance.query(call, allowance(replay_context, query.fuel_used)).await;
            if self.instance.is_dead() {
                return Err(ReplayError::Lost { sequence: record.sequence, entry, call: index });
            }
            self.queries.see(record.sequence, query, attempt.answer.hash() != query.reply_hash);
            self.fuel_used += attempt.fuel_used;
            self.replayed_queries += 1;
        }
        Ok(())
    }
}

/// What a call may use in a replay that burnt `fuel_used` at first.
fn allowance(replay_context: ReplayContext<'_>, fuel_used: u64) -> Allowance {
    let fuel = fuel_used.saturating_mul(2).saturating_add(REPLAY_FUEL_SLACK);
    Allowance { fuel, inputs: Inputs::Replay, ..replay_context.maintenance.allowance() }
}

/// An answer in a few words.
fn describe(answer: &Answer) -> String {
    let shorten = |text: &str| format!("'{}'", shortened(text, 40));
    match answer {
        Answer::Ok(reply) => format!("ok {}", shorten(&String::from_utf8_lossy(reply))),
        Answer::Refused(text) => format!("refused {}", shorten(text)),
        Answer::Failed(cause) => format!("failed {}", shorten(&cause.to_string())),
    }
}
