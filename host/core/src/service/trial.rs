//! The trial of a new service's state, in the background: a snapshot and a restore after its first transactions.
//!
//! ```text
//!   Waiting -- enough transactions were kept --> Running --> Over
//!      \--- a snapshot was taken, or a trial would be of no use ---/
//! ```
//!
//! The trial rehydrates the state after half of these transactions, exports it, restores the export, and replays the
//! other half there. So a guest whose export has not all of its state is found before the first failover. The service
//! does not wait for its trial, and goes on as before whatever the trial finds.

use super::{ReplayTerms, Service, TAIL_FUEL_MAX};
use crate::journal::TailEntry;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::Event;
use lifeboat_api::id::Sequence;
use lifeboat_vm::engine::joined;
use lifeboat_vm::rehydrate::{RehydrateError, rehydrate, replay_fuel};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::store::Allowance;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

/// The number of kept transactions of a new service after which its state is tried.
pub const TRIAL_TRANSACTIONS: u64 = 8;

/// The trial of a service's state.
pub(super) enum Trial {
    /// So many transactions were kept.
    Waiting { kept: u64 },
    /// Its task.
    Running(JoinHandle<Result<(), RehydrateError>>),
    /// Nothing is tried any more.
    Over,
}

impl Trial {
    /// Returns the trial of a service that begins.
    pub(super) fn begin() -> Self {
        Self::Waiting { kept: 0 }
    }

    /// Notes that a transaction was kept.
    pub(super) fn note_kept(&mut self) {
        if let Self::Waiting { kept } = self {
            *kept += 1;
        }
    }

    /// Waits for the end of the task, and returns what it found. Waits for ever if none is running.
    pub(super) async fn ended(&mut self) -> Result<(), RehydrateError> {
        let Self::Running(task) = self else { return std::future::pending().await };
        let found = joined(task).await;
        *self = Self::Over;
        found
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Self::Running(task) = self {
            task.abort();
        }
    }
}

/// Exports the state after half of `tail`, and replays the other half on a restore of that.
async fn try_state(
    terms: Arc<ReplayTerms>,
    permit: impl Future<Output = OwnedSemaphorePermit>,
    birth: Arc<Snapshot>,
    tail: Vec<TailEntry>,
    at: (Sequence, Timestamp),
    allowance: Allowance,
) -> Result<(), RehydrateError> {
    let _permit = permit.await;
    let (first, second) = tail.split_at(tail.len() / 2);
    let mut rehydrated = rehydrate(terms.context(), &birth, first).await?;
    let (sequence, timestamp) = at;
    let (snapshot, _) = rehydrated.instance.snapshot(sequence, timestamp, allowance).await?;
    // Its place in the pool is needed.
    drop(rehydrated);
    rehydrate(terms.context(), &Arc::new(snapshot), second).await?;
    Ok(())
}

impl Service {
    /// Begins the trial if enough transactions were kept.
    pub(super) fn begin_trial_if_due(&mut self) {
        if !matches!(self.trial, Trial::Waiting { kept } if kept >= TRIAL_TRANSACTIONS) {
            return;
        }
        self.trial = Trial::Over;
        let birth = self.snapshots.last();
        // A snapshot has proven the state, or has failed. That of a program is a clone, which cannot fail.
        if !birth.is_birth() || !self.may_export() || self.terms.program.workload().is_program() {
            return;
        }
        let tail = self.history.tail(self.snapshots.record());
        // A snapshot is due by itself after a tail as long as that.
        if replay_fuel(&tail) > TAIL_FUEL_MAX {
            return;
        }
        let fleet = Arc::clone(&self.context.fleet);
        let permit = async move { fleet.maintenance_store().await };
        let at = (self.last_sequence, self.clock.last());
        let task = try_state(Arc::clone(&self.terms), permit, Arc::clone(birth), tail, at, self.export_allowance());
        self.trial = Trial::Running(tokio::spawn(task));
    }

    /// Reports what the trial found.
    pub(super) fn end_trial(&mut self, found: Result<(), RehydrateError>) {
        let Err(error) = found else { return };
        // Neither is about the state: the host is busy, or a query has ended its instance.
        if error.is_transient() || matches!(error, RehydrateError::Lost { .. }) {
            return;
        }
        self.emit(Event::Fragile { vm: self.vm.id.clone(), reason: error.to_string() });
    }
}
