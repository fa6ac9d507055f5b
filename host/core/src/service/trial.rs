//! The trial of a new service's state, in the background: a snapshot and a restore after its first transactions.
//!
//! ```text
//!   Waiting -- enough transactions were kept --> Running --> Over
//!      \--- a snapshot was taken, or a trial would be of no use ---/
//! ```
//!
//! The trial rehydrates the state after half of these transactions, exports it, restores the export, and replays the
//! other half there. So a guest whose export has not all of its state is found before the first failover. The service
//! does not wait for its trial, and goes on as before whatever the trial finds. One service of a host is tried at a time,
//! so that trials leave the maintenance pool to failovers.

use super::{ReplayTerms, Service, TAIL_FUEL_MAX};
use crate::fleet::Fleet;
use crate::journal::TailEntry;
use lifeboat_api::event::Event;
use lifeboat_vm::rehydrate::{ExportNeeds, RehydrateError, rehydrate, replay_fuel};
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

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

    /// Waits for the end of the task, and returns what it found, or its panic. Waits for ever if none is running.
    pub(super) async fn ended(&mut self) -> Result<Result<(), RehydrateError>, JoinError> {
        let Self::Running(task) = self else { return std::future::pending().await };
        let found = task.await;
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
    (turns, fleet): (Arc<Semaphore>, Arc<Fleet>),
    birth: Arc<Snapshot>,
    tail: Vec<TailEntry>,
) -> Result<(), RehydrateError> {
    let Ok(_turn) = turns.acquire().await else { return Ok(()) };
    let _store = fleet.maintenance_store().await;
    let (first, second) = tail.split_at(tail.len() / 2);
    let mut rehydrated = rehydrate(terms.context(), &birth, first).await?;
    // The export sees the time of the last transaction before it.
    let last = first.iter().rev().find_map(|entry| match entry {
        TailEntry::Transaction(record) => Some((record.sequence, record.timestamp)),
        TailEntry::Queries(_) => None,
    });
    let (sequence, timestamp) = last.unwrap_or((birth.sequence(), birth.timestamp()));
    // A failed export of a service is repeated with more. Here it has that at once.
    let needs = ExportNeeds { is_large: true, is_long: true };
    let allowance = terms.maintenance.export_allowance(needs);
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
        let host = (Arc::clone(&self.context.trials), Arc::clone(&self.context.fleet));
        let task = try_state(Arc::clone(&self.terms), host, Arc::clone(birth), tail);
        self.trial = Trial::Running(tokio::spawn(task));
    }

    /// Reports what the trial found.
    pub(super) fn end_trial(&mut self, found: Result<Result<(), RehydrateError>, JoinError>) {
        let reason = match found {
            Ok(Ok(())) => return,
            // Neither is about the state: the host is busy, or a query has ended its instance.
            Ok(Err(error)) if error.is_transient() || matches!(error, RehydrateError::Lost { .. }) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        if !self.conditions.is_stopped() {
            self.emit(Event::Fragile { vm: self.vm.id.clone(), reason });
        }
    }
}
