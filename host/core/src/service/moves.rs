//! How a service's store is replaced: rollback, snapshot, failover, and the cure of an exhausted transaction.
//!
//! Each leaves the service in one of two ways: with a live instance in the state that the journal tells, or stopped.
//! Whatever fails in between, the journal and the last good snapshot are untouched until a newer one is proven.

use super::misses::DeadlineMisses;
use super::shadow::{Aim, Shadow};
use super::{Service, Stopped, Work};
use crate::failover::Decision;
use crate::fleet::NoRoom;
use crate::journal::Record;
use lifeboat_api::event::{Event, Failover, FailoverCause, Triggered};
use lifeboat_api::meter::{Resource, Usage};
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Answer, Cause, Denial};
use lifeboat_vm::instance::{Attempt, Instance, MoveError};
use lifeboat_vm::rehydrate::{
    INSTANTIATE_OVERHEAD_FUEL, REPLAY_OVERHEAD_FUEL, RehydrateError, Rehydrated, rehydrate, restore,
};
use lifeboat_vm::snapshot::Snapshot;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a snapshot was taken and its restored store serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// The store that serves was restored from a snapshot of this very state: it is compact.
    Fresh,
    /// The guest could not be moved and goes on in the store that it was in: it is unmovable.
    Not,
    /// The guest could not be moved, its store is lost, and it goes on in one that was rehydrated with this many
    /// transactions replayed: it is unmovable.
    Rehydrated(u64),
}

impl Service {
    /// Brings back the state that the journal tells, into a fresh store of the same VM. The meter goes on as it was
    /// after the last kept transaction: nothing that was rolled back is charged to the tank, and nothing refills it.
    ///
    /// Repeated rollbacks do not replay the same tail again and again: once they have replayed as much as a snapshot
    /// would cost, one is taken.
    pub(super) async fn roll_back(&mut self) -> Result<(), Stopped> {
        let begun = self.counters.begin_rollback();
        if self.adopt_shadow().await {
            return Ok(());
        }
        let brought_back = self.bring_back().await;
        self.counters.end_rollback(begun);
        brought_back?;
        if self.snapshots.is_replayed_often() && self.may_export() {
            self.snapshot_soon().await?;
        }
        Ok(())
    }

    /// Rehydrates into the store that serves. The one before is lost: if this fails, the service stops. Returns how
    /// many transactions were replayed.
    async fn bring_back(&mut self) -> Result<u64, Stopped> {
        match self.rehydrate_tail().await {
            Ok(replayed_transactions) => Ok(replayed_transactions),
            Err(error) => {
                let reason = format!("its state could not be brought back: {error}");
                Err(if error.is_transient() { Stopped(reason) } else { self.stop(reason) })
            }
        }
    }

    /// Rehydrates from the last good snapshot and the tail after it, and goes on in the fresh store; on an error in
    /// the old one. Returns how many transactions were replayed.
    async fn rehydrate_tail(&mut self) -> Result<u64, RehydrateError> {
        let tail = self.journal.tail(self.snapshots.record())?;
        let permit = self.context.fleet.maintenance_store().await;
        let Rehydrated { instance, replayed_transactions, replayed_queries, fuel_used, .. } =
            rehydrate(self.terms.context(), self.snapshots.last(), &tail).await?;
        self.adopt(instance, permit);
        self.counters.replayed(replayed_transactions, fuel_used);
        let replayed_calls = replayed_transactions + replayed_queries;
        if replayed_calls > 0 {
            self.snapshots.note_replayed(fuel_used + replayed_calls * REPLAY_OVERHEAD_FUEL);
        }
        Ok(replayed_transactions)
    }

    /// Takes a snapshot: here and now, or by a shadow.
    pub(super) async fn snapshot_soon(&mut self) -> Result<(), Stopped> {
        if self.prefers_shadow() {
            self.begin_shadow(Aim::Snapshot, None);
            return Ok(());
        }
        self.take_snapshot().await.map(drop)
    }

    /// Exports the state, restores it into a fresh store, and goes on in that one under the same VM and meter.
    ///
    /// If the guest's `snapshot` or `restore` fails the service is *unmovable*: it goes on in a rehydrated store, or in the
    /// old one if that fails as well, and the last good snapshot stays what it is.
    pub(super) async fn take_snapshot(&mut self) -> Result<Moved, Stopped> {
        self.drop_shadow();
        // The journal must have all that the instance has seen, or a replay up to here leads to another one.
        self.flush_queries();
        if self.queries.is_lost() {
            self.bring_back().await?;
        }
        let begun = self.begin_snapshot();
        let mut exported = self.export().await;
        // It is tried again at once on all that a slot has. A guest that burnt its fuel has taken seconds already, and gets
        // more of it the next time.
        if let Err(error) = &exported
            && self.note_export(error)
        {
            self.bring_back().await?;
            exported = self.export().await;
        }
        let (snapshot, export_fuel) = match exported {
            Ok((snapshot, fuel)) => (Arc::new(snapshot), fuel),
            Err(error) => return self.not_moved(error).await,
        };
        let permit = self.context.fleet.maintenance_store().await;
        self.counters.maintained(export_fuel);
        let restored = restore(self.terms.context(), &snapshot).await;
        match restored {
            Ok(Rehydrated { instance, fuel_used, .. }) => {
                self.counters.maintained(fuel_used);
                self.adopt(instance, permit);
                self.adopt_snapshot(snapshot, export_fuel + fuel_used + INSTANTIATE_OVERHEAD_FUEL, begun);
                Ok(Moved::Fresh)
            }
            Err(error) => {
                // A rehydrate that may follow takes one of its own.
                drop(permit);
                self.not_moved(error).await
            }
        }
    }

    /// Exports the state from the store that serves.
    async fn export(&mut self) -> Result<(Snapshot, u64), MoveError> {
        let mut allowance = self.context.maintenance.export_allowance(self.snapshots.export_needs());
        if !self.snapshots.export_needs().is_large {
            allowance.memory_bytes = self.export_memory_bytes();
        }
        let exported = self.vm.instance.snapshot(self.last_sequence, self.clock.last(), allowance).await;
        self.vm.instance.take_log();
        exported
    }

    /// Notes what an export lacked, so that the next has it. Returns whether it is worth to be tried again at once.
    pub(super) fn note_export(&mut self, error: &MoveError) -> bool {
        let has_slot_more = self.export_memory_bytes() < self.context.maintenance.memory_bytes;
        self.snapshots.note_lacked(error.export_lacked(), has_slot_more)
    }

    /// Memory that an export may grow to at first: the VM's own, and the headroom that every slot has.
    fn export_memory_bytes(&self) -> u64 {
        let in_use = self.vm.instance.memory_bytes().max(self.vm.size.memory_bytes);
        let with_headroom = in_use.saturating_add(lifeboat_vm::engine::MAINTENANCE_HEADROOM_BYTES);
        with_headroom.min(self.context.maintenance.memory_bytes)
    }

    pub(super) fn moved(&mut self) {
        let has_headroom = self.policy.has_headroom(self.vm.meter.memory.used, &self.vm.size);
        let due = self.conditions.exported(&self.vm.id, self.journal.held_bytes(), has_headroom);
        self.report(due);
    }

    pub(super) fn become_unmovable(&mut self, reason: String) {
        let due = self.conditions.export_failed(&self.vm.id, reason, self.counters.requests());
        self.report(due);
    }

    async fn not_moved(&mut self, error: MoveError) -> Result<Moved, Stopped> {
        self.become_unmovable(error.to_string());
        if self.vm.instance.is_dead() {
            return Ok(Moved::Rehydrated(self.bring_back().await?));
        }
        // What the export changed in the old store is in no record: a replay must lead to the store that serves.
        match self.rehydrate_tail().await {
            Ok(replayed_transactions) => Ok(Moved::Rehydrated(replayed_transactions)),
            Err(_) => {
                // The old store goes on, grown by what `snapshot` took.
                self.vm.observe_memory();
                Ok(Moved::Not)
            }
        }
    }

    /// Makes `instance` the one that serves. The old store is dropped afterwards and elsewhere: that can take
    /// milliseconds, and it holds its place in the maintenance pool until then.
    pub(super) fn adopt(&mut self, instance: Instance, permit: tokio::sync::OwnedSemaphorePermit) {
        let old = self.vm.replace_instance(instance);
        // It has seen what the journal has, and no more.
        self.queries.forget();
        tokio::task::spawn_blocking(move || {
            drop(old);
            drop(permit);
        });
    }

    /// Moves the service to a fresh VM, if that does what it is for: fresh resources, and every level with headroom.
    pub(super) async fn fail_over(&mut self, cause: FailoverCause) -> Result<(), Stopped> {
        let start = Instant::now();
        self.drop_shadow();
        let moved = if self.may_export() { self.take_snapshot().await? } else { Moved::Not };
        let replayed_transactions = match moved {
            Moved::Fresh => 0,
            // What cannot be exported cannot be compacted. It is unmovable, and said so.
            Moved::Not | Moved::Rehydrated(_) if cause == FailoverCause::Memory => return Ok(()),
            Moved::Rehydrated(replayed_transactions) => replayed_transactions,
            Moved::Not => match self.rehydrate_tail().await {
                Ok(replayed_transactions) => replayed_transactions,
                // The old store is as good as it was: it serves until its tank is empty.
                Err(error) => {
                    self.degrade(cause, format!("no fresh VM could be brought into its state: {error}"));
                    return Ok(());
                }
            },
        };
        self.go_on_in_fresh_vm(cause, replayed_transactions, start);
        Ok(())
    }

    /// Makes a fresh VM of the store that serves, which was restored or rehydrated for that: if the policy has one for
    /// it. The service stood still from `start`.
    pub(super) fn go_on_in_fresh_vm(&mut self, cause: FailoverCause, replayed_transactions: u64, start: Instant) {
        let memory_used_bytes = self.vm.instance.memory_bytes();
        let fleet = &self.context.fleet;
        let decision =
            self.policy.decide(cause, &self.vm.size, memory_used_bytes, |size| fleet.has_room(&self.vm.lease, size));
        match decision {
            Decision::Move(size) => match self.promote(cause, size, replayed_transactions, start.elapsed()) {
                Ok(()) => self.recover(),
                Err(no_room) => self.degrade(cause, no_room.to_string()),
            },
            Decision::MoveDegraded(size, reason) => {
                // A replacement of the same size is never refused.
                match self.promote(cause, size, replayed_transactions, start.elapsed()) {
                    Ok(()) => self.degrade(FailoverCause::Memory, reason),
                    Err(no_room) => self.degrade(cause, no_room.to_string()),
                }
            }
            Decision::Stay(reason) => self.degrade(cause, reason),
        }
    }

    /// Makes a fresh VM of the store that serves: the next number, `size`, a slot, a full tank. Only this refills one.
    ///
    /// # Errors
    /// Nothing changed: another service took the room for a larger size in the meantime.
    fn promote(
        &mut self,
        cause: FailoverCause,
        size: Arc<Size>,
        replayed_transactions: u64,
        pause: Duration,
    ) -> Result<(), NoRoom> {
        let from = self.vm.id.clone();
        let from_machine = self.vm.lease.machine().clone();
        self.context.fleet.replace(&mut self.vm.lease, &size)?;
        let fuel_used = self.vm.meter.cpu.used;
        if size.deadline > self.vm.size.deadline {
            // That is what who missed it is told to do.
            self.misses = DeadlineMisses::default();
        }
        self.vm.renew(size);
        let failover = Failover {
            cause,
            from,
            from_machine,
            to: self.vm.id.clone(),
            to_machine: self.vm.lease.machine().clone(),
            size: self.vm.size.name.clone(),
            sequence: self.last_sequence,
            snapshot_bytes: self.snapshots.last().state_bytes(),
            replayed_transactions,
            fuel_used,
            pause,
            forced_by: self.forced_by.clone().filter(|_| cause == FailoverCause::Forced),
            timestamp: Some(self.service_time()),
        };
        self.journal_event(Record::Failover(failover.clone()));
        self.triggered = Some(Triggered::Over(failover.clone()));
        self.emit_once_durable(Event::Failover(failover));
        Ok(())
    }

    pub(super) fn degrade(&mut self, cause: FailoverCause, reason: String) {
        let due = self.conditions.failover_failed(&self.vm.id, cause, reason, self.counters.requests());
        self.report(due);
    }

    fn recover(&mut self) {
        let due = self.conditions.failed_over(&self.vm.id);
        self.report(due);
    }

    /// Runs `work` again where the exhaustion of `resource` is cured: for fuel on a full tank; for memory in a
    /// compacted store, then on each larger size. The first VM that it ends in is the one that the service fails over
    /// to. If none is, the service is rolled back under its VM and meter: work that is not kept refills no tank and
    /// enlarges no VM.
    ///
    /// Returns the attempt to settle; a failed one may leave the instance dead.
    ///
    /// # Errors
    /// The service stopped, or the way to a fresh tank is barred.
    pub(super) async fn cure(&mut self, work: &Work, resource: Resource, attempt: Attempt) -> Result<Attempt, Denial> {
        let start = Instant::now();
        let is_under_way = self.shadow.as_ref().and_then(Shadow::failover_cause) == Some(resource.into());
        let usage = exhausted_usage(self, &attempt);
        if !is_under_way {
            self.fail_sla(resource, usage, &work.id);
        }
        let had_full_tank = self.vm.meter.cpu.used == 0;
        let memory_before_bytes = self.vm.meter.memory.used;
        let replayed_before = self.counters.counts().replayed_transactions;
        let vm_number = self.vm.id.number;
        self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
        let mut exhausted = resource;
        let mut last = attempt;
        if self.vm.id.number != vm_number && resource == Resource::Cpu {
            // It went on in the fresh VM of a failover that was under way, which has a full tank.
            self.counters.rolled_back(last.fuel_used);
            let size = Arc::clone(&self.vm.size);
            last = self.attempt(work, self.vm.meter.cpu.remaining(), &size).await;
            match &last.answer {
                Answer::Failed(cause) if cause.exhausted() == Some(Resource::Memory) => exhausted = Resource::Memory,
                _ => return Ok(last),
            }
            self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
        }
        if is_under_way {
            // The failover that was under way did not cure it: what follows has this cause of its own.
            self.fail_sla(exhausted, usage, &work.id);
        }
        let mut candidates = VecDeque::new();
        match exhausted {
            Resource::Cpu if had_full_tank => {}
            Resource::Cpu => candidates.push_back(Arc::clone(&self.vm.size)),
            Resource::Memory => candidates.extend(self.memory_candidates(memory_before_bytes).await?),
        }
        while let Some(size) = candidates.pop_front() {
            if self.vm.instance.is_dead() {
                self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
            }
            self.counters.rolled_back(last.fuel_used);
            // What follows is work again: the service stood still until here.
            let pause = start.elapsed();
            let replayed = self.counters.counts().replayed_transactions - replayed_before;
            last = self.attempt(work, size.fuel, &size).await;
            match &last.answer {
                Answer::Ok(_) | Answer::Refused(_) => {
                    if let Err(no_room) = self.promote(exhausted.into(), size, replayed, pause) {
                        // It was kept on resources that the service does not get: undo it.
                        self.counters.rolled_back(last.fuel_used);
                        self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
                        return Err(self.degraded_denial(no_room.to_string()));
                    }
                    if self.policy.has_headroom(self.vm.instance.memory_bytes(), &self.vm.size) {
                        self.recover();
                    }
                    return Ok(last);
                }
                Answer::Failed(cause) => match cause.exhausted() {
                    // A full tank took it further, to the end of memory.
                    Some(Resource::Memory) if exhausted == Resource::Cpu => {
                        exhausted = Resource::Memory;
                        self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
                        candidates.extend(self.memory_candidates(memory_before_bytes).await?);
                    }
                    Some(again) if again == exhausted => {}
                    _ => break,
                },
            }
        }
        self.emit(Event::NotCured { vm: self.vm.id.clone(), resource: exhausted, transaction: work.id.clone() });
        Ok(last)
    }

    /// Where a transaction that exhausted memory may have enough: the same size if compaction brings the level below
    /// `memory_before_bytes`, and each larger size that there is room for. Leaves the store compacted, if that can be.
    async fn memory_candidates(&mut self, memory_before_bytes: u64) -> Result<Vec<Arc<Size>>, Denial> {
        // A store that was restored and has replayed nothing is compact already.
        let is_compact = !self.snapshots.has_tail();
        if !is_compact
            && self.may_export()
            && let Err(stopped) = self.take_snapshot().await
        {
            return Err(stopped.denial(&self.name));
        }
        let mut candidates = Vec::new();
        if self.vm.instance.memory_bytes() < memory_before_bytes {
            candidates.push(Arc::clone(&self.vm.size));
        }
        let fleet = &self.context.fleet;
        let larger = self.policy.larger(&self.vm.size);
        candidates.extend(larger.filter(|size| fleet.has_room(&self.vm.lease, size)).cloned());
        Ok(candidates)
    }
}

/// The usage that an exhausted attempt reached.
fn exhausted_usage(service: &Service, attempt: &Attempt) -> Usage {
    match &attempt.answer {
        // It asked for more than there is: all of it is used, as far as the service is concerned.
        Answer::Failed(Cause::Memory { limit_bytes, .. }) => Usage { used: *limit_bytes, limit: *limit_bytes },
        _ => {
            let cpu = service.vm.meter.cpu;
            Usage { used: cpu.used.saturating_add(attempt.fuel_used).min(cpu.limit), limit: cpu.limit }
        }
    }
}
