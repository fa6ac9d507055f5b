//! How long a server has owed answers and given none.

use std::time::{Duration, Instant};

/// The time that is left until a silence is too long. It passes while somebody listens: what a caller does between two
/// answers is not the server's silence, and neither does a line that is sent meanwhile break it.
#[derive(Debug)]
pub(super) struct Silence {
    longest: Duration,
    left: Duration,
}

impl Silence {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, left: longest }
    }

    /// An answer came, or the connection is gone that owed some.
    pub(super) fn ended(&mut self) {
        self.left = self.longest;
    }

    /// Listens until the result is dropped. Without an answer that is due nothing is silence.
    pub(super) fn listen(&mut self, is_due: bool) -> Listening<'_> {
        Listening { since: is_due.then(Instant::now), silence: self }
    }
}

/// Somebody listens.
pub(super) struct Listening<'a> {
    silence: &'a mut Silence,
    since: Option<Instant>,
}

impl Listening<'_> {
    /// Waits until the silence is too long.
    pub(super) async fn over(&self) {
        match self.since {
            Some(_) => tokio::time::sleep(self.silence.left).await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let heard = self.since.map(|since| since.elapsed()).unwrap_or_default();
        self.silence.left = self.silence.left.saturating_sub(heard);
    }
}
