//! The errors that a guest gets: of calls, of `fields`, and of streams over bodies.

use super::super::Wasi;
use super::bindings::wasi::http::types::{self, DnsErrorPayload, ErrorCode, HeaderError, IoError};
use super::fields::{self, FieldsError};
use crate::stop::Stop;
use lifeboat_api::call::CallError;
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi_io::streams::StreamError;

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
pub(super) struct StreamCode(pub(super) ErrorCode);

pub(super) fn stream_error(code: ErrorCode) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::new(StreamCode(code)))
}

/// Returns the code that the guest gets for an error.
pub(super) fn error_code(error: &CallError) -> ErrorCode {
    match error {
        CallError::Denied { .. } => ErrorCode::HttpRequestDenied,
        CallError::AddressDenied { .. } => ErrorCode::DestinationIpProhibited,
        CallError::DnsTimeout { .. } => ErrorCode::DnsTimeout,
        CallError::Dns { .. } => ErrorCode::DnsError(DnsErrorPayload { rcode: None, info_code: None }),
        CallError::ConnectionRefused { .. } => ErrorCode::ConnectionRefused,
        CallError::ConnectionTimeout { .. } => ErrorCode::ConnectionTimeout,
        CallError::ConnectionTerminated { .. } => ErrorCode::ConnectionTerminated,
        CallError::TlsCertificate { .. } => ErrorCode::TlsCertificateError,
        CallError::TlsProtocol { .. } => ErrorCode::TlsProtocolError,
        CallError::ResponseTimeout { .. } => ErrorCode::HttpResponseTimeout,
        CallError::ResponseIncomplete { .. } => ErrorCode::HttpResponseIncomplete,
        CallError::ResponseHeaders { .. } => ErrorCode::HttpResponseHeaderSectionSize(None),
        CallError::ResponseBody { .. } => ErrorCode::HttpResponseBodySize(None),
        CallError::Protocol { .. } => ErrorCode::HttpProtocolError,
        // The interface has no code of its own for these.
        error => ErrorCode::InternalError(Some(error.to_string())),
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
