//! Many transactions over one request: lines in, lines out, in the same order, while both flow.

use super::Shared;
use super::problem::Problem;
use crate::api::JSON_LINES;
use crate::auth::Identity;
use crate::lines::{self, ENVELOPE_BYTES_MAX, Line, NotDone, Parsed};
use crate::transaction::{Denial, Reply};
use axum::Extension;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::future::Either;
use futures::{Stream, StreamExt, stream};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Requests of one batch that are under way at once: less than a service's queue holds, so that a batch by itself is
/// never denied for want of room.
pub const BATCH_IN_FLIGHT_MAX: usize = 256;

pub(super) async fn transact(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(service): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let lines = Splitter::new(body.into_data_stream(), shared.config.server.limits.body_deadline).into_stream();
    let by = Arc::new(identity);
    let service: Arc<str> = service.into();
    let answers = lines
        .map(move |line| match line {
            Err(broken) => Either::Left(std::future::ready(Err(broken))),
            Ok(line) => {
                let (shared, by, service) = (Arc::clone(&shared), Arc::clone(&by), Arc::clone(&service));
                let parsed = parse(line, &by);
                Either::Right(async move { Ok(perform(&shared, &by, &service, parsed).await) })
            }
        })
        .buffered(BATCH_IN_FLIGHT_MAX)
        .ready_chunks(BATCH_IN_FLIGHT_MAX)
        .map(|answers| {
            let mut text = Vec::with_capacity(answers.len() * 96);
            for answer in answers {
                let (id, result) = answer?;
                lines::print(&mut text, id, &result, true)?;
            }
            Ok::<_, io::Error>(Bytes::from(text))
        });
    Ok(([(CONTENT_TYPE, JSON_LINES)], Body::from_stream(answers)).into_response())
}

fn parse(line: Line, by: &Identity) -> Parsed {
    let number = line.number;
    let (user, request) = lines::parse_envelope(line, &by.user)?;
    if user != by.user {
        let reason = format!("its user is '{user}', and the token is that of '{}'; leave \"user\" out", by.user);
        return Err((request.id, NotDone::Envelope { line: number, reason }));
    }
    Ok((user, request))
}

async fn perform(
    shared: &Shared,
    by: &Identity,
    service: &str,
    parsed: Parsed,
) -> (Option<String>, Result<Reply, NotDone>) {
    let (_, request) = match parsed {
        Ok(parsed) => parsed,
        Err((id, not_done)) => return (id, Err(not_done)),
    };
    let id = request.id.clone();
    let start = Instant::now();
    let result: Result<Reply, Denial> = shared.host.request_as(by, service, request).await;
    let outcome = result.as_ref().map_or(crate::transaction::Outcome::Denied, |reply| reply.answer.outcome());
    shared.metrics.answered(service, outcome, start.elapsed());
    (id, result.map_err(NotDone::Denied))
}

/// Cuts a body into lines. It ends with an error if the body breaks off or stands still, so that the last line is never
/// taken for whole when it is not.
struct Splitter {
    body: BodyDataStream,
    buffer: BytesMut,
    /// Bytes of a line that is too long, which are gone.
    dropped: usize,
    number: u64,
    is_over: bool,
    idle_max: std::time::Duration,
}

impl Splitter {
    fn new(body: BodyDataStream, idle_max: std::time::Duration) -> Self {
        Self { body, buffer: BytesMut::new(), dropped: 0, number: 0, is_over: false, idle_max }
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<Line>> {
        stream::unfold(self, |mut splitter| async move { splitter.next().await.map(|line| (line, splitter)) })
    }

    async fn next(&mut self) -> Option<io::Result<Line>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(searched + end + 1);
                line.truncate(searched + end);
                return Some(Ok(self.line(&line)));
            }
            if self.is_over {
                if self.buffer.is_empty() && self.dropped == 0 {
                    return None;
                }
                let line = self.buffer.split();
                return Some(Ok(self.line(&line)));
            }
            if self.buffer.len() > ENVELOPE_BYTES_MAX {
                self.dropped += self.buffer.len();
                self.buffer.clear();
            }
            searched = self.buffer.len();
            match tokio::time::timeout(self.idle_max, self.body.next()).await {
                Err(_) => return Some(Err(self.broken(&"no line came in time"))),
                Ok(None) => self.is_over = true,
                Ok(Some(Err(error))) => return Some(Err(self.broken(&error))),
                Ok(Some(Ok(data))) => self.buffer.extend_from_slice(&data),
            }
        }
    }

    fn line(&mut self, bytes: &[u8]) -> Line {
        self.number += 1;
        let bytes_all = std::mem::take(&mut self.dropped) + bytes.len();
        let bytes = if bytes_all > ENVELOPE_BYTES_MAX { Err(bytes_all) } else { Ok(bytes.to_vec()) };
        Line { number: self.number, bytes }
    }

    fn broken(&mut self, error: &dyn std::fmt::Display) -> io::Error {
        self.is_over = true;
        self.buffer.clear();
        self.dropped = 0;
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the batch broke off: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn split(pieces: Vec<Vec<u8>>) -> Vec<Result<Vec<u8>, usize>> {
        let pieces: Vec<io::Result<Bytes>> = pieces.into_iter().map(|piece| Ok(Bytes::from(piece))).collect();
        let body = Body::from_stream(stream::iter(pieces)).into_data_stream();
        let lines = Splitter::new(body, Duration::from_secs(60)).into_stream().collect::<Vec<_>>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(lines).into_iter().map(|line| line.expect("whole").bytes).collect()
    }

    #[test]
    fn a_line_that_is_too_long_is_measured_and_not_held() {
        let long = vec![b'x'; ENVELOPE_BYTES_MAX];
        let pieces = vec![long.clone(), b"y\nshort\n".to_vec(), b"last".to_vec()];
        assert_eq!(split(pieces), [Err(ENVELOPE_BYTES_MAX + 1), Ok(b"short".to_vec()), Ok(b"last".to_vec())]);
        assert_eq!(split(vec![long.clone(), b"\n".to_vec()]), [Ok(long)]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_come(
            text in prop::collection::vec(prop::sample::select(vec![b'a', b'\n', b'\r', 0xff]), 0..60),
            cuts in prop::collection::vec(1usize..7, 1..40),
        ) {
            let mut pieces = Vec::new();
            let mut rest = &text[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            let mut expected: Vec<Result<Vec<u8>, usize>> = text.split(|byte| *byte == b'\n').map(|line| Ok(line.to_vec())).collect();
            if text.is_empty() || text.ends_with(b"\n") { expected.pop(); }
            prop_assert_eq!(split(pieces), expected);
        }
    }
}
