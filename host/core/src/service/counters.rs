//! Counters of a service since its start, and the cost of its requests. This module is pure.

use super::Counts;
use std::time::Duration;

/// The counters of a service. All of them only grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: Counts,
    /// Requests so far, denied ones included. Backoff is counted in them.
    requests: u64,
    /// Queries for which the service generated an id.
    queries_named: u64,
    /// The cost of rollbacks so far, in fuel.
    rollback_fuel: u64,
    /// The rest of missed deadlines beyond the fuel of their attempts, in fuel. A nanosecond counts as one unit.
    missed_deadlines_fuel: u64,
}

/// A rollback that has begun, with the fuel of maintenance until then.
#[must_use]
pub(super) struct RollbackBegun(u64);

impl Counters {
    /// Returns the counts that a service shows.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the number of requests so far, including the current one.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// Returns the cost of all requests so far, in fuel. It includes all attempts, the replays after failed attempts,
    /// and the rest of missed deadlines.
    pub(super) fn burnt_fuel(&self) -> u64 {
        let Counts { fuel_charged, fuel_rolled_back, .. } = self.counts;
        fuel_charged + fuel_rolled_back + self.rollback_fuel + self.missed_deadlines_fuel
    }

    /// Counts a request.
    pub(super) fn request(&mut self) {
        self.requests += 1;
    }

    /// Counts a query that gets an id, and returns its number.
    pub(super) fn name_query(&mut self) -> u64 {
        self.queries_named += 1;
        self.queries_named
    }

    /// Counts the fuel of a kept attempt.
    pub(super) fn charged(&mut self, fuel: u64) {
        self.counts.fuel_charged += fuel;
    }

    /// Counts the fuel of an attempt that was not kept.
    pub(super) fn rolled_back(&mut self, fuel: u64) {
        self.counts.fuel_rolled_back += fuel;
    }

    /// Counts an attempt that missed `deadline` after `fuel`. It kept the service busy for the whole deadline.
    pub(super) fn missed_deadline(&mut self, deadline: Duration, fuel: u64) {
        let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.missed_deadlines_fuel = self.missed_deadlines_fuel.saturating_add(nanoseconds.saturating_sub(fuel));
    }

    /// Counts the fuel of an export or a restore.
    pub(super) fn maintained(&mut self, fuel: u64) {
        self.counts.fuel_maintenance += fuel;
    }

    /// Counts a restore and the replay of `transactions`, which cost `fuel` altogether.
    pub(super) fn replayed(&mut self, transactions: u64, fuel: u64) {
        self.counts.replayed_transactions += transactions;
        self.counts.fuel_maintenance += fuel;
    }

    /// Counts a proven snapshot.
    pub(super) fn snapshot(&mut self) {
        self.counts.snapshots += 1;
    }

    /// Counts a rollback that begins.
    pub(super) fn begin_rollback(&mut self) -> RollbackBegun {
        self.counts.rollbacks += 1;
        RollbackBegun(self.counts.fuel_maintenance)
    }

    /// Ends a rollback. Maintenance since it began is its cost.
    pub(super) fn end_rollback(&mut self, RollbackBegun(fuel_before): RollbackBegun) {
        self.rollback_fuel += self.counts.fuel_maintenance - fuel_before;
    }

    /// Counts dropped lines of the guest's log.
    pub(super) fn dropped_lines(&mut self, lines: u64) {
        self.counts.log_lines_dropped += lines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_costs_all_its_attempts_with_their_replays() {
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
