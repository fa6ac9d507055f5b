//! The bytes of a connection: counted in both directions, and bounded in the direction of the server.
//!
//! Counted is what HTTP sends and receives, the framing of chunks included. What TLS adds is not.

use lifeboat_api::call::{CALL_BYTES_PER_TRANSACTION_MAX, CALL_FIELDS_BYTES_MAX, CallError};
use lifeboat_api::size::Bytes as ByteCount;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that a server may send before its response's headers are whole, with the 1xx responses before it.
pub const HEADS_BYTES_MAX: u64 = 256 * 1024;

/// The most 1xx responses before a response.
pub const INTERIM_RESPONSES_MAX: u32 = 64;

/// The most bytes of a response on the wire. Only chunks of a few bytes each make more of a body that is short enough.
pub const RECEIVED_BYTES_MAX: u64 = CALL_BYTES_PER_TRANSACTION_MAX;

/// What a connection has sent and received, and the bound that it has reached.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    interim: AtomicU32,
    has_head: AtomicBool,
    exceeded: OnceLock<CallError>,
}

impl Traffic {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns whether the headers of the response are whole.
    pub(crate) fn has_head(&self) -> bool {
        self.has_head.load(Ordering::Relaxed)
    }

    /// Counts a 1xx response.
    pub(crate) fn count_interim(&self) {
        self.interim.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the headers of the response are whole: from now on, only the bound of all bytes counts.
    ///
    /// # Errors
    /// [`CallError::Protocol`] if there were too many 1xx responses before it.
    pub(crate) fn end_head(&self) -> Result<(), CallError> {
        self.check()?;
        self.has_head.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the bound that made the connection fail, if one did.
    pub(crate) fn exceeded(&self) -> Option<CallError> {
        self.exceeded.get().cloned()
    }

    /// Checks that more may be received.
    fn check(&self) -> Result<(), CallError> {
        let received = self.received();
        if !self.has_head() {
            if self.interim.load(Ordering::Relaxed) > INTERIM_RESPONSES_MAX {
                let reason = format!("the server sent over {INTERIM_RESPONSES_MAX} interim responses (1xx)");
                return Err(CallError::Protocol { reason });
            }
            if received >= HEADS_BYTES_MAX {
                return Err(CallError::ResponseHeaders { limit_bytes: CALL_FIELDS_BYTES_MAX as u64 });
            }
        }
        if received >= RECEIVED_BYTES_MAX {
            let reason = format!("a response may take {} on the wire", ByteCount(RECEIVED_BYTES_MAX));
            return Err(CallError::Limit { reason });
        }
        Ok(())
    }
}

/// A connection whose bytes are counted.
pub(crate) struct Counted<T> {
    stream: T,
    traffic: Arc<Traffic>,
}

impl<T> Counted<T> {
    pub(crate) fn new(stream: T, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    fn count_sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.traffic.sent.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Err(error) = self.traffic.check() {
            let failed = io::Error::other(error.clone());
            let _ = self.traffic.exceeded.set(error);
            return Poll::Ready(Err(failed));
        }
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.traffic.received.fetch_add((buffer.filled().len() - filled) as u64, Ordering::Relaxed);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count_sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_sent(written)
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
