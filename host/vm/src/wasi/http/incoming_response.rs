//! `future-incoming-response` and `incoming-response`: the response to a request, awaited and arrived.

use super::super::Wasi;
use super::Held;
use super::bindings::wasi::http::types::{self, ErrorCode};
use super::error::error_code;
use super::fields::Fields;
use super::incoming_body::IncomingBody;
use lifeboat_api::call::{self, Field};
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// The response to a request. Its call is in [`Calls`](super::calls::Calls).
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct FutureIncomingResponse {
    /// The number of the call.
    pub(super) number: u64,
    /// The bytes of the request.
    pub(super) request_bytes: usize,
}

impl Held for FutureIncomingResponse {
    fn content_bytes(&self) -> usize {
        self.request_bytes
    }
}

// The pollable of a response is known by its number, and nothing ever waits for this one.
#[async_trait]
impl Pollable for FutureIncomingResponse {
    async fn ready(&mut self) {}
}

/// A response that has arrived.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct IncomingResponse {
    pub(super) status: u16,
    pub(super) headers: Fields,
    pub(super) body: Option<IncomingBody>,
}

impl Held for IncomingResponse {
    fn content_bytes(&self) -> usize {
        self.headers.bytes() + self.body.as_ref().map_or(0, Held::content_bytes)
    }
}

/// Makes a response that the guest can hold.
fn incoming(response: &call::CallResponse) -> std::result::Result<Box<IncomingResponse>, ErrorCode> {
    let fields = |fields: &[Field]| Fields::received(fields).ok_or(ErrorCode::HttpResponseHeaderSectionSize(None));
    let trailers = if response.trailers.is_empty() { None } else { Some(fields(&response.trailers)?) };
    let body = IncomingBody { bytes: Some(response.body.clone()), trailers };
    Ok(Box::new(IncomingResponse { status: response.status, headers: fields(&response.headers)?, body: Some(body) }))
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
            Some(Some(Err(error))) => Some(Ok(Err(error_code(&error)))),
            Some(Some(Ok(response))) => match incoming(&response) {
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
