//! For how many requests a service leaves alone what failed: pure.

/// How long to leave alone what failed: twice as many requests after each failure in a row. Counted in requests, denied
/// ones included, not in time: it is the same whenever the requests are, and it ends even while all are denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    until_request: u64,
}

impl Backoff {
    /// Requests to wait after the first failure.
    const FIRST_WAIT: u64 = 64;
    /// Doublings at the most.
    const DOUBLINGS_MAX: u32 = 10;

    /// Whether it may be tried at the service's `request`th request.
    pub(super) fn is_over(self, request: u64) -> bool {
        request >= self.until_request
    }

    /// Notes a failure at the service's `request`th request.
    pub(super) fn fail(&mut self, request: u64) {
        self.until_request = request.saturating_add(Self::FIRST_WAIT << self.failures.min(Self::DOUBLINGS_MAX));
        self.failures += 1;
    }

    /// Notes a success.
    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_with_each_failure_and_ends_with_a_success() {
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
