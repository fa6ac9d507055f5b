//! `wasi:http`: messages as plain buffers, and the requests of a guest.
//!
//! Only a transaction has a network (`calls.rs`). In every other phase, and if its service has none,
//! `outgoing-handler.handle` answers `HTTP-request-denied`, so a guest that can use HTTP runs without it. Otherwise the
//! functions behave as those of wasmtime-wasi-http 48, with these differences, most of which keep a reply independent of
//! the time that a network takes:
//!
//! - A body is a buffer. `check-write` permits [`WRITE_BYTES_MAX`] until the body has [`HTTP_BODY_BYTES_MAX`], then it
//!   fails. It never waits for a connection.
//! - A request is whole before it is sent. A guest that waits for the response to an unfinished one traps.
//! - What a guest holds is bounded by [`HTTP_BYTES_MAX`]. A body that exceeds it fails, anything else traps.
//! - A stream over a body belongs to the call that opened it, as a stream over a file does. In a later call every use
//!   fails, and a drop works. A response that was not taken in its call is an error afterwards. All other resources are
//!   data, and stay valid.
//! - A response is whole before it is ready, so its body and its trailers never make a guest wait.
//!
//! No guest gets an `incoming-request` or a `response-outparam`, because a service is not called through HTTP. Their
//! functions are linked since they are a part of `types`.

mod calls;
mod fields;

use super::streams::Stream;
use super::{HasWasi, WRITE_BYTES_MAX, Wasi};
use crate::stop::Stop;
use bytes::Bytes;
use calls::Calls;
use fields::FieldsError;
use lifeboat_api::call::CALL_BODY_BYTES_MAX;
use lifeboat_disk::{BYTES_PER_FUEL, READ_BYTES_MAX};
use std::collections::HashMap;
use std::str::FromStr;
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError, StreamResult};

#[allow(missing_docs, unreachable_pub, reason = "generated; the files in host/vm/wasi are the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wasi",
        world: "lifeboat:wasi/http",
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:http/types.fields": super::fields::Fields,
            "wasi:http/types.incoming-request": super::IncomingRequest,
            "wasi:http/types.outgoing-request": super::OutgoingRequest,
            "wasi:http/types.request-options": super::RequestOptions,
            "wasi:http/types.response-outparam": super::ResponseOutparam,
            "wasi:http/types.incoming-response": super::IncomingResponse,
            "wasi:http/types.incoming-body": super::IncomingBody,
            "wasi:http/types.future-trailers": super::FutureTrailers,
            "wasi:http/types.outgoing-response": super::OutgoingResponse,
            "wasi:http/types.outgoing-body": super::OutgoingBody,
            "wasi:http/types.future-incoming-response": super::FutureIncomingResponse,
        },
        imports: { default: trappable },
        require_store_data_send: true,
        trappable_error_type: {
            "wasi:http/types.error-code" => super::HttpError,
            "wasi:http/types.header-error" => super::HeaderFailure,
        },
    });
}
use bindings::wasi::http::types::{ErrorCode, HeaderError, IoError, Method, Scheme};
use bindings::wasi::http::{outgoing_handler, types};
use fields::Fields;

/// The most bytes of one body.
pub(crate) const HTTP_BODY_BYTES_MAX: usize = CALL_BODY_BYTES_MAX;

/// The most bytes that a guest may hold in resources of `wasi:http`: names, values, bodies, paths, and
/// [`HTTP_RESOURCE_BYTES`] for each of the resources.
pub(crate) const HTTP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The count of a resource against [`HTTP_BYTES_MAX`] beside its contents.
pub(crate) const HTTP_RESOURCE_BYTES: usize = 256;

/// The fuel charged for a value of `fields` that is set, copied or returned, beside one for each byte.
pub(crate) const FUEL_PER_FIELD: u64 = 50;

/// Links `wasi:http/types` and `wasi:http/outgoing-handler`.
///
/// # Errors
/// Fails only if a name is linked twice.
pub(super) fn add_to_linker<D: HasWasi>(linker: &mut Linker<D>) -> Result<()> {
    types::add_to_linker::<D, HasSelf<Wasi>>(linker, &types::LinkOptions::default(), D::wasi)?;
    outgoing_handler::add_to_linker::<D, HasSelf<Wasi>>(linker, D::wasi)
}

/// The reason why an operation of HTTP does not succeed: the guest gets the code, and a trap ends the guest.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated traits name it")]
pub enum HttpError {
    /// The guest gets this code.
    Code(ErrorCode),
    /// The guest ends.
    Trap(wasmtime::Error),
}

impl From<ErrorCode> for HttpError {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

impl From<wasmtime::Error> for HttpError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

/// The reason why `fields` do not change: the guest gets the code, and a trap ends the guest.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated traits name it")]
pub enum HeaderFailure {
    /// The guest gets this code.
    Code(HeaderError),
    /// The guest ends.
    Trap(wasmtime::Error),
}

impl From<wasmtime::Error> for HeaderFailure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl From<FieldsError> for HeaderFailure {
    fn from(error: FieldsError) -> Self {
        Self::Code(match error {
            FieldsError::Invalid => HeaderError::InvalidSyntax,
            FieldsError::Forbidden => HeaderError::Forbidden,
            FieldsError::Immutable => HeaderError::Immutable,
            // As in wasmtime: the interface has no code for it.
            FieldsError::TooLarge => {
                let limit = fields::FIELDS_BYTES_MAX;
                return Self::Trap(Stop::trap(format!("the guest made HTTP fields of more than {limit} bytes")));
            }
        })
    }
}

/// The code of a failed stream over a body, which `http-error-code` finds.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct StreamCode(ErrorCode);

fn stream_error(code: ErrorCode) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::new(StreamCode(code)))
}

/// A resource that counts against [`HTTP_BYTES_MAX`].
trait Held: Send + 'static {
    /// Returns the bytes of its contents.
    fn content_bytes(&self) -> usize;
}

impl Held for Fields {
    fn content_bytes(&self) -> usize {
        self.bytes()
    }
}

/// A request from outside. No guest gets one.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub enum IncomingRequest {}

/// The place of a response to a request from outside. No guest gets one.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub enum ResponseOutparam {}

/// A request that a guest makes.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct OutgoingRequest {
    method: Method,
    scheme: Option<Scheme>,
    authority: Option<String>,
    path_with_query: Option<String>,
    headers: Fields,
    /// The number of its body, once the guest has taken that.
    body: Option<u64>,
}

impl Held for OutgoingRequest {
    fn content_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        method_bytes(&self.method)
            + self.scheme.as_ref().map_or(0, scheme_bytes)
            + text(&self.authority)
            + text(&self.path_with_query)
            + self.headers.bytes()
    }
}

fn method_bytes(method: &Method) -> usize {
    if let Method::Other(name) = method { name.len() } else { 0 }
}

fn scheme_bytes(scheme: &Scheme) -> usize {
    if let Scheme::Other(name) = scheme { name.len() } else { 0 }
}

/// The timeouts of a request, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct RequestOptions {
    connect_ns: Option<u64>,
    first_byte_ns: Option<u64>,
    between_bytes_ns: Option<u64>,
}

impl Held for RequestOptions {
    fn content_bytes(&self) -> usize {
        0
    }
}

/// A response that a guest makes. Nothing takes one.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct OutgoingResponse {
    status: u16,
    headers: Fields,
    /// The number of its body, once the guest has taken that.
    body: Option<u64>,
}

impl Held for OutgoingResponse {
    fn content_bytes(&self) -> usize {
        self.headers.bytes()
    }
}

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

/// A response that has arrived.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct IncomingResponse {
    status: u16,
    headers: Fields,
    body: Option<IncomingBody>,
}

impl Held for IncomingResponse {
    fn content_bytes(&self) -> usize {
        self.headers.bytes() + self.body.as_ref().map_or(0, Held::content_bytes)
    }
}

/// The body of a response that has arrived.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct IncomingBody {
    /// What the stream will return, until the guest has taken the stream.
    bytes: Option<Bytes>,
    trailers: Option<Fields>,
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

/// The response to a request. Its call is in [`Calls`].
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct FutureIncomingResponse {
    /// The number of the call.
    number: u64,
    /// The bytes of the request.
    request_bytes: usize,
}

impl Held for FutureIncomingResponse {
    fn content_bytes(&self) -> usize {
        self.request_bytes
    }
}

#[async_trait]
impl Pollable for FutureTrailers {
    async fn ready(&mut self) {}
}

// The pollable of a response is known by its number, and nothing ever waits for this one.
#[async_trait]
impl Pollable for FutureIncomingResponse {
    async fn ready(&mut self) {}
}

/// Whether a body belongs to a request or to a response.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Request,
    Response,
}

/// A body that a guest writes.
#[derive(Debug)]
struct Body {
    kind: Kind,
    /// The length that the headers announce.
    expected: Option<u64>,
    /// The bytes that the guest has written, including those that did not fit.
    written: u64,
    bytes: Vec<u8>,
    /// Whether a write exceeded a bound, so that `bytes` are not the body.
    is_cut: bool,
    /// Whether its request or response exists. Without that, nobody can read the body.
    has_message: bool,
    /// Whether the guest may still write, finish or drop it.
    has_writer: bool,
    trailers: Option<Fields>,
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
pub(super) struct OutgoingStream {
    /// The number of the body.
    body: u64,
    call: u64,
}

/// A stream that reads a body, beside its entry in the resource table.
#[derive(Debug)]
pub(super) struct IncomingStream {
    /// What the guest has not read.
    bytes: Bytes,
    /// The count of the stream against [`HTTP_BYTES_MAX`]. The whole body stays in memory until the stream is dropped.
    held_bytes: usize,
    call: u64,
}

/// What a guest holds of `wasi:http` beside its entries in the resource table.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// The count of all resources against [`HTTP_BYTES_MAX`].
    held_bytes: usize,
    /// The bodies that a message or a guest's handle refers to, by their numbers.
    bodies: HashMap<u64, Body>,
    /// The number of bodies so far.
    body_count: u64,
    /// The requests that the guest has made.
    pub(super) calls: Calls,
}

impl Http {
    /// Counts `bytes` more.
    fn hold(&mut self, bytes: usize) -> Result<()> {
        let held_bytes = self.held_bytes.saturating_add(bytes);
        if held_bytes > HTTP_BYTES_MAX {
            return Err(Stop::trap(format!("the guest holds more than {HTTP_BYTES_MAX} bytes of HTTP messages")));
        }
        self.held_bytes = held_bytes;
        Ok(())
    }

    fn release(&mut self, bytes: usize) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }

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
    pub(super) fn end_message(&mut self, number: Option<u64>) {
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
    /// Charges the work on `bytes` of text, which is checked or copied value by value.
    fn charge_text(&mut self, bytes: usize) {
        self.owed_fuel = self.owed_fuel.saturating_add(bytes as u64);
    }

    fn charge_fields(&mut self, values: usize, bytes: usize) {
        self.owed_fuel = self.owed_fuel.saturating_add(FUEL_PER_FIELD.saturating_mul(values as u64));
        self.charge_text(bytes);
    }

    /// Charges a copy of the bytes of a body, as one of a file.
    fn charge_body(&mut self, bytes: usize) {
        self.owed_fuel = self.owed_fuel.saturating_add((bytes as u64).div_ceil(BYTES_PER_FUEL));
    }

    /// Adds a resource.
    ///
    /// # Errors
    /// The guest holds too many, or too much in them.
    fn hold<T: Held>(&mut self, value: T) -> Result<Resource<T>> {
        self.http.hold(HTTP_RESOURCE_BYTES + value.content_bytes())?;
        Ok(self.table.push(value)?)
    }

    /// Removes a resource.
    ///
    /// # Errors
    /// The handle is none of a resource, or another resource depends on it.
    fn take<T: Held>(&mut self, handle: Resource<T>) -> Result<T> {
        let value = self.table.delete(handle)?;
        self.http.release(HTTP_RESOURCE_BYTES + value.content_bytes());
        Ok(value)
    }

    /// Changes a resource.
    ///
    /// # Errors
    /// The handle is none of a resource, or the guest holds too much afterwards.
    fn change<T: Held, R>(&mut self, handle: &Resource<T>, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        let value = self.table.get_mut(handle)?;
        let before = value.content_bytes();
        let result = change(value);
        let after = value.content_bytes();
        self.http.release(before);
        self.http.hold(after)?;
        Ok(result)
    }

    /// Adds a copy of the headers of a message.
    fn hold_headers(&mut self, headers: Fields) -> Result<Resource<Fields>> {
        self.charge_fields(headers.len(), headers.bytes());
        self.hold(headers)
    }

    /// Returns a body that the current call may write to.
    fn writable(&mut self, stream: OutgoingStream) -> StreamResult<&mut Body> {
        self.check_current(stream.call)?;
        // The handle of the body outlives its stream.
        let body = self.http.bodies.get_mut(&stream.body).ok_or(StreamError::Closed)?;
        if body.has_message { Ok(body) } else { Err(StreamError::Closed) }
    }

    fn check_current(&self, call: u64) -> StreamResult<()> {
        if call == self.files.call() {
            return Ok(());
        }
        Err(stream_error(ErrorCode::InternalError(Some("the stream belongs to an earlier call of the guest".into()))))
    }

    /// Returns how many bytes a write to a body may have.
    pub(super) fn check_write_body(&mut self, stream: OutgoingStream) -> StreamResult<u64> {
        let body = self.writable(stream)?;
        let left = HTTP_BODY_BYTES_MAX - body.bytes.len();
        if left == 0 || body.is_cut {
            return Err(stream_error(body.size_error()));
        }
        Ok(left.min(WRITE_BYTES_MAX) as u64)
    }

    /// Writes all of `bytes` to a body, or none of them.
    pub(super) fn write_body(&mut self, stream: OutgoingStream, bytes: &[u8]) -> StreamResult<()> {
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
    pub(super) fn flush_body(&mut self, stream: OutgoingStream) -> StreamResult<()> {
        self.writable(stream).map(drop)
    }

    /// Reads from the body of a response.
    pub(super) fn read_body(&mut self, rep: u32, len: u64) -> StreamResult<Vec<u8>> {
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
    pub(super) fn close_incoming(&mut self, stream: &IncomingStream) {
        self.http.release(stream.held_bytes);
    }

    /// Takes the headers of a new message.
    fn take_headers(&mut self, headers: Resource<Fields>) -> Result<Fields> {
        Ok(self.take(headers)?.into_immutable())
    }

    /// Adds the body of a message that has these headers.
    fn hold_body(&mut self, kind: Kind, expected: Option<u64>) -> Result<(u64, Resource<OutgoingBody>)> {
        let number = self.http.new_body(kind, expected);
        Ok((number, self.hold(OutgoingBody { number, is_stream_taken: false })?))
    }
}

impl outgoing_handler::Host for Wasi {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> std::result::Result<Resource<FutureIncomingResponse>, HttpError> {
        let options = options.map(|options| self.take(options)).transpose()?;
        let request = self.take(request)?;
        if !self.http.calls.is_on() {
            self.http.end_message(request.body);
            return Err(ErrorCode::HttpRequestDenied.into());
        }
        let request_bytes = request.content_bytes();
        let number = self.http.calls.handle(request, options.unwrap_or_default());
        Ok(self.hold(FutureIncomingResponse { number, request_bytes })?)
    }
}

impl types::Host for Wasi {
    fn convert_error_code(&mut self, error: HttpError) -> Result<ErrorCode> {
        match error {
            HttpError::Code(code) => Ok(code),
            HttpError::Trap(error) => Err(error),
        }
    }

    fn convert_header_error(&mut self, error: HeaderFailure) -> Result<HeaderError> {
        match error {
            HeaderFailure::Code(code) => Ok(code),
            HeaderFailure::Trap(error) => Err(error),
        }
    }

    fn http_error_code(&mut self, error: Resource<IoError>) -> Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<StreamCode>().map(|StreamCode(code)| code.clone()))
    }
}

impl types::HostFields for Wasi {
    fn new(&mut self) -> Result<Resource<Fields>> {
        self.hold(Fields::new())
    }

    fn from_list(&mut self, entries: Vec<(String, Vec<u8>)>) -> std::result::Result<Resource<Fields>, HeaderFailure> {
        let bytes = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.charge_fields(entries.len(), bytes);
        let mut fields = Fields::new();
        for (name, value) in entries {
            fields.append(&name, value)?;
        }
        Ok(self.hold(fields)?)
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> Result<Vec<Vec<u8>>> {
        let values = self.table.get(&fields)?.get(&name);
        self.charge_fields(1 + values.len(), name.len() + values.iter().map(Vec::len).sum::<usize>());
        Ok(values)
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> Result<bool> {
        self.charge_fields(1, name.len());
        Ok(self.table.get(&fields)?.has(&name))
    }

    fn set(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        values: Vec<Vec<u8>>,
    ) -> std::result::Result<(), HeaderFailure> {
        self.charge_fields(1 + values.len(), name.len() + values.iter().map(Vec::len).sum::<usize>());
        Ok(self.change(&fields, |fields| fields.set(&name, values))??)
    }

    fn delete(&mut self, fields: Resource<Fields>, name: String) -> std::result::Result<(), HeaderFailure> {
        self.charge_fields(1, name.len());
        Ok(self.change(&fields, |fields| fields.delete(&name))??)
    }

    fn append(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        value: Vec<u8>,
    ) -> std::result::Result<(), HeaderFailure> {
        self.charge_fields(1, name.len() + value.len());
        Ok(self.change(&fields, |fields| fields.append(&name, value))??)
    }

    fn entries(&mut self, fields: Resource<Fields>) -> Result<Vec<(String, Vec<u8>)>> {
        let fields = self.table.get(&fields)?;
        let (values, bytes, entries) = (fields.len(), fields.bytes(), fields.entries());
        self.charge_fields(values, bytes);
        Ok(entries)
    }

    fn clone(&mut self, fields: Resource<Fields>) -> Result<Resource<Fields>> {
        let copy = self.table.get(&fields)?.to_mutable();
        self.hold_headers(copy)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> Result<()> {
        self.take(fields).map(drop)
    }
}

impl types::HostIncomingRequest for Wasi {
    fn method(&mut self, request: Resource<IncomingRequest>) -> Result<Method> {
        match *self.table.get(&request)? {}
    }

    fn path_with_query(&mut self, request: Resource<IncomingRequest>) -> Result<Option<String>> {
        match *self.table.get(&request)? {}
    }

    fn scheme(&mut self, request: Resource<IncomingRequest>) -> Result<Option<Scheme>> {
        match *self.table.get(&request)? {}
    }

    fn authority(&mut self, request: Resource<IncomingRequest>) -> Result<Option<String>> {
        match *self.table.get(&request)? {}
    }

    fn headers(&mut self, request: Resource<IncomingRequest>) -> Result<Resource<Fields>> {
        match *self.table.get(&request)? {}
    }

    fn consume(
        &mut self,
        request: Resource<IncomingRequest>,
    ) -> Result<std::result::Result<Resource<IncomingBody>, ()>> {
        match *self.table.get(&request)? {}
    }

    fn drop(&mut self, request: Resource<IncomingRequest>) -> Result<()> {
        match self.table.delete(request)? {}
    }
}

impl types::HostResponseOutparam for Wasi {
    fn set(
        &mut self,
        param: Resource<ResponseOutparam>,
        _response: std::result::Result<Resource<OutgoingResponse>, ErrorCode>,
    ) -> Result<()> {
        match self.table.delete(param)? {}
    }

    fn send_informational(
        &mut self,
        param: Resource<ResponseOutparam>,
        _status: u16,
        _headers: Resource<Fields>,
    ) -> std::result::Result<(), HttpError> {
        match *self.table.get(&param).map_err(wasmtime::Error::from)? {}
    }

    fn drop(&mut self, param: Resource<ResponseOutparam>) -> Result<()> {
        match self.table.delete(param)? {}
    }
}

impl types::HostOutgoingRequest for Wasi {
    fn new(&mut self, headers: Resource<Fields>) -> Result<Resource<OutgoingRequest>> {
        let headers = self.take_headers(headers)?;
        self.hold(OutgoingRequest {
            method: Method::Get,
            scheme: None,
            authority: None,
            path_with_query: None,
            headers,
            body: None,
        })
    }

    fn body(&mut self, request: Resource<OutgoingRequest>) -> Result<std::result::Result<Resource<OutgoingBody>, ()>> {
        let OutgoingRequest { body, headers, .. } = self.table.get(&request)?;
        if body.is_some() {
            return Ok(Err(()));
        }
        let expected = headers.content_length();
        let (number, body) = self.hold_body(Kind::Request, expected)?;
        self.table.get_mut(&request)?.body = Some(number);
        Ok(Ok(body))
    }

    fn method(&mut self, request: Resource<OutgoingRequest>) -> Result<Method> {
        let method = self.table.get(&request)?.method.clone();
        self.charge_text(method_bytes(&method));
        Ok(method)
    }

    fn set_method(
        &mut self,
        request: Resource<OutgoingRequest>,
        method: Method,
    ) -> Result<std::result::Result<(), ()>> {
        self.charge_text(method_bytes(&method));
        self.change(&request, |request| {
            if let Method::Other(name) = &method {
                http::Method::from_str(name).map_err(drop)?;
            }
            request.method = method;
            Ok(())
        })
    }

    fn path_with_query(&mut self, request: Resource<OutgoingRequest>) -> Result<Option<String>> {
        let path = self.table.get(&request)?.path_with_query.clone();
        self.charge_text(path.as_ref().map_or(0, String::len));
        Ok(path)
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path: Option<String>,
    ) -> Result<std::result::Result<(), ()>> {
        self.charge_text(path.as_ref().map_or(0, String::len));
        self.change(&request, |request| {
            if path.as_deref().is_some_and(|path| !is_path_with_query(path)) {
                return Err(());
            }
            request.path_with_query = path;
            Ok(())
        })
    }

    fn scheme(&mut self, request: Resource<OutgoingRequest>) -> Result<Option<Scheme>> {
        let scheme = self.table.get(&request)?.scheme.clone();
        self.charge_text(scheme.as_ref().map_or(0, scheme_bytes));
        Ok(scheme)
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<Scheme>,
    ) -> Result<std::result::Result<(), ()>> {
        self.charge_text(scheme.as_ref().map_or(0, scheme_bytes));
        self.change(&request, |request| {
            if let Some(Scheme::Other(name)) = &scheme {
                http::uri::Scheme::from_str(name).map_err(drop)?;
            }
            request.scheme = scheme;
            Ok(())
        })
    }

    fn authority(&mut self, request: Resource<OutgoingRequest>) -> Result<Option<String>> {
        let authority = self.table.get(&request)?.authority.clone();
        self.charge_text(authority.as_ref().map_or(0, String::len));
        Ok(authority)
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> Result<std::result::Result<(), ()>> {
        self.charge_text(authority.as_ref().map_or(0, String::len));
        self.change(&request, |request| {
            if let Some(authority) = &authority {
                http::uri::Authority::from_str(authority).map_err(drop)?;
            }
            request.authority = authority;
            Ok(())
        })
    }

    fn headers(&mut self, request: Resource<OutgoingRequest>) -> Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.clone();
        self.hold_headers(headers)
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> Result<()> {
        let request = self.take(request)?;
        self.http.end_message(request.body);
        Ok(())
    }
}

/// Returns whether `text` may be the path and query of a request, with the rules of wasmtime-wasi-http.
fn is_path_with_query(text: &str) -> bool {
    // `PathAndQuery` takes `http://example.com/` as well, which would name another host.
    let is_path = text.is_empty() || text.starts_with(['/', '?']);
    is_path && http::uri::Builder::new().path_and_query(text).build().is_ok()
}

impl types::HostRequestOptions for Wasi {
    fn new(&mut self) -> Result<Resource<RequestOptions>> {
        self.hold(RequestOptions::default())
    }

    fn connect_timeout(&mut self, options: Resource<RequestOptions>) -> Result<Option<u64>> {
        Ok(self.table.get(&options)?.connect_ns)
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration_ns: Option<u64>,
    ) -> Result<std::result::Result<(), ()>> {
        self.table.get_mut(&options)?.connect_ns = duration_ns;
        Ok(Ok(()))
    }

    fn first_byte_timeout(&mut self, options: Resource<RequestOptions>) -> Result<Option<u64>> {
        Ok(self.table.get(&options)?.first_byte_ns)
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration_ns: Option<u64>,
    ) -> Result<std::result::Result<(), ()>> {
        self.table.get_mut(&options)?.first_byte_ns = duration_ns;
        Ok(Ok(()))
    }

    fn between_bytes_timeout(&mut self, options: Resource<RequestOptions>) -> Result<Option<u64>> {
        Ok(self.table.get(&options)?.between_bytes_ns)
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration_ns: Option<u64>,
    ) -> Result<std::result::Result<(), ()>> {
        self.table.get_mut(&options)?.between_bytes_ns = duration_ns;
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> Result<()> {
        self.take(options).map(drop)
    }
}

impl types::HostOutgoingResponse for Wasi {
    fn new(&mut self, headers: Resource<Fields>) -> Result<Resource<OutgoingResponse>> {
        let headers = self.take_headers(headers)?;
        self.hold(OutgoingResponse { status: 200, headers, body: None })
    }

    fn status_code(&mut self, response: Resource<OutgoingResponse>) -> Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn set_status_code(
        &mut self,
        response: Resource<OutgoingResponse>,
        status: u16,
    ) -> Result<std::result::Result<(), ()>> {
        let response = self.table.get_mut(&response)?;
        if http::StatusCode::from_u16(status).is_err() {
            return Ok(Err(()));
        }
        response.status = status;
        Ok(Ok(()))
    }

    fn headers(&mut self, response: Resource<OutgoingResponse>) -> Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.clone();
        self.hold_headers(headers)
    }

    fn body(
        &mut self,
        response: Resource<OutgoingResponse>,
    ) -> Result<std::result::Result<Resource<OutgoingBody>, ()>> {
        let OutgoingResponse { body, headers, .. } = self.table.get(&response)?;
        if body.is_some() {
            return Ok(Err(()));
        }
        let expected = headers.content_length();
        let (number, body) = self.hold_body(Kind::Response, expected)?;
        self.table.get_mut(&response)?.body = Some(number);
        Ok(Ok(body))
    }

    fn drop(&mut self, response: Resource<OutgoingResponse>) -> Result<()> {
        let response = self.take(response)?;
        self.http.end_message(response.body);
        Ok(())
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
        let stream = self.table.push_child(super::streams::stand_in_for_output(), &body)?;
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

impl types::HostFutureIncomingResponse for Wasi {
    fn subscribe(&mut self, future: Resource<FutureIncomingResponse>) -> Result<Resource<DynPollable>> {
        let number = self.table.get(&future)?.number;
        let pollable = subscribe(&mut self.table, future)?;
        self.http.calls.subscribe(pollable.rep(), number);
        Ok(pollable)
    }

    fn get(
        &mut self,
        future: Resource<FutureIncomingResponse>,
    ) -> Result<Option<std::result::Result<std::result::Result<Resource<IncomingResponse>, ErrorCode>, ()>>> {
        let number = self.table.get(&future)?.number;
        Ok(match self.call_result(number)? {
            None => None,
            Some(None) => Some(Err(())),
            Some(Some(Err(error))) => Some(Ok(Err(calls::error_code(&error)))),
            Some(Some(Ok(response))) => match calls::incoming(&response) {
                Ok(response) => {
                    self.charge_fields(response.headers.len(), response.headers.bytes());
                    Some(Ok(Ok(self.hold(*response)?)))
                }
                Err(code) => Some(Ok(Err(code))),
            },
        })
    }

    fn drop(&mut self, future: Resource<FutureIncomingResponse>) -> Result<()> {
        let number = self.take(future)?.number;
        let unsent = self.http.calls.forget(number);
        self.http.end_message(unsent);
        Ok(())
    }
}

impl types::HostIncomingResponse for Wasi {
    fn status(&mut self, response: Resource<IncomingResponse>) -> Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn headers(&mut self, response: Resource<IncomingResponse>) -> Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.clone();
        self.hold_headers(headers)
    }

    fn consume(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> Result<std::result::Result<Resource<IncomingBody>, ()>> {
        match self.change(&response, |response| response.body.take())? {
            Some(body) => Ok(Ok(self.hold(body)?)),
            None => Ok(Err(())),
        }
    }

    fn drop(&mut self, response: Resource<IncomingResponse>) -> Result<()> {
        self.take(response).map(drop)
    }
}

impl types::HostIncomingBody for Wasi {
    fn stream(&mut self, body: Resource<IncomingBody>) -> Result<std::result::Result<Resource<DynInputStream>, ()>> {
        let Some(bytes) = self.change(&body, |body| body.bytes.take())? else { return Ok(Err(())) };
        let held_bytes = bytes.len();
        self.http.hold(held_bytes)?;
        let stream = self.table.push_child(super::streams::stand_in_for_input(), &body)?;
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

#[cfg(test)]
mod tests;

#[cfg(all(test, feature = "as-wasmtime"))]
mod as_wasmtime;
