//! The times that a service goes by: those of the host's clock, and its guest's, which never go back.

use super::{GUEST_TIME_STEP, Service};
use crate::answers::Moment;
use lifeboat_api::clock::{CLOCK_BEHIND_MAX, Timestamp};
use lifeboat_api::event::Event;

impl Service {
    /// The time that the next transaction or query sees: after the last one, also while the clock stands or was put back.
    pub(super) fn next_timestamp(&mut self) -> Timestamp {
        self.look_at_clock().max(self.last_timestamp.plus(GUEST_TIME_STEP))
    }

    /// What the host's clock says. That it is behind what it was is reported once until it has caught up, and when it was
    /// put back again.
    pub(super) fn look_at_clock(&mut self) -> Timestamp {
        let now = self.context.clock.now();
        let before = std::mem::replace(&mut self.wall, now);
        let is_back = now < before;
        if is_back {
            self.answers.look_at_clock(before, self.moment());
        }
        let is_far_back = is_back && now.plus(CLOCK_BEHIND_MAX) < before;
        if now >= self.last_timestamp {
            self.is_clock_behind = false;
        } else if (is_far_back || !self.is_clock_behind) && now.plus(CLOCK_BEHIND_MAX) < self.last_timestamp {
            self.is_clock_behind = true;
            let (last, ids_ahead) = (self.last_timestamp, self.answers.far_ahead(now));
            self.emit(Event::ClockBehind { service: self.name.clone(), now, last, ids_ahead });
        }
        now
    }

    /// The moment at which the host's clock was looked at last, and its age.
    pub(super) fn moment(&self) -> Moment {
        let (wall, monotonic) = self.began;
        let steady = wall.plus(self.context.clock.monotonic().saturating_sub(monotonic));
        Moment { wall: self.wall, steady }
    }

    /// The time now, and never before that of the last transaction.
    pub(super) fn service_time(&self) -> Timestamp {
        self.context.clock.now().max(self.last_timestamp)
    }
}
