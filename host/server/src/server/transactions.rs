//! Transactions, queries, and look-ups of their answers.

use super::connections::Connection;
use super::problem::{self, Problem};
use super::{Shared, body};
use axum::Extension;
use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use lifeboat_api::access::Grant;
use lifeboat_api::http::{IDEMPOTENCY_KEY_HEADER, TransactionState};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Answer, Cause, Denial, Kind, Outcome, Reply, Request, RequestError};
use lifeboat_host::auth::Identity;
use lifeboat_host::budget::{ANSWER_BYTES_MAX, Account, Permit, ROOM_WAIT_MAX};
use lifeboat_host::service::{Answered, Pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The longest time that a look-up waits for the service before it returns `pending`.
pub const LOOK_UP_MAX: Duration = Duration::from_secs(2);

pub(super) async fn transact(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(service): Path<String>,
    request: axum::extract::Request,
) -> Result<Response, Problem> {
    // This is not an extractor, which would copy all headers.
    let id = idempotency_key(request.headers()).map_err(|problem| problem.with_outcome(Outcome::Denied))?;
    perform(&shared, &identity, &connection, &service, id, Kind::Transaction, request.into_body()).await
}

pub(super) async fn query(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(service): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    perform(&shared, &identity, &connection, &service, None, Kind::Query, body).await
}

async fn perform(
    shared: &Arc<Shared>,
    identity: &Identity,
    connection: &Connection,
    service: &str,
    id: Option<String>,
    kind: Kind,
    body: Body,
) -> Result<Response, Problem> {
    let start = Instant::now();
    let account = &shared.budgets.account(&connection.budget, &identity.user);
    let denied = |problem: Problem| {
        shared.metrics.answered(service, Outcome::Denied, start.elapsed());
        problem.with_outcome(Outcome::Denied)
    };
    let length = usize::try_from(body.size_hint().upper().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let head_bytes_max = usize::try_from(shared.config.server.limits.header_bytes_max).unwrap_or(usize::MAX);
    let received = match body::counted(length.min(shared.body_bytes_max), head_bytes_max) {
        0 => None,
        bytes => {
            let permit = account.take_received_within(bytes, ROOM_WAIT_MAX).await;
            Some(Arc::new(permit.ok_or_else(|| denied(no_memory(service)))?))
        }
    };
    let receiving = connection.receiving();
    let read = body::read(body, shared.body_bytes_max, shared.config.server.limits.body_deadline).await;
    let body = read.map_err(denied)?;
    drop(receiving);
    let (has_id, request) = (id.is_some(), Request { id, body, kind });
    let waits_until = Instant::now() + ROOM_WAIT_MAX;
    loop {
        let in_flight = InFlight::begin(shared, identity, account, service, request.clone(), received.clone())?;
        let is_operator = || shared.host.authorise(identity, service, Grant::Operate).is_ok();
        match in_flight.await {
            // The request was not executed. It is repeated once there is room for its largest answer.
            Err(RequestError::Denied(denial @ Denial::NoMemory { .. })) => {
                account.unblock();
                let left = waits_until.saturating_duration_since(Instant::now());
                if left.is_zero() || tokio::time::timeout(left, account.has_room()).await.is_err() {
                    return Err(denied(denial.into()));
                }
            }
            answered => return Ok(problem::answer(disclosed(answered?, is_operator), has_id)),
        }
    }
}

/// Returns the answer as its user may see it: an operator of the service sees all that is known about a failure. The
/// grant is checked only if it matters.
pub(super) fn disclosed(answered: Answered, is_operator: impl FnOnce() -> bool) -> Answered {
    match &answered.reply.answer {
        Answer::Failed(Cause::Explained { .. }) if is_operator() => {
            let Answered { reply, permit } = answered;
            Answered { reply: Reply { answer: reply.answer.disclosed(), ..reply }, permit }
        }
        _ => answered,
    }
}

/// Returns the problem of a request for which the budgets have no room.
pub(super) fn no_memory(service: &str) -> Problem {
    let text = format!(
        "no memory for the request to service '{}': requests under way and unread answers take all the memory that you \
         or the host may use for them; read the earlier answers, and try again",
        lifeboat_api::text::Printable(service)
    );
    Problem::later("answers_unread", text)
}

/// A request in flight. It is counted when it ends, even if nobody waits for its answer any more.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    since: Instant,
    /// The pending answer, or `None` once the request has ended.
    pending: Option<Pending>,
    /// The permit for the request's body.
    received: Option<Arc<Permit>>,
}

impl InFlight {
    /// Puts a request into the queue of its service.
    ///
    /// # Errors
    /// The denial, if the request was not queued. It is counted.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        identity: &Identity,
        account: &Arc<Account>,
        service: &str,
        request: Request,
        received: Option<Arc<Permit>>,
    ) -> Result<Self, Denial> {
        let since = Instant::now();
        let begun = shared.host.begin_within(identity, service, request, Some(Arc::clone(account)));
        let pending = begun.inspect_err(|_| shared.metrics.answered(service, Outcome::Denied, since.elapsed()))?;
        Ok(Self { shared: Arc::clone(shared), since, pending: Some(pending), received })
    }
}

impl Future for InFlight {
    type Output = Result<Answered, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, since, pending, .. } = &mut *self;
        let under_way = pending.as_mut().expect("it is not polled after its end");
        let answered = ready!(under_way.poll_answered(context));
        count(shared, under_way.service(), *since, answered.as_ref().map(|answered| &answered.reply));
        *pending = None;
        Poll::Ready(answered)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // The client has disconnected, but the service executes the request all the same.
        let (Some(mut pending), Ok(runtime)) = (self.pending.take(), Handle::try_current()) else { return };
        let (shared, since, received) = (Arc::clone(&self.shared), self.since, self.received.take());
        runtime.spawn(async move {
            let answered = (&mut pending).await;
            count(&shared, pending.service(), since, answered.as_ref());
            drop(received);
        });
    }
}

/// Counts an answer, unless its outcome is unknown or the request will be repeated.
fn count(shared: &Shared, service: &Name, since: Instant, answered: Result<&Reply, &RequestError>) {
    let outcome = match answered {
        Ok(reply) => reply.answer.outcome(),
        Err(RequestError::OutcomeUnknown(_) | RequestError::Denied(Denial::NoMemory { .. })) => return,
        Err(_) => Outcome::Denied,
    };
    shared.metrics.answered(service, outcome, since.elapsed());
}

/// Returns the recorded answer to a transaction, or a response that there is none or none yet.
pub(super) async fn look_up(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path((service, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let account = shared.budgets.account(&connection.budget, &identity.user);
    let permit = account.take_within(ANSWER_BYTES_MAX, ROOM_WAIT_MAX).await;
    let permit = permit.ok_or_else(|| no_memory(&service))?;
    let finding = shared.host.find_transaction(&identity, &service, &id);
    let Ok(found) = tokio::time::timeout(LOOK_UP_MAX, finding).await else {
        let state = TransactionState {
            state: "pending".into(),
            detail:
                "the service is busy with earlier requests: whether this transaction is in its queue is known when \
                 they are done; ask again"
                    .into(),
        };
        return Ok((StatusCode::ACCEPTED, Json(state)).into_response());
    };
    // A failed look-up shows nothing about the transaction; in particular, it does not show that it had no effect.
    let found = found.map_err(|error| Problem::from(error).without_outcome());
    match found? {
        Some(reply) => {
            let is_operator = || shared.host.authorise(&identity, &service, Grant::Operate).is_ok();
            Ok(problem::answer(disclosed(Answered::shrunk(reply, permit), is_operator), true))
        }
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "unknown",
            format!(
                "service '{service}' has no answer to your transaction '{}': it was never executed, or is beyond the \
                 deduplication window",
                lifeboat_api::text::Printable(&id)
            ),
        )),
    }
}

/// Returns the regular expression of an `Idempotency-Key`: an id in double quotes with escapes, or a bare id.
pub(super) fn key_pattern() -> String {
    // The characters of a quoted id, and those without the dot. Then the same for a bare id, which neither begins nor
    // ends with a space.
    const QUOTED: &str = r#"([ !#-\[\]-~]|\\["\\])"#;
    const QUOTED_NO_DOT: &str = r#"([ !#-\-/-\[\]-~]|\\["\\])"#;
    // The ids '.' and '..' are excluded, since no URL can contain them.
    let quoted =
        format!(r#""({QUOTED_NO_DOT}{QUOTED}{{0,127}}|\.({QUOTED_NO_DOT}{QUOTED}{{0,126}}|\.{QUOTED}{{1,126}}))""#);
    let dotted = r"\.([!-\-/-~]|\.[ -~]{0,125}[!-~]|[ -\-/-~][ -~]{0,125}[!-~])";
    let bare = format!(r"[!#-\-/-~]([ -~]{{0,126}}[!-~])?|{dotted}");
    format!("^({quoted}|{bare})$")
}

/// Returns the id of a transaction, if the request has one: a string of RFC 8941 in quotes, or the same without quotes.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |reason: &str| {
        Problem::bad_request(
            "idempotency_key",
            format!("the header Idempotency-Key {reason}; write an id in double quotes, such as \"order-17\""),
        )
    };
    if values.next().is_some() {
        return Err(wrong("is present more than once"));
    }
    let text = value.to_str().ok().filter(|text| !text.contains('\t'));
    let text = text.ok_or_else(|| wrong("is not visible ASCII"))?.trim();
    let id = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(quoted) => {
            let inner = quoted.strip_suffix('"').ok_or_else(|| wrong("has no closing quote"))?;
            let mut id = String::with_capacity(inner.len());
            let mut characters = inner.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\\' => match characters.next() {
                        Some(escaped @ ('"' | '\\')) => id.push(escaped),
                        _ => return Err(wrong("has a backslash before something other than a quote or a backslash")),
                    },
                    '"' => return Err(wrong("continues after its closing quote")),
                    character => id.push(character),
                }
            }
            id
        }
    };
    if id.is_empty() {
        return Err(wrong("is empty"));
    }
    Ok(Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn key(value: &[u8]) -> Option<Option<String>> {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY_HEADER, HeaderValue::from_bytes(value).expect("a value"));
        idempotency_key(&headers).ok()
    }

    #[test]
    fn a_key_may_be_quoted_or_not() {
        let id = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(idempotency_key(&HeaderMap::new()).ok(), Some(None));
        assert_eq!(key(b"\"order-17\""), id("order-17"));
        assert_eq!(key(b"order-17"), id("order-17"));
        assert_eq!(key(br#""a\"b\\c""#), id(r#"a"b\c"#));
    }

    #[test]
    fn a_malformed_key_is_refused() {
        for wrong in [&b""[..], b"\"\"", b"\"a", b"\"a\"b\"", br#""a\n""#, b"\xff", b"a\tb"] {
            assert_eq!(key(wrong), None, "{wrong:?}");
        }
    }
}
