//! The reasons why a request has no response.

use std::fmt;

/// The beginning of the text with which the host reports a request in doubt.
const IN_DOUBT: &str = "in doubt: ";

/// The reason why a request has no response.
///
/// A response with any status, such as 404 or 500, is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The service may not call this address, or the call is not one of a transaction. Nothing was sent.
    Denied,
    /// An earlier attempt may have sent this request, and its outcome is unknown. The request was not sent again.
    ///
    /// This is not a reason to send the request in another form. Refuse the transaction: its operator decides.
    InDoubt(String),
    /// The connection or the response took too long. The server may have processed the request.
    Timeout,
    /// There was no connection, or it broke. The server may have processed the request.
    Connection(String),
    /// The URL cannot be requested. Nothing was sent.
    InvalidUrl(String),
    /// The method, a header or the body cannot be sent. Nothing was sent.
    InvalidRequest(String),
    /// Another reason. The server may have processed the request.
    Other(String),
}

impl Error {
    /// Returns the error for a text of the host.
    #[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "natively, only the tests have such a text"))]
    pub(super) fn from_text(text: String) -> Self {
        match text.strip_prefix(IN_DOUBT) {
            Some(reason) => Self::InDoubt(reason.to_owned()),
            None => Self::Other(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, reason) = match self {
            Self::Denied => return f.write_str("request denied: the service may not call this address"),
            Self::Timeout => return f.write_str("request timed out: the server may have processed it"),
            Self::InDoubt(reason) => (IN_DOUBT, reason),
            Self::Connection(reason) => ("connection failed: ", reason),
            Self::InvalidUrl(reason) => ("invalid URL: ", reason),
            Self::InvalidRequest(reason) => ("invalid request: ", reason),
            Self::Other(reason) => ("request failed: ", reason),
        };
        f.write_str(kind)?;
        f.write_str(reason)
    }
}

impl std::error::Error for Error {}
