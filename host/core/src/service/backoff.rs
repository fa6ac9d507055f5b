//! The number of requests for which a service does not repeat a failed operation. This module is pure.

/// The wait after a failure, which doubles after each failure in a row.
///
/// The wait is counted in requests, denied ones included, rather than in time. So it is independent of the request
/// rate, and it ends even while all requests are denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    until_request: u64,
}

impl Backoff {
    /// The wait after the first failure, in requests.
    const FIRST_WAIT: u64 = 64;
    /// The most doublings.
    const DOUBLINGS_MAX: u32 = 10;

    /// Returns whether the operation may be tried at the service's `request`th request.
    pub(super) fn is_over(self, request: u64) -> bool {
        request >= self.until_request
    }

    /// Records a failure at the service's `request`th request.
    pub(super) fn fail(&mut self, request: u64) {
        self.until_request = request.saturating_add(Self::FIRST_WAIT << self.failures.min(Self::DOUBLINGS_MAX));
        self.failures += 1;
    }

    /// Records a success.
    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_with_each_failure_until_a_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_over(0));
        backoff.fail(10);
        assert!(!backoff.is_over(73) && backoff.is_over(74));
        backoff.fail(74);
        assert!(!backoff.is_over(201) && backoff.is_over(202));
        backoff.succeed();
        assert!(backoff.is_over(0));
    }
}
