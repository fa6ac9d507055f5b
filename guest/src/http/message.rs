//! A request, and its response.

use std::borrow::Cow;
use std::time::Duration;

use super::url::Url;
use super::{Error, Pending, sender};

/// The names of headers that the host refuses, since they belong to the connection.
const CONNECTION_HEADERS: [&str; 9] = [
    "connection",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// A request, in the making.
///
/// ```
/// # use std::time::Duration;
/// use lifeboat_guest::http::Request;
///
/// let request = Request::new("PUT", "https://api.example.org/orders/17")
///     .header("content-type", "text/plain")
///     .body("two boxes")
///     .timeout(Duration::from_secs(1));
/// assert_eq!(request.check(), Ok(()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) timeout: Option<Duration>,
}

impl Request {
    /// Creates a request without headers and with an empty body. Nothing is checked yet.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// Adds a header, also if the request has one of that name already.
    ///
    /// The host adds `Host`, `Content-Length` and, unless the request has one, `Idempotency-Key`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Replaces the body. The host limits it to 4 MiB.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Limits the time to connect, the time to the first byte of the response, and the time between its bytes.
    ///
    /// The host has limits of its own, and the shorter one applies.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Checks URL, method and headers, and sends nothing. [`send`](Self::send) and [`start`](Self::start) check them
    /// too.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`] or [`Error::InvalidRequest`]. The host may refuse a request for further reasons.
    pub fn check(&self) -> Result<(), Error> {
        self.checked().map(drop)
    }

    /// Returns the parts of the URL, if the request can be sent.
    fn checked(&self) -> Result<Url<'_>, Error> {
        let url = Url::split(&self.url)?;
        check_method(&self.method)?;
        for (name, value) in &self.headers {
            check_header(name, value)?;
        }
        Ok(url)
    }

    /// Sends the request and waits for the whole response.
    ///
    /// # Errors
    /// There is no response. One with any status, such as 500, is `Ok`.
    pub fn send(self) -> Result<Response, Error> {
        self.start().wait()
    }

    /// Starts the request, so that several run at once.
    ///
    /// It is sent at the first wait for any request. If it is dropped before, it is not sent. An error is returned by
    /// [`Pending::wait`].
    pub fn start(self) -> Pending {
        Pending(self.checked().and_then(|url| sender::start(&self, &url)))
    }

    /// Returns the method. A [`Transport`](super::Transport) reads it, and the other parts below.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the headers in their order.
    #[must_use]
    pub fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    /// Returns the body.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.body
    }
}

fn check_method(method: &str) -> Result<(), Error> {
    let is_allowed = |byte: u8| is_token_byte(byte) && !byte.is_ascii_lowercase();
    if method.is_empty() || !method.bytes().all(is_allowed) {
        return Err(Error::InvalidRequest(format!("{method:?} is no method: write one in capitals, such as POST")));
    }
    Ok(())
}

fn check_header(name: &str, value: &[u8]) -> Result<(), Error> {
    let reason = if name.is_empty() || !name.bytes().all(is_token_byte) {
        "is no name of a header: use letters, digits and `-`"
    } else if CONNECTION_HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name)) {
        "is a header that only the host may set: remove it"
    } else if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        "is a header whose value has a control character: remove it"
    } else {
        return Ok(());
    };
    Err(Error::InvalidRequest(format!("{name:?} {reason}")))
}

/// Returns whether a byte may be in a `token` of RFC 9110.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A whole response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// The names and values of the headers, in order. The host returns names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Creates a response without headers, for a [`Transport`](super::Transport).
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Returns whether the status is one of 200 to 299. Redirections are not followed, so 301 is not a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the first value of a header, whatever the case of its name. A value that is not UTF-8 is `None`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// Returns the body as text. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}
