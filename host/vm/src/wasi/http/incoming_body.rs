//! `incoming-body` and `future-trailers`: the body and the trailers of a response that has arrived.

use super::super::Wasi;
use super::super::streams::{Stream, stand_in_for_input};
use super::Held;
use super::bindings::wasi::http::types::{self, ErrorCode};
use super::fields::Fields;
use bytes::Bytes;
use lifeboat_disk::READ_BYTES_MAX;
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynInputStream, StreamError, StreamResult};

/// The body of a response that has arrived.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct IncomingBody {
    /// What the stream will return, until the guest has taken the stream.
    pub(super) bytes: Option<Bytes>,
    pub(super) trailers: Option<Fields>,
}

impl Held for IncomingBody {
    fn content_bytes(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len) + self.trailers.as_ref().map_or(0, Fields::bytes)
    }
}

/// The trailers of a response that has arrived. They are ready at once.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub enum FutureTrailers {
    /// The trailers, if the response has any.
    Ready(Option<Fields>),
    /// The guest has taken them.
    Taken,
}

impl Held for FutureTrailers {
    fn content_bytes(&self) -> usize {
        if let Self::Ready(Some(trailers)) = self { trailers.bytes() } else { 0 }
    }
}

#[async_trait]
impl Pollable for FutureTrailers {
    async fn ready(&mut self) {}
}

/// A stream that reads a body, beside its entry in the resource table.
#[derive(Debug)]
pub(in crate::wasi) struct IncomingStream {
    /// What the guest has not read.
    bytes: Bytes,
    /// The count of the stream against [`HTTP_BYTES_MAX`](super::HTTP_BYTES_MAX). The whole body stays in memory until
    /// the stream is dropped.
    held_bytes: usize,
    call: u64,
}

impl Wasi {
    /// Reads from the body of a response.
    pub(in crate::wasi) fn read_body(&mut self, rep: u32, len: u64) -> StreamResult<Vec<u8>> {
        let Some(Stream::Incoming(stream)) = self.streams.get(&rep) else { return Err(StreamError::Closed) };
        self.check_current(stream.call)?;
        let Some(Stream::Incoming(stream)) = self.streams.get_mut(&rep) else { return Err(StreamError::Closed) };
        if stream.bytes.is_empty() {
            return Err(StreamError::Closed);
        }
        let count = stream.bytes.len().min(READ_BYTES_MAX).min(usize::try_from(len).unwrap_or(usize::MAX));
        let bytes = stream.bytes.split_to(count).to_vec();
        self.charge_body(count);
        Ok(bytes)
    }

    /// Closes a stream that reads a body.
    pub(in crate::wasi) fn close_incoming(&mut self, stream: &IncomingStream) {
        self.http.release(stream.held_bytes);
    }
}

impl types::HostIncomingBody for Wasi {
    fn stream(&mut self, body: Resource<IncomingBody>) -> Result<std::result::Result<Resource<DynInputStream>, ()>> {
        let Some(bytes) = self.change(&body, |body| body.bytes.take())? else { return Ok(Err(())) };
        let held_bytes = bytes.len();
        self.http.hold(held_bytes)?;
        let stream = self.table.push_child(stand_in_for_input(), &body)?;
        let incoming = IncomingStream { bytes, held_bytes, call: self.files.call() };
        self.streams.insert(stream.rep(), Stream::Incoming(incoming));
        Ok(Ok(stream))
    }

    fn finish(&mut self, body: Resource<IncomingBody>) -> Result<Resource<FutureTrailers>> {
        let trailers = self.take(body)?.trailers;
        self.hold(FutureTrailers::Ready(trailers))
    }

    fn drop(&mut self, body: Resource<IncomingBody>) -> Result<()> {
        self.take(body).map(drop)
    }
}

impl types::HostFutureTrailers for Wasi {
    fn subscribe(&mut self, future: Resource<FutureTrailers>) -> Result<Resource<DynPollable>> {
        subscribe(&mut self.table, future)
    }

    fn get(
        &mut self,
        future: Resource<FutureTrailers>,
    ) -> Result<Option<std::result::Result<std::result::Result<Option<Resource<Fields>>, ErrorCode>, ()>>> {
        let taken = self.change(&future, |future| std::mem::replace(future, FutureTrailers::Taken))?;
        Ok(Some(match taken {
            FutureTrailers::Ready(trailers) => {
                Ok(Ok(trailers.map(|trailers| self.hold(trailers.into_immutable())).transpose()?))
            }
            FutureTrailers::Taken => Err(()),
        }))
    }

    fn drop(&mut self, future: Resource<FutureTrailers>) -> Result<()> {
        self.take(future).map(drop)
    }
}
