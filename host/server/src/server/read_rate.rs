//! The rate at which a client must read its answers, and a shutdown of connections that lets the client read the last
//! answer.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The minimum rate at which a client must read waiting answers, in bytes per second in the long run.
pub const READ_RATE_MIN: u64 = 8 * 1024;

/// The maximum number of bytes that are read and discarded after the last answer of a connection.
///
/// The kernel resets a connection that is closed while its client sends. A client that sees the reset may never read
/// the answer that explains it.
pub const DRAINED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest time that a client may continue to send after the last answer.
pub const DRAINED_TIME_MAX: Duration = Duration::from_secs(10);

/// The default time that a client may then be silent before the connection is closed.
pub const DRAINED_SILENCE_MAX: Duration = Duration::from_secs(1);

/// The number of bytes that are read at once while a connection is drained.
const DRAINED_PIECE_BYTES: usize = 8 * 1024;

/// The time for which a client may let answers wait. It decreases while they wait, and increases with the bytes that
/// the client reads.
#[derive(Debug)]
struct Patience {
    max: Duration,
    left: Duration,
    /// When writes began to block.
    blocked: Option<Instant>,
}

impl Patience {
    fn new(max: Duration) -> Self {
        Self { max, left: max, blocked: None }
    }

    /// Notes that writes block now. Returns when to disconnect the client.
    fn blocked(&mut self, now: Instant) -> Option<Instant> {
        self.blocked.get_or_insert(now).checked_add(self.left)
    }

    /// Notes that `bytes` were written.
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

/// The bytes that a client sends after the last answer.
#[derive(Debug)]
struct Rest {
    bytes: usize,
    /// The longest silence of the client.
    silence_max: Duration,
    /// When reading ends in any case.
    end: Instant,
}

impl Rest {
    fn new(now: Instant, silence_max: Duration) -> Self {
        Self { bytes: 0, silence_max, end: now + DRAINED_TIME_MAX }
    }

    /// Counts `bytes` that arrived. Returns the deadline for more, or `None` if the limit is reached.
    fn came(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        self.bytes = self.bytes.saturating_add(bytes);
        let goes_on = self.bytes <= DRAINED_BYTES_MAX && now < self.end;
        goes_on.then(|| self.end.min(now + self.silence_max))
    }
}

/// A connection that is shut down and reads what its client still sends.
#[derive(Debug)]
struct Draining {
    rest: Rest,
    alarm: Pin<Box<Sleep>>,
}

impl Draining {
    fn new(now: Instant, silence_max: Duration) -> Self {
        Self { rest: Rest::new(now, silence_max), alarm: Box::pin(tokio::time::sleep_until(now + silence_max)) }
    }

    fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, context: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [MaybeUninit::uninit(); DRAINED_PIECE_BYTES];
        loop {
            let mut piece = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    match self.rest.came(piece.filled().len(), Instant::now()) {
                        Some(deadline) => self.alarm.as_mut().reset(deadline),
                        None => return Poll::Ready(()),
                    }
                }
                // The client has closed the connection too.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.alarm.as_mut().poll(context),
            }
        }
    }
}

/// A connection that fails with [`io::ErrorKind::TimedOut`] if its other end reads too slowly or not at all. A shutdown
/// completes once the other end has closed the connection, has been silent for too long, or has sent for too long.
#[derive(Debug)]
pub(super) struct ReadRate<S> {
    stream: S,
    patience: Patience,
    /// The longest silence of the other end after the shutdown.
    silence_max: Duration,
    /// The timer of a blocked write; present once a write has blocked.
    alarm: Option<Pin<Box<Sleep>>>,
    /// The state of the shutdown; present once it has begun.
    draining: Option<Draining>,
}

impl<S> ReadRate<S> {
    /// Wraps `stream`. Its other end may let it wait for `patience_max` altogether, beyond the time that reading at
    /// [`READ_RATE_MIN`] takes. After the shutdown, it may be silent for `silence_max`.
    pub(super) fn new(stream: S, patience_max: Duration, silence_max: Duration) -> Self {
        Self { stream, patience: Patience::new(patience_max), silence_max, alarm: None, draining: None }
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ReadRate<S> {
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
        let Self { stream, draining, silence_max, .. } = &mut *self;
        let draining = match draining {
            Some(draining) => draining,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
                draining.insert(Draining::new(Instant::now(), *silence_max))
            }
        };
        draining.poll(stream, context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Returns the seconds until the disconnection of a client that reads `bytes` every `every` seconds, or `None`
    /// after an hour.
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
    fn only_a_client_that_reads_too_slowly_is_dropped() {
        let rate = usize::try_from(READ_RATE_MIN).expect("small");
        assert_eq!(dropped_after(0, 1), Some(60), "it does not read");
        assert_eq!(dropped_after(1, 10), Some(60), "a byte now and then");
        assert_eq!(dropped_after(rate / 2, 1), Some(119), "half as fast as it must");
        assert_eq!(dropped_after(rate, 1), None);
        assert_eq!(dropped_after(rate * 50, 50), None, "the same in large pieces");
        assert_eq!(dropped_after(rate * 1_000, 61), Some(60), "a pause is no longer than the patience");
    }

    #[test]
    fn reading_at_once_earns_no_more_time_than_the_patience() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(60));
        patience.written(usize::MAX, || start);
        assert_eq!(patience.blocked(start), Some(start + Duration::from_secs(60)));
        patience.written(1, || start + Duration::from_secs(20));
        assert!(patience.left < Duration::from_secs(41));
        patience.written(usize::MAX, || start);
        assert_eq!(patience.left, patience.max);
    }

    #[test]
    fn the_rest_is_read_up_to_a_number_of_bytes() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut rest = Rest::new(start, DRAINED_SILENCE_MAX);
        assert_eq!(rest.came(1, start), Some(start + DRAINED_SILENCE_MAX));
        assert_eq!(rest.came(DRAINED_BYTES_MAX - 1, later), Some(later + DRAINED_SILENCE_MAX));
        assert_eq!(rest.came(1, later), None);
    }

    #[test]
    fn the_rest_is_read_for_a_bounded_time_however_it_drips() {
        let start = Instant::now();
        let mut rest = Rest::new(start, DRAINED_SILENCE_MAX);
        let end = (0..).map_while(|second| rest.came(1, start + Duration::from_secs(second))).last();
        assert_eq!(end, Some(start + DRAINED_TIME_MAX));
    }

    #[tokio::test]
    async fn a_client_that_continues_to_send_reads_the_last_answer() {
        const MORE_BYTES: usize = 64 * 1024;
        let (mut client, server) = duplex(1024);
        let mut server = ReadRate::new(server, Duration::from_secs(60), DRAINED_SILENCE_MAX);
        let serving = async {
            server.write_all(b"answer").await.expect("room");
            server.shutdown().await.expect("shut down");
            drop(server);
        };
        let sending = async {
            client.write_all(&[0; MORE_BYTES]).await.expect("it is read");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("no error");
            drop(client);
            answer
        };
        let ((), answer) = futures::future::join(serving, sending).await;
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_client_that_sends_without_end_is_hung_up_on() {
        let (mut client, server) = duplex(64 * 1024);
        let mut server = ReadRate::new(server, Duration::from_secs(60), DRAINED_SILENCE_MAX);
        let serving = async {
            server.shutdown().await.expect("shut down");
            drop(server);
        };
        let sending = async {
            let mut bytes = 0;
            while client.write_all(&[0; 1024]).await.is_ok() {
                bytes += 1024;
            }
            bytes
        };
        let ((), bytes) = futures::future::join(serving, sending).await;
        assert!((DRAINED_BYTES_MAX..=DRAINED_BYTES_MAX + 128 * 1024).contains(&bytes), "{bytes} bytes");
    }
}
