//! `wasi:http`: messages as plain buffers, and the requests of a guest.
//!
//! Only a transaction has a network (`calls.rs`). In every other phase, and if its service has none,
//! `outgoing-handler.handle` answers `HTTP-request-denied`, so a guest that can use HTTP runs without it. Otherwise the
//! functions behave as those of wasmtime-wasi-http 48, with these differences, most of which keep a reply independent of
//! the time that a network takes:
//!
//! - A body is a buffer. `check-write` permits [`WRITE_BYTES_MAX`](super::WRITE_BYTES_MAX) until the body has
//!   [`HTTP_BODY_BYTES_MAX`], then it fails. It never waits for a connection.
//! - A request is whole before it is sent. A guest that waits for the response to an unfinished one traps.
//! - What a guest holds is bounded by [`HTTP_BYTES_MAX`]. A body that exceeds it fails, anything else traps.
//! - A stream over a body belongs to the call that opened it, as a stream over a file does. In a later call every use
//!   fails, and a drop works. A response that was not taken in its call is an error afterwards. All other resources are
//!   data, and stay valid.
//! - A response is whole before it is ready, so its body and its trailers never make a guest wait.
//!
//! No guest gets an `incoming-request` or a `response-outparam`, because a service is not called through HTTP. Their
//! functions are linked since they are a part of `types`.
//!
//! This file has what all resources share: the linker, the bounds, and the bytes and the fuel that they count for. Each
//! resource of the interface is in a file of its own.

mod calls;
mod error;
mod fields;
mod inbound;
mod incoming_body;
mod incoming_response;
mod outgoing_body;
mod outgoing_request;

use super::{HasWasi, Wasi};
use crate::stop::Stop;
use calls::Calls;
use error::stream_error;
use fields::Fields;
use lifeboat_api::call::CALL_BODY_BYTES_MAX;
use lifeboat_disk::BYTES_PER_FUEL;
use outgoing_body::Body;
use std::collections::HashMap;
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi_io::streams::StreamResult;

pub(super) use incoming_body::IncomingStream;
pub(super) use outgoing_body::OutgoingStream;

#[allow(missing_docs, unreachable_pub, reason = "generated; the files in host/vm/wasi are the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wasi",
        world: "lifeboat:wasi/http",
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:http/types.fields": super::fields::Fields,
            "wasi:http/types.incoming-request": super::inbound::IncomingRequest,
            "wasi:http/types.outgoing-request": super::outgoing_request::OutgoingRequest,
            "wasi:http/types.request-options": super::outgoing_request::RequestOptions,
            "wasi:http/types.response-outparam": super::inbound::ResponseOutparam,
            "wasi:http/types.incoming-response": super::incoming_response::IncomingResponse,
            "wasi:http/types.incoming-body": super::incoming_body::IncomingBody,
            "wasi:http/types.future-trailers": super::incoming_body::FutureTrailers,
            "wasi:http/types.outgoing-response": super::inbound::OutgoingResponse,
            "wasi:http/types.outgoing-body": super::outgoing_body::OutgoingBody,
            "wasi:http/types.future-incoming-response": super::incoming_response::FutureIncomingResponse,
        },
        imports: { default: trappable },
        require_store_data_send: true,
        trappable_error_type: {
            "wasi:http/types.error-code" => super::error::HttpError,
            "wasi:http/types.header-error" => super::error::HeaderFailure,
        },
    });
}
use bindings::wasi::http::types::ErrorCode;
use bindings::wasi::http::{outgoing_handler, types};

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

/// A resource that counts against [`HTTP_BYTES_MAX`].
trait Held: Send + 'static {
    /// Returns the bytes of its contents.
    fn content_bytes(&self) -> usize;
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

    fn check_current(&self, call: u64) -> StreamResult<()> {
        if call == self.files.call() {
            return Ok(());
        }
        Err(stream_error(ErrorCode::InternalError(Some("the stream belongs to an earlier call of the guest".into()))))
    }

    /// Takes the headers of a new message.
    fn take_headers(&mut self, headers: Resource<Fields>) -> Result<Fields> {
        Ok(self.take(headers)?.into_immutable())
    }
}

#[cfg(test)]
mod tests;

#[cfg(all(test, feature = "as-wasmtime"))]
mod as_wasmtime;
