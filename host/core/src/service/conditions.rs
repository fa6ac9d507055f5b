//! The conditions of a running service: their start and end, the events that report them, and the wait before a failed
//! operation is tried again.
//!
//! ```text
//!             failover_failed, shadow_failed
//!      sound ----------------------------------> degraded
//!            <----------------------------------
//!             failed_over; exported, with headroom
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
    /// The reason why no failover cured a crossing.
    degraded: Option<String>,
    /// The reason why its state could not be exported and restored.
    unmovable: Option<String>,
    journal: Fullness,
    /// Delays failovers for the tank after one was not possible.
    cpu_backoff: Backoff,
    /// Delays failovers for memory after one was futile.
    memory_backoff: Backoff,
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
        self.degraded.as_deref()
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
        match resource {
            Resource::Cpu => self.cpu_backoff.is_over(request),
            // A failover for memory needs an export to compact the state.
            Resource::Memory => self.memory_backoff.is_over(request) && self.may_export(request),
        }
    }

    /// Returns the reason why the last attempt to move the service failed.
    pub(super) fn why_not_moved(&self) -> String {
        let reason = self.unmovable.as_ref().or(self.degraded.as_ref());
        reason.cloned().unwrap_or_else(|| "its last move failed, and it is not tried again yet".into())
    }

    /// Records that the state could not be exported and restored at the service's `request`th request.
    #[must_use]
    pub(super) fn export_failed(&mut self, vm: &VmId, reason: String, request: u64) -> Option<Event> {
        self.export_backoff.fail(request);
        begin(&mut self.unmovable, reason).map(|reason| Event::Unmovable { vm: vm.clone(), reason })
    }

    /// Records that the state was exported and restored, and that the journal holds `held_bytes` since. `has_headroom`
    /// is whether the memory in use leaves the headroom that a failover must leave.
    #[must_use]
    pub(super) fn exported(&mut self, vm: &VmId, held_bytes: u64, has_headroom: bool) -> Vec<Event> {
        self.export_backoff.succeed();
        // This comes before the service is movable again, because the event of a journal that still fills up gives that
        // reason.
        let of_journal = self.journal_holds(vm, held_bytes);
        let movable = self.unmovable.take().map(|_| Event::Movable { vm: vm.clone() });
        let is_cured = self.degraded.is_some() && has_headroom;
        let recovered = is_cured.then(|| self.failed_over(vm)).flatten();
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
        match cause {
            FailoverCause::Cpu => self.cpu_backoff.fail(request),
            FailoverCause::Memory => self.memory_backoff.fail(request),
            FailoverCause::Forced => {}
        }
        begin(&mut self.degraded, reason).map(|reason| Event::Degraded { vm: vm.clone(), reason })
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
        self.cpu_backoff.succeed();
        self.memory_backoff.succeed();
        self.degraded.take().map(|_| Event::Recovered { vm: vm.clone() })
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An input of the conditions.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        ExportFailed(&'static str),
        Exported { held_bytes: u64, has_headroom: bool },
        FailoverFailed(FailoverCause, &'static str),
        ShadowFailed(FailoverCause, &'static str),
        FailedOver,
        JournalHolds(u64),
        JournalDenies(u64),
        Stop(&'static str),
        Requests(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let reason = || prop::sample::select(vec!["it trapped", "no machine has room"]);
        let cause = || prop::sample::select(FailoverCause::ALL.to_vec());
        // Values around each of the bounds.
        let held_bytes = || {
            (prop::sample::select(vec![0_u64, 50, 80, 100]), 0..3_u64)
                .prop_map(|(percent, above)| (JOURNAL_BYTES_MAX / 100 * percent + above).saturating_sub(1))
        };
        prop_oneof![
            2 => reason().prop_map(Step::ExportFailed),
            2 => (held_bytes(), any::<bool>())
                .prop_map(|(held_bytes, has_headroom)| Step::Exported { held_bytes, has_headroom }),
            2 => (cause(), reason()).prop_map(|(cause, reason)| Step::FailoverFailed(cause, reason)),
            1 => (cause(), reason()).prop_map(|(cause, reason)| Step::ShadowFailed(cause, reason)),
            2 => Just(Step::FailedOver),
            3 => held_bytes().prop_map(Step::JournalHolds),
            1 => held_bytes().prop_map(Step::JournalDenies),
            1 => reason().prop_map(Step::Stop),
            3 => (1..300_u64).prop_map(Step::Requests),
        ]
    }

    /// A simple model of the conditions.
    #[derive(Debug, Clone, Default)]
    struct Facts {
        unmovable: Option<&'static str>,
        degraded: Option<&'static str>,
        stopped: Option<&'static str>,
        filled_percent: u64,
        is_full: bool,
        request: u64,
        /// The requests at which exports failed since the last success, and likewise failovers for the tank and for
        /// memory.
        failed_exports: Vec<u64>,
        failed_for_cpu: Vec<u64>,
        failed_for_memory: Vec<u64>,
    }

    impl Facts {
        fn after(&self, step: Step) -> Self {
            let mut after = self.clone();
            match step {
                Step::ExportFailed(reason) => {
                    after.failed_exports.push(self.request);
                    after.unmovable = Some(reason);
                }
                Step::Exported { held_bytes, has_headroom } => {
                    after.hold(held_bytes);
                    after.failed_exports.clear();
                    after.unmovable = None;
                    if self.degraded.is_some() && has_headroom {
                        after.recover();
                    }
                }
                Step::FailoverFailed(cause, reason) => after.degrade(cause, reason),
                Step::ShadowFailed(cause, reason) => {
                    after.failed_exports.push(self.request);
                    after.degrade(cause, reason);
                }
                Step::FailedOver => after.recover(),
                Step::JournalHolds(bytes) => after.hold(bytes),
                Step::JournalDenies(_) => after.is_full = true,
                Step::Stop(reason) => after.stopped = self.stopped.or(Some(reason)),
                Step::Requests(count) => after.request += count,
            }
            after
        }

        fn degrade(&mut self, cause: FailoverCause, reason: &'static str) {
            match cause {
                FailoverCause::Cpu => self.failed_for_cpu.push(self.request),
                FailoverCause::Memory => self.failed_for_memory.push(self.request),
                FailoverCause::Forced => {}
            }
            self.degraded = Some(reason);
        }

        fn recover(&mut self) {
            self.degraded = None;
            self.failed_for_cpu.clear();
            self.failed_for_memory.clear();
        }

        fn hold(&mut self, bytes: u64) {
            let is_at = |percent: u64| bytes >= JOURNAL_BYTES_MAX / 100 * percent;
            match (is_at(50), is_at(80)) {
                (false, _) => (self.filled_percent, self.is_full) = (0, false),
                (true, false) => self.filled_percent = self.filled_percent.max(50),
                (true, true) => self.filled_percent = 80,
            }
        }

        /// Returns the events that lead from these facts to `after`, in order: one for each fact that has changed.
        fn due(&self, after: &Self, held_bytes: u64) -> Vec<Event> {
            let vm = vm();
            let reason = self.unmovable.map(Into::into);
            let fill = JournalFill { vm: vm.clone(), bytes: held_bytes, limit_bytes: JOURNAL_BYTES_MAX, reason };
            let mut due = Vec::new();
            if after.filled_percent > self.filled_percent {
                due.push(Event::JournalFilling(fill.clone()));
            }
            if after.filled_percent < self.filled_percent {
                due.push(Event::JournalRelieved { vm: vm.clone() });
            }
            if after.is_full && !self.is_full {
                due.push(Event::JournalFull(fill));
            }
            if after.unmovable != self.unmovable {
                due.push(match after.unmovable {
                    Some(reason) => Event::Unmovable { vm: vm.clone(), reason: reason.into() },
                    None => Event::Movable { vm: vm.clone() },
                });
            }
            if after.degraded != self.degraded {
                due.push(match after.degraded {
                    Some(reason) => Event::Degraded { vm: vm.clone(), reason: reason.into() },
                    None => Event::Recovered { vm: vm.clone() },
                });
            }
            if let Some(reason) = after.stopped.filter(|_| self.stopped.is_none()) {
                due.push(Event::Stopped { service: vm.service, reason: reason.into() });
            }
            due
        }
    }

    /// Returns whether an operation that failed at these requests in turn may be tried again.
    fn may_try(failed: &[u64], request: u64) -> bool {
        failed.last().is_none_or(|last| request >= *last + (64_u64 << (failed.len() - 1).min(10)))
    }

    fn vm() -> VmId {
        VmId { service: Name::new("bank").expect("a name"), number: 3 }
    }

    proptest! {
        /// After any steps, an event is due for each fact that changes and for no other, the conditions equal the
        /// facts, and each failure in a row doubles the wait.
        #[test]
        fn a_condition_is_reported_when_it_changes(steps in prop::collection::vec(step(), 0..80)) {
            let vm = vm();
            let (mut conditions, mut facts, mut held_bytes) = (Conditions::default(), Facts::default(), 0);
            for step in steps {
                let request = facts.request;
                let due = match step {
                    Step::ExportFailed(reason) => Vec::from_iter(conditions.export_failed(&vm, reason.into(), request)),
                    Step::Exported { held_bytes: held, has_headroom } => {
                        held_bytes = held;
                        conditions.exported(&vm, held, has_headroom)
                    }
                    Step::FailoverFailed(cause, reason) => {
                        Vec::from_iter(conditions.failover_failed(&vm, cause, reason.into(), request))
                    }
                    Step::ShadowFailed(cause, reason) => {
                        Vec::from_iter(conditions.shadow_failed(&vm, cause, reason.into(), request))
                    }
                    Step::FailedOver => Vec::from_iter(conditions.failed_over(&vm)),
                    Step::JournalHolds(held) => {
                        held_bytes = held;
                        Vec::from_iter(conditions.journal_holds(&vm, held))
                    }
                    Step::JournalDenies(held) => {
                        held_bytes = held;
                        let (denial, due) = conditions.journal_denies(&vm, held);
                        let fill = conditions.journal(&vm, held).expect("it is full").fill;
                        let expected = Denial::JournalFull { service: vm.service.clone(), reason: fill.to_string() };
                        prop_assert_eq!(denial, expected);
                        Vec::from_iter(due)
                    }
                    Step::Stop(reason) => Vec::from_iter(conditions.stop(&vm.service, reason)),
                    Step::Requests(_) => Vec::new(),
                };
                let after = facts.after(step);
                prop_assert_eq!(due, facts.due(&after, held_bytes), "{:?}", step);
                facts = after;
                prop_assert_eq!(conditions.unmovable(), facts.unmovable);
                prop_assert_eq!(conditions.degraded(), facts.degraded);
                prop_assert_eq!(conditions.stopped(), facts.stopped);
                let journal = conditions.journal(&vm, held_bytes);
                prop_assert_eq!(journal.is_some(), facts.filled_percent > 0 || facts.is_full);
                prop_assert_eq!(journal.is_some_and(|journal| journal.is_full), facts.is_full);
                let may_export = may_try(&facts.failed_exports, facts.request);
                let may_compact = may_export && may_try(&facts.failed_for_memory, facts.request);
                prop_assert_eq!(conditions.may_export(facts.request), may_export);
                let may_fail_over = Resource::ALL.map(|resource| conditions.may_fail_over(resource, facts.request));
                let expected = Resource::ALL.map(|resource| match resource {
                    Resource::Cpu => may_try(&facts.failed_for_cpu, facts.request),
                    Resource::Memory => may_compact,
                });
                prop_assert_eq!(may_fail_over, expected);
            }
        }
    }
}
