//! The request on the wire, made from what a service may do and what its guest asks for.

use crate::allow::AllowList;
use crate::origin::Origin;
use crate::roots::Roots;
use crate::secret::Secrets;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use lifeboat_api::call::{CALL_BODY_BYTES_MAX, CALL_FIELDS_BYTES_MAX, CallError, CallRequest, FORBIDDEN_HEADERS};
use lifeboat_api::http::IDEMPOTENCY_KEY_HEADER;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_api::text::{SHOWN_CHARS_MAX, shortened};

/// The most bytes of a method.
pub const METHOD_BYTES_MAX: usize = 64;

/// The most bytes of the path and the query of a request.
pub const PATH_BYTES_MAX: usize = 32 * 1024;

/// The most headers of a request.
pub const REQUEST_FIELDS_MAX: usize = 1_000;

/// What a service may do on the network. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// The addresses that it may call.
    pub allow: AllowList,
    /// The secrets that it may send, to any of these addresses.
    pub secrets: Secrets,
    /// The certificate authorities that its calls trust instead of the client's.
    pub roots: Option<Roots>,
}

impl Grant {
    /// Returns the address of a request that could be sent. Nothing is sent, and no name is resolved.
    ///
    /// # Errors
    /// [`CallError::Denied`] if the address is not on the allow-list. [`CallError::InvalidRequest`] if the request
    /// cannot be sent as it is: `CONNECT` and `TRACE`, forbidden headers, another `Content-Length` than that of the
    /// body, unknown secrets, a path that does not begin with `/`, anything out of bounds.
    pub fn check(&self, request: &CallRequest) -> Result<Origin, CallError> {
        Prepared::new(self, request, "").map(|prepared| prepared.origin)
    }
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) origin: Origin,
    /// Whether the connection may go to an address that is not public.
    pub(crate) is_private: bool,
    pub(crate) request: Request<Full<Bytes>>,
}

impl Prepared {
    pub(crate) fn new(grant: &Grant, request: &CallRequest, key: &str) -> Result<Self, CallError> {
        let origin =
            Origin::new(request.scheme, &request.authority).map_err(|error| invalid_request(error.to_string()))?;
        let Some(allowed) = grant.allow.find(&origin) else {
            return Err(CallError::Denied { target: origin.to_string() });
        };
        let is_private = allowed.is_private();
        let method = method(&request.method)?;
        let uri = uri(&request.path_with_query)?;
        let headers = headers(grant, request, &origin, &method, key)?;
        let mut prepared = Request::new(Full::new(request.body.clone()));
        *prepared.method_mut() = method;
        *prepared.uri_mut() = uri;
        *prepared.headers_mut() = headers;
        Ok(Self { origin, is_private, request: prepared })
    }
}

fn invalid_request(reason: impl Into<String>) -> CallError {
    CallError::InvalidRequest { reason: reason.into() }
}

fn method(text: &str) -> Result<Method, CallError> {
    let shown = || shortened(text, SHOWN_CHARS_MAX);
    if text.len() > METHOD_BYTES_MAX {
        let reason = format!("the method '{}' is {} bytes long, over {METHOD_BYTES_MAX}", shown(), text.len());
        return Err(invalid_request(reason));
    }
    if ["CONNECT", "TRACE"].iter().any(|refused| text.eq_ignore_ascii_case(refused)) {
        return Err(invalid_request(format!("the method {} is not allowed; use another one", shown())));
    }
    Method::from_bytes(text.as_bytes())
        .map_err(|_| invalid_request(format!("'{}' is not a method; write one such as GET", shown())))
}

fn uri(path: &str) -> Result<Uri, CallError> {
    if path.len() > PATH_BYTES_MAX {
        let reason = format!("path and query are {} bytes long, over {}", path.len(), ByteCount(PATH_BYTES_MAX as u64));
        return Err(invalid_request(reason));
    }
    let shown = || shortened(path, SHOWN_CHARS_MAX);
    let path = match path.bytes().next() {
        None => "/".to_owned(),
        Some(b'?') => format!("/{path}"),
        Some(b'/') => path.to_owned(),
        Some(_) => return Err(invalid_request(format!("the path '{}' does not begin with '/'", shown()))),
    };
    // The parser would cut a fragment off, and accepts bytes beyond ASCII.
    if path.bytes().any(|byte| byte == b'#' || !byte.is_ascii_graphic()) {
        let reason = format!("the path '{}' has a '#', a space, or no ASCII; encode them as %XX", shown());
        return Err(invalid_request(reason));
    }
    PathAndQuery::try_from(path).map(Uri::from).map_err(|error| {
        invalid_request(format!("the path '{}' cannot be sent ({error}); encode other characters as %XX", shown()))
    })
}

fn headers(
    grant: &Grant,
    request: &CallRequest,
    origin: &Origin,
    method: &Method,
    key: &str,
) -> Result<HeaderMap, CallError> {
    let body_bytes = request.body.len();
    if body_bytes > CALL_BODY_BYTES_MAX {
        let limit = ByteCount(CALL_BODY_BYTES_MAX as u64);
        return Err(invalid_request(format!("the body is {body_bytes} bytes long, over {limit}")));
    }
    if request.headers.len() > REQUEST_FIELDS_MAX {
        let reason = format!("the request has {} headers, over {REQUEST_FIELDS_MAX}", request.headers.len());
        return Err(invalid_request(reason));
    }
    let mut headers = HeaderMap::new();
    headers.insert(HOST, of_host(&origin.authority())?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut fields_bytes = 0;
    for field in &request.headers {
        let shown = || shortened(&field.name, SHOWN_CHARS_MAX);
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| invalid_request(format!("'{}' is not the name of a header", shown())))?;
        if FORBIDDEN_HEADERS.contains(&name.as_str()) {
            return Err(invalid_request(format!("the header '{name}' belongs to the host; leave it out")));
        }
        let filled = grant.secrets.fill(&field.value);
        let filled = filled.map_err(|reason| invalid_request(format!("the header '{name}': {reason}")))?;
        let has_secret = filled.is_some();
        let value = filled.unwrap_or_else(|| field.value.clone());
        fields_bytes += name.as_str().len() + value.len();
        let mut value = HeaderValue::from_maybe_shared(value).map_err(|_| {
            invalid_request(format!("the value of the header '{name}' has a control character or a line end"))
        })?;
        value.set_sensitive(has_secret);
        if name != CONTENT_LENGTH {
            headers.append(name, value);
        } else if !is_length(&value, body_bytes) {
            let shown = shortened(&String::from_utf8_lossy(&field.value), SHOWN_CHARS_MAX);
            let reason = format!("content-length is '{shown}', but the body has {body_bytes} bytes; leave it out");
            return Err(invalid_request(reason));
        }
    }
    if fields_bytes > CALL_FIELDS_BYTES_MAX {
        let limit = ByteCount(CALL_FIELDS_BYTES_MAX as u64);
        return Err(invalid_request(format!("the headers have {fields_bytes} bytes, over {limit}")));
    }
    // Without a body, only methods that usually have one need a length.
    if body_bytes > 0 || [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body_bytes));
    }
    if !headers.contains_key(IDEMPOTENCY_KEY_HEADER) {
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY_HEADER), of_host(key)?);
    }
    Ok(headers)
}

/// Returns whether a `Content-Length` is this one.
fn is_length(value: &HeaderValue, body_bytes: usize) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse() == Ok(body_bytes)
}

/// Returns a header value that the host made.
fn of_host(text: &str) -> Result<HeaderValue, CallError> {
    HeaderValue::from_str(text).map_err(|_| {
        let shown = shortened(text, SHOWN_CHARS_MAX);
        CallError::Internal { reason: format!("'{shown}' cannot be sent in a header; report this as a defect") }
    })
}
