//! Answers and problems in HTTP. This is the only module that maps outcomes and denials to status codes.

use super::lists::IsCounted;
use super::pieces::{Pieces, WHOLE_BYTES_MAX};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use lifeboat_api::http::{
    self, FAILOVER_HEADER, FUEL_USED_HEADER, OUTCOME_HEADER, PROBLEM_JSON, REPEATED_HEADER, SEQUENCE_HEADER,
    TRANSACTION_ID_HEADER, VM_HEADER,
};
use lifeboat_api::text::chain;
use lifeboat_api::transaction::{Answer, Denial, Outcome, OutcomeUnknown, RequestError};
use lifeboat_host::auth::{AccountError, LogInError, PasswordError};
use lifeboat_host::budget::{self, Permit};
use lifeboat_host::catalog::CatalogError;
use lifeboat_host::data::DataError;
use lifeboat_host::files::UnpackError;
use lifeboat_host::service::{Answered, LaunchError};
use lifeboat_vm::engine::EngineError;
use lifeboat_vm::workload::LoadError;
use std::fmt::Write as _;
use std::time::Duration;

/// The `Retry-After` of a refusal that is temporary.
const RETRY: Duration = Duration::from_secs(1);

/// The `Retry-After` while the host is under pressure. The mean over a minute does not fall within a second.
const PRESSURE_RETRY: Duration = Duration::from_secs(10);

/// The maximum length of a problem's text that does not come from a guest, in bytes. The text may contain what a client
/// sent, and no budget counts it.
pub const DETAIL_BYTES_MAX: usize = 4 * 1024;

/// The capacity for headers with which an answer to a transaction starts.
const HEADERS_RESERVED: usize = 12;

// Static names are neither parsed nor copied for each answer.
const OUTCOME: HeaderName = HeaderName::from_static(OUTCOME_HEADER);
const VM: HeaderName = HeaderName::from_static(VM_HEADER);
const SEQUENCE: HeaderName = HeaderName::from_static(SEQUENCE_HEADER);
const FUEL_USED: HeaderName = HeaderName::from_static(FUEL_USED_HEADER);
const TRANSACTION_ID: HeaderName = HeaderName::from_static(TRANSACTION_ID_HEADER);
const REPEATED: HeaderName = HeaderName::from_static(REPEATED_HEADER);
const FAILOVER: HeaderName = HeaderName::from_static(FAILOVER_HEADER);

/// The reason why a request was not carried out. The code is stable; the text is for people.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    outcome: Option<Outcome>,
    retry_after: Option<Duration>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), outcome: None, retry_after: None }
    }

    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Creates the problem of a missing service. The request is no transaction, and therefore has no outcome.
    pub(super) fn no_service(service: &str) -> Self {
        Self::not_found(Denial::NoService { service: service.to_owned() }.to_string())
    }

    /// Creates a problem of a server that is temporarily unable to carry out the request.
    pub(super) fn later(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// Creates a problem that is the server's fault.
    pub(super) fn internal() -> Self {
        let detail = "the server failed at this request: its log has the cause; please report it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Creates the problem of a storage failure, which an operator must resolve.
    pub(super) fn storage(error: &dyn std::error::Error) -> Self {
        Self::later("storage", chain(error))
    }

    /// Creates the problem of a catalog failure, with the time after which to retry if it is known.
    fn catalog(error: &dyn std::error::Error, cause: &CatalogError) -> Self {
        let problem = Self::storage(error);
        match cause.retry_after() {
            Some(after) => problem.with_retry(after),
            None => problem,
        }
    }

    /// Creates the problem of a storage failure in the last step of an order. Only the next start shows whether the
    /// order took effect.
    fn outcome_unknown(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", chain(error))
    }

    /// Removes the outcome, for a look-up of another request: the problem is not that request's outcome.
    pub(super) fn without_outcome(self) -> Self {
        Self { outcome: None, ..self }
    }

    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    fn with_retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Returns the problem as the last line of a batch.
    pub(super) fn line(&self) -> Bytes {
        let mut line = self.json();
        line.push(b'\n');
        line.into()
    }

    /// Returns a response with the problem as its body. The body holds the permit until the client has read it.
    fn held(self, permit: Option<Permit>) -> Response {
        let body = self.json();
        let Self { status, outcome, retry_after, .. } = self;
        let body = match permit {
            None => body.into(),
            Some(mut permit) => {
                // The spare capacity of a buffer would not be counted.
                let body = body.into_boxed_slice();
                permit.shrink(body.len());
                budget::held(body.into(), permit)
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(outcome) = outcome {
            headers.insert(OUTCOME, outcome_value(outcome));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.body()).expect("texts and numbers are JSON")
    }

    fn body(&self) -> http::Problem {
        let Self { status, code, detail, outcome, .. } = self;
        http::Problem {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            code: (*code).into(),
            detail: detail.clone(),
            outcome: outcome.map(|outcome| outcome.to_string()),
        }
    }

    /// Returns whether the problem is `503 Service Unavailable`.
    #[cfg(test)]
    pub(super) fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        if self.detail.len() > DETAIL_BYTES_MAX {
            self.detail.truncate(self.detail.floor_char_boundary(DETAIL_BYTES_MAX));
            self.detail.push_str("...");
        }
        self.held(None)
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let (status, code) = match &denial {
            Denial::NotAuthenticated { .. } => (StatusCode::UNAUTHORIZED, "not_authenticated"),
            Denial::NotGranted { .. } => (StatusCode::FORBIDDEN, "not_granted"),
            Denial::NoService { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Denial::NotAdmin { .. } => (StatusCode::FORBIDDEN, "not_admin"),
            Denial::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Denial::IdTooLong { .. } => (StatusCode::BAD_REQUEST, "id_too_long"),
            Denial::NotAnId { .. } => (StatusCode::BAD_REQUEST, "not_an_id"),
            Denial::IdReused { .. } => (StatusCode::CONFLICT, "id_reused"),
            Denial::InDoubt { .. } => (StatusCode::CONFLICT, "in_doubt"),
            Denial::TooOld { .. } => (StatusCode::CONFLICT, "id_too_old"),
            Denial::TooManyIds { retry_after, .. } => {
                return Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_ids", denial.to_string())
                    .with_outcome(Outcome::Denied)
                    .with_retry(*retry_after);
            }
            Denial::QueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            Denial::NoMemory { .. } => (StatusCode::SERVICE_UNAVAILABLE, "answers_unread"),
            Denial::MissedDeadlines { retry_after, .. } => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "missed_deadlines", denial.to_string());
                return problem.with_outcome(Outcome::Denied).with_retry(*retry_after);
            }
            Denial::Dropped { .. } => (StatusCode::CONFLICT, "dropped"),
            Denial::Degraded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
            Denial::JournalFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "journal_full"),
            Denial::Stalled { .. } => (StatusCode::SERVICE_UNAVAILABLE, "storage"),
            Denial::Quarantined { .. } | Denial::Orphan { .. } => (StatusCode::SERVICE_UNAVAILABLE, "quarantined"),
            Denial::Stopped { .. } => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
        };
        let problem = Self::new(status, code, denial.to_string()).with_outcome(Outcome::Denied);
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => problem.with_retry(RETRY),
            _ => problem,
        }
    }
}

impl From<OutcomeUnknown> for Problem {
    /// The problem has no outcome, since which of the four it is remains unknown.
    fn from(unknown: OutcomeUnknown) -> Self {
        match unknown.id {
            Some(_) => Self::later("outcome_unknown", unknown.to_string()),
            // Without an id, a retry might execute the request twice.
            None => Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", unknown.to_string()),
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Denied(denial) => denial.into(),
            RequestError::OutcomeUnknown(unknown) => unknown.into(),
        }
    }
}

impl From<LogInError> for Problem {
    fn from(error: LogInError) -> Self {
        match error {
            LogInError::WrongCredentials => Self::new(StatusCode::UNAUTHORIZED, "wrong_credentials", error.to_string()),
            LogInError::TooMany { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", error.to_string()).with_retry(retry_after)
            }
            LogInError::Catalog(ref cause) => Self::catalog(&error, cause),
        }
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        Self::bad_request("password", error.to_string())
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        let status_and_code = match error {
            AccountError::LogIn(error) => return error.into(),
            AccountError::Password(error) => return error.into(),
            AccountError::Catalog(ref cause) => return Self::catalog(&error, cause),
            AccountError::OutcomeUnknown(_) => return Self::outcome_unknown(&error),
            AccountError::Exists { .. } => (StatusCode::CONFLICT, "user_exists"),
            AccountError::Unknown { .. } => (StatusCode::NOT_FOUND, "no_such_user"),
            AccountError::NotHeld { .. } => (StatusCode::NOT_FOUND, "no_such_grant"),
            AccountError::LastAdmin { .. } => (StatusCode::CONFLICT, "last_admin"),
            AccountError::TooManyUsers => (StatusCode::CONFLICT, "too_many_users"),
            AccountError::TooManyGrants { .. } => (StatusCode::CONFLICT, "too_many_grants"),
        };
        let (status, code) = status_and_code;
        Self::new(status, code, error.to_string())
    }
}

impl From<UnpackError> for Problem {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Archive(_) => Self::bad_request("not_an_archive", error.to_string()),
            UnpackError::LongWorkload { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error.to_string())
            }
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "files_refused", error.to_string()),
        }
    }
}

impl From<LaunchError> for Problem {
    fn from(error: LaunchError) -> Self {
        let error = match error {
            LaunchError::Data(error) => return error.into(),
            error => error,
        };
        let (status, code) = match &error {
            LaunchError::Exists { .. } => (StatusCode::CONFLICT, "service_exists"),
            LaunchError::Engine(error) if error.may_pass() => return Self::later("no_process", error.to_string()),
            LaunchError::Quarantined { .. } => (StatusCode::CONFLICT, "quarantined"),
            LaunchError::NoRoom(_) => return Self::later("no_room", error.to_string()),
            LaunchError::UnderPressure(_) => {
                return Self::later("host_under_pressure", error.to_string()).with_retry(PRESSURE_RETRY);
            }
            // The deadline is wall-clock time, and the machine may have been busy.
            LaunchError::Engine(
                EngineError::Load(LoadError::Deadline { .. }) | EngineError::CompileDeadline { .. },
            ) => return Self::later("compile_deadline", error.to_string()),
            LaunchError::Files { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "files_refused"),
            LaunchError::SizeTooLarge { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "size_too_large"),
            LaunchError::Size(_)
            | LaunchError::Instantiate { .. }
            | LaunchError::Engine(EngineError::Load(_) | EngineError::Compile { .. } | EngineError::Exceeded { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "workload_refused")
            }
            LaunchError::Engine(EngineError::CompilerBusy { .. }) => {
                return Self::later("compiler_busy", error.to_string());
            }
            _ => return Self::storage(&error),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<DataError> for Problem {
    fn from(error: DataError) -> Self {
        match &error {
            DataError::NoService { service } => Self::no_service(service),
            DataError::OutcomeUnknown { .. } => Self::outcome_unknown(&error),
            DataError::Stopping => Self::later("draining", error.to_string()),
            DataError::Exists { .. } => Self::new(StatusCode::CONFLICT, "service_exists", error.to_string()),
            DataError::Orphan { .. } => Self::new(StatusCode::CONFLICT, "quarantined", error.to_string()),
            DataError::Catalog(cause) => Self::catalog(&error, cause),
            _ => Self::storage(&error),
        }
    }
}

/// Returns the answer to a transaction or a query.
///
/// It omits an id that the host generated, since nobody can look up an answer by it. The memory of the answer is
/// released when the client has read its last byte.
pub(super) fn answer(answered: Answered, has_id: bool) -> Response {
    let Answered { reply, permit } = answered;
    let outcome = reply.answer.outcome();
    let mut response = match reply.answer {
        Answer::Ok(bytes) => {
            let content_type = content_type(&bytes);
            let bytes = match permit {
                None => bytes,
                Some(permit) => budget::held(bytes, permit),
            };
            let mut response = Response::new(Body::from(bytes));
            // Reserves room for the length and the date, which are added later.
            response.headers_mut().reserve(HEADERS_RESERVED);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response.headers_mut().insert(OUTCOME, outcome_value(outcome));
            response
        }
        Answer::Refused(text) if text.len() > WHOLE_BYTES_MAX => {
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "").with_outcome(outcome);
            let pieces = Pieces::of_problem(&problem.body(), text, permit);
            let mut response = problem.into_response();
            let pieces = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
            *response.body_mut() = Body::from_stream(pieces);
            response
        }
        Answer::Refused(text) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", text).with_outcome(outcome).held(permit)
        }
        Answer::Failed(cause) => {
            let problem = if cause.is_retryable() {
                Problem::later("failed_retryable", cause.to_string())
            } else {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "failed", cause.to_string())
            };
            problem.with_outcome(outcome).into_response()
        }
    };
    response.extensions_mut().insert(IsCounted);
    let headers = response.headers_mut();
    insert(headers, VM, reply.vm.to_string());
    headers.insert(SEQUENCE, HeaderValue::from(reply.sequence.0));
    headers.insert(FUEL_USED, HeaderValue::from(reply.fuel_used));
    if has_id {
        insert(headers, TRANSACTION_ID, encoded(&reply.id));
    }
    if reply.is_repeated {
        headers.insert(REPEATED, HeaderValue::from_static("true"));
    }
    if let Some(failover) = &reply.failover {
        insert(headers, FAILOVER, failover.to_string());
    }
    response
}

/// Returns the media type of an answer, since guests declare none. Most guests answer with JSON, which is recognised by
/// its first byte and then checked.
fn content_type(bytes: &[u8]) -> HeaderValue {
    let is_json = matches!(bytes.first(), Some(b'{' | b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n'))
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    HeaderValue::from_static(if is_json { "application/json" } else { "application/octet-stream" })
}

fn outcome_value(outcome: Outcome) -> HeaderValue {
    HeaderValue::from_static(match outcome {
        Outcome::Ok => "ok",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
        Outcome::Denied => "denied",
    })
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: String) {
    // Names, numbers and encoded ids are plain text. Any other header is better omitted than a panic.
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

/// Encodes an id for a header: percent-encoded where it is not visible ASCII.
pub(super) fn encoded(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::HttpBody;
    use lifeboat_api::id::{Sequence, VmId};
    use lifeboat_api::name::Name;
    use lifeboat_api::transaction::{Cause, Reply};
    use lifeboat_host::budget::{ANSWER_BYTES_MAX, Account};
    use std::sync::Arc;

    fn reply(answer: Answer) -> Answered {
        let reply = Reply {
            id: "a b\n%".into(),
            sequence: Sequence(7),
            timestamp: lifeboat_api::clock::Timestamp(0),
            answer,
            fuel_used: 12,
            is_repeated: true,
            vm: VmId { service: Name::new("bank").expect("a name"), number: 3 },
            failover: None,
        };
        Answered { reply, permit: None }
    }

    #[test]
    fn an_answer_states_everything_in_its_headers() {
        let response = answer(reply(Answer::Ok(bytes::Bytes::from_static(b"{}"))), true);
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        assert_eq!(response.status(), 200);
        assert_eq!(
            ["content-type", OUTCOME_HEADER, VM_HEADER, SEQUENCE_HEADER, FUEL_USED_HEADER, REPEATED_HEADER].map(header),
            ["application/json", "ok", "bank/3", "7", "12", "true"]
        );
        assert_eq!(header(TRANSACTION_ID_HEADER), "a%20b%0A%25");
        let made_up = answer(reply(Answer::Refused("no".into())), false);
        assert!(!made_up.headers().contains_key(TRANSACTION_ID_HEADER));
    }

    #[test]
    fn a_process_that_was_lost_is_no_refusal_of_its_workload() {
        let (name, reason) = ("x".to_owned(), "no".to_owned());
        let lost = [
            EngineError::Process { name: name.clone(), reason: reason.clone() },
            LoadError::Process { file: name.clone(), reason: reason.clone() }.into(),
            LoadError::Thread { file: name.clone(), cause: reason.clone() }.into(),
        ];
        for error in lost {
            let problem = Problem::from(LaunchError::Engine(error));
            assert_eq!((problem.status, problem.code), (StatusCode::SERVICE_UNAVAILABLE, "no_process"));
        }
        let refused = [
            EngineError::Exceeded { name: name.clone(), reason: reason.clone() },
            LoadError::Exceeded { file: name.clone(), reason: reason.clone() }.into(),
            LoadError::Refused { reason }.into(),
        ];
        for error in refused {
            let problem = Problem::from(LaunchError::Engine(error));
            assert_eq!((problem.status, problem.code), (StatusCode::UNPROCESSABLE_ENTITY, "workload_refused"));
        }
    }

    #[test]
    fn a_refusal_in_a_pause_of_the_catalog_states_its_end_in_whole_seconds() {
        for (left, seconds) in [(1, "1"), (50, "1"), (1_000, "1"), (1_001, "2"), (2_000, "2")] {
            let pausing = || CatalogError::Pausing { retry_after: Duration::from_millis(left) };
            let problems: [Problem; 5] = [
                LogInError::Catalog(pausing()).into(),
                AccountError::Catalog(pausing()).into(),
                AccountError::LogIn(LogInError::Catalog(pausing())).into(),
                DataError::Catalog(pausing()).into(),
                LaunchError::Data(DataError::Catalog(pausing())).into(),
            ];
            for problem in problems {
                let code = problem.code;
                let response = problem.into_response();
                assert_eq!((response.status(), code), (StatusCode::SERVICE_UNAVAILABLE, "storage"));
                assert_eq!(response.headers()[RETRY_AFTER], seconds, "{left} ms");
            }
        }
    }

    #[test]
    fn a_workload_that_takes_too_long_may_be_tried_again() {
        let (name, deadline) = (String::from("bank"), Duration::from_secs(1));
        let late = [
            EngineError::CompileDeadline { name: name.clone(), deadline },
            LoadError::Deadline { file: name, deadline }.into(),
        ];
        for error in late {
            let problem = Problem::from(LaunchError::Engine(error));
            assert_eq!((problem.status, problem.code), (StatusCode::SERVICE_UNAVAILABLE, "compile_deadline"));
            assert!(
                problem.detail.ends_with("smaller, or try again when the machine is less busy"),
                "{}",
                problem.detail
            );
        }
    }

    fn account(budgets: &budget::Budgets) -> Arc<Account> {
        budgets.account(&budgets.connection(), &Name::new("ada").expect("a name"))
    }

    #[tokio::test]
    async fn a_refusal_is_counted_as_the_json_that_it_is_until_it_is_read() {
        let budgets = budget::Budgets::default();
        let permit = account(&budgets).take(ANSWER_BYTES_MAX);
        let refused = Answer::Refused("\u{1}".repeat(WHOLE_BYTES_MAX));
        let response = answer(Answered { permit, ..reply(refused) }, true);
        assert!(budgets.taken() >= 6 * WHOLE_BYTES_MAX && budgets.taken() < 7 * WHOLE_BYTES_MAX, "{}", budgets.taken());
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("whole");
        assert!(budgets.taken() >= 6 * WHOLE_BYTES_MAX);
        drop(body);
        assert_eq!(budgets.taken(), 0);
    }

    #[test]
    fn a_problem_that_repeats_what_a_client_sent_is_short() {
        let response = Problem::no_service(&"\u{1}é".repeat(10_000)).into_response();
        let bytes = response.body().size_hint().exact().expect("it is whole");
        assert!(bytes < 6 * DETAIL_BYTES_MAX as u64 + 512, "{bytes}");
    }

    #[test]
    fn outcomes_have_their_codes() {
        let code = |answered: Answer| answer(reply(answered), true).status().as_u16();
        assert_eq!(code(Answer::Refused("no".into())), 422);
        assert_eq!(code(Answer::Failed(Cause::Trap { message: "unreachable".into() })), 422);
        let deadline = Cause::Deadline { deadline: Duration::from_secs(1) };
        assert!(deadline.is_retryable());
        let response = answer(reply(Answer::Failed(deadline)), true);
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }
}
