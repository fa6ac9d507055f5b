//! `wasi:io/streams`: streams over files of the virtual disk, over bodies of HTTP and over the body and reply of a call,
//! and Wasmtime's own for other standard input and output and for sockets.
//!
//! A stream of Wasmtime sees only itself, and could reach neither the disk nor the meter. So a stream over a file or a
//! body has a stand-in in the resource table, and its place in [`Wasi::streams`], by the number of that entry. Each
//! function looks there first.

use super::files::FileStream;
use super::http::{IncomingStream, OutgoingStream};
use super::process::Output;
use super::{WRITE_BYTES_MAX, Wasi};
use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::bindings::wasi::io::streams;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError, StreamResult,
};

/// A stream that Wasmtime's own functions do not know, beside its entry in the resource table.
#[derive(Debug)]
pub(super) enum Stream {
    /// A stream over a file, in one of the two directions.
    File(FileStream),
    /// A stream that writes the body of a request or response.
    Outgoing(OutgoingStream),
    /// A stream that reads the body of a response.
    Incoming(IncomingStream),
    /// Standard input of a program in a service.
    Input,
    /// Standard output or error of a program in a service.
    Output(Output),
}

/// What the resource table holds for such a stream. All of them are always ready.
struct StandIn;

#[async_trait]
impl Pollable for StandIn {
    async fn ready(&mut self) {}
}

// These are reached only for a stream that the side table does not have, so for none.
impl InputStream for StandIn {
    fn read(&mut self, _size: usize) -> StreamResult<Bytes> {
        Err(StreamError::Closed)
    }
}

#[async_trait]
impl OutputStream for StandIn {
    fn write(&mut self, _bytes: Bytes) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Err(StreamError::Closed)
    }
}

pub(super) fn stand_in_for_input() -> DynInputStream {
    Box::new(StandIn)
}

pub(super) fn stand_in_for_output() -> DynOutputStream {
    Box::new(StandIn)
}

impl Wasi {
    fn is_own(&self, rep: u32) -> bool {
        self.streams.contains_key(&rep)
    }

    fn read_own(&mut self, rep: u32, len: u64) -> StreamResult<Vec<u8>> {
        match self.streams.get(&rep) {
            Some(Stream::Incoming(_)) => self.read_body(rep, len),
            Some(Stream::Input) => self.read_stdin(len),
            _ => self.read_file(rep, len),
        }
    }

    fn check_write_own(&mut self, rep: u32) -> StreamResult<u64> {
        match self.streams.get(&rep) {
            Some(&Stream::Outgoing(stream)) => self.check_write_body(stream),
            _ => Ok(WRITE_BYTES_MAX as u64),
        }
    }

    fn write_own(&mut self, rep: u32, bytes: &[u8]) -> StreamResult<()> {
        match self.streams.get(&rep) {
            Some(&Stream::Outgoing(stream)) => self.write_body(stream, bytes),
            Some(&Stream::Output(output)) => self.write_stdio(output, bytes),
            _ => self.write_file(rep, bytes),
        }
    }

    fn flush_own(&mut self, rep: u32) -> StreamResult<()> {
        match self.streams.get(&rep) {
            Some(&Stream::Outgoing(stream)) => self.flush_body(stream),
            _ => Ok(()),
        }
    }

    fn close_own(&mut self, rep: u32) {
        match self.streams.remove(&rep) {
            Some(Stream::File(FileStream { ino, call, .. })) => self.files.closed(Some(call), Some(ino)),
            Some(Stream::Incoming(stream)) => self.close_incoming(&stream),
            Some(Stream::Outgoing(_) | Stream::Input | Stream::Output(_)) | None => {}
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.close(rep);
        }
    }
}

/// Refuses more bytes than `check-write` permits, as the definition of the interface requires.
fn check_permitted(bytes: u64) -> StreamResult<()> {
    if bytes > WRITE_BYTES_MAX as u64 {
        return Err(StreamError::trap("the guest wrote more to a stream than it was ready to take"));
    }
    Ok(())
}

impl streams::Host for Wasi {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        streams::Host::convert_stream_error(&mut self.table, error)
    }
}

impl streams::HostInputStream for Wasi {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        if self.is_own(stream.rep()) {
            return self.read_own(stream.rep(), len);
        }
        streams::HostInputStream::read(&mut self.table, stream, len)
    }

    async fn blocking_read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        if self.is_own(stream.rep()) {
            return self.read_own(stream.rep(), len);
        }
        streams::HostInputStream::blocking_read(&mut self.table, stream, len).await
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        if self.is_own(stream.rep()) {
            return Ok(self.read_own(stream.rep(), len)?.len() as u64);
        }
        streams::HostInputStream::skip(&mut self.table, stream, len)
    }

    async fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        if self.is_own(stream.rep()) {
            return Ok(self.read_own(stream.rep(), len)?.len() as u64);
        }
        streams::HostInputStream::blocking_skip(&mut self.table, stream, len).await
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        streams::HostInputStream::subscribe(&mut self.table, stream)
    }

    async fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        let rep = stream.rep();
        streams::HostInputStream::drop(&mut self.table, stream).await?;
        self.close_own(rep);
        Ok(())
    }
}

impl streams::HostOutputStream for Wasi {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        if self.is_own(stream.rep()) {
            return self.check_write_own(stream.rep());
        }
        streams::HostOutputStream::check_write(&mut self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        if self.is_own(stream.rep()) {
            check_permitted(bytes.len() as u64)?;
            return self.write_own(stream.rep(), &bytes);
        }
        streams::HostOutputStream::write(&mut self.table, stream, bytes)
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        if self.is_own(stream.rep()) {
            return self.write_own(stream.rep(), &bytes);
        }
        streams::HostOutputStream::blocking_write_and_flush(&mut self.table, stream, bytes).await
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        if self.is_own(stream.rep()) {
            return self.flush_own(stream.rep());
        }
        streams::HostOutputStream::flush(&mut self.table, stream)
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        if self.is_own(stream.rep()) {
            return self.flush_own(stream.rep());
        }
        streams::HostOutputStream::blocking_flush(&mut self.table, stream).await
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        streams::HostOutputStream::subscribe(&mut self.table, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        if self.is_own(stream.rep()) {
            check_permitted(len)?;
            return self.write_own(stream.rep(), &vec![0; usize::try_from(len).unwrap_or(WRITE_BYTES_MAX)]);
        }
        streams::HostOutputStream::write_zeroes(&mut self.table, stream, len)
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        if self.is_own(stream.rep()) {
            return streams::HostOutputStream::write_zeroes(self, stream, len);
        }
        streams::HostOutputStream::blocking_write_zeroes_and_flush(&mut self.table, stream, len).await
    }

    fn splice(
        &mut self,
        into: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        let (into_rep, from_rep) = (into.rep(), from.rep());
        let permitted = streams::HostOutputStream::check_write(self, into)?;
        let len = len.min(permitted);
        if len == 0 {
            return Ok(0);
        }
        let bytes = streams::HostInputStream::read(self, Resource::new_borrow(from_rep), len)?;
        let count = bytes.len() as u64;
        streams::HostOutputStream::write(self, Resource::new_borrow(into_rep), bytes)?;
        Ok(count)
    }

    async fn blocking_splice(
        &mut self,
        into: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        if self.is_own(into.rep()) || self.is_own(from.rep()) {
            return streams::HostOutputStream::splice(self, into, from, len);
        }
        streams::HostOutputStream::blocking_splice(&mut self.table, into, from, len).await
    }

    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        let rep = stream.rep();
        streams::HostOutputStream::drop(&mut self.table, stream).await?;
        self.close_own(rep);
        Ok(())
    }
}
