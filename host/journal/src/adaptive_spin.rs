//! Decides whether a thread polls for its next work briefly before it blocks.
//!
//! Waking a thread takes about as long as a sync of a fast disk, and longer on a machine whose cores sleep deeply. A
//! client that sends one transaction after the other waits for three threads that wake one another: the service's, the
//! journal's, and its own. So the first two poll for the next work if the last work came soon. A polling thread yields
//! its core to any other thread, and blocks after [`SPIN_MAX`].

use std::time::Duration;

/// The longest time that a thread polls: a little more than it takes to wake a client, which sends the next
/// transaction, and the client's service.
pub const SPIN_MAX: Duration = Duration::from_micros(250);

/// A thread that polls for its next work only if its last wait was short.
#[derive(Debug)]
pub struct AdaptiveSpin {
    last_wait: Duration,
}

impl Default for AdaptiveSpin {
    /// Returns a spin that blocks at once, because there was no wait yet.
    fn default() -> Self {
        Self { last_wait: Duration::MAX }
    }
}

impl AdaptiveSpin {
    /// Records how long the thread waited for its last work.
    pub fn waited(&mut self, wait: Duration) {
        self.last_wait = wait;
    }

    /// Returns whether to go on polling for the next work, `waiting` after the wait for it began.
    pub fn should_spin(&self, waiting: Duration) -> bool {
        self.last_wait <= SPIN_MAX && waiting < SPIN_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_briefly_if_the_last_work_came_soon() {
        let long = SPIN_MAX + Duration::from_nanos(1);
        let mut spin = AdaptiveSpin::default();
        assert!(!spin.should_spin(Duration::ZERO));
        spin.waited(SPIN_MAX);
        assert!(spin.should_spin(Duration::ZERO) && !spin.should_spin(SPIN_MAX));
        spin.waited(long);
        assert!(!spin.should_spin(Duration::ZERO));
    }
}
