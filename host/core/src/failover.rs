//! The decisions about failovers: when a service fails over, to which VM, and when it must not. No other module decides
//! this.
//!
//! This module is pure: `Policy` takes facts and returns a decision. `service/moves.rs` carries out the decision.
//!
//! A crossing (utilisation at the threshold) starts a failover. The benefit of a fresh VM depends on the resource. For
//! a consumable it is a full tank. For a level it is the same state, compacted. Such a failover is worth its pause only
//! if the level ends [`HEADROOM_POINTS`] below the threshold. The same size is preferred to the next larger one with
//! room. If neither suffices, the service is *degraded*: it stays, serves up to the hard limit, and tries again after a
//! while (`service/backoff.rs`).

use lifeboat_api::event::FailoverCause;
use lifeboat_api::meter::{Meter, Resource};
use lifeboat_api::size::Size;
use lifeboat_api::sla::Thresholds;
use std::sync::Arc;

/// The distance of a level below its threshold that a failover must reach, in percentage points. With less, the next
/// crossing would follow at once.
pub const HEADROOM_POINTS: u16 = 15;

/// A service's sizes and thresholds, the basis of all decisions.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) thresholds: Thresholds,
    /// The size that the service was created with and the larger ones, sorted by memory.
    pub(crate) sizes: Vec<Arc<Size>>,
}

/// The response to a crossing, once the state is in a fresh instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Continue in a fresh VM of this size.
    Move(Arc<Size>),
    /// Continue in a fresh VM of this size for its full tank. Memory stays too full, for the given reason.
    MoveDegraded(Arc<Size>, String),
    /// Continue in this VM, degraded, for the given reason.
    Stay(String),
}

impl Policy {
    /// Returns the resource whose utilisation has reached its threshold. If several have, returns the consumable, which
    /// a failover certainly cures. `may_try` is false for a resource while another failover for it would be futile.
    pub(crate) fn crossing(&self, meter: &Meter, may_try: impl Fn(Resource) -> bool) -> Option<Resource> {
        Resource::ALL.into_iter().find(|&resource| {
            let usage = meter.usage(resource);
            self.thresholds.of(resource).reached(usage.used, usage.limit) && may_try(resource)
        })
    }

    /// Returns whether a level of `memory_used_bytes` leaves the headroom on `size` that a move must leave.
    pub(crate) fn has_headroom(&self, memory_used_bytes: u64, size: &Size) -> bool {
        memory_used_bytes <= self.thresholds.memory.less_points(HEADROOM_POINTS).of(size.memory_bytes)
    }

    /// Returns the sizes with more memory than `size`, smallest first.
    pub(crate) fn larger(&self, size: &Size) -> impl Iterator<Item = &Arc<Size>> {
        let memory_bytes = size.memory_bytes;
        self.sizes.iter().filter(move |candidate| candidate.memory_bytes > memory_bytes)
    }

    /// Decides where the service continues. The state takes `memory_used_bytes` in a fresh instance. `has_room` returns
    /// whether the fleet could replace the VM by one of the given size, which is always possible for the same size.
    pub(crate) fn decide(
        &self,
        cause: FailoverCause,
        size: &Arc<Size>,
        memory_used_bytes: u64,
        has_room: impl Fn(&Size) -> bool,
    ) -> Decision {
        if self.has_headroom(memory_used_bytes, size) {
            return Decision::Move(Arc::clone(size));
        }
        let mut larger = self.larger(size).filter(|size| self.has_headroom(memory_used_bytes, size)).peekable();
        let none_exists = larger.peek().is_none();
        if let Some(size) = larger.find(|size| has_room(size)) {
            return Decision::Move(Arc::clone(size));
        }
        let reason = format!(
            "its state takes {} of memory, over {}% of size '{}', and {}",
            lifeboat_api::size::Bytes(memory_used_bytes),
            f64::from(self.thresholds.memory.less_points(HEADROOM_POINTS)),
            size.name,
            if none_exists { "no larger size has enough" } else { "no machine has room for a larger size" },
        );
        match cause {
            FailoverCause::Memory => Decision::Stay(reason),
            FailoverCause::Cpu | FailoverCause::Forced => Decision::MoveDegraded(Arc::clone(size), reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn size(name: &str, memory_bytes: u64) -> Arc<Size> {
        Arc::new(Size { name: name.into(), fuel: 1_000, memory_bytes, deadline: Duration::from_secs(1) })
    }

    fn policy() -> Policy {
        Policy {
            thresholds: Thresholds::default(),
            sizes: vec![size("s", 1_000), size("m", 10_000), size("l", 100_000)],
        }
    }

    #[test]
    fn a_crossing_begins_at_the_threshold() {
        let mut meter = Meter::new(1_000, 1_000, 100);
        assert_eq!(policy().crossing(&meter, |_| true), None);
        meter.charge(979, 100);
        assert_eq!(policy().crossing(&meter, |_| true), None);
        meter.charge(0, 980);
        assert_eq!(policy().crossing(&meter, |_| true), Some(Resource::Memory));
        assert_eq!(policy().crossing(&meter, |resource| resource != Resource::Memory), None);
    }

    #[test]
    fn a_crossing_of_the_consumable_comes_first() {
        let mut meter = Meter::new(1_000, 1_000, 100);
        meter.charge(980, 980);
        assert_eq!(policy().crossing(&meter, |_| true), Some(Resource::Cpu));
    }

    #[test]
    fn a_state_that_compacts_stays_on_its_size() {
        let policy = policy();
        let small = &policy.sizes[0];
        assert_eq!(policy.decide(FailoverCause::Memory, small, 830, |_| true), Decision::Move(Arc::clone(small)));
    }

    #[test]
    fn a_state_that_does_not_compact_gets_the_next_size_that_has_room() {
        let policy = policy();
        let [small, medium, large] = &policy.sizes[..] else { panic!("three sizes") };
        assert_eq!(policy.decide(FailoverCause::Memory, small, 831, |_| true), Decision::Move(Arc::clone(medium)));
        let room_for_large = |size: &Size| size.name == "l";
        assert_eq!(policy.decide(FailoverCause::Cpu, small, 831, room_for_large), Decision::Move(Arc::clone(large)));
    }

    #[test]
    fn without_a_larger_size_a_crossing_of_memory_moves_nothing() {
        let policy = policy();
        let large = &policy.sizes[2];
        assert!(matches!(policy.decide(FailoverCause::Memory, large, 90_000, |_| true), Decision::Stay(_)));
    }

    #[test]
    fn without_a_larger_size_a_crossing_of_cpu_still_gets_a_full_tank() {
        let policy = policy();
        let large = &policy.sizes[2];
        assert!(matches!(
            policy.decide(FailoverCause::Cpu, large, 90_000, |_| true),
            Decision::MoveDegraded(size, _) if size == *large
        ));
    }

    proptest! {
        /// A move for memory never leads straight to the next crossing of memory, so there is no loop.
        #[test]
        fn a_move_for_memory_always_leaves_headroom(used in 0u64..200_000, which in 0usize..3, room in 0u64..200_000) {
            let policy = policy();
            let decision = policy.decide(FailoverCause::Memory, &policy.sizes[which], used, |size| size.memory_bytes <= room);
            if let Decision::Move(size) = decision {
                let meter = Meter::new(size.fuel, size.memory_bytes, used);
                prop_assert_eq!(policy.crossing(&meter, |_| true), None);
                prop_assert!(size.memory_bytes >= policy.sizes[which].memory_bytes);
            }
        }
    }
}
