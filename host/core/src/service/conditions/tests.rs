use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// An input of the conditions.
#[derive(Debug, Clone, Copy)]
enum Step {
    ExportFailed(&'static str),
    Exported { held_bytes: u64, has_headroom: bool },
    FailoverFailed(FailoverCause, &'static str),
    ShadowFailed(FailoverCause, &'static str),
    FailedOver,
    FailedOverDegraded(Resource, &'static str),
    Relieved(Resource),
    JournalHolds(u64),
    JournalDenies(u64),
    Stop(&'static str),
    Requests(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = || prop::sample::select(vec!["it trapped", "no machine has room"]);
    let cause = || prop::sample::select(FailoverCause::ALL.to_vec());
    let level = || prop::sample::select(vec![Resource::Memory, Resource::Disk]);
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
        1 => (level(), reason()).prop_map(|(level, reason)| Step::FailedOverDegraded(level, reason)),
        2 => level().prop_map(Step::Relieved),
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
    /// The causes, oldest first, with the reason of each.
    degraded: Vec<(FailoverCause, &'static str)>,
    stopped: Option<&'static str>,
    filled_percent: u64,
    is_full: bool,
    request: u64,
    /// The requests at which exports failed since the last success, and likewise failovers for each resource.
    failed_exports: Vec<u64>,
    failed_for: BTreeMap<Resource, Vec<u64>>,
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
                if has_headroom {
                    after.recover();
                }
            }
            Step::FailoverFailed(cause, reason) => after.degrade(cause, reason),
            Step::ShadowFailed(cause, reason) => {
                after.failed_exports.push(self.request);
                after.degrade(cause, reason);
            }
            Step::FailedOver => after.recover(),
            Step::FailedOverDegraded(level, reason) => {
                after.degraded.clear();
                after.degrade(level.into(), reason);
            }
            // The wait before the next failover goes on.
            Step::Relieved(level) => after.degraded.retain(|(cause, _)| *cause != level.into()),
            Step::JournalHolds(bytes) => after.hold(bytes),
            Step::JournalDenies(_) => after.is_full = true,
            Step::Stop(reason) => after.stopped = self.stopped.or(Some(reason)),
            Step::Requests(count) => after.request += count,
        }
        after
    }

    fn degrade(&mut self, cause: FailoverCause, reason: &'static str) {
        if let Some(resource) = cause.resource() {
            self.failed_for.entry(resource).or_default().push(self.request);
        }
        self.degraded.retain(|(of, _)| *of != cause);
        self.degraded.push((cause, reason));
    }

    /// Returns the reason that is reported.
    fn degraded(&self) -> Option<&'static str> {
        self.degraded.last().map(|(_, reason)| *reason)
    }

    fn recover(&mut self) {
        self.degraded.clear();
        self.failed_for.clear();
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
        if after.degraded() != self.degraded() {
            due.push(match after.degraded() {
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
                Step::FailedOverDegraded(level, reason) => {
                    Vec::from_iter(conditions.failed_over_degraded(&vm, level, reason.into(), request))
                }
                Step::Relieved(level) => Vec::from_iter(conditions.relieved(&vm, level)),
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
            prop_assert_eq!(conditions.degraded(), facts.degraded());
            prop_assert_eq!(conditions.stopped(), facts.stopped);
            let journal = conditions.journal(&vm, held_bytes);
            prop_assert_eq!(journal.is_some(), facts.filled_percent > 0 || facts.is_full);
            prop_assert_eq!(journal.is_some_and(|journal| journal.is_full), facts.is_full);
            let may_export = may_try(&facts.failed_exports, facts.request);
            prop_assert_eq!(conditions.may_export(facts.request), may_export);
            let may_fail_over = Resource::ALL.map(|resource| conditions.may_fail_over(resource, facts.request));
            let expected = Resource::ALL.map(|resource| {
                let failed = facts.failed_for.get(&resource).map_or(&[][..], |failed| failed);
                may_try(failed, facts.request) && (resource != Resource::Memory || may_export)
            });
            prop_assert_eq!(may_fail_over, expected);
        }
    }
}

#[test]
fn a_disk_that_is_relieved_leaves_the_service_degraded_for_its_memory() {
    let vm = vm();
    let mut conditions = Conditions::default();
    let degraded = |reason: &str| Some(Event::Degraded { vm: vm.clone(), reason: reason.into() });
    assert_eq!(conditions.failover_failed(&vm, FailoverCause::Memory, "memory".into(), 1), degraded("memory"));
    assert_eq!(conditions.failover_failed(&vm, FailoverCause::Disk, "disk".into(), 2), degraded("disk"));
    assert_eq!(conditions.relieved(&vm, Resource::Disk), degraded("memory"));
    assert_eq!(conditions.relieved(&vm, Resource::Disk), None);
    assert_eq!(conditions.degraded(), Some("memory"));
    assert_eq!(conditions.failed_over(&vm), Some(Event::Recovered { vm: vm.clone() }));
}

#[test]
fn a_disk_that_is_full_again_waits_as_before_for_the_next_failover() {
    let vm = vm();
    let mut conditions = Conditions::default();
    let _ = conditions.failover_failed(&vm, FailoverCause::Disk, "no larger size".into(), 10);
    assert_eq!(conditions.relieved(&vm, Resource::Disk), Some(Event::Recovered { vm: vm.clone() }));
    assert!(!conditions.may_fail_over(Resource::Disk, 73) && conditions.may_fail_over(Resource::Disk, 74));
    // A snapshot with headroom ends the wait.
    assert_eq!(conditions.exported(&vm, 0, true), []);
    assert!(conditions.may_fail_over(Resource::Disk, 11));
}
