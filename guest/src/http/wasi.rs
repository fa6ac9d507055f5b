//! Requests of a VM, through `wasi:http`.
//!
//! A request is whole before it is handed over, and a response is whole before it is ready.

use super::url::{Scheme, Url};
use super::{Error, Request, Response};

#[allow(missing_docs, unreachable_pub, unused, clippy::all, reason = "generated code")]
mod bindings {
    // The same files from which the host generates its side.
    wit_bindgen::generate!({
        inline: "
            package lifeboat:guest;
            world http {
                import wasi:http/types@0.2.12;
                import wasi:http/outgoing-handler@0.2.12;
            }
        ",
        path: ["wasi/io.wit", "wasi/clocks.wit", "wasi/http.wit"],
        world: "lifeboat:guest/http",
        generate_all,
    });
}

use bindings::wasi::http::outgoing_handler::handle;
use bindings::wasi::http::types::{
    self, ErrorCode, Fields, FutureIncomingResponse, HeaderError, IncomingBody, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, RequestOptions,
};
use bindings::wasi::io::streams::StreamError;

/// The most bytes that are read at once.
const READ_BYTES: u64 = 64 * 1024;

/// A started request.
pub(super) struct Started(FutureIncomingResponse);

pub(super) fn start(request: &Request, url: &Url<'_>) -> Result<Started, Error> {
    let headers = Fields::from_list(&request.headers).map_err(header_error)?;
    let outgoing = OutgoingRequest::new(headers);
    let refused = |what: &str| Error::InvalidRequest(format!("the host does not take the {what}"));
    outgoing.set_method(&method(&request.method)).map_err(|()| refused("method"))?;
    let scheme = match url.scheme {
        Scheme::Http => types::Scheme::Http,
        Scheme::Https => types::Scheme::Https,
    };
    outgoing.set_scheme(Some(&scheme)).map_err(|()| refused("scheme"))?;
    let refused = |what: &str| Error::InvalidUrl(format!("the host does not take the {what}"));
    outgoing.set_authority(Some(url.authority)).map_err(|()| refused("host"))?;
    outgoing.set_path_with_query(Some(&url.path_with_query)).map_err(|()| refused("path"))?;
    let body = outgoing.body().expect("the body is taken once");

    let options = request.timeout.map(|timeout| {
        let nanoseconds = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let options = RequestOptions::new();
        // A host that has no such limit uses its own.
        let _ = options.set_connect_timeout(nanoseconds);
        let _ = options.set_first_byte_timeout(nanoseconds);
        let _ = options.set_between_bytes_timeout(nanoseconds);
        options
    });
    let response = handle(outgoing, options).map_err(error)?;
    // Afterwards: a host may take the body of a request only while it handles it. After an error, the response is
    // dropped here before anyone waits for it, so nothing is sent.
    write(body, &request.body)?;
    Ok(Started(response))
}

fn method(method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

/// Writes and finishes the body, also an empty one: a request without a finished body is not whole.
fn write(body: OutgoingBody, mut bytes: &[u8]) -> Result<(), Error> {
    let stream = body.write().expect("its stream is taken once");
    while !bytes.is_empty() {
        match stream.check_write().map_err(stream_error)? {
            0 => stream.subscribe().block(),
            room => {
                let room = usize::try_from(room).unwrap_or(usize::MAX);
                let (now, later) = bytes.split_at(bytes.len().min(room));
                stream.write(now).map_err(stream_error)?;
                bytes = later;
            }
        }
    }
    // A body must outlive its stream.
    drop(stream);
    OutgoingBody::finish(body, None).map_err(error)
}

impl Started {
    pub(super) fn wait(self) -> Result<Response, Error> {
        loop {
            self.0.subscribe().block();
            if let Some(response) = self.0.get() {
                let response = response.expect("the response is taken once");
                return response.map_err(error).and_then(|response| read(&response));
            }
        }
    }
}

fn read(response: &IncomingResponse) -> Result<Response, Error> {
    let (status, headers) = (response.status(), response.headers().entries());
    let incoming: IncomingBody = response.consume().expect("the body is taken once");
    let stream = incoming.stream().expect("its stream is taken once");
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(mut bytes) if body.is_empty() => std::mem::swap(&mut body, &mut bytes),
            Ok(bytes) => body.extend_from_slice(&bytes),
            Err(StreamError::Closed) => break,
            Err(failure) => return Err(stream_error(failure)),
        }
    }
    Ok(Response { status, headers, body })
}

fn header_error(failure: HeaderError) -> Error {
    let reason = match failure {
        HeaderError::InvalidSyntax => "the host finds a header invalid",
        HeaderError::Forbidden => "a header may only be set by the host",
        HeaderError::Immutable => "the headers cannot be changed",
    };
    Error::InvalidRequest(reason.to_owned())
}

fn stream_error(failure: StreamError) -> Error {
    match failure {
        StreamError::LastOperationFailed(failure) => match types::http_error_code(&failure) {
            Some(code) => error(code),
            None => Error::Other("the host failed".to_owned()),
        },
        StreamError::Closed => Error::Other("the stream of the body is closed".to_owned()),
    }
}

fn error(code: ErrorCode) -> Error {
    use ErrorCode as Code;

    let connection = |reason: &str| Error::Connection(reason.to_owned());
    let invalid = |reason: &str| Error::InvalidRequest(reason.to_owned());
    let url = |reason: &str| Error::InvalidUrl(reason.to_owned());
    let other = |reason: &str| Error::Other(reason.to_owned());
    match code {
        Code::HttpRequestDenied | Code::DestinationIpProhibited => Error::Denied,
        Code::DnsTimeout
        | Code::ConnectionTimeout
        | Code::ConnectionReadTimeout
        | Code::ConnectionWriteTimeout
        | Code::HttpResponseTimeout => Error::Timeout,

        Code::DnsError(payload) => match payload.rcode {
            Some(rcode) => Error::Connection(format!("the name was not resolved: {rcode}")),
            None => connection("the name was not resolved"),
        },
        Code::DestinationNotFound => connection("the address does not exist"),
        Code::DestinationUnavailable => connection("the address is not available"),
        Code::DestinationIpUnroutable => connection("there is no route to the address"),
        Code::ConnectionRefused => connection("nothing listens at the address"),
        Code::ConnectionTerminated => connection("it was closed before the response was complete"),
        Code::ConnectionLimitReached => connection("there are too many at once"),
        Code::TlsProtocolError => connection("the two sides do not agree on TLS"),
        Code::TlsCertificateError => connection("the server's certificate is not valid"),
        Code::TlsAlertReceived(payload) => match payload.alert_message {
            Some(message) => Error::Connection(format!("the server ended TLS: {message}")),
            None => connection("the server ended TLS"),
        },

        Code::HttpRequestUriInvalid => url("the host does not take it"),
        Code::HttpRequestUriTooLong => url("it is too long"),
        Code::HttpRequestMethodInvalid => invalid("the host does not take the method"),
        Code::HttpRequestBodySize(_) => invalid("the body is too long"),
        Code::HttpRequestLengthRequired => invalid("its length is missing"),
        Code::HttpRequestHeaderSectionSize(_) | Code::HttpRequestHeaderSize(_) => invalid("the headers are too long"),
        Code::HttpRequestTrailerSectionSize(_) | Code::HttpRequestTrailerSize(_) => {
            invalid("the trailers are too long")
        }

        Code::HttpResponseIncomplete => other("the response is incomplete"),
        Code::HttpResponseBodySize(_) => other("the body of the response is too long"),
        Code::HttpResponseHeaderSectionSize(_) | Code::HttpResponseHeaderSize(_) => {
            other("the headers of the response are too long")
        }
        Code::HttpResponseTrailerSectionSize(_) | Code::HttpResponseTrailerSize(_) => {
            other("the trailers of the response are too long")
        }
        Code::HttpResponseTransferCoding(_) | Code::HttpResponseContentCoding(_) => {
            other("the response has an unknown coding")
        }
        Code::HttpUpgradeFailed | Code::HttpProtocolError => other("the server does not keep to HTTP/1.1"),
        Code::LoopDetected => other("the server found a loop"),
        Code::ConfigurationError => other("the host is not configured for it"),
        Code::InternalError(Some(text)) => Error::from_text(text),
        Code::InternalError(None) => other("the host failed"),
    }
}
