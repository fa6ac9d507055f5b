//! How fast a client must read what it is answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes a second that a client must read, in the long run, of answers that wait for it.
pub const READ_RATE_MIN: u64 = 8 * 1024;

/// The time for which a client may let answers wait: it is used up while they do, and what the client reads gives some
/// back.
#[derive(Debug)]
struct Patience {
    max: Duration,
    left: Duration,
    /// Since when nothing more can be written.
    blocked: Option<Instant>,
}

impl Patience {
    fn new(max: Duration) -> Self {
        Self { max, left: max, blocked: None }
    }

    /// Nothing can be written now. Returns when the client is to be dropped.
    fn blocked(&mut self, now: Instant) -> Option<Instant> {
        self.blocked.get_or_insert(now).checked_add(self.left)
    }

    /// So many bytes were written.
    fn written(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.blocked.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        }
        if self.left < self.max {
            let microseconds = (bytes as u64).saturating_mul(1_000_000) / READ_RATE_MIN;
            self.left = self.left.saturating_add(Duration::from_micros(microseconds)).min(self.max);
        }
    }
}

/// A connection that fails with [`io::ErrorKind::TimedOut`] when its other end does not read, or reads too slowly.
#[derive(Debug)]
pub(super) struct ReadRate<S> {
    stream: S,
    patience: Patience,
    /// There once a write had to wait.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> ReadRate<S> {
    /// Lets `stream` wait for its other end for `patience_max` altogether, beyond what reading at [`READ_RATE_MIN`] takes.
    pub(super) fn new(stream: S, patience_max: Duration) -> Self {
        Self { stream, patience: Patience::new(patience_max), alarm: None }
    }

    fn wait_or_fail(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => self.patience.written(bytes, Instant::now),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let Some(deadline) = self.patience.blocked(Instant::now()) else { return Poll::Pending };
                let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                if alarm.deadline() != deadline {
                    alarm.as_mut().reset(deadline);
                }
                if alarm.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadRate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadRate<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wait_or_fail(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wait_or_fail(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until a client is dropped that reads so many bytes every so many seconds, if it is within an hour.
    fn dropped_after(bytes: usize, every: u64) -> Option<u64> {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(60));
        for now in (0..3600).step_by(usize::try_from(every).expect("small")) {
            let deadline = patience.blocked(at(now)).expect("no overflow");
            if deadline <= at(now + every) {
                return Some((deadline - start).as_secs());
            }
            patience.written(bytes, || at(now + every));
        }
        None
    }

    #[test]
    fn a_client_that_reads_too_slowly_is_dropped_and_one_that_reads_fast_enough_never() {
        let rate = usize::try_from(READ_RATE_MIN).expect("small");
        assert_eq!(dropped_after(0, 1), Some(60), "it does not read");
        assert_eq!(dropped_after(1, 10), Some(60), "a byte now and then");
        assert_eq!(dropped_after(rate / 2, 1), Some(119), "half as fast as it must");
        assert_eq!(dropped_after(rate, 1), None);
        assert_eq!(dropped_after(rate * 50, 50), None, "the same in large pieces");
        assert_eq!(dropped_after(rate * 1_000, 61), Some(60), "a pause is no longer than the patience");
    }

    #[test]
    fn what_is_read_at_once_saves_up_no_more_than_the_patience() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(60));
        patience.written(usize::MAX, || start);
        assert_eq!(patience.blocked(start), Some(start + Duration::from_secs(60)));
        patience.written(1, || start + Duration::from_secs(20));
        assert!(patience.left < Duration::from_secs(41));
        patience.written(usize::MAX, || start);
        assert_eq!(patience.left, patience.max);
    }
}
