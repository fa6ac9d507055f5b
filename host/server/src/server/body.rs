//! Request bodies, read within limits of length and time.

use super::problem::Problem;
use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use lifeboat_api::size::Bytes as ByteCount;
use std::time::Duration;

/// The approximate number of bytes that a connection reads at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// The longest body that is copied out of the connection's buffer, in bytes.
///
/// A body that is a slice of the buffer would hold all of it as long as the service remembers the transaction. The
/// connection would then need a new buffer for its next request.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// The bound of a body of unknown length up to which its buffer grows by doubling, in bytes.
const DOUBLED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Returns what a body of this length takes of the budgets, in bytes.
///
/// A copied body takes nothing. Any other takes at least a connection's buffer, of which it may be a slice, and which
/// may be as long as a head.
pub(super) fn counted(length: usize, head_bytes_max: usize) -> usize {
    if length <= COPIED_BYTES_MAX { 0 } else { length.max(BUFFER_BYTES).max(head_bytes_max) }
}

/// Reads a whole body of at most `bytes_max` within `time_max`.
pub(super) async fn read(body: Body, bytes_max: usize, time_max: Duration) -> Result<Bytes, Problem> {
    let reading = collect(body, bytes_max);
    match tokio::time::timeout(time_max, reading).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("the body did not arrive within {} ms; send it again, and faster", time_max.as_millis()),
        )),
    }
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is longer than {}; send less", ByteCount(bytes_max as u64)),
        )
    };
    // A buffer that doubles would take twice as much as the budgets count. For a long body of unknown length it begins
    // with the greatest length: what is not written takes addresses, and no memory.
    let unknown = if bytes_max > DOUBLED_BYTES_MAX { bytes_max as u64 } else { 0 };
    let length = usize::try_from(body.size_hint().upper().unwrap_or(unknown)).unwrap_or(usize::MAX).min(bytes_max);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::bad_request("body_broken", format!("the body is incomplete: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = first.len() + rest.len() + data.len();
        if bytes > bytes_max {
            return Err(too_large());
        }
        // Most bodies arrive in one piece.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(length);
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(match (rest.is_empty(), first.len()) {
        (false, _) => rest.freeze(),
        (true, ..=COPIED_BYTES_MAX) => Bytes::copy_from_slice(&first),
        (true, _) => first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn pieces(pieces: &[&'static [u8]]) -> Body {
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let read = |body: Body| read(body, 6, Duration::from_secs(60));
        assert_eq!(read(Body::empty()).await.expect("short"), "");
        assert_eq!(read(pieces(&[b"abcdef"])).await.expect("short"), "abcdef");
        assert_eq!(read(pieces(&[b"ab", b"", b"cd", b"ef"])).await.expect("short"), "abcdef");
        assert!(read(pieces(&[b"ab", b"cdefg"])).await.is_err());
        assert!(read(Body::from("abcdefg")).await.is_err());
    }
}
