//! The conditions of a running service: their start and end, the events that report them, and the wait before a failed
//! operation is tried again.
//!
//! ```text
//!             failover_failed, shadow_failed
//!      sound ----------------------------------> degraded
//!            <----------------------------------
//!             failed_over; exported, with headroom; relieved
//!
//!             export_failed
//!    movable ----------------------------------> unmovable
//!            <----------------------------------
//!             exported
//!
//!             journal_holds 50 %                         80 %
//!   relieved ----------------------------------> filling ----> filling more
//!            <-------------------------------------------------
//!             journal_holds less than 50 %
//!
//!             journal_denies
//!   not full ----------------------------------> full
//!            <----------------------------------
//!             journal_holds less than 50 %
//!
//!             stop
//!     serves ----------------------------------> stopped, for good
//! ```
//!
//! These conditions are independent of one another, so a service may be in several at once. A condition is reported
//! when it begins, and once more when it continues for another reason.
//!
//! A service may be degraded for several resources. It is no longer degraded for its disk once files were removed
//! (`relieved`), but the wait before the next failover for the disk goes on: otherwise a guest that fills its disk and
//! removes files in turn would pause for a failover, and cause two events, each time. A disk that is full again within
//! that wait makes the service degraded after it.
//!
//! This module is pure. A transition takes facts about the service (its VM, the number of requests so far, the bytes in
//! its journal) and returns the due events in order. The caller of a transition reports them at once.

use super::JournalStatus;
use super::backoff::Backoff;
use crate::journal::{JOURNAL_BYTES_MAX, JOURNAL_FILLING_PERCENT};
use lifeboat_api::event::{Event, FailoverCause, JournalFill};
use lifeboat_api::id::VmId;
use lifeboat_api::meter::Resource;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Denial;

/// The conditions of a service, and the operations that it does not try for now.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// The reason why its state cannot be brought back, or its journal takes no more records.
    stopped: Option<String>,
    /// Why no failover cured a crossing, for each cause of one. The last reason is the newest, and is the reported one.
    degraded: Vec<(FailoverCause, String)>,
    /// The reason why its state could not be exported and restored.
    unmovable: Option<String>,
    journal: Fullness,
    /// Delays failovers for each resource after one was not possible, or futile, in the order of [`Resource::ALL`].
    failover_backoffs: [Backoff; Resource::ALL.len()],
    /// Delays exports after one failed.
    export_backoff: Backoff,
}

/// The reports of a journal that fills up, since it last had enough room.
#[derive(Debug, Default)]
struct Fullness {
    /// The highest of [`JOURNAL_FILLING_PERCENT`] that was reported, or 0.
    reported_percent: u64,
    /// Whether a transaction was denied for lack of room.
    is_full: bool,
}

impl Conditions {
    /// Returns the reason why the service is stopped, if it is. A stopped service executes nothing.
    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Returns whether the service is stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Returns the reason why the service is degraded, if it is.
    pub(super) fn degraded(&self) -> Option<&str> {
        self.degraded.last().map(|(_, reason)| reason.as_str())
    }

    /// Returns the reason why the service is unmovable, if it is.
    pub(super) fn unmovable(&self) -> Option<&str> {
        self.unmovable.as_deref()
    }

    /// Returns how full the journal is, if that was reported. The journal holds `held_bytes`.
    pub(super) fn journal(&self, vm: &VmId, held_bytes: u64) -> Option<JournalStatus> {
        let Fullness { reported_percent, is_full } = self.journal;
        (reported_percent > 0 || is_full).then(|| JournalStatus { fill: self.journal_fill(vm, held_bytes), is_full })
    }

    /// Returns whether an export may be tried at the service's `request`th request.
    pub(super) fn may_export(&self, request: u64) -> bool {
        self.export_backoff.is_over(request)
    }

    /// Returns whether a failover for `resource` may be tried at the service's `request`th request.
    pub(super) fn may_fail_over(&self, resource: Resource, request: u64) -> bool {
        // A failover for memory needs an export to compact the state.
        let needs_export = resource == Resource::Memory;
        self.failover_backoffs[resource as usize].is_over(request) && (!needs_export || self.may_export(request))
    }

    /// Returns the reason why the last attempt to move the service failed.
    pub(super) fn why_not_moved(&self) -> String {
        let reason = self.unmovable().or(self.degraded());
        reason.unwrap_or("its last move failed, and it is not tried again yet").to_owned()
    }

    /// Records that the state could not be exported and restored at the service's `request`th request.
    #[must_use]
    pub(super) fn export_failed(&mut self, vm: &VmId, reason: String, request: u64) -> Option<Event> {
        self.export_backoff.fail(request);
        begin(&mut self.unmovable, reason).map(|reason| Event::Unmovable { vm: vm.clone(), reason })
    }

    /// Records that the state was exported and restored, and that the journal holds `held_bytes` since. `has_headroom`
    /// is whether the levels in use leave the headroom that a failover must leave.
    #[must_use]
    pub(super) fn exported(&mut self, vm: &VmId, held_bytes: u64, has_headroom: bool) -> Vec<Event> {
        self.export_backoff.succeed();
        // This comes before the service is movable again, because the event of a journal that still fills up gives that
        // reason.
        let of_journal = self.journal_holds(vm, held_bytes);
        let movable = self.unmovable.take().map(|_| Event::Movable { vm: vm.clone() });
        let recovered = has_headroom.then(|| self.failed_over(vm)).flatten();
        [of_journal, movable, recovered].into_iter().flatten().collect()
    }

    /// Records that a failover for `cause` was not possible, or futile, at the service's `request`th request.
    #[must_use]
    pub(super) fn failover_failed(
        &mut self,
        vm: &VmId,
        cause: FailoverCause,
        reason: String,
        request: u64,
    ) -> Option<Event> {
        if let Some(resource) = cause.resource() {
            self.failover_backoffs[resource as usize].fail(request);
        }
        let before = self.degraded().map(str::to_owned);
        self.degraded.retain(|(of, _)| *of != cause);
        self.degraded.push((cause, reason));
        self.degraded_since(vm, before)
    }

    /// Records that the service continues in a fresh VM at its `request`th request, which cures all but `level`.
    #[must_use]
    pub(super) fn failed_over_degraded(
        &mut self,
        vm: &VmId,
        level: Resource,
        reason: String,
        request: u64,
    ) -> Option<Event> {
        self.failover_backoffs[level as usize].fail(request);
        let before = self.degraded().map(str::to_owned);
        self.degraded = vec![(level.into(), reason)];
        self.degraded_since(vm, before)
    }

    /// Records that `level` has headroom again, although the service has not moved.
    #[must_use]
    pub(super) fn relieved(&mut self, vm: &VmId, level: Resource) -> Option<Event> {
        let before = self.degraded().map(str::to_owned);
        self.degraded.retain(|(cause, _)| cause.resource() != Some(level));
        self.degraded_since(vm, before)
    }

    /// Returns the event that is due if `before` was the reason to report.
    fn degraded_since(&self, vm: &VmId, before: Option<String>) -> Option<Event> {
        match self.degraded() {
            now if now == before.as_deref() => None,
            Some(reason) => Some(Event::Degraded { vm: vm.clone(), reason: reason.to_owned() }),
            None => Some(Event::Recovered { vm: vm.clone() }),
        }
    }

    /// Records that the shadow of a failover for `cause` failed at the service's `request`th request. The export may
    /// have been the reason.
    #[must_use]
    pub(super) fn shadow_failed(
        &mut self,
        vm: &VmId,
        cause: FailoverCause,
        reason: String,
        request: u64,
    ) -> Option<Event> {
        self.export_backoff.fail(request);
        self.failover_failed(vm, cause, reason, request)
    }

    /// Records that the service continues in a fresh VM with headroom.
    #[must_use]
    pub(super) fn failed_over(&mut self, vm: &VmId) -> Option<Event> {
        self.failover_backoffs.iter_mut().for_each(Backoff::succeed);
        let was_degraded = !std::mem::take(&mut self.degraded).is_empty();
        was_degraded.then(|| Event::Recovered { vm: vm.clone() })
    }

    /// Records that the journal holds `held_bytes` since the last snapshot. A journal that fills up is reported at each
    /// of [`JOURNAL_FILLING_PERCENT`].
    #[must_use]
    pub(super) fn journal_holds(&mut self, vm: &VmId, held_bytes: u64) -> Option<Event> {
        let is_above = |percent: &&u64| held_bytes >= JOURNAL_BYTES_MAX / 100 * **percent;
        let reached = JOURNAL_FILLING_PERCENT.iter().rev().find(is_above).copied().unwrap_or(0);
        if reached == 0 {
            let before = std::mem::take(&mut self.journal);
            return (before.reported_percent > 0).then(|| Event::JournalRelieved { vm: vm.clone() });
        }
        if reached <= self.journal.reported_percent {
            return None;
        }
        self.journal.reported_percent = reached;
        Some(Event::JournalFilling(self.journal_fill(vm, held_bytes)))
    }

    /// Records that the journal, which holds `held_bytes`, has no room for a transaction. Returns the denial, and the
    /// event that is due for the first denial.
    #[must_use]
    pub(super) fn journal_denies(&mut self, vm: &VmId, held_bytes: u64) -> (Denial, Option<Event>) {
        let fill = self.journal_fill(vm, held_bytes);
        let denial = Denial::JournalFull { service: vm.service.clone(), reason: fill.to_string() };
        let is_first = !std::mem::replace(&mut self.journal.is_full, true);
        (denial, is_first.then_some(Event::JournalFull(fill)))
    }

    fn journal_fill(&self, vm: &VmId, held_bytes: u64) -> JournalFill {
        let (vm, reason) = (vm.clone(), self.unmovable.clone());
        JournalFill { vm, bytes: held_bytes, limit_bytes: JOURNAL_BYTES_MAX, reason }
    }

    /// Records that the service stops, because it has no live instance in its state, or no journal. The first reason
    /// stays.
    #[must_use]
    pub(super) fn stop(&mut self, service: &Name, reason: &str) -> Option<Event> {
        if self.is_stopped() {
            return None;
        }
        self.stopped = Some(reason.to_owned());
        Some(Event::Stopped { service: service.clone(), reason: reason.to_owned() })
    }
}

/// Begins or continues a condition for this reason. Returns the reason if it must be reported.
fn begin(condition: &mut Option<String>, reason: String) -> Option<String> {
    if condition.as_ref() == Some(&reason) {
        return None;
    }
    *condition = Some(reason.clone());
    Some(reason)
}

#[cfg(test)]
mod tests;
