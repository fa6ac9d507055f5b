//! Whether it is worth to look out for work instead of sleeping.
//!
//! To be woken takes about as long as a sync of a fast disk, on a machine whose cores sleep deeply even longer. A client
//! that sends one transaction after the other waits for three threads that wake one another: its service's, the
//! journal's, its own. So the first two look out for the next while it is likely to come soon, as the last one did. Who
//! looks out gives the core to whoever wants it, and gives up after [`LOOK_OUT_MAX`].

use std::time::Duration;

/// How long work is looked out for: a little more than it takes to wake a client, which sends the next transaction, and
/// its service.
pub const LOOK_OUT_MAX: Duration = Duration::from_micros(250);

/// How long the work was waited for lately.
#[derive(Debug)]
pub struct Pace {
    last_wait: Duration,
}

impl Default for Pace {
    /// Of one who has not waited yet, and sleeps.
    fn default() -> Self {
        Self { last_wait: Duration::MAX }
    }
}

impl Pace {
    /// Notes how long the last work was waited for.
    pub fn waited(&mut self, wait: Duration) {
        self.last_wait = wait;
    }

    /// Whether the next work is worth looking out for when it has been waited for since `waiting`.
    pub fn looks_out(&self, waiting: Duration) -> bool {
        self.last_wait <= LOOK_OUT_MAX && waiting < LOOK_OUT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_looked_out_for_if_the_last_came_soon_and_not_for_long() {
        let long = LOOK_OUT_MAX + Duration::from_nanos(1);
        let mut pace = Pace::default();
        assert!(!pace.looks_out(Duration::ZERO));
        pace.waited(LOOK_OUT_MAX);
        assert!(pace.looks_out(Duration::ZERO) && !pace.looks_out(LOOK_OUT_MAX));
        pace.waited(long);
        assert!(!pace.looks_out(Duration::ZERO));
    }
}
