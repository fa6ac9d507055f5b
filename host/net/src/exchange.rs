//! Request and response over one connection, which is closed afterwards.
//!
//! The caller's task drives the connection, not a task of its own: a call that is dropped closes its connection.

use crate::client::Until;
use crate::traffic::{Counted, Traffic};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lifeboat_api::call::{CALL_BODY_BYTES_MAX, CALL_FIELDS_BYTES_MAX, CallError, CallResponse, Field};
use lifeboat_api::text::{chain, of_system};
use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;
use tokio_rustls::rustls;

/// The most headers, or trailers, of a response.
pub const RESPONSE_FIELDS_MAX: usize = 1_000;

/// The most bytes of the head of a response on the wire: its status line, its headers, and the bytes between them. It
/// also bounds the buffer that a connection reads into.
pub const HEAD_BYTES_MAX: usize = CALL_FIELDS_BYTES_MAX + 16 * 1024;

/// The longest response body that is given room before it arrives. A server may announce one and send nothing.
const BODY_ROOM_BYTES: u64 = 64 * 1024;

/// The time limits of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The time until the headers of the response are whole.
    pub(crate) head: Until,
    /// The time between two parts of its body.
    pub(crate) between: Duration,
    /// The time until the response is whole.
    pub(crate) whole: Until,
}

/// Sends a request and returns the whole response.
pub(crate) async fn exchange<T>(
    stream: T,
    mut request: Request<Full<Bytes>>,
    traffic: &Arc<Traffic>,
    patience: Patience,
) -> Result<CallResponse, CallError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let io = TokioIo::new(Counted::new(stream, Arc::clone(traffic)));
    let mut builder = http1::Builder::new();
    builder.max_headers(RESPONSE_FIELDS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
    let of_hyper = |error: hyper::Error| call_error(&error, traffic);
    let (mut sender, connection) = builder.handshake(io).await.map_err(of_hyper)?;

    let counter = Arc::clone(traffic);
    hyper::ext::on_informational(&mut request, move |_| counter.count_interim());
    let response = async {
        let head = timeout_at(patience.head.at, sender.send_request(request)).await;
        let response = head.map_err(|_| patience.head.response_timeout())?;
        let response = response.map_err(of_hyper)?;
        traffic.end_head()?;
        whole(response, patience, traffic).await
    };

    let (mut connection, mut response) = (pin!(connection), pin!(response));
    // The connection ends by itself when the response has arrived, and hands its error to the response if it can.
    let failure = tokio::select! {
        biased;
        result = &mut response => return result,
        ended = &mut connection => ended.err(),
    };
    match (response.await, failure) {
        (Err(CallError::ResponseTimeout { limit_ms }), _) => Err(CallError::ResponseTimeout { limit_ms }),
        (Err(_), Some(error)) => Err(of_hyper(error)),
        (result, _) => result,
    }
}

/// Reads the response to its end.
async fn whole(
    response: http::Response<Incoming>,
    patience: Patience,
    traffic: &Traffic,
) -> Result<CallResponse, CallError> {
    let (head, mut incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let reason = "the server switches to another protocol (status 101), which no request asks for".into();
        return Err(CallError::Protocol { reason });
    }
    let headers = fields(&head.headers)?;
    // The length that follows: a response to HEAD announces one that does not.
    let announced_bytes = incoming.size_hint().lower();
    if announced_bytes > CALL_BODY_BYTES_MAX as u64 {
        return Err(body_too_long());
    }
    let mut body = Vec::with_capacity(announced_bytes.min(BODY_ROOM_BYTES) as usize);
    let mut trailers = Vec::new();
    loop {
        let until = Until::after(patience.between).or_earlier(patience.whole);
        let frame = timeout_at(until.at, incoming.frame()).await.map_err(|_| until.response_timeout())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| call_error(&error, traffic))?;
        match frame.into_data() {
            Ok(data) if data.len() > CALL_BODY_BYTES_MAX - body.len() => return Err(body_too_long()),
            // A copy: the data is a part of a buffer that would be retained.
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => {
                if let Some(received) = frame.trailers_ref() {
                    trailers = fields(received)?;
                }
            }
        }
    }
    body.shrink_to_fit();
    Ok(CallResponse { status: head.status.as_u16(), headers, body: body.into(), trailers })
}

fn fields(map: &HeaderMap) -> Result<Vec<Field>, CallError> {
    let bytes = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    if bytes > CALL_FIELDS_BYTES_MAX || map.len() > RESPONSE_FIELDS_MAX {
        return Err(headers_too_long());
    }
    // A copy: the values are parts of a buffer that would be retained.
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| Field {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    Ok(map.iter().map(field).collect())
}

fn headers_too_long() -> CallError {
    CallError::ResponseHeaders { limit_bytes: CALL_FIELDS_BYTES_MAX as u64 }
}

fn body_too_long() -> CallError {
    CallError::ResponseBody { limit_bytes: CALL_BODY_BYTES_MAX as u64 }
}

/// Returns what an error of a connection means for a call.
fn call_error(error: &hyper::Error, traffic: &Traffic) -> CallError {
    if let Some(exceeded) = traffic.exceeded() {
        return exceeded;
    }
    if error.is_parse_too_large() {
        return headers_too_long();
    }
    if error.is_parse() {
        return CallError::Protocol { reason: chain(error) };
    }
    if error.is_incomplete_message() {
        return cut(traffic);
    }
    if let Some(source) = io_error(error) {
        return of_io(source, traffic);
    }
    if error.is_canceled() || error.is_closed() {
        return CallError::ConnectionTerminated { reason: chain(error) };
    }
    CallError::Protocol { reason: chain(error) }
}

/// Returns the error of a response that ended early.
fn cut(traffic: &Traffic) -> CallError {
    if traffic.received() == 0 {
        return CallError::ConnectionTerminated {
            reason: "the server closed the connection and sent nothing".to_owned(),
        };
    }
    let part = if traffic.has_head() { "body" } else { "headers" };
    CallError::ResponseIncomplete { reason: format!("the connection ended within the {part}") }
}

fn of_io(error: &io::Error, traffic: &Traffic) -> CallError {
    if let Some(error) = tls_error(error) {
        return of_tls(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => cut(traffic),
        // hyper's errors about chunks and trailers have no type of their own.
        io::ErrorKind::InvalidData if error.to_string().starts_with("chunk trailers") => headers_too_long(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => CallError::Protocol { reason: of_system(error) },
        _ => CallError::ConnectionTerminated { reason: of_system(error) },
    }
}

/// Returns the error of the operating system, of TLS or of the decoder below an error of hyper.
fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref() {
            return Some(error);
        }
        source = cause.source();
    }
    None
}

/// Returns the error of TLS within an error of its stream.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Returns what an error of TLS means for a call.
pub(crate) fn of_tls(error: &rustls::Error) -> CallError {
    let reason = error.to_string();
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            CallError::TlsCertificate { reason }
        }
        _ => CallError::TlsProtocol { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::runtime::{Builder, Runtime};

    const RESPONSES: [&str; 5] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: a\r\n\r\n\
         2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\na: 1\r\n\r\n",
        "HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nuntil the end",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 99\r\n\r\n",
    ];

    /// Returns what a call makes of these bytes, which arrive in parts of that length before the connection ends.
    async fn answered(bytes: &[u8], part_bytes: usize) -> Result<CallResponse, CallError> {
        let (client, mut server) = duplex(64 * 1024);
        let traffic = Arc::new(Traffic::default());
        let forever = Until::after(Duration::MAX);
        let patience = Patience { head: forever, between: Duration::MAX, whole: forever };
        let serve = async move {
            server.read_u8().await.expect("a request");
            for part in bytes.chunks(part_bytes) {
                // The client may have seen enough.
                let _ = server.write_all(part).await;
                tokio::task::yield_now().await;
            }
        };
        let request = Request::new(Full::new(Bytes::new()));
        tokio::join!(exchange(client, request, &traffic, patience), serve).0
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().build().expect("a runtime")
    }

    /// A response with up to four bytes replaced, and with a part removed or repeated.
    fn damaged() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'0'), Just(b'f')];
        let replaced = proptest::collection::vec((any::<prop::sample::Index>(), byte), 0..4);
        let range = (any::<prop::sample::Index>(), 0..16_usize, 0..3_usize);
        (prop::sample::select(&RESPONSES[..]), replaced, range).prop_map(|(text, replaced, (at, length, times))| {
            let mut bytes = text.as_bytes().to_vec();
            for (index, byte) in replaced {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let start = at.index(bytes.len());
            let end = bytes.len().min(start + length);
            let part = bytes[start..end].repeat(times);
            bytes.splice(start..end, part);
            bytes
        })
    }

    proptest! {
        #[test]
        fn a_damaged_response_is_a_response_or_an_error(bytes in damaged(), part_bytes in 1..64_usize) {
            let first = runtime().block_on(answered(&bytes, part_bytes));
            let whole = runtime().block_on(answered(&bytes, bytes.len().max(1)));
            match (first, whole) {
                (Ok(first), Ok(whole)) => prop_assert_eq!(first, whole),
                (Err(first), Err(whole)) => {
                    for error in [first, whole] {
                        let is_expected = matches!(
                            error,
                            CallError::Protocol { .. }
                                | CallError::ResponseIncomplete { .. }
                                | CallError::ResponseBody { .. }
                                | CallError::ConnectionTerminated { .. }
                        );
                        prop_assert!(is_expected, "{:?}", error);
                    }
                }
                (first, whole) => prop_assert!(false, "{:?}, but {:?}", first, whole),
            }
        }

        #[test]
        fn garbage_is_no_response(bytes in proptest::collection::vec(any::<u8>(), 0..200), part_bytes in 1..64_usize) {
            let result = runtime().block_on(answered(&bytes, part_bytes));
            prop_assert!(result.is_err() || bytes.starts_with(b"HTTP/1."), "{:?}", result);
        }
    }
}
