//! The time for which a server has owed answers without giving one.

use std::time::{Duration, Instant};

/// The time until a silence is too long.
///
/// It only passes while the batch listens: the work of a caller between two answers is not the server's silence. A line
/// that is sent meanwhile does not end the silence.
#[derive(Debug)]
pub(super) struct Silence<C: Fn() -> Instant = fn() -> Instant> {
    longest: Duration,
    left: Duration,
    now: C,
}

impl<C: Fn() -> Instant> Silence<C> {
    /// Creates a silence of no length so far, by the clock `now`.
    pub(super) fn new(longest: Duration, now: C) -> Self {
        Self { longest, left: longest, now }
    }

    /// Ends the silence: an answer arrived, or the connection that owed it is gone.
    pub(super) fn ended(&mut self) {
        self.left = self.longest;
    }

    /// Listens until the result is dropped. Unless an answer is due, this time does not count.
    pub(super) fn listen(&mut self, is_due: bool) -> Listening<'_, C> {
        Listening { since: is_due.then(|| (self.now)()), silence: self }
    }
}

/// A period of listening, until it is dropped.
pub(super) struct Listening<'a, C: Fn() -> Instant> {
    silence: &'a mut Silence<C>,
    since: Option<Instant>,
}

impl<C: Fn() -> Instant> Listening<'_, C> {
    /// Waits until the silence is too long.
    pub(super) async fn over(&self) {
        match self.since {
            // A timer of no length still takes a moment, and the listener might stop before that each time.
            Some(_) if self.silence.left.is_zero() => {}
            Some(_) => tokio::time::sleep(self.silence.left).await,
            None => std::future::pending().await,
        }
    }
}

impl<C: Fn() -> Instant> Drop for Listening<'_, C> {
    fn drop(&mut self) {
        let heard = self.since.map(|since| (self.silence.now)().saturating_duration_since(since));
        self.silence.left = self.silence.left.saturating_sub(heard.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::cell::Cell;

    const LONGEST: Duration = Duration::from_secs(10);

    /// A clock that only advances when a test says so.
    struct Hand(Cell<Duration>);

    impl Hand {
        fn silence(&self) -> Silence<impl Fn() -> Instant> {
            let start = Instant::now();
            Silence::new(LONGEST, move || start + self.0.get())
        }

        fn pass(&self, seconds: u64) {
            self.0.set(self.0.get() + Duration::from_secs(seconds));
        }
    }

    /// Listens for a while. Returns whether the silence was already too long.
    fn listen(silence: &mut Silence<impl Fn() -> Instant>, is_due: bool, meanwhile: impl FnOnce()) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let listening = silence.listen(is_due);
            let is_over = listening.over().now_or_never().is_some();
            meanwhile();
            is_over
        })
    }

    #[test]
    fn a_silence_adds_up_over_all_cancelled_listens() {
        let hand = Hand(Cell::default());
        let mut silence = hand.silence();
        for left in [6, 2, 0] {
            assert!(!listen(&mut silence, true, || hand.pass(4)));
            assert_eq!(silence.left, Duration::from_secs(left));
        }
        assert!(listen(&mut silence, true, || {}));
        silence.ended();
        assert!(!listen(&mut silence, true, || {}));
        assert_eq!(silence.left, LONGEST, "an answer breaks it");
    }

    #[test]
    fn only_time_spent_waiting_for_a_due_answer_is_silence() {
        let hand = Hand(Cell::default());
        let mut silence = hand.silence();
        for _ in 0..2 {
            assert!(!listen(&mut silence, true, || hand.pass(1)));
            hand.pass(100);
            assert!(!listen(&mut silence, false, || hand.pass(100)));
        }
        assert_eq!(silence.left, Duration::from_secs(8));
    }
}
