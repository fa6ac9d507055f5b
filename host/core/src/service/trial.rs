//! The trial of a service's state, in the background: a snapshot and a restore after its first transactions.
//!
//! ```text
//!   waiting -- enough transactions were kept, or an order --> running --> waiting, if that was an order
//!      |                                                         \------> over, after a finding or the last trial
//!      \--- a snapshot has proven the state, or the last trial would be of no use --> over
//! ```
//!
//! A trial waits from the birth of a service on, also if a start of the host has restored the service from there. It
//! waits anew after a replacement of the workload, from the snapshot that the new one has restored.
//!
//! The trial rehydrates the state after half of these transactions, exports it, restores the export, and replays the
//! other half there. So a guest whose export has not all of its state is found before the first failover. The service
//! does not wait for its trial, and goes on as before whatever the trial finds. One service of a host is tried at a
//! time, so that trials leave the maintenance pool to failovers.
//!
//! A deployment orders a trial at once, usually of the birth itself, and waits for what it finds. The order does not
//! take the place of the trial after the first transactions, unless it finds something. The end of the service ends a
//! trial that runs.

use super::{Message, ReplayTerms, Service, ServiceHandle, TAIL_FUEL_MAX};
use crate::fleet::Fleet;
use crate::journal::TailEntry;
use lifeboat_api::event::Event;
use lifeboat_vm::rehydrate::{ExportNeeds, RehydrateError, rehydrate, replay_fuel};
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, JoinHandle};

/// The number of transactions, kept since the birth of a service or since a replacement of its workload, after which
/// its state is tried.
pub const TRIAL_TRANSACTIONS: u64 = 8;

/// The channel to the caller of an order, who gets what the trial found.
pub(super) type Asked = oneshot::Sender<Option<String>>;

/// The result of a trial's task, or its panic.
type Found = Result<Result<(), RehydrateError>, JoinError>;

/// The trial of a service's state.
#[derive(Default)]
pub(super) struct Trial {
    /// The number of transactions that were kept since the last snapshot. None if the trial waits no more.
    kept: Option<u64>,
    running: Option<Running>,
}

/// A trial that runs.
struct Running {
    task: JoinHandle<Result<(), RehydrateError>>,
    asked: Vec<Asked>,
}

impl Trial {
    /// Returns a trial that waits, of a service that has kept `kept` transactions since its last snapshot.
    pub(super) fn waiting(kept: u64) -> Self {
        Self { kept: Some(kept), running: None }
    }

    /// Notes that a transaction was kept.
    pub(super) fn note_kept(&mut self) {
        if let Some(kept) = &mut self.kept {
            *kept += 1;
        }
    }

    /// Notes that a snapshot has proven the state. A trial that runs goes on.
    pub(super) fn note_proven(&mut self) {
        self.kept = None;
    }

    /// Returns whether enough transactions were kept, and no trial runs.
    fn is_due(&self) -> bool {
        self.running.is_none() && self.kept.is_some_and(|kept| kept >= TRIAL_TRANSACTIONS)
    }

    /// Waits for the end of the task. Returns what it found, and who asked. Waits for ever if none is running.
    pub(super) async fn ended(&mut self) -> (Found, Vec<Asked>) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let found = (&mut running.task).await;
        let asked = std::mem::take(&mut running.asked);
        self.running = None;
        (found, asked)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(Running { task, .. }) = &self.running {
            task.abort();
        }
    }
}

/// Exports the state after `snapshot` and half of `tail`, and replays the other half on a restore of that.
async fn try_state(
    terms: Arc<ReplayTerms>,
    (turns, fleet): (Arc<Semaphore>, Arc<Fleet>),
    snapshot: Arc<Snapshot>,
    tail: Vec<TailEntry>,
) -> Result<(), RehydrateError> {
    let Ok(_turn) = turns.acquire().await else { return Ok(()) };
    let _store = fleet.maintenance_store().await;
    let (first, second) = tail.split_at(tail.len() / 2);
    let mut rehydrated = rehydrate(terms.context(), &snapshot, first).await?;
    // The export sees the time of the last transaction before it.
    let last = first.iter().rev().find_map(|entry| match entry {
        TailEntry::Transaction(record) => Some((record.sequence, record.timestamp)),
        TailEntry::Queries(_) => None,
    });
    let (sequence, timestamp) = last.unwrap_or((snapshot.sequence(), snapshot.timestamp()));
    // A failed export of a service is repeated with more. Here it has that at once.
    let needs = ExportNeeds { is_large: true, is_long: true };
    let allowance = terms.maintenance.export_allowance(needs);
    let (exported, _) = rehydrated.instance.snapshot(sequence, timestamp, allowance).await?;
    // Its place in the pool is needed.
    drop(rehydrated);
    rehydrate(terms.context(), &Arc::new(exported), second).await?;
    Ok(())
}

impl Service {
    /// Begins the last trial if enough transactions were kept.
    pub(super) fn begin_trial_if_due(&mut self) {
        if self.trial.is_due() {
            self.trial.kept = None;
            self.begin_trial();
        }
    }

    /// Begins a trial now, or joins the one that runs, and answers `asked` at its end. Answers at once if there is
    /// nothing to try: a snapshot has proven the state, or the trial after the first transactions is over.
    pub(super) fn try_for(&mut self, asked: Asked) {
        if self.trial.running.is_none() && self.trial.kept.is_some() {
            self.begin_trial();
        }
        match &mut self.trial.running {
            Some(running) => running.asked.push(asked),
            None => drop(asked.send(None)),
        }
    }

    /// Begins a trial of the state since the last snapshot, unless it would be of no use.
    fn begin_trial(&mut self) {
        // An export has failed. The snapshot of a program is a clone, which cannot fail.
        if self.conditions.is_stopped() || !self.may_export() || self.terms.program.workload().is_program() {
            return;
        }
        let tail = self.history.tail(self.snapshots.record());
        // A snapshot is due by itself after a tail as long as that.
        if replay_fuel(&tail) > TAIL_FUEL_MAX {
            return;
        }
        let host = (Arc::clone(&self.context.trials), Arc::clone(&self.context.fleet));
        let task = try_state(Arc::clone(&self.terms), host, Arc::clone(self.snapshots.last()), tail);
        self.trial.running = Some(Running { task: tokio::spawn(task), asked: Vec::new() });
    }

    /// Reports what the trial found. Begins the last trial if it became due meanwhile.
    pub(super) fn end_trial(&mut self, (found, asked): (Found, Vec<Asked>)) {
        let reason = match found {
            Ok(Ok(())) => None,
            // Neither is about the state: the host is busy, or a query has ended its instance.
            Ok(Err(error)) if error.is_transient() || matches!(error, RehydrateError::Lost { .. }) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        let reason = reason.filter(|_| !self.conditions.is_stopped());
        if let Some(reason) = &reason {
            // Another trial would report the same.
            self.trial.kept = None;
            self.emit(Event::Fragile { vm: self.vm.id.clone(), reason: reason.clone() });
        }
        for asked in asked {
            // Ignores a caller that is gone.
            let _ = asked.send(reason.clone());
        }
        self.begin_trial_if_due();
    }
}

impl ServiceHandle {
    /// Tries the state now, once everything that was sent before is done. Returns what is wrong with it. Returns none
    /// if nothing was found, if there is nothing to try, or if the service ends. Dropping the future does not end the
    /// trial.
    pub(crate) async fn try_state(&self) -> Option<String> {
        let place = self.order_place().await;
        let (done, answered) = oneshot::channel();
        self.order(Message::Try { done, _place: place }).ok()?;
        answered.await.ok().flatten()
    }
}
