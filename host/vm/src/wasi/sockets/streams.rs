//! The two streams of a connection: those of wasmtime-wasi, with each byte counted.
//!
//! All functions of `wasi:io/streams` come down to the few that these streams have. So a byte counts whether the guest
//! reads, skips or splices it.

use super::{Meter, SOCKET_BUFFER_BYTES_MAX};
use bytes::Bytes;
use std::sync::Arc;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError, StreamResult,
};

/// What a peer sends.
pub(super) struct Received {
    pub(super) stream: DynInputStream,
    pub(super) meter: Arc<Meter>,
}

#[async_trait]
impl Pollable for Received {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait]
impl InputStream for Received {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        // One byte more than is left shows that the peer has sent more. The end of the stream needs no allowance.
        let left = usize::try_from(self.meter.bytes_left()).unwrap_or(usize::MAX).max(1);
        let bytes = self.stream.read(size.min(SOCKET_BUFFER_BYTES_MAX).min(left))?;
        let checked = self.meter.check_bytes(bytes.len());
        self.meter.count_bytes(bytes.len());
        checked.map_err(StreamError::Trap)?;
        Ok(bytes)
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// What a program sends.
pub(super) struct Sent {
    pub(super) stream: DynOutputStream,
    pub(super) meter: Arc<Meter>,
}

#[async_trait]
impl Pollable for Sent {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait]
impl OutputStream for Sent {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let count = bytes.len();
        self.meter.check_bytes(count).map_err(StreamError::Trap)?;
        // A write that fails may have sent a part of them.
        self.meter.count_bytes(count);
        self.stream.write(bytes)
    }

    /// Writes zeroes with the permit that the guest has. The function of the trait asks for another permit, and traps
    /// if there is none, as for a correct guest whose task has used up its turn of the runtime (`tokio::task::coop`).
    fn write_zeroes(&mut self, count: usize) -> StreamResult<()> {
        // The permit of a socket is this, or nothing, which `write` refuses.
        if count > SOCKET_BUFFER_BYTES_MAX {
            return Err(StreamError::trap("cannot write more zeroes than `check_write` allows"));
        }
        self.write(vec![0; count].into())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.stream.check_write()?.min(SOCKET_BUFFER_BYTES_MAX))
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
