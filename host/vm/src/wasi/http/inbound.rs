//! `incoming-request`, `response-outparam` and `outgoing-response`: a request from outside, and the response to it.
//!
//! No guest gets one of the first two, because a service is not called through HTTP. A guest may make responses, which
//! nothing takes.

use super::super::Wasi;
use super::Held;
use super::bindings::wasi::http::types::{self, ErrorCode, Method, Scheme};
use super::error::HttpError;
use super::fields::Fields;
use super::incoming_body::IncomingBody;
use super::outgoing_body::{Kind, OutgoingBody};
use wasmtime::Result;
use wasmtime::component::Resource;

/// A request from outside. No guest gets one.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub enum IncomingRequest {}

/// The place of a response to a request from outside. No guest gets one.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub enum ResponseOutparam {}

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
