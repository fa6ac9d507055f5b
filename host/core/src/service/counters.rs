//! What a service has done since it was started, and what its requests have cost: pure.

use super::Counts;
use std::time::Duration;

/// Counters of a service. All of them only grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: Counts,
    /// Requests that came so far, denied ones included: what waiting is counted in.
    requests: u64,
    /// Queries that were given an id.
    queries_named: u64,
    /// What rollbacks cost so far, as fuel.
    rollback_fuel: u64,
    /// What remained of deadlines that were missed, as fuel: a nanosecond is one.
    missed_deadlines_fuel: u64,
}

/// A rollback that has begun: what maintenance had cost until then, as fuel.
#[must_use]
pub(super) struct RollbackBegun(u64);

impl Counters {
    /// What is shown.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many requests came so far, with the one that is being performed.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// What requests have cost so far, as fuel: that of all attempts, of the replays after those that failed, and the rest
    /// of a deadline that was missed.
    pub(super) fn burnt_fuel(&self) -> u64 {
        let Counts { fuel_charged, fuel_rolled_back, .. } = self.counts;
        fuel_charged + fuel_rolled_back + self.rollback_fuel + self.missed_deadlines_fuel
    }

    /// A request came.
    pub(super) fn request(&mut self) {
        self.requests += 1;
    }

    /// A query is given an id: it is this one of those that are.
    pub(super) fn name_query(&mut self) -> u64 {
        self.queries_named += 1;
        self.queries_named
    }

    /// An attempt was kept.
    pub(super) fn charged(&mut self, fuel: u64) {
        self.counts.fuel_charged += fuel;
    }

    /// An attempt was not kept.
    pub(super) fn rolled_back(&mut self, fuel: u64) {
        self.counts.fuel_rolled_back += fuel;
    }

    /// An attempt missed `deadline` after `fuel`. It kept the service busy for all of it.
    pub(super) fn missed_deadline(&mut self, deadline: Duration, fuel: u64) {
        let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.missed_deadlines_fuel = self.missed_deadlines_fuel.saturating_add(nanoseconds.saturating_sub(fuel));
    }

    /// An export or a restore cost `fuel`.
    pub(super) fn maintained(&mut self, fuel: u64) {
        self.counts.fuel_maintenance += fuel;
    }

    /// A store was restored, and `transactions` replayed in it, for `fuel` altogether.
    pub(super) fn replayed(&mut self, transactions: u64, fuel: u64) {
        self.counts.replayed_transactions += transactions;
        self.counts.fuel_maintenance += fuel;
    }

    /// A snapshot was proven.
    pub(super) fn snapshot(&mut self) {
        self.counts.snapshots += 1;
    }

    /// A rollback begins.
    pub(super) fn begin_rollback(&mut self) -> RollbackBegun {
        self.counts.rollbacks += 1;
        RollbackBegun(self.counts.fuel_maintenance)
    }

    /// It has ended. What was maintained meanwhile is its cost.
    pub(super) fn end_rollback(&mut self, RollbackBegun(fuel_before): RollbackBegun) {
        self.rollback_fuel += self.counts.fuel_maintenance - fuel_before;
    }

    /// Lines of the guest's log were dropped.
    pub(super) fn dropped_lines(&mut self, lines: u64) {
        self.counts.log_lines_dropped += lines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_costs_all_attempts_and_the_replay_after_a_failed_one() {
        let mut counters = Counters::default();
        counters.maintained(1_000);
        counters.charged(1);
        counters.rolled_back(20);
        let begun = counters.begin_rollback();
        counters.replayed(5, 300);
        counters.end_rollback(begun);
        counters.replayed(5, 4_000);
        assert_eq!(counters.burnt_fuel(), 321);
        let counts = counters.counts();
        assert_eq!((counts.rollbacks, counts.replayed_transactions, counts.fuel_maintenance), (1, 10, 5_300));
    }

    #[test]
    fn a_missed_deadline_costs_its_whole_length() {
        let mut counters = Counters::default();
        counters.rolled_back(400);
        counters.missed_deadline(Duration::from_nanos(1_000), 400);
        assert_eq!(counters.burnt_fuel(), 1_000);
        counters.missed_deadline(Duration::from_nanos(1_000), 1_500);
        assert_eq!(counters.burnt_fuel(), 1_000);
    }
}
