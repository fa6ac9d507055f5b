//! The decisions about failovers: when a service fails over, to which VM, and when it must not. No other module decides
//! this.
//!
//! This module is pure: `Policy` takes facts and returns a decision. `service/moves.rs` carries out the decision.
//!
//! A crossing (utilisation at the threshold) starts a failover. The benefit of a fresh VM depends on the resource. For
//! a consumable it is a full tank, or a full allowance of network. For memory it is the same state, compacted; for the
//! disk, only a larger size helps. A failover for a level is worth its pause only if that level ends
//! [`HEADROOM_POINTS`] below the threshold. The same size is preferred to the next larger one with room. If none
//! suffices, the service is *degraded*: it stays, serves up to the hard limit, and tries again after a while
//! (`service/backoff.rs`). If its guest removes files until the disk has that headroom, it is no longer degraded.
//!
//! Decisions look at the resources in the order of [`Resource::ALL`]: consumables first. A failover for one of these is
//! never futile, whatever the levels are.
//!
//! "Larger" is a partial order over the levels: a larger size has more of some level and less of none. So a service
//! never gets more memory for less disk.

use lifeboat_api::event::FailoverCause;
use lifeboat_api::meter::{Levels, Meter, Resource};
use lifeboat_api::size::{Bytes, Size};
use lifeboat_api::sla::Thresholds;
use lifeboat_api::transaction::Cause;
use std::sync::Arc;

/// The distance of a level below its threshold that a failover must reach, in percentage points. With less, the next
/// crossing would follow at once.
pub const HEADROOM_POINTS: u16 = 15;

/// A service's sizes and thresholds, the basis of all decisions.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) thresholds: Thresholds,
    /// The sizes that the service may have, sorted by memory and then by disk.
    pub(crate) sizes: Vec<Arc<Size>>,
}

/// The response to a crossing, once the state is in a fresh instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Continue in a fresh VM of this size.
    Move(Arc<Size>),
    /// Continue in a fresh VM of this size, which cures the cause. This level stays too full, for the given reason.
    MoveDegraded(Arc<Size>, Resource, String),
    /// Continue in this VM, degraded, for the given reason.
    Stay(String),
}

impl Policy {
    /// Returns the resource whose utilisation has reached its threshold. If several have, returns a consumable, which
    /// a failover certainly cures. `may_try` is false for a resource while another failover for it would be futile.
    pub(crate) fn crossing(&self, meter: &Meter, may_try: impl Fn(Resource) -> bool) -> Option<Resource> {
        Resource::ALL.into_iter().find(|&resource| {
            let usage = meter.usage(resource);
            self.thresholds.of(resource).reached(usage.used, usage.limit) && may_try(resource)
        })
    }

    /// Returns whether levels of `used` leave the headroom on `size` that a move must leave.
    pub(crate) fn has_headroom(&self, used: Levels, size: &Size) -> bool {
        self.without_headroom(used, size).is_none()
    }

    /// Returns the first level without that headroom.
    fn without_headroom(&self, used: Levels, size: &Size) -> Option<Resource> {
        Levels::ALL.into_iter().find(|level| !self.level_has_headroom(*level, used, size))
    }

    /// Returns whether `level` of `used` leaves that headroom.
    pub(crate) fn level_has_headroom(&self, level: Resource, used: Levels, size: &Size) -> bool {
        used.of(level) <= self.headroom(level, size)
    }

    /// Returns the most of a level on `size` that a move may leave in use.
    fn headroom(&self, level: Resource, size: &Size) -> Option<u64> {
        Some(self.thresholds.of(level).less_points(HEADROOM_POINTS).of(size.levels().of(level)?))
    }

    /// Returns the sizes that are larger than `size`, smallest first.
    pub(crate) fn larger(&self, size: &Size) -> impl Iterator<Item = &Arc<Size>> {
        let levels = size.levels();
        self.sizes.iter().filter(move |candidate| candidate.levels().exceed(levels))
    }

    /// Decides where the service continues. The state takes `used` in a fresh instance. `has_room` returns whether the
    /// fleet could replace the VM by one of the given size, which is always possible for the same size.
    pub(crate) fn decide(
        &self,
        cause: FailoverCause,
        size: &Arc<Size>,
        used: Levels,
        has_room: impl Fn(&Size) -> bool,
    ) -> Decision {
        let Some(level) = self.without_headroom(used, size) else { return Decision::Move(Arc::clone(size)) };
        let larger: Vec<&Arc<Size>> = self.larger(size).filter(|size| self.has_headroom(used, size)).collect();
        if let Some(size) = larger.iter().find(|size| has_room(size)) {
            return Decision::Move(Arc::clone(size));
        }
        // No size leaves headroom on every level. One that leaves it on the level that caused this still cures it.
        let cured = match cause.resource().filter(|resource| Levels::ALL.contains(resource)) {
            // The cause is a consumable, or an order: a fresh VM is all that it needs.
            None => Some(size),
            Some(of_cause) => [size]
                .into_iter()
                .chain(self.larger(size).filter(|size| has_room(size)))
                .find(|size| self.level_has_headroom(of_cause, used, size)),
        };
        let missing = match larger.first() {
            None => "no larger size has enough".to_owned(),
            Some(size) => format!(
                "no machine has room for size '{}' ({} of memory, {} of disk), which has enough; add a machine, or give \
                 a machine more memory and disk",
                size.name,
                Bytes(size.memory_bytes),
                Bytes(size.disk_bytes),
            ),
        };
        match cured {
            Some(cured) => {
                let level = self.without_headroom(used, cured).unwrap_or(level);
                Decision::MoveDegraded(Arc::clone(cured), level, self.too_full(used, level, cured, &missing))
            }
            None => {
                let level = cause.resource().unwrap_or(level);
                Decision::Stay(self.too_full(used, level, size, &missing))
            }
        }
    }

    /// Returns the cause of a failure in place of `cause`, if a larger size than `size` has enough of the exhausted level,
    /// and the fleet has no room for any of these sizes.
    pub(crate) fn lack_of_room(&self, cause: &Cause, size: &Size, has_room: impl Fn(&Size) -> bool) -> Option<Cause> {
        let (Cause::Memory { wanted_bytes, limit_bytes } | Cause::Disk { wanted_bytes, limit_bytes }) = *cause else {
            return None;
        };
        let level = cause.exhausted()?;
        let of_level = |size: &Size| size.levels().of(level).unwrap_or_default();
        let sufficient: Vec<_> = self.larger(size).filter(|size| of_level(size) >= wanted_bytes).collect();
        let smallest = sufficient.first().filter(|_| !sufficient.iter().any(|size| has_room(size)))?;
        let (size, size_bytes) = (smallest.name.clone(), of_level(smallest));
        Some(Cause::NoRoom { level, wanted_bytes, limit_bytes, size, size_bytes })
    }

    /// Describes a level that leaves no headroom on `size`.
    fn too_full(&self, used: Levels, level: Resource, size: &Size, missing: &str) -> String {
        format!(
            "its state takes {} of {level}, over {}% of size '{}', and {missing}",
            Bytes(used.of(level).unwrap_or_default()),
            f64::from(self.thresholds.of(level).less_points(HEADROOM_POINTS)),
            size.name,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::meter::{NetworkAmount, Percent};
    use proptest::prelude::*;
    use std::time::Duration;

    const NETWORK: NetworkAmount = NetworkAmount { calls: 100, bytes: 1_000 };

    fn size(name: &str, memory_bytes: u64, disk_bytes: u64) -> Arc<Size> {
        Arc::new(Size {
            name: name.into(),
            fuel: 1_000,
            memory_bytes,
            disk_bytes,
            network_calls: NETWORK.calls,
            network_bytes: NETWORK.bytes,
            deadline: Duration::from_secs(1),
        })
    }

    fn policy() -> Policy {
        let sizes = vec![size("s", 1_000, 500), size("m", 10_000, 5_000), size("l", 100_000, 50_000)];
        Policy { thresholds: Thresholds::default(), sizes }
    }

    fn used(memory_bytes: u64, disk_bytes: u64) -> Levels {
        Levels { memory_bytes, disk_bytes }
    }

    #[test]
    fn a_crossing_begins_at_the_threshold() {
        let mut meter = Meter::new(1_000, NETWORK, used(1_000, 500), used(100, 0));
        assert_eq!(policy().crossing(&meter, |_| true), None);
        meter.charge(979, used(100, 489));
        assert_eq!(policy().crossing(&meter, |_| true), None);
        meter.charge(0, used(100, 490));
        assert_eq!(policy().crossing(&meter, |_| true), Some(Resource::Disk));
        meter.charge(0, used(980, 490));
        assert_eq!(policy().crossing(&meter, |_| true), Some(Resource::Memory));
        let for_disk = |resource| resource != Resource::Memory;
        assert_eq!(policy().crossing(&meter, for_disk), Some(Resource::Disk), "one waits, the other does not");
        assert_eq!(policy().crossing(&meter, |_| false), None);
    }

    #[test]
    fn a_crossing_of_a_consumable_comes_first() {
        let mut meter = Meter::new(1_000, NETWORK, used(1_000, 500), used(100, 0));
        meter.charge(980, used(980, 500));
        meter.charge_network(98, 0);
        assert_eq!(policy().crossing(&meter, |_| true), Some(Resource::Cpu));
        assert_eq!(policy().crossing(&meter, |it| it != Resource::Cpu), Some(Resource::Network));
        assert_eq!(policy().crossing(&meter, |it| Levels::ALL.contains(&it)), Some(Resource::Memory));
    }

    #[test]
    fn the_network_crosses_its_threshold_by_calls_or_by_bytes() {
        let meter = |calls, bytes| {
            let mut meter = Meter::new(1_000, NETWORK, used(1_000, 500), used(100, 0));
            meter.charge_network(calls, bytes);
            meter
        };
        for (calls, bytes, crossing) in
            [(97, 979, None), (98, 0, Some(Resource::Network)), (0, 980, Some(Resource::Network))]
        {
            assert_eq!(policy().crossing(&meter(calls, bytes), |_| true), crossing, "{calls} calls, {bytes} bytes");
        }
        let lower =
            Policy { thresholds: Thresholds { network: Percent::whole(50), ..Thresholds::default() }, ..policy() };
        assert_eq!(lower.crossing(&meter(50, 0), |_| true), Some(Resource::Network));
        assert_eq!(lower.crossing(&meter(49, 499), |_| true), None);
    }

    #[test]
    fn a_state_that_compacts_stays_on_its_size() {
        let policy = policy();
        let small = &policy.sizes[0];
        assert_eq!(
            policy.decide(FailoverCause::Memory, small, used(830, 0), |_| true),
            Decision::Move(Arc::clone(small))
        );
    }

    #[test]
    fn a_state_that_does_not_compact_gets_the_next_size_that_has_room() {
        let policy = policy();
        let [small, medium, large] = &policy.sizes[..] else { panic!("three sizes") };
        assert_eq!(
            policy.decide(FailoverCause::Memory, small, used(831, 0), |_| true),
            Decision::Move(Arc::clone(medium))
        );
        let room_for_large = |size: &Size| size.name == "l";
        assert_eq!(
            policy.decide(FailoverCause::Cpu, small, used(831, 0), room_for_large),
            Decision::Move(Arc::clone(large))
        );
    }

    #[test]
    fn without_a_larger_size_a_crossing_of_memory_moves_nothing() {
        let policy = policy();
        let large = &policy.sizes[2];
        assert!(matches!(policy.decide(FailoverCause::Memory, large, used(90_000, 0), |_| true), Decision::Stay(_)));
    }

    #[test]
    fn without_a_larger_size_a_crossing_of_a_consumable_still_gets_a_full_one() {
        let policy = policy();
        let large = &policy.sizes[2];
        for cause in [FailoverCause::Cpu, FailoverCause::Network] {
            assert!(matches!(
                policy.decide(cause, large, used(90_000, 0), |_| true),
                Decision::MoveDegraded(size, Resource::Memory, _) if size == *large
            ));
        }
    }

    #[test]
    fn a_failover_for_the_network_stays_on_its_size() {
        let policy = policy();
        for size in &policy.sizes {
            assert_eq!(
                policy.decide(FailoverCause::Network, size, used(100, 0), |_| false),
                Decision::Move(Arc::clone(size))
            );
        }
    }

    #[test]
    fn a_full_disk_gets_the_next_size_and_never_the_same() {
        let policy = policy();
        let [small, medium, large] = &policy.sizes[..] else { panic!("three sizes") };
        assert_eq!(
            policy.decide(FailoverCause::Disk, small, used(0, 490), |_| true),
            Decision::Move(Arc::clone(medium))
        );
        let room_for_large = |size: &Size| size.name == "l";
        assert_eq!(
            policy.decide(FailoverCause::Disk, small, used(0, 490), room_for_large),
            Decision::Move(Arc::clone(large))
        );
        let Decision::Stay(reason) = policy.decide(FailoverCause::Disk, large, used(0, 49_000), |_| true) else {
            panic!("there is no larger size")
        };
        assert!(reason.starts_with("its state takes 49.0 kB of disk, over 83% of size 'l', and no larger"), "{reason}");
    }

    #[test]
    fn a_size_without_room_is_named_in_the_reason() {
        let policy = policy();
        let [small, ..] = &policy.sizes[..] else { panic!("three sizes") };
        let missing = "no machine has room for size 'm' (10.0 kB of memory, 5.0 kB of disk), which has enough; add a \
                       machine, or give a machine more memory and disk";
        match policy.decide(FailoverCause::Disk, small, used(0, 490), |_| false) {
            Decision::Stay(reason) => assert!(reason.ends_with(missing), "{reason}"),
            other => panic!("{other:?}"),
        }
        match policy.decide(FailoverCause::Cpu, small, used(0, 490), |_| false) {
            Decision::MoveDegraded(_, Resource::Disk, reason) => assert!(reason.ends_with(missing), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failure_names_the_size_that_no_machine_has_room_for() {
        let policy = policy();
        let [small, _, large] = &policy.sizes[..] else { panic!("three sizes") };
        let disk = |wanted_bytes| Cause::Disk { wanted_bytes, limit_bytes: 500 };
        let lack = |cause: &Cause, room: &[&str]| policy.lack_of_room(cause, small, |size| room.contains(&&*size.name));
        let named = |wanted_bytes, size: &str, size_bytes| {
            let (level, size) = (Resource::Disk, size.to_owned());
            Some(Cause::NoRoom { level, wanted_bytes, limit_bytes: 500, size, size_bytes })
        };
        assert_eq!(lack(&disk(501), &[]), named(501, "m", 5_000));
        assert_eq!(lack(&disk(5_001), &["m"]), named(5_001, "l", 50_000));
        assert_eq!(lack(&disk(501), &["l"]), None, "it was too small as well");
        assert_eq!(lack(&disk(50_001), &[]), None, "no size has enough");
        assert_eq!(lack(&Cause::Fuel { limit_fuel: 1_000 }, &[]), None);
        let memory = Cause::Memory { wanted_bytes: 1_001, limit_bytes: 1_000 };
        assert!(matches!(lack(&memory, &[]), Some(Cause::NoRoom { level: Resource::Memory, size_bytes: 10_000, .. })));
        assert_eq!(policy.lack_of_room(&disk(50_001), large, |_| false), None);
    }

    #[test]
    fn a_size_with_more_memory_and_less_disk_is_never_chosen() {
        let sizes = vec![size("a", 1_000, 5_000), size("b", 10_000, 500)];
        let policy = Policy { thresholds: Thresholds::default(), sizes };
        let [a, b] = &policy.sizes[..] else { panic!("two sizes") };
        assert_eq!((policy.larger(a).count(), policy.larger(b).count()), (0, 0));
        assert!(matches!(policy.decide(FailoverCause::Memory, a, used(990, 0), |_| true), Decision::Stay(_)));
        assert!(matches!(policy.decide(FailoverCause::Disk, b, used(0, 490), |_| true), Decision::Stay(_)));
        let cpu = policy.decide(FailoverCause::Cpu, b, used(0, 490), |_| true);
        assert!(matches!(cpu, Decision::MoveDegraded(size, Resource::Disk, _) if size == *b));
    }

    #[test]
    fn a_cause_that_is_cured_moves_although_another_level_stays_too_full() {
        let sizes = vec![size("a", 1_000, 500), size("b", 1_000, 5_000)];
        let policy = Policy { thresholds: Thresholds::default(), sizes };
        let [a, b] = &policy.sizes[..] else { panic!("two sizes") };
        let degraded = policy.decide(FailoverCause::Disk, a, used(990, 490), |_| true);
        assert!(matches!(degraded, Decision::MoveDegraded(size, Resource::Memory, _) if size == *b));
        let compacted = policy.decide(FailoverCause::Memory, b, used(100, 4_990), |_| true);
        assert!(matches!(compacted, Decision::MoveDegraded(size, Resource::Disk, _) if size == *b));
    }

    /// Returns the meter of a VM with these resources used up, in the order of [`Resource::ALL`].
    fn filled(crossed: [bool; Resource::ALL.len()], size: &Size) -> Meter {
        let [is_cpu, is_network, is_memory, is_disk] = crossed;
        let mut meter = Meter::new(size.fuel, size.network(), size.levels(), Levels::default());
        let level = |is_full, limit| if is_full { limit } else { 0 };
        let used = used(level(is_memory, size.memory_bytes), level(is_disk, size.disk_bytes));
        meter.charge(if is_cpu { size.fuel } else { 0 }, used);
        meter.charge_network(if is_network { size.network_calls } else { 0 }, 0);
        meter
    }

    proptest! {
        /// The first resource in the order of decisions that is at its threshold is the one to fail over for.
        #[test]
        fn crossings_are_found_in_the_order_of_decisions(crossed: [bool; 4], may_try: [bool; 4]) {
            let policy = policy();
            let meter = filled(crossed, &policy.sizes[0]);
            let may = |resource| Resource::ALL.iter().zip(may_try).any(|(it, may)| *it == resource && may);
            let expected = Resource::ALL.into_iter().zip(crossed).zip(may_try);
            let expected = expected.into_iter().find(|((_, is_full), may)| *is_full && *may).map(|((it, _), _)| it);
            prop_assert_eq!(policy.crossing(&meter, may), expected);
        }

        /// A move never leads straight to the next crossing of a level, or of that which caused it, so there is no loop.
        /// No level of the size gets smaller.
        #[test]
        fn a_move_always_leaves_headroom(
            sizes in prop::collection::vec((1u64..50, 1u64..50), 1..6),
            which in 0usize..6,
            levels in (0u64..60, 0u64..60),
            room in (0u64..60, 0u64..60),
            cause in prop::sample::select(FailoverCause::ALL.to_vec()),
        ) {
            let mut sizes: Vec<_> = sizes.into_iter().map(|(memory, disk)| size("s", memory, disk)).collect();
            sizes.sort_by_key(|size| (size.memory_bytes, size.disk_bytes));
            let policy = Policy { thresholds: Thresholds::default(), sizes };
            let (from, used) = (&policy.sizes[which % policy.sizes.len()], used(levels.0, levels.1));
            let has_room = |size: &Size| size.memory_bytes <= room.0 && size.disk_bytes <= room.1;
            let to = match policy.decide(cause, from, used, has_room) {
                Decision::Move(to) => {
                    let meter = Meter::new(to.fuel, to.network(), to.levels(), used);
                    prop_assert_eq!(policy.crossing(&meter, |_| true), None);
                    to
                }
                Decision::MoveDegraded(to, level, _) => {
                    let meter = Meter::new(to.fuel, to.network(), to.levels(), used);
                    let of_cause = cause.resource();
                    prop_assert_eq!(policy.crossing(&meter, |resource| Some(resource) == of_cause), None);
                    prop_assert!(policy.without_headroom(used, &to).is_some() && Some(level) != of_cause);
                    to
                }
                Decision::Stay(_) => {
                    prop_assert!(cause.resource().is_some_and(|resource| Levels::ALL.contains(&resource)));
                    Arc::clone(from)
                }
            };
            // Only a lack of some level leads to another size.
            prop_assert!(*from == to || policy.without_headroom(used, from).is_some());
            prop_assert!(from.levels().fit(to.levels()));
            prop_assert!(*from == to || has_room(&to));
        }
    }
}
