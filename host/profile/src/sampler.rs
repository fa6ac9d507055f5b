//! Decides when a run is looked at, and what fuel counts for which stack.
//!
//! A run can be stopped at checkpoints: where a function begins, at the head of a loop, and in a call of the host. A
//! checkpoint costs a thousand times what the guest does between two of them. So a short run has all of them, and a long
//! one has *bursts* of them:
//!
//! ```text
//!   |<-- burst -->|<------- gap ------->|<-- burst -->|<--- gap --->|<-- burst -->| ...
//!    c  c  c  c  c                       c  c  c  c  c               c  c  c  c  c
//! ```
//!
//! Within a burst, the fuel between two checkpoints counts for the stack at the first of them, because the guest continued
//! there. The fuel of a gap counts for the stacks of the burst after it, in proportion. The length of a gap varies, so
//! that no loop of the guest can keep pace with it: by a generator with a fixed seed, so the same run has the same
//! profile.

use crate::tree::{NodeId, Tree};
use crate::{HOST, UNSAMPLED};

/// The most fuel of a run that has every checkpoint. Of a longer run, about as much fuel is in bursts.
pub const EXACT_FUEL_MAX: u64 = 2_000_000;

/// The fuel of a burst.
pub const BURST_FUEL: u64 = 500;

/// The seed of the lengths of the gaps.
const SEED: u64 = 0x4c69_6665_626f_6174;

/// How often a run is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The mean length of a gap between two bursts, in fuel. 0 if every checkpoint counts.
    pub gap_fuel: u64,
}

impl Plan {
    /// Returns the plan for a run that burns `fuel`.
    #[must_use]
    pub fn for_fuel(fuel: u64) -> Self {
        if fuel <= EXACT_FUEL_MAX {
            return Self { gap_fuel: 0 };
        }
        let period = u128::from(BURST_FUEL) * u128::from(fuel) / u128::from(EXACT_FUEL_MAX);
        Self { gap_fuel: u64::try_from(period).unwrap_or(u64::MAX / 4).saturating_sub(BURST_FUEL) }
    }

    /// Returns whether every checkpoint counts.
    #[must_use]
    pub fn is_exact(self) -> bool {
        self.gap_fuel == 0
    }
}

/// Adds the fuel between checkpoints to stacks.
#[derive(Debug)]
pub struct Sampler {
    tree: Tree,
    plan: Plan,
    random: u64,
    is_in_burst: bool,
    /// The fuel until the end of the burst or the gap.
    left: u64,
    /// The stack at the last checkpoint of the burst.
    here: Option<NodeId>,
    /// The stacks of the burst, and their fuel.
    burst: Vec<(NodeId, u64)>,
    /// The fuel of the gap before the burst.
    gap: u64,
    checkpoints: u64,
}

impl Sampler {
    /// Creates a sampler without any stacks.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            tree: Tree::default(),
            plan,
            random: SEED,
            is_in_burst: true,
            left: BURST_FUEL,
            here: None,
            burst: Vec::new(),
            gap: 0,
            checkpoints: 0,
        }
    }

    /// Returns the fuel after which the next checkpoint is needed, at least 1.
    #[must_use]
    pub fn wanted_after(&self) -> u64 {
        if self.is_in_burst { 1 } else { self.left.max(1) }
    }

    /// Returns the number of checkpoints whose stack was needed.
    #[must_use]
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// Continues at a checkpoint, `fuel` after the last one. `stack` returns the stack there, if it is needed.
    pub fn pass(&mut self, fuel: u64, stack: impl FnOnce(&mut Tree) -> NodeId) {
        let mut stack = Some(stack);
        let mut look = |sampler: &mut Self| {
            let stack = stack.take()?;
            sampler.checkpoints += 1;
            Some(stack(&mut sampler.tree))
        };
        if self.is_in_burst && self.here.is_none() {
            // The guest was entered, and has burnt the cost of its first checkpoint.
            self.here = look(self);
        }
        self.spend(self.here, fuel);
        if self.is_in_burst {
            self.here = look(self).or(self.here);
        }
    }

    /// Returns the stack at the last checkpoint of the burst, from which the guest has continued.
    #[must_use]
    pub fn here(&self) -> Option<NodeId> {
        self.here
    }

    /// Continues in `caller`, which called the host and may have run in that call, `fuel` after the last checkpoint.
    /// Without a caller, the guest continues in the stack of that checkpoint.
    pub fn back(&mut self, fuel: u64, caller: Option<NodeId>) {
        self.spend(self.here, fuel);
        if self.is_in_burst {
            self.here = caller.or(self.here);
        }
    }

    /// Adds what the host charged for a call by `caller`, or else at the last checkpoint.
    pub fn charge(&mut self, caller: Option<NodeId>, fuel: u64) {
        if fuel == 0 {
            return;
        }
        let caller = caller.or(self.here).unwrap_or(Tree::ROOT);
        let host = self.is_in_burst.then(|| self.tree.child(caller, HOST));
        self.spend(host, fuel);
    }

    /// Ends a call into the guest, which burnt `fuel` since the last checkpoint.
    pub fn leave(&mut self, fuel: u64) {
        self.spend(self.here, fuel);
        self.here = None;
    }

    /// Adds fuel that is of no function.
    pub fn add_beside(&mut self, label: &str, fuel: u64) {
        if fuel > 0 {
            let stack = self.tree.child(Tree::ROOT, label);
            self.tree.add(stack, fuel);
        }
    }

    /// Returns the stacks.
    #[must_use]
    pub fn finish(mut self) -> Tree {
        self.end_burst();
        let rest = std::mem::take(&mut self.gap);
        self.add_beside(UNSAMPLED, rest);
        self.tree
    }

    fn spend(&mut self, stack: Option<NodeId>, fuel: u64) {
        if self.is_in_burst {
            if fuel > 0 {
                self.burst.push((stack.unwrap_or(Tree::ROOT), fuel));
            }
        } else {
            self.gap = self.gap.saturating_add(fuel);
        }
        self.left = self.left.saturating_sub(fuel);
        if self.left > 0 {
            return;
        }
        if self.is_in_burst {
            self.end_burst();
            self.left = self.next_gap();
            self.is_in_burst = self.left == 0;
            if !self.is_in_burst {
                self.here = None;
            }
        } else {
            self.is_in_burst = true;
        }
        if self.is_in_burst {
            self.left = BURST_FUEL;
        }
    }

    /// Adds the fuel of the burst, and of the gap before it, to the stacks of the burst.
    fn end_burst(&mut self) {
        let seen: u64 = self.burst.iter().map(|(_, fuel)| fuel).sum();
        if seen == 0 {
            return;
        }
        let all = u128::from(seen) + u128::from(std::mem::take(&mut self.gap));
        let share = |fuel: u64| u64::try_from(u128::from(fuel) * all / u128::from(seen)).unwrap_or(u64::MAX);
        let mut so_far = 0;
        for (stack, fuel) in self.burst.drain(..) {
            // Differences of rounded sums lose nothing.
            let before = share(so_far);
            so_far += fuel;
            self.tree.add(stack, share(so_far) - before);
        }
    }

    /// Draws the length of the next gap, between nothing and twice the mean.
    fn next_gap(&mut self) -> u64 {
        if self.plan.is_exact() {
            return 0;
        }
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        1 + mixed % self.plan.gap_fuel.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a loop that calls `a`, which burns 30, and `b`, which burns 10, with a checkpoint in each.
    fn run(rounds: u64, plan: Plan) -> Sampler {
        let mut sampler = Sampler::new(plan);
        let mut since = 0;
        for _ in 0..rounds {
            for (function, fuel) in [("a", 30), ("b", 10)] {
                if since >= sampler.wanted_after() || since == 0 {
                    sampler.pass(since, |tree| tree.stack(["main", function].into_iter()));
                    since = 0;
                }
                since += fuel;
            }
        }
        sampler.leave(since);
        sampler
    }

    fn fuel_of(tree: &Tree, name: &str) -> u64 {
        tree.nodes().filter(|(id, _)| tree.name(*id) == name).map(|(_, node)| node.fuel).sum()
    }

    #[test]
    fn a_short_run_is_exact() {
        let plan = Plan::for_fuel(40_000);
        assert!(plan.is_exact());
        let tree = run(1_000, plan).finish();
        assert_eq!((fuel_of(&tree, "a"), fuel_of(&tree, "b"), tree.total()), (30_000, 10_000, 40_000));
    }

    #[test]
    fn a_long_run_is_exact_in_total_and_near_in_its_parts() {
        let rounds = 10_000_000;
        let plan = Plan::for_fuel(40 * rounds);
        let sampler = run(rounds, plan);
        let share = sampler.checkpoints() as f64 / (2 * rounds) as f64;
        assert!((0.003..0.008).contains(&share), "{share}");
        let tree = sampler.finish();
        assert_eq!(tree.total(), 40 * rounds);
        let of_a = fuel_of(&tree, "a") as f64 / tree.total() as f64;
        assert!((0.74..0.76).contains(&of_a), "{of_a}");
    }

    #[test]
    fn charges_of_the_host_are_below_the_stack_that_called_it() {
        let mut sampler = Sampler::new(Plan::for_fuel(100));
        sampler.pass(1, |tree| tree.stack(["main"].into_iter()));
        sampler.charge(None, 20);
        sampler.pass(5, |tree| tree.stack(["main", "f"].into_iter()));
        sampler.charge(None, 0);
        sampler.leave(3);
        let tree = sampler.finish();
        let mut lines = Vec::new();
        crate::folded(&tree, &mut lines).expect("memory takes everything");
        assert_eq!(String::from_utf8(lines).expect("text"), "main 6\nmain;(host) 20\nmain;f 3\n");
    }

    #[test]
    fn a_function_continues_after_its_call_of_the_host_ran_the_guest() {
        let mut sampler = Sampler::new(Plan::for_fuel(100));
        sampler.pass(1, |tree| tree.stack(["main"].into_iter()));
        let main = sampler.here();
        // The host charges, and then runs the allocator, which is looked at and burns fuel up to its end.
        sampler.charge(main, 20);
        sampler.pass(2, |tree| tree.stack(["main", "allocate"].into_iter()));
        sampler.back(7, main);
        sampler.charge(main, 30);
        sampler.leave(4);
        let mut lines = Vec::new();
        crate::folded(&sampler.finish(), &mut lines).expect("memory takes everything");
        assert_eq!(String::from_utf8(lines).expect("text"), "main 7\nmain;(host) 50\nmain;allocate 7\n");
    }

    proptest! {
        #[test]
        fn no_fuel_is_lost_and_none_is_added(
            steps in prop::collection::vec((0_u64..5_000, 0_u8..5), 1..300),
            gap_fuel in 0_u64..5_000,
        ) {
            let mut sampler = Sampler::new(Plan { gap_fuel });
            let (mut total, mut caller) = (0, None);
            for (fuel, kind) in steps {
                match kind {
                    0 => sampler.charge(caller, fuel),
                    1 => sampler.leave(fuel),
                    2 => sampler.back(fuel, std::mem::replace(&mut caller, sampler.here())),
                    _ => sampler.pass(fuel, |tree| tree.stack(["f"].into_iter())),
                }
                total += fuel;
            }
            prop_assert_eq!(sampler.finish().total(), total);
        }
    }
}
