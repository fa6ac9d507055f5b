//! `wasi:io/streams`: streams over files of the virtual disk, and Wasmtime's own for standard input and output.
//!
//! A stream of Wasmtime sees only itself, and could reach neither the disk nor the meter. So a stream over a file has a
//! stand-in in the resource table, and its place in [`Wasi::streams`], by the number of that entry. Each function looks
//! there first.

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

/// What the resource table holds for a stream over a file. A file is always ready.
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
    fn is_file(&self, rep: u32) -> bool {
        self.streams.contains_key(&rep)
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
        if self.is_file(stream.rep()) {
            return self.read_file(stream.rep(), len);
        }
        streams::HostInputStream::read(&mut self.table, stream, len)
    }

    async fn blocking_read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        if self.is_file(stream.rep()) {
            return self.read_file(stream.rep(), len);
        }
        streams::HostInputStream::blocking_read(&mut self.table, stream, len).await
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        if self.is_file(stream.rep()) {
            return Ok(self.read_file(stream.rep(), len)?.len() as u64);
        }
        streams::HostInputStream::skip(&mut self.table, stream, len)
    }

    async fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        if self.is_file(stream.rep()) {
            return Ok(self.read_file(stream.rep(), len)?.len() as u64);
        }
        streams::HostInputStream::blocking_skip(&mut self.table, stream, len).await
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        streams::HostInputStream::subscribe(&mut self.table, stream)
    }

    async fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        let rep = stream.rep();
        streams::HostInputStream::drop(&mut self.table, stream).await?;
        self.close_stream(rep);
        Ok(())
    }
}

impl streams::HostOutputStream for Wasi {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        if self.is_file(stream.rep()) {
            return Ok(WRITE_BYTES_MAX as u64);
        }
        streams::HostOutputStream::check_write(&mut self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        if self.is_file(stream.rep()) {
            check_permitted(bytes.len() as u64)?;
            return self.write_file(stream.rep(), &bytes);
        }
        streams::HostOutputStream::write(&mut self.table, stream, bytes)
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        if self.is_file(stream.rep()) {
            return self.write_file(stream.rep(), &bytes);
        }
        streams::HostOutputStream::blocking_write_and_flush(&mut self.table, stream, bytes).await
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        if self.is_file(stream.rep()) {
            return Ok(());
        }
        streams::HostOutputStream::flush(&mut self.table, stream)
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        if self.is_file(stream.rep()) {
            return Ok(());
        }
        streams::HostOutputStream::blocking_flush(&mut self.table, stream).await
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        streams::HostOutputStream::subscribe(&mut self.table, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        if self.is_file(stream.rep()) {
            check_permitted(len)?;
            return self.write_file(stream.rep(), &vec![0; usize::try_from(len).unwrap_or(WRITE_BYTES_MAX)]);
        }
        streams::HostOutputStream::write_zeroes(&mut self.table, stream, len)
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        if self.is_file(stream.rep()) {
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
        if self.is_file(into.rep()) || self.is_file(from.rep()) {
            return streams::HostOutputStream::splice(self, into, from, len);
        }
        streams::HostOutputStream::blocking_splice(&mut self.table, into, from, len).await
    }

    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        let rep = stream.rep();
        streams::HostOutputStream::drop(&mut self.table, stream).await?;
        self.close_stream(rep);
        Ok(())
    }
}
