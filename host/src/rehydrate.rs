//! The one mechanism: the state of a service at N is a snapshot at S and a replay of the transactions S+1 to N.
//!
//! Failover, rollback, recovery, and every proof of a state go through [`rehydrate`]. It runs in a fresh store on a
//! maintenance allowance: what the service's VM has left in its tank is neither needed nor touched.

use crate::engine::Program;
use crate::event::Printable;
use crate::journal::{JournalError, TransactionRecord};
use crate::snapshot::Snapshot;
use crate::transaction::{Answer, Cause, Sequence};
use crate::vm::{Allowance, Call, Instance, MoveError};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Fuel that one instantiation, snapshot or restore may burn, unless configured otherwise: some ten seconds.
pub const MAINTENANCE_FUEL: u64 = 20_000_000_000;

/// How long one instantiation, snapshot or restore may take, unless configured otherwise.
pub const MAINTENANCE_DEADLINE: Duration = Duration::from_secs(60);

/// A replayed transaction may burn twice the fuel that it burnt at first, and this much more: a restored guest has
/// its memory laid out in another way.
const REPLAY_FUEL_SLACK: u64 = 1_000_000;

/// What a replayed transaction costs beside its fuel, as fuel: the call and the comparison.
pub const REPLAY_OVERHEAD_FUEL: u64 = 1_000;

/// What bringing an instance into being costs beside its fuel, as fuel.
pub const INSTANTIATE_OVERHEAD_FUEL: u64 = 50_000;

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
    pub(crate) fn is_transient(&self) -> bool {
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
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance { fuel: self.fuel, memory_bytes: self.memory_bytes, deadline: Some(self.deadline) }
    }
}

/// The state could not be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RehydrateError {
    /// Instantiation or restore failed.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The journal cannot be read.
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] JournalError),
    /// A replayed transaction ended in another way than it did at first.
    #[error(
        "the replay diverged at sequence {sequence}, transaction '{id}': it was {recorded} and is {replayed}; the \
         workload is not deterministic, or its restore does not bring back what snapshot wrote"
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
    },
}

/// A fresh instance in the state that was asked for.
#[derive(Debug)]
pub struct Rehydrated {
    /// The instance.
    pub instance: Instance,
    /// Transactions that were executed again.
    pub replayed_transactions: u64,
    /// Fuel of the restore and the replay.
    pub fuel_used: u64,
}

/// Brings the state after the last transaction of `tail` into a fresh instance of `program`.
///
/// `tail` holds the transactions after `snapshot`, in order; those that failed are skipped, as they changed nothing.
/// The empty snapshot is not restored: a fresh instance is in that state. Dropping the future midway drops the
/// instance and nothing else.
///
/// # Errors
/// [`RehydrateError::Move`] if the guest cannot be instantiated or restored, [`RehydrateError::Diverged`] at the first
/// transaction whose outcome or reply differs from the recorded one.
pub async fn rehydrate(
    program: &Program,
    secret: [u8; 32],
    snapshot: &Arc<Snapshot>,
    tail: &[Arc<TransactionRecord>],
    maintenance: Maintenance,
) -> Result<Rehydrated, RehydrateError> {
    let allowance = maintenance.allowance();
    let mut instance = Instance::create(program, secret, allowance).await?;
    let mut fuel_used = 0;
    if !snapshot.is_birth() {
        fuel_used += instance.restore(snapshot, allowance).await?;
    }
    let mut replayed_transactions = 0;
    for record in tail.iter().filter(|record| record.answer.is_kept()) {
        let call = Call {
            id: &record.id,
            user: &record.user,
            sequence: record.sequence,
            timestamp: record.timestamp,
            body: &record.body,
        };
        let fuel = record.fuel_used.saturating_mul(2).saturating_add(REPLAY_FUEL_SLACK);
        let attempt = instance.execute(call, Allowance { fuel, deadline: None, ..allowance }).await;
        if attempt.answer.hash() != record.answer.hash() {
            return Err(RehydrateError::Diverged {
                sequence: record.sequence,
                id: Printable(&record.id).to_string(),
                recorded: describe(&record.answer),
                replayed: describe(&attempt.answer),
            });
        }
        fuel_used += attempt.fuel_used;
        replayed_transactions += 1;
    }
    // What the guest logged, it logged when the transaction happened.
    instance.take_log();
    Ok(Rehydrated { instance, replayed_transactions, fuel_used })
}

/// The first `chars_max` characters of a guest's text, printable.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    let short: String = text.chars().take(chars_max).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", Printable(&short))
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
