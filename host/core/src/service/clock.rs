//! The times of a service: the time of the host's clock, the elapsed time, and the guest's time, which never goes back.
//!
//! [`ServiceClock`] is pure: its caller passes in the readings of the clocks. The methods of [`Service`] below read
//! them.

use super::{GUEST_TIME_STEP, Service};
use crate::answers::Moment;
use lifeboat_api::clock::{CLOCK_BEHIND_MAX, ClockReading, Timestamp};
use lifeboat_api::event::Event;
use std::time::Duration;

/// The times of a service.
#[derive(Debug)]
pub(super) struct ServiceClock {
    /// The reading of the clocks when the service started.
    began: ClockReading,
    /// The last reading of the host's clock.
    wall: Timestamp,
    /// The time of the last transaction or query.
    last: Timestamp,
    /// Whether the host's clock was reported as behind `last`.
    is_behind: bool,
}

/// The consequences of a reading of the host's clock.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The previous reading, if the clock was set back since.
    put_back_from: Option<Timestamp>,
    /// Whether to report that the clock is far behind the last transaction.
    is_behind_due: bool,
}

impl ServiceClock {
    pub(super) fn new(began: ClockReading) -> Self {
        Self { began, wall: began.wall, last: Timestamp(0), is_behind: false }
    }

    /// Returns the time of the last transaction or query.
    pub(super) fn last(&self) -> Timestamp {
        self.last
    }

    /// Records that the guest has seen `time`.
    pub(super) fn pass(&mut self, time: Timestamp) {
        self.last = self.last.max(time);
    }

    /// Returns the time that the next transaction or query sees. It is after the last one, even while the host's clock
    /// stands still or was set back.
    pub(super) fn next(&self) -> Timestamp {
        self.wall.max(self.last.plus(GUEST_TIME_STEP))
    }

    /// Returns the time when the host's clock reads `wall`. It is never before that of the last
    /// transaction or query.
    pub(super) fn at(&self, wall: Timestamp) -> Timestamp {
        wall.max(self.last)
    }

    /// Returns the last reading of the host's clock, and the current time of the steady clock.
    pub(super) fn moment(&self, monotonic: Duration) -> Moment {
        let steady = self.began.wall.plus(monotonic.saturating_sub(self.began.monotonic));
        Moment { wall: self.wall, steady }
    }

    /// Records that the host's clock reads `wall`. A clock far behind the last transaction is due to be reported once
    /// until it has caught up, and again if it is set far back once more.
    pub(super) fn look(&mut self, wall: Timestamp) -> Look {
        let before = std::mem::replace(&mut self.wall, wall);
        let is_far_back = wall.plus(CLOCK_BEHIND_MAX) < before;
        let is_far_behind = wall.plus(CLOCK_BEHIND_MAX) < self.last;
        let is_behind_due = is_far_behind && (is_far_back || !self.is_behind);
        self.is_behind = (self.is_behind || is_behind_due) && wall < self.last;
        Look { put_back_from: (wall < before).then_some(before), is_behind_due }
    }
}

impl Service {
    /// Returns the time that the next transaction or query sees.
    pub(super) fn next_timestamp(&mut self) -> Timestamp {
        self.look_at_clock();
        self.clock.next()
    }

    /// Reads the host's clock, and reports a clock that is far behind the last transaction.
    pub(super) fn look_at_clock(&mut self) {
        let now = self.context.clock.now();
        let Look { put_back_from, is_behind_due } = self.clock.look(now);
        if let Some(before) = put_back_from {
            self.history.look_at_clock(before, self.moment());
        }
        if is_behind_due {
            let (last, ids_ahead) = (self.clock.last(), self.history.answers().far_ahead(now));
            self.emit(Event::ClockBehind { service: self.name.clone(), now, last, ids_ahead });
        }
    }

    /// Returns the last reading of the host's clock, and the current time of the steady clock.
    pub(super) fn moment(&self) -> Moment {
        self.clock.moment(self.context.clock.monotonic())
    }

    /// Returns the current time, or that of the last transaction or query if that is later.
    pub(super) fn service_time(&self) -> Timestamp {
        self.clock.at(self.context.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn second(second: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(second))
    }

    /// Returns a clock whose last transaction was at this second, which was also the time of the host's clock.
    fn clock(last: u64) -> ServiceClock {
        let mut clock = ServiceClock::new(ClockReading { wall: second(last), monotonic: Duration::from_secs(7) });
        clock.pass(second(last));
        clock
    }

    proptest! {
        #[test]
        fn the_guest_never_sees_a_time_twice(walls in prop::collection::vec(0..200_u64, 0..40)) {
            let mut clock = clock(100);
            for wall in walls {
                let last = clock.last();
                clock.look(second(wall));
                let next = clock.next();
                prop_assert!(next > last && next >= second(wall));
                clock.pass(next);
                prop_assert_eq!(clock.last(), next);
            }
        }
    }

    #[test]
    fn a_clock_far_behind_is_reported_once_until_it_has_caught_up() {
        let mut clock = clock(1_000);
        let due: Vec<_> = [940, 939, 939, 999, 939, 1_000, 950, 939]
            .into_iter()
            .map(|wall| clock.look(second(wall)).is_behind_due)
            .collect();
        assert_eq!(due, [false, true, false, false, false, false, false, true]);
    }

    #[test]
    fn a_clock_that_is_put_far_back_once_more_is_reported_once_more() {
        let mut clock = clock(1_000);
        let due = [900, 840, 779].map(|wall| clock.look(second(wall)).is_behind_due);
        assert_eq!(due, [true, false, true]);
    }

    #[test]
    fn a_clock_that_was_put_back_is_compared_with_where_it_was() {
        let mut clock = clock(1_000);
        assert_eq!(clock.look(second(1_005)).put_back_from, None);
        assert_eq!(clock.look(second(1_001)).put_back_from, Some(second(1_005)));
        assert_eq!(clock.look(second(1_001)).put_back_from, None);
    }

    #[test]
    fn an_age_does_not_depend_on_the_hosts_clock() {
        let mut clock = clock(1_000);
        clock.look(second(5));
        let moment = clock.moment(Duration::from_secs(10));
        assert_eq!((moment.wall, moment.steady), (second(5), second(1_003)));
    }
}
