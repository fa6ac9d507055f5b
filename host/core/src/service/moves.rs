//! The ways to replace a service's store: rollback, snapshot, failover, and the cure of an exhausted transaction.
//!
//! Each leaves the service with a live instance in the state that the journal defines, or stopped, or without an
//! instance until the next request tries again. Whatever fails in between, the journal and the last valid snapshot are
//! unchanged until a newer snapshot is proven.

use super::misses::DeadlineMisses;
use super::shadow::{Aim, Shadow};
use super::{Service, Stopped, Work};
use crate::failover::Decision;
use crate::fleet::NoRoom;
use crate::journal::Record;
use lifeboat_api::event::{Event, Failover, FailoverCause, Triggered};
use lifeboat_api::meter::{Levels, Resource, Unit, Usage};
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Answer, Cause, Denial};
use lifeboat_vm::instance::{Attempt, Instance, MoveError};
use lifeboat_vm::rehydrate::{
    INSTANTIATE_OVERHEAD_FUEL, REPLAY_OVERHEAD_FUEL, RehydrateError, Rehydrated, rehydrate, restore,
};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::store::Allowance;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The outcome of an attempt to take a snapshot and to serve from its restored store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// The serving store was restored from a snapshot of this very state, so it is compact.
    Fresh,
    /// The guest could not be moved and continues in the same store. The service is unmovable.
    Not,
    /// The guest could not be moved, and continues in a store that was rehydrated with this many replayed transactions.
    /// The service is unmovable.
    Rehydrated(u64),
}

impl Service {
    /// Brings back the state that the journal defines, into a fresh store of the same VM. The meter continues as it was
    /// after the last kept transaction. Work that was rolled back is not charged to the tank, and nothing refills the
    /// tank.
    ///
    /// Repeated rollbacks do not replay the same tail again and again. Once they have replayed as much as a snapshot
    /// would cost, a snapshot is taken.
    pub(super) async fn roll_back(&mut self) -> Result<(), Stopped> {
        let begun = self.counters.begin_rollback();
        if self.adopt_shadow().await {
            return Ok(());
        }
        if self.vm.instance.has_undone() {
            self.counters.end_rollback(begun);
            return Ok(());
        }
        let brought_back = self.bring_back().await;
        self.counters.end_rollback(begun);
        brought_back?;
        if self.snapshots.is_replayed_often(self.written_bytes()) && self.may_export() {
            self.snapshot_soon().await?;
        }
        Ok(())
    }

    /// Rehydrates into a fresh store, which serves from then on. The previous store is lost: if this fails, the service
    /// stops, or tries again later after a transient error. Returns how many transactions were replayed.
    async fn bring_back(&mut self) -> Result<u64, Stopped> {
        match self.rehydrate_tail().await {
            Ok(replayed_transactions) => Ok(replayed_transactions),
            Err(error) => {
                let reason = format!("its state could not be restored: {error}");
                Err(if error.is_transient() { Stopped(reason) } else { self.stop(reason) })
            }
        }
    }

    /// Rehydrates from the last valid snapshot and the tail after it, and continues in the fresh store. On an error the
    /// service continues in the old store. Returns how many transactions were replayed.
    async fn rehydrate_tail(&mut self) -> Result<u64, RehydrateError> {
        let tail = self.history.tail(self.snapshots.record());
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

    /// Takes a snapshot now, or begins a shadow that takes it.
    pub(super) async fn snapshot_soon(&mut self) -> Result<(), Stopped> {
        if self.prefers_shadow() {
            self.begin_shadow(Aim::Snapshot, Vec::new());
            return Ok(());
        }
        self.take_snapshot().await.map(drop)
    }

    /// Exports the state, restores it into a fresh store, and continues in that store under the same VM and meter.
    ///
    /// If the guest's `snapshot` or `restore` fails, the service is *unmovable*. It continues in a rehydrated store, or
    /// in the old one if rehydration fails as well and the old one is alive. The last valid snapshot stays.
    pub(super) async fn take_snapshot(&mut self) -> Result<Moved, Stopped> {
        // Nothing but this snapshot will serve the orders that waited for the shadow.
        let waiting = self.drop_shadow();
        let moved = self.export_and_restore().await;
        self.answer_waiting(waiting);
        moved
    }

    async fn export_and_restore(&mut self) -> Result<Moved, Stopped> {
        // The journal must hold everything that the instance has seen. Otherwise a replay up to here leads to another
        // state.
        self.flush_queries();
        if self.queries.is_lost() {
            self.bring_back().await?;
        }
        let begun = self.begin_snapshot();
        let mut exported = self.export().await;
        // Retry at once with all the memory of a slot. A guest that used up its fuel has taken seconds already, and
        // gets more fuel the next time instead.
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
                // The rehydration that may follow takes a permit of its own.
                drop(permit);
                self.not_moved(error).await
            }
        }
    }

    /// Exports the state from the serving store.
    async fn export(&mut self) -> Result<(Snapshot, u64), MoveError> {
        let allowance = self.export_allowance();
        let exported = self.vm.instance.snapshot(self.last_sequence, self.clock.last(), allowance).await;
        self.vm.instance.take_log();
        exported
    }

    /// Returns the limits of an export, in the serving VM or in a shadow.
    pub(super) fn export_allowance(&self) -> Allowance {
        let needs = self.snapshots.export_needs();
        let allowance = self.context.maintenance.export_allowance(needs);
        if needs.is_large {
            return allowance;
        }
        Allowance { memory_bytes: self.export_memory_bytes(), ..allowance }
    }

    /// Records the resource that an export lacked, so that the next export gets more of it. Returns whether a retry at
    /// once is worthwhile.
    pub(super) fn note_export(&mut self, error: &MoveError) -> bool {
        let has_slot_more = self.export_memory_bytes() < self.context.maintenance.memory_bytes;
        self.snapshots.note_lacked(error.export_lacked(), has_slot_more)
    }

    /// Returns the memory limit of a first export, in bytes: the VM's own memory, and the headroom that every slot has.
    fn export_memory_bytes(&self) -> u64 {
        let in_use = self.vm.instance.memory_bytes().max(self.vm.size.memory_bytes);
        let with_headroom = in_use.saturating_add(lifeboat_vm::engine::MAINTENANCE_HEADROOM_BYTES);
        with_headroom.min(self.context.maintenance.memory_bytes)
    }

    pub(super) fn moved(&mut self) {
        let has_headroom = self.policy.has_headroom(self.vm.meter.levels(), &self.vm.size);
        let due = self.conditions.exported(&self.vm.id, self.history.held_bytes(), has_headroom);
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
        // No record holds the changes that the export made in the old store. A replay leads to the fresh one.
        match self.rehydrate_tail().await {
            Ok(replayed_transactions) => Ok(Moved::Rehydrated(replayed_transactions)),
            Err(_) => {
                // The old store continues, grown by the memory that `snapshot` took.
                self.vm.observe();
                Ok(Moved::Not)
            }
        }
    }

    /// Makes `instance` the serving one. The old store is dropped on a blocking thread, because that can take
    /// milliseconds. The store holds its place in the maintenance pool until then.
    pub(super) fn adopt(&mut self, instance: Instance, permit: tokio::sync::OwnedSemaphorePermit) {
        let old = self.vm.replace_instance(instance);
        // The new instance has seen exactly the contents of the journal.
        self.queries.forget();
        tokio::task::spawn_blocking(move || {
            drop(old);
            drop(permit);
        });
    }

    /// Moves the service to a fresh VM, if that achieves its purpose: fresh resources, and every level with headroom.
    pub(super) async fn fail_over(&mut self, cause: FailoverCause) -> Result<(), Stopped> {
        // This failover serves the orders that waited for the shadow.
        let waiting = self.drop_shadow();
        let failed_over = self.fail_over_directly(cause).await;
        self.answer_waiting(waiting);
        failed_over
    }

    async fn fail_over_directly(&mut self, cause: FailoverCause) -> Result<(), Stopped> {
        let start = Instant::now();
        let moved = if self.may_export() { self.take_snapshot().await? } else { Moved::Not };
        let replayed_transactions = match moved {
            Moved::Fresh => 0,
            // A failover for memory needs an export to compact the state. The service is unmovable, and that was
            // reported.
            Moved::Not | Moved::Rehydrated(_) if cause == FailoverCause::Memory => return Ok(()),
            Moved::Rehydrated(replayed_transactions) => replayed_transactions,
            Moved::Not => match self.rehydrate_tail().await {
                Ok(replayed_transactions) => replayed_transactions,
                // The old store is unharmed, and serves until its tank is empty.
                Err(error) => {
                    self.degrade(cause, format!("no fresh VM could be brought into its state: {error}"));
                    return Ok(());
                }
            },
        };
        self.go_on_in_fresh_vm(cause, replayed_transactions, start);
        Ok(())
    }

    /// Makes a fresh VM of the serving store, which was restored or rehydrated for that, if the policy decides so. The
    /// service has paused since `start`.
    pub(super) fn go_on_in_fresh_vm(&mut self, cause: FailoverCause, replayed_transactions: u64, start: Instant) {
        let used = self.vm.instance.levels();
        let fleet = &self.context.fleet;
        let decision = self.policy.decide(cause, &self.vm.size, used, |size| fleet.has_room(&self.vm.lease, size));
        match decision {
            Decision::Move(size) => match self.promote(cause, size, replayed_transactions, start.elapsed()) {
                Ok(()) => self.recover(),
                Err(no_room) => self.degrade(cause, no_room.to_string()),
            },
            Decision::MoveDegraded(size, level, reason) => {
                match self.promote(cause, size, replayed_transactions, start.elapsed()) {
                    Ok(()) => {
                        let (vm, request) = (&self.vm.id, self.counters.requests());
                        let due = self.conditions.failed_over_degraded(vm, level, reason, request);
                        self.report(due);
                    }
                    Err(no_room) => self.degrade(cause, no_room.to_string()),
                }
            }
            Decision::Stay(reason) => self.degrade(cause, reason),
        }
    }

    /// Makes a fresh VM of the serving store: the next number, `size`, a slot, and a full tank. Only a replacement of the
    /// workload refills a tank as well.
    ///
    /// # Errors
    /// Another service took the room for a larger size in the meantime. Nothing has changed.
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
            // The denial of a repeated miss suggests a size with a longer deadline, so such a size forgets the misses.
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
            disk_bytes: self.vm.meter.disk.used,
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

    pub(super) fn recover(&mut self) {
        let due = self.conditions.failed_over(&self.vm.id);
        self.report(due);
    }

    /// Runs `work` again where the exhaustion of `resource` may be cured. For fuel and network that is a full tank and
    /// allowance. For memory it is a compacted store, and then each size with more memory. For the disk it is each size
    /// with more disk. If the work then exhausts another level, the sizes with more of that are tried, each size once.
    /// The service fails over to the first VM in which the work ends.
    ///
    /// If the work ends in none, the service is rolled back under its VM and meter, because work that is not kept
    /// refills no tank and enlarges no VM.
    ///
    /// Returns the attempt to settle. A failed attempt may leave the instance dead.
    ///
    /// # Errors
    /// The service stopped, or no fresh VM can be had.
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
        if self.vm.id.number != vm_number {
            // A failover was in progress. The service continues in its fresh VM, which has a full tank.
            self.counters.rolled_back(last.fuel_used);
            let size = Arc::clone(&self.vm.size);
            last = self.attempt(work, self.vm.rest(), &size).await;
            match exhausted_level(&last) {
                Some(level) => exhausted = level,
                None => return Ok(last),
            }
            self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
        }
        if is_under_way {
            // The failover in progress did not cure the exhaustion, so the next failover needs an SLA failure of its
            // own.
            let usage = exhausted_usage(self, &last);
            self.fail_sla(exhausted, usage, &work.id);
        }
        let mut tried: Vec<Arc<Size>> = Vec::new();
        let mut candidates = match exhausted {
            Resource::Cpu if had_full_tank => VecDeque::new(),
            Resource::Cpu | Resource::Network => VecDeque::from([Arc::clone(&self.vm.size)]),
            Resource::Memory | Resource::Disk => self.candidates(exhausted, memory_before_bytes).await?.0,
        };
        while let Some(size) = candidates.pop_front() {
            if self.vm.instance.is_dead() {
                self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
            }
            self.counters.rolled_back(last.fuel_used);
            // The pause ends here, because the next attempt is work again.
            let pause = start.elapsed();
            let replayed = self.counters.counts().replayed_transactions - replayed_before;
            last = self.attempt(work, self.rest_of_cure(&size), &size).await;
            tried.push(Arc::clone(&size));
            match &last.answer {
                Answer::Ok(_) | Answer::Refused(_) => {
                    if let Err(no_room) = self.promote(exhausted.into(), size, replayed, pause) {
                        // The attempt used resources that the service does not get, so it is undone.
                        self.counters.rolled_back(last.fuel_used);
                        self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
                        return Err(self.degraded_denial(no_room.to_string()));
                    }
                    if self.policy.has_headroom(self.vm.instance.levels(), &self.vm.size) {
                        self.recover();
                    }
                    return Ok(last);
                }
                Answer::Failed(cause) if cause.exhausted() == Some(exhausted) => {}
                Answer::Failed(_) => {
                    // With a full tank or more of one level, the work went on until it exhausted another level.
                    let Some(level) = exhausted_level(&last) else { break };
                    let was_cpu = exhausted == Resource::Cpu;
                    exhausted = level;
                    self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
                    let is_compacted;
                    (candidates, is_compacted) = self.candidates(level, memory_before_bytes).await?;
                    // In a compact store, or with a full tank, a size that did not suffice may suffice. Each happens
                    // once.
                    if is_compacted || was_cpu {
                        tried.clear();
                    }
                    candidates.retain(|size| !tried.contains(size));
                }
            }
        }
        if let Answer::Failed(cause) = &last.answer {
            let (fleet, lease) = (&self.context.fleet, &self.vm.lease);
            let lack = self.policy.lack_of_room(cause, &self.vm.size, |size| fleet.has_room(lease, size));
            last.answer = Answer::Failed(lack.unwrap_or_else(|| cause.clone()));
        }
        // A cure for another resource lends a full allowance of network as well.
        self.vain_cures += u32::from(resource == Resource::Network || self.has_borrowed());
        self.emit(Event::NotCured { vm: self.vm.id.clone(), resource: exhausted, transaction: work.id.clone() });
        Ok(last)
    }

    /// Returns the sizes in which a transaction that exhausted `level` may have enough of it: each size with more of it
    /// that has room. For memory, the same size is among them if compaction brings the level below
    /// `memory_before_bytes`, and the store is left compacted, if possible. Returns also whether it was compacted now.
    async fn candidates(
        &mut self,
        level: Resource,
        memory_before_bytes: u64,
    ) -> Result<(VecDeque<Arc<Size>>, bool), Denial> {
        let mut candidates = VecDeque::new();
        let is_compacted = level == Resource::Memory && self.compact().await?;
        if level == Resource::Memory && self.vm.instance.memory_bytes() < memory_before_bytes {
            candidates.push_back(Arc::clone(&self.vm.size));
        }
        let (fleet, limit) = (&self.context.fleet, self.vm.size.levels().of(level));
        let larger = self.policy.larger(&self.vm.size).filter(|size| size.levels().of(level) > limit);
        candidates.extend(larger.filter(|size| fleet.has_room(&self.vm.lease, size)).cloned());
        Ok((candidates, is_compacted))
    }

    /// Restores the state into a fresh store, unless the store is one already, or the state cannot be exported now.
    /// Returns whether that was done.
    async fn compact(&mut self) -> Result<bool, Denial> {
        // A store that was restored and has replayed nothing is compact already.
        if !self.snapshots.has_tail() || !self.may_export() {
            return Ok(false);
        }
        // A program has no store to compact.
        if self.terms.program.workload().is_program() {
            return Ok(false);
        }
        let moved = self.take_snapshot().await.map_err(|stopped| stopped.denial(&self.name))?;
        Ok(moved == Moved::Fresh)
    }
}

/// Returns the level that an attempt exhausted, if it did.
fn exhausted_level(attempt: &Attempt) -> Option<Resource> {
    match &attempt.answer {
        Answer::Failed(cause) => cause.exhausted().filter(|resource| Levels::ALL.contains(resource)),
        Answer::Ok(_) | Answer::Refused(_) => None,
    }
}

/// Returns the usage that an exhausted attempt reached, and its unit.
fn exhausted_usage(service: &Service, attempt: &Attempt) -> (Unit, Usage) {
    let whole = |limit| Usage { used: limit, limit };
    match &attempt.answer {
        // The guest requested more than the limit, so the service counts the whole limit as used.
        Answer::Failed(Cause::Memory { limit_bytes, .. } | Cause::Disk { limit_bytes, .. }) => {
            (Unit::Bytes, whole(*limit_bytes))
        }
        Answer::Failed(Cause::Network { .. }) => {
            let (network, charged) = (service.vm.meter.network, service.book.charged());
            match network.calls.used.saturating_add(charged.calls) >= network.calls.limit {
                true => (Unit::Calls, whole(network.calls.limit)),
                false => (Unit::Bytes, whole(network.bytes.limit)),
            }
        }
        _ => {
            let cpu = service.vm.meter.cpu;
            let used = cpu.used.saturating_add(attempt.fuel_used).min(cpu.limit);
            (Unit::Fuel, Usage { used, limit: cpu.limit })
        }
    }
}
