//! Errors between a client and a server, and their remedies.

use super::CONNECT_TIME_MAX;
use lifeboat_api::http as api;
use lifeboat_api::text::{Printable, plain};
use lifeboat_api::transaction::Outcome;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde_json::error::Category;
use std::error::Error;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// The longest time that a server may ask a client to wait. A longer wait is shortened to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The reason why there is no reply, or not the expected one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server reports a problem.
    #[error("{} ({status} {})", Printable(detail), Printable(code))]
    Problem {
        /// The HTTP status.
        status: u16,
        /// The code of the problem, for programs.
        code: String,
        /// The description of the problem, for people.
        detail: String,
        /// The time after which to retry, if a retry may help.
        retry_after: Option<Duration>,
        /// The outcome of the transaction or query, if the request was one.
        outcome: Option<Outcome>,
    },
    /// There is no connection, so nothing was sent.
    #[error("{}; {}", self.cause(), remedy(url, reason))]
    Unreachable {
        /// The URL of the server.
        url: String,
        /// The reason why there is no connection.
        reason: String,
    },
    /// Nothing listens there, or not yet, so nothing was sent.
    #[error("{}; start a server there: lifeboat serve, or {}", self.cause(), another(url))]
    Refused {
        /// The URL of the server.
        url: String,
        /// The number of attempts.
        attempts: u32,
    },
    /// The connection broke or timed out after at least a part of the request was sent.
    #[error("{}; {}", self.cause(), what_now(*may_be_done))]
    Interrupted {
        /// The URL of the server.
        url: String,
        /// The reason why there is no complete answer.
        reason: String,
        /// Whether the request may have changed something.
        may_be_done: bool,
    },
    /// The reply is not one of a Lifeboat server.
    #[error(
        "the program at {url} is not a Lifeboat server, or has another version: {reason}; check the URL, and the \
         versions on both sides"
    )]
    BadReply {
        /// The URL of the server.
        url: String,
        /// The reply that arrived.
        reason: String,
    },
    /// An input of the caller cannot be used: a URL, a certificate or an id.
    #[error("{0}")]
    Setup(
        /// The error, and a valid alternative.
        String,
    ),
    /// The lines of a batch cannot be read.
    #[error("the lines to send cannot be read: {0}; the lines answered so far stay done")]
    Input(
        /// The error of the reader of the lines.
        io::Error,
    ),
    /// No id can be assigned to a line of a batch that has none. The line was not sent.
    #[error("no id can be made for a line: {0}; the lines answered so far stay done")]
    Ids(
        /// The error of the function that returns ids.
        io::Error,
    ),
}

impl ClientError {
    /// Returns whether the same request may soon end differently without any action.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // An operator must start a stopped service.
            Self::Problem { code, .. } if matches!(&**code, "stopped" | "quarantined") => false,
            Self::Problem { retry_after, .. } => retry_after.is_some(),
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Interrupted { .. } => true,
            Self::BadReply { .. } | Self::Setup(_) | Self::Input(_) | Self::Ids(_) => false,
        }
    }

    /// Returns whether the transaction has not been answered yet, whatever happened to earlier attempts: it waits for an
    /// operator.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Problem { status: 409, code, .. } if code == "in_doubt")
    }

    /// Returns whether the server is reachable but does not serve yet.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Problem { code, .. } if code == "starting")
    }

    /// Returns the error with this number of attempts, if it is one that reports them.
    pub(super) fn after_attempts(self, attempts: u32) -> Self {
        match self {
            Self::Refused { url, .. } => Self::Refused { url, attempts },
            other => other,
        }
    }

    /// Returns the message without the remedy, for a client that sends the request again by itself.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Unreachable { url, reason } => format!("cannot reach {url}: {reason}"),
            Self::Refused { url, attempts } => {
                let end = if *attempts == 1 { "" } else { "s" };
                format!("cannot reach {url}: connection refused ({attempts} attempt{end})")
            }
            Self::Interrupted { url, reason, .. } => format!("{url} did not complete its answer: {reason}"),
            other => other.to_string(),
        }
    }

    /// Returns the time after which the server asks the client to retry.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Returns the remedy for a request without an answer.
fn what_now(may_be_done: bool) -> &'static str {
    if may_be_done {
        "the request may have been done: check whether it was before you send it again"
    } else {
        "nothing was changed: run the command again, or name another server: lifeboat login --server URL"
    }
}

/// Returns the remedy for a server that cannot be reached.
fn remedy(url: &str, reason: &str) -> String {
    if reason == ANOTHER_NAME {
        return "use a name from the certificate in the URL, or create a certificate with this name (an address as \
                IP:ADDRESS)"
            .into();
    }
    format!("check that the server runs there, or {}", another(url))
}

/// Returns the second remedy for a server that cannot be reached.
fn another(url: &str) -> &'static str {
    if url.starts_with("https:") {
        "name another server, or the certificates to trust: lifeboat login --server URL --ca FILE"
    } else {
        "name another server: lifeboat login --server URL"
    }
}

/// The delays between attempts. Each is twice as long as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub first: Duration,
    /// The longest delay.
    pub longest: Duration,
    /// The number of failures in a row after which there is no further attempt.
    pub failures_max: u32,
}

impl Default for Backoff {
    /// Returns a backoff of about two minutes in total: a server that restarts is back by then.
    fn default() -> Self {
        super::STARTING_BACKOFF
    }
}

impl Backoff {
    /// Returns the delay after this number of failures in a row, counted from 1, or `None` after the last attempt.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Option<Duration> {
        let doublings = failures.saturating_sub(1).min(31);
        (failures < self.failures_max).then(|| self.first.saturating_mul(1 << doublings).min(self.longest))
    }
}

/// Returns whether the other machine is reachable, but nothing listens on the port.
pub(super) fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns why a request with the time limit `time_max` has no answer, in words for users.
pub(super) fn reason(error: &reqwest::Error, time_max: Option<Duration>) -> String {
    if !error.is_timeout() {
        return root_cause(error);
    }
    match if error.is_connect() { Some(CONNECT_TIME_MAX) } else { time_max } {
        Some(time) => format!("no answer arrived within {} s", time.as_secs()),
        None => "no answer arrived in time".into(),
    }
}

/// Returns the root cause of an error, since the libraries wrap it in general sentences. Only this function rewords
/// their messages.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    for (of_library, plain) in TLS_REASONS.iter().chain(&HTTP_REASONS) {
        if text.starts_with(of_library) {
            return (*plain).into();
        }
    }
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidInput, UnexpectedEof};
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => CLOSED.into(),
        // The HTTP library reports this for the framing of a body's chunks.
        Some(InvalidInput) => NO_HTTP.into(),
        _ => Printable(&plain(&text)).to_string(),
    }
}

/// Returns why a reply is not the expected JSON. Only this function rewords the messages of the JSON library.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match (error.classify(), missing) {
        (_, Some(key)) => format!("its answer has no '{}'", Printable(key)),
        (Category::Data, None) => "its answer has values of unexpected types".into(),
        (Category::Eof, None) => "its answer ends in the middle of the JSON".into(),
        (Category::Syntax | Category::Io, None) => "its answer is not JSON, although its header says so".into(),
    }
}

/// The text for a connection that ended too early.
const CLOSED: &str = "the connection was closed before the whole answer arrived";

/// The text for an answer that is not HTTP.
pub(super) const NO_HTTP: &str = "the program there does not speak HTTP";

/// Messages of the HTTP library and of the resolver, with their wording for users.
const HTTP_REASONS: [(&str, &str); 9] = [
    ("connection closed before message completed", CLOSED),
    ("operation was canceled", CLOSED),
    ("channel closed", CLOSED),
    ("invalid HTTP", NO_HTTP),
    ("Invalid chunk", NO_HTTP),
    ("message head is too large", "its answer has more headers than a Lifeboat server sends"),
    ("failed to lookup address information: Temporary", "its host name cannot be resolved now"),
    ("failed to lookup address information", "its host name has no address"),
    ("received fatal alert", "it refuses to speak TLS with this client"),
];

/// The text for a certificate that does not name the server.
const ANOTHER_NAME: &str = "its certificate is for a name other than that in the URL";

/// Messages of the TLS library, with their wording for users.
const TLS_REASONS: [(&str, &str); 8] = [
    ("received corrupt message", "the program there does not speak TLS, and the URL begins with https://"),
    ("invalid peer certificate: UnknownIssuer", "its certificate is not signed by an authority that is trusted here"),
    ("invalid peer certificate: NotValidForName", ANOTHER_NAME),
    ("invalid peer certificate: certificate not valid for name", ANOTHER_NAME),
    ("invalid peer certificate: certificate expired", "its certificate has expired"),
    (
        "invalid peer certificate: certificate not valid yet",
        "its certificate is not valid yet, or the clock here is wrong",
    ),
    ("invalid peer certificate: Expired", "its certificate has expired"),
    ("invalid peer certificate: NotValidYet", "its certificate is not valid yet, or the clock here is wrong"),
];

/// Returns the time that the server asks the client to wait.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Returns the media type that a reply declares, in lower case and without parameters, or an empty text.
fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Checks that a successful reply has content of this media type, or no content if it is empty.
///
/// # Errors
/// A description of what arrived instead.
pub(super) fn check_content(status: StatusCode, headers: &HeaderMap, expected: &str) -> Result<(), String> {
    // A reply without content needs no media type; its status shows that it has none.
    let is_expected = content_type(headers) == expected && (status == StatusCode::NO_CONTENT) == expected.is_empty();
    if is_expected { Ok(()) } else { Err(format!("{}, instead of {}", came(status, headers), named(expected))) }
}

/// Describes what arrived, for a message.
fn came(status: StatusCode, headers: &HeaderMap) -> String {
    format!("it answered with status {} and {}", status.as_u16(), named(&content_type(headers)))
}

fn named(content_type: &str) -> String {
    if content_type.is_empty() { "no content".into() } else { Printable(content_type).to_string() }
}

/// Returns the error that an unsuccessful reply stands for.
pub(super) fn problem(
    url: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    may_be_done: bool,
) -> ClientError {
    let problem = serde_json::from_slice::<api::Problem>(body).ok();
    let problem = problem.filter(|_| content_type(headers) == api::PROBLEM_JSON);
    let (status, came) = (status.as_u16(), came(status, headers));
    match problem {
        Some(api::Problem { code, detail, outcome, .. }) => ClientError::Problem {
            status,
            code,
            detail,
            retry_after: retry_after(headers),
            outcome: outcome.and_then(|word| Outcome::ALL.into_iter().find(|outcome| outcome.to_string() == word)),
        },
        // A gateway in front of the server answered.
        None if matches!(status, 502..=504) => ClientError::Interrupted {
            url: url.into(),
            reason: format!("a proxy in front of it answered with status {status}"),
            may_be_done,
        },
        None => ClientError::BadReply { url: url.into(), reason: came },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn a_backoff_doubles_until_its_longest_delay_or_last_failure() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(3), failures_max: 4 };
        let delays: Vec<_> = (1..=5).map(|failures| backoff.delay(failures).map(|delay| delay.as_secs())).collect();
        assert_eq!(delays, [Some(1), Some(2), Some(3), None, None]);
        assert_eq!(Backoff { failures_max: u32::MAX, ..backoff }.delay(1_000_000), Some(backoff.longest));
    }

    #[test]
    fn a_problem_is_printed_on_one_line_with_its_code() {
        let body = br#"{"type":"about:blank","title":"","status":429,"code":"queue_full","detail":"a\u001b[2J\nb",
            "outcome":"denied"}"#;
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("100000"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("Application/Problem+JSON; charset=utf-8"));
        let error = problem("http://a", StatusCode::TOO_MANY_REQUESTS, &headers, body, true);
        assert_eq!(error.to_string(), "a\\u{1b}[2J\\nb (429 queue_full)");
        assert!(error.is_retryable());
        assert_eq!(error.retry_after(), Some(RETRY_AFTER_MAX));
        assert!(matches!(error, ClientError::Problem { outcome: Some(Outcome::Denied), .. }));
    }

    #[test]
    fn errors_of_the_tls_library_are_put_in_words_of_users() {
        let reason_of = |text: &str| root_cause(&io::Error::other(text.to_owned()));
        let plain = "the program there does not speak TLS, and the URL begins with https://";
        assert_eq!(reason_of("received corrupt message of type InvalidContentType"), plain);
        let unknown = reason_of("invalid peer certificate: UnknownIssuer");
        assert_eq!(unknown, "its certificate is not signed by an authority that is trusted here");
        let other = "invalid peer certificate: certificate not valid for name \"127.0.0.1\"; certificate is not valid for any \
                     names (according to its subjectAltName extension)";
        assert_eq!(reason_of(other), ANOTHER_NAME);
        let error = ClientError::Unreachable { url: "https://127.0.0.1:7443".into(), reason: reason_of(other) };
        assert!(error.to_string().contains("in the URL; use a name from the certificate in the URL, or "), "{error}");
        assert_eq!(reason_of("Name or service not known"), "Name or service not known");
    }

    #[test]
    fn errors_of_a_connection_are_put_in_words_of_users() {
        let reason_of = |kind, text: &str| root_cause(&io::Error::new(kind, text.to_owned()));
        use io::ErrorKind::{InvalidInput, Other, UnexpectedEof};
        for text in ["connection closed before message completed", "channel closed"] {
            assert_eq!(reason_of(Other, text), CLOSED);
        }
        assert_eq!(root_cause(&io::Error::from_raw_os_error(104)), CLOSED);
        assert_eq!(reason_of(UnexpectedEof, "end of file before message length reached"), CLOSED);
        assert_eq!(reason_of(InvalidInput, "Invalid chunk size line: missing size digit"), NO_HTTP);
        assert_eq!(reason_of(Other, "invalid HTTP version parsed"), NO_HTTP);
        let unknown = "failed to lookup address information: Name or service not known";
        assert_eq!(reason_of(Other, unknown), "its host name has no address");
        assert!(reason_of(Other, "message head is too large").contains("more headers"));
    }

    #[test]
    fn errors_of_the_json_library_are_put_in_words_of_users() {
        let reason_of = |text: &str| json_reason(&serde_json::from_str::<api::LogInReply>(text).expect_err(text));
        assert_eq!(reason_of("{\"a\": 1}"), "its answer has no 'token'");
        assert_eq!(reason_of("{\"token\": 1}"), "its answer has values of unexpected types");
        assert_eq!(reason_of("{\"a\": 1,}"), "its answer is not JSON, although its header says so");
        assert_eq!(reason_of("{\"a\""), "its answer ends in the middle of the JSON");
        assert_eq!(reason_of(""), "its answer ends in the middle of the JSON");
    }

    #[test]
    fn a_failure_without_a_problem_is_of_a_gateway_or_no_lifeboat_server() {
        let headers = HeaderMap::new();
        let (not_found, bad_gateway) = (StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY);
        assert!(matches!(problem("http://a", not_found, &headers, b"<html>", true), ClientError::BadReply { .. }));
        assert!(problem("http://a", bad_gateway, &headers, b"<html>", true).is_retryable());
        let of_another = br#"{"type":"about:blank","title":"","status":404,"code":"x","detail":"x"}"#;
        let error = problem("http://a", not_found, &headers, of_another, true).to_string();
        assert!(error.contains("is not a Lifeboat server") && error.contains("status 404 and no content"), "{error}");
    }

    #[test]
    fn a_success_with_other_content_than_what_is_asked_for_is_none() {
        let of = |content_type: &'static str| {
            let value = HeaderValue::from_static(content_type);
            HeaderMap::from_iter([(CONTENT_TYPE, value)].into_iter().filter(|_| !content_type.is_empty()))
        };
        let check = |status, found, expected| check_content(status, &of(found), expected);
        assert_eq!(check(StatusCode::CREATED, "application/json; charset=utf-8", "application/json"), Ok(()));
        assert_eq!(check(StatusCode::NO_CONTENT, "", ""), Ok(()));
        let html = check(StatusCode::OK, "text/html", "application/json").expect_err("no JSON");
        assert_eq!(html, "it answered with status 200 and text/html, instead of application/json");
        for (status, found, expected) in [
            (StatusCode::OK, "", ""),
            (StatusCode::OK, "text/html", ""),
            (StatusCode::NO_CONTENT, "", "application/json"),
            (StatusCode::OK, "application/json", "text/event-stream"),
        ] {
            check(status, found, expected).expect_err(found);
        }
    }
}
