//! `outgoing-request`: a request that a guest makes, and `request-options`: its timeouts.

use super::super::Wasi;
use super::Held;
use super::bindings::wasi::http::types::{self, Method, Scheme};
use super::fields::Fields;
use super::outgoing_body::{Kind, OutgoingBody};
use bytes::Bytes;
use lifeboat_api::call::{self, CallError, CallRequest, Field};
use std::str::FromStr;
use wasmtime::Result;
use wasmtime::component::Resource;

/// The longest method of a request, in bytes.
const METHOD_BYTES_MAX: usize = 64;

/// The longest host and port of a request, in bytes.
const AUTHORITY_BYTES_MAX: usize = 1024;

/// A request that a guest makes.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct OutgoingRequest {
    pub(super) method: Method,
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Option<String>,
    pub(super) path_with_query: Option<String>,
    pub(super) headers: Fields,
    /// The number of its body, once the guest has taken that.
    pub(super) body: Option<u64>,
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
    pub(super) connect_ns: Option<u64>,
    pub(super) first_byte_ns: Option<u64>,
    pub(super) between_bytes_ns: Option<u64>,
}

impl Held for RequestOptions {
    fn content_bytes(&self) -> usize {
        0
    }
}

impl Wasi {
    /// Makes a request of the guest's parts.
    pub(super) fn whole_request(&mut self, request: OutgoingRequest) -> std::result::Result<CallRequest, CallError> {
        let invalid = |reason: &str| CallError::InvalidRequest { reason: reason.to_owned() };
        let body = request.body.and_then(|number| {
            let body = self.http.bodies.get_mut(&number)?;
            let parts = (std::mem::take(&mut body.bytes), body.trailers.take(), body.is_cut);
            let trailer_bytes = parts.1.as_ref().map_or(0, Fields::bytes);
            self.http.release(parts.0.len() + trailer_bytes);
            self.http.end_message(Some(number));
            Some(parts)
        });
        let (bytes, trailers, is_cut) = body.unwrap_or_default();
        // The record of a call has both, also if it is not made.
        for (part, bytes, max) in [
            ("method", method_bytes(&request.method), METHOD_BYTES_MAX),
            ("host", request.authority.as_ref().map_or(0, String::len), AUTHORITY_BYTES_MAX),
        ] {
            if bytes > max {
                return Err(invalid(&format!("its {part} has {bytes} bytes, it may have {max}")));
            }
        }
        if is_cut {
            return Err(invalid("the guest has dropped the body unfinished"));
        }
        if trailers.is_some_and(|trailers| trailers.len() > 0) {
            return Err(invalid("trailers of a request are not sent; use a header"));
        }
        let OutgoingRequest { method, scheme, authority, path_with_query, headers, .. } = request;
        let scheme = match scheme {
            Some(Scheme::Http) => call::Scheme::Http,
            Some(Scheme::Https) | None => call::Scheme::Https,
            Some(Scheme::Other(_)) => return Err(invalid("its scheme is neither http nor https")),
        };
        Ok(CallRequest {
            method: method_name(method),
            scheme,
            authority: authority.ok_or_else(|| invalid("it names no host"))?,
            path_with_query: path_with_query.unwrap_or_default(),
            headers: headers.entries().into_iter().map(field).collect(),
            body: Bytes::from(bytes),
        })
    }
}

fn field((name, value): (String, Vec<u8>)) -> Field {
    Field { name, value: value.into() }
}

fn method_name(method: Method) -> String {
    let name = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => return name,
    };
    name.to_owned()
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
