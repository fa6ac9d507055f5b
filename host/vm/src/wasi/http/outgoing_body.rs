//! `outgoing-body`: the body of a request or response, which a guest writes through a stream.

use super::super::streams::{Stream, stand_in_for_output};
use super::super::{WRITE_BYTES_MAX, Wasi};
use super::bindings::wasi::http::types::{self, ErrorCode};
use super::error::{HttpError, stream_error};
use super::fields::Fields;
use super::{HTTP_BODY_BYTES_MAX, Held, Http};
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi_io::streams::{DynOutputStream, StreamError, StreamResult};

/// A guest's handle for a body that it writes. The body itself is in [`Http::bodies`].
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct OutgoingBody {
    number: u64,
    is_stream_taken: bool,
}

impl Held for OutgoingBody {
    fn content_bytes(&self) -> usize {
        0
    }
}

/// Whether a body belongs to a request or to a response.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Request,
    Response,
}

/// A body that a guest writes.
#[derive(Debug)]
pub(super) struct Body {
    kind: Kind,
    /// The length that the headers announce.
    expected: Option<u64>,
    /// The bytes that the guest has written, including those that did not fit.
    written: u64,
    pub(super) bytes: Vec<u8>,
    /// Whether a write exceeded a bound, so that `bytes` are not the body.
    pub(super) is_cut: bool,
    /// Whether its request or response exists. Without that, nobody can read the body.
    has_message: bool,
    /// Whether the guest may still write, finish or drop it.
    pub(super) has_writer: bool,
    pub(super) trailers: Option<Fields>,
}

impl Body {
    fn size_error(&self) -> ErrorCode {
        match self.kind {
            Kind::Request => ErrorCode::HttpRequestBodySize(Some(self.written)),
            Kind::Response => ErrorCode::HttpResponseBodySize(Some(self.written)),
        }
    }

    fn content_bytes(&self) -> usize {
        self.bytes.len() + self.trailers.as_ref().map_or(0, Fields::bytes)
    }
}

/// A stream that writes a body, beside its entry in the resource table.
#[derive(Debug, Clone, Copy)]
pub(in crate::wasi) struct OutgoingStream {
    /// The number of the body.
    body: u64,
    call: u64,
}

impl Http {
    fn new_body(&mut self, kind: Kind, expected: Option<u64>) -> u64 {
        self.body_count += 1;
        let body = Body {
            kind,
            expected,
            written: 0,
            bytes: Vec::new(),
            is_cut: false,
            has_message: true,
            has_writer: true,
            trailers: None,
        };
        self.bodies.insert(self.body_count, body);
        self.body_count
    }

    /// Ends a body for its message, if it has one: what was written is of no use any more.
    pub(in crate::wasi) fn end_message(&mut self, number: Option<u64>) {
        if let Some(body) = number.and_then(|number| self.bodies.get_mut(&number)) {
            body.has_message = false;
        }
        self.clear(number);
    }

    /// Ends a body for its guest, which has dropped it unfinished.
    fn abort(&mut self, number: u64) {
        if let Some(body) = self.bodies.get_mut(&number) {
            (body.has_writer, body.is_cut) = (false, true);
        }
        self.clear(Some(number));
    }

    /// Removes what nobody can read of a body.
    fn clear(&mut self, number: Option<u64>) {
        let Some(number) = number else { return };
        let Some(body) = self.bodies.get_mut(&number) else { return };
        if !body.has_message || (body.is_cut && !body.has_writer) {
            let bytes = body.content_bytes();
            (body.bytes, body.trailers) = (Vec::new(), None);
            let is_over = !body.has_message && !body.has_writer;
            self.release(bytes);
            if is_over {
                self.bodies.remove(&number);
            }
        }
    }
}

impl Wasi {
    /// Adds the body of a message that has these headers.
    pub(super) fn hold_body(&mut self, kind: Kind, expected: Option<u64>) -> Result<(u64, Resource<OutgoingBody>)> {
        let number = self.http.new_body(kind, expected);
        Ok((number, self.hold(OutgoingBody { number, is_stream_taken: false })?))
    }

    /// Returns a body that the current call may write to.
    fn writable(&mut self, stream: OutgoingStream) -> StreamResult<&mut Body> {
        self.check_current(stream.call)?;
        // The handle of the body outlives its stream.
        let body = self.http.bodies.get_mut(&stream.body).ok_or(StreamError::Closed)?;
        if body.has_message { Ok(body) } else { Err(StreamError::Closed) }
    }

    /// Returns how many bytes a write to a body may have.
    pub(in crate::wasi) fn check_write_body(&mut self, stream: OutgoingStream) -> StreamResult<u64> {
        let body = self.writable(stream)?;
        let left = HTTP_BODY_BYTES_MAX - body.bytes.len();
        if left == 0 || body.is_cut {
            return Err(stream_error(body.size_error()));
        }
        Ok(left.min(WRITE_BYTES_MAX) as u64)
    }

    /// Writes all of `bytes` to a body, or none of them.
    pub(in crate::wasi) fn write_body(&mut self, stream: OutgoingStream, bytes: &[u8]) -> StreamResult<()> {
        self.charge_body(bytes.len());
        let body = self.writable(stream)?;
        body.written = body.written.saturating_add(bytes.len() as u64);
        if body.is_cut || body.expected.is_some_and(|expected| body.written > expected) {
            return Err(stream_error(body.size_error()));
        }
        if bytes.len() > HTTP_BODY_BYTES_MAX - body.bytes.len() {
            body.is_cut = true;
            return Err(stream_error(body.size_error()));
        }
        body.bytes.extend_from_slice(bytes);
        if let Err(full) = self.http.hold(bytes.len()) {
            if let Some(body) = self.http.bodies.get_mut(&stream.body) {
                body.bytes.truncate(body.bytes.len() - bytes.len());
                body.is_cut = true;
            }
            return Err(stream_error(ErrorCode::InternalError(Some(full.to_string()))));
        }
        Ok(())
    }

    /// Flushes a body, which does nothing.
    pub(in crate::wasi) fn flush_body(&mut self, stream: OutgoingStream) -> StreamResult<()> {
        self.writable(stream).map(drop)
    }
}

impl types::HostOutgoingBody for Wasi {
    fn write(&mut self, body: Resource<OutgoingBody>) -> Result<std::result::Result<Resource<DynOutputStream>, ()>> {
        let entry = self.table.get_mut(&body)?;
        if std::mem::replace(&mut entry.is_stream_taken, true) {
            return Ok(Err(()));
        }
        let number = entry.number;
        // A child keeps the guest from dropping the body before the stream.
        let stream = self.table.push_child(stand_in_for_output(), &body)?;
        let outgoing = OutgoingStream { body: number, call: self.files.call() };
        self.streams.insert(stream.rep(), Stream::Outgoing(outgoing));
        Ok(Ok(stream))
    }

    fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> std::result::Result<(), HttpError> {
        let number = self.take(body)?.number;
        let trailers = trailers.map(|trailers| self.take_headers(trailers)).transpose()?;
        let Some(body) = self.http.bodies.get_mut(&number) else { return Ok(()) };
        if body.is_cut || body.expected.is_some_and(|expected| expected != body.written) {
            let code = body.size_error();
            self.http.abort(number);
            return Err(code.into());
        }
        body.has_writer = false;
        let trailer_bytes = trailers.as_ref().map_or(0, Fields::bytes);
        body.trailers = trailers;
        self.http.hold(trailer_bytes)?;
        self.http.clear(Some(number));
        Ok(())
    }

    fn drop(&mut self, body: Resource<OutgoingBody>) -> Result<()> {
        let body = self.take(body)?;
        self.http.abort(body.number);
        Ok(())
    }
}
