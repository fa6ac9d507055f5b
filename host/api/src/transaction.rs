//! Transactions and their four outcomes.

use crate::call::DoubtReason;
use crate::clock::{Timestamp, Utc};
use crate::event::{NamedCall, Triggered};
use crate::id::{Sequence, VmId};
use crate::meter::Resource;
use crate::name::Name;
use crate::size::{Bytes as ByteCount, BytesBeside, grouped};
use crate::text::Printable;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// The longest id that a client may give a transaction, in bytes.
pub const TRANSACTION_ID_BYTES_MAX: usize = 128;

/// The regular expression of a transaction's id, for descriptions of interfaces.
pub const ID_PATTERN: &str = r"^([ -\-/-~][ -~]{0,127}|\.([ -\-/-~][ -~]{0,126}|\.[ -~]{1,126}))$";

/// Checks whether `id` can be sent in a header and used in a URL: 1 to [`TRANSACTION_ID_BYTES_MAX`] printable ASCII
/// characters, and neither `.` nor `..`.
///
/// # Errors
/// [`Denial::IdTooLong`] or [`Denial::NotAnId`].
pub fn check_id(id: &str) -> Result<(), Denial> {
    check_id_length(id)?;
    let is_printable = id.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_printable && !matches!(id, "" | "." | "..") { Ok(()) } else { Err(Denial::NotAnId { id: id.to_owned() }) }
}

/// Checks only the length of `id`. Earlier releases accepted other characters, so an id that [`check_id`] refuses may
/// already have an answer. It is denied only if it has none.
///
/// # Errors
/// [`Denial::IdTooLong`].
pub fn check_id_length(id: &str) -> Result<(), Denial> {
    if id.len() > TRANSACTION_ID_BYTES_MAX { Err(Denial::IdTooLong { bytes: id.len() }) } else { Ok(()) }
}

/// The longest reply, and the longest arguments of one call from the guest to the host. wasmtime's own default is
/// 128 MiB.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest transaction or query that a service accepts by default, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A user's request to a service.
#[derive(Debug, Clone)]
pub struct Request {
    /// The id by which a repetition is recognised, of at most [`TRANSACTION_ID_BYTES_MAX`] bytes. Without one the host
    /// generates one, and a repetition is a new transaction. A query's id is only echoed.
    pub id: Option<String>,
    /// The guest's input, byte for byte.
    pub body: Bytes,
    /// Whether it is a transaction or a query.
    pub kind: Kind,
}

/// The two kinds of work that a guest does for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Executed once, journalled, and may change the state.
    Transaction,
    /// Answered between transactions, not journalled, and must not change the state.
    Query,
}

/// The outcome of a request, as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The guest answered.
    Ok,
    /// The guest answered `err`.
    Refused,
    /// A trap, an exhausted resource, or the deadline ended it, and its changes were discarded.
    Failed,
    /// It never reached the guest.
    Denied,
}

impl Outcome {
    /// Every outcome, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Failed, Self::Denied];
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Denied => "denied",
        })
    }
}

/// The answer to a request that reached the guest. The journal stores it for a transaction, and a repetition of the
/// same id gets it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The guest's answer.
    Ok(Bytes),
    /// The guest answered `err` with this text.
    Refused(String),
    /// The request failed, and its changes were discarded.
    Failed(Cause),
}

impl Answer {
    /// Returns the answer's outcome.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Ok(_) => Outcome::Ok,
            Self::Refused(_) => Outcome::Refused,
            Self::Failed(_) => Outcome::Failed,
        }
    }

    /// Returns whether the guest's state after the request is kept: for `ok` and `refused`.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    /// Returns the answer for operators of the service: the text of its cause has all that is known.
    #[must_use]
    pub fn disclosed(self) -> Self {
        match self {
            Self::Failed(cause @ Cause::Explained { .. }) => {
                Self::Failed(Cause::Explained { summary: cause.detailed(), details: String::new() })
            }
            answer => answer,
        }
    }

    /// Returns the length of the guest's answer, in bytes; 0 for a failure, whose text is the host's.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        match self {
            Self::Ok(bytes) => bytes.len(),
            Self::Refused(text) => text.len(),
            Self::Failed(_) => 0,
        }
    }

    /// Returns a hash of the outcome and its bytes, by which a replay is compared. It does not include causes of
    /// failures, because a replay skips failed transactions.
    #[must_use]
    pub fn hash(&self) -> ReplyHash {
        let (tag, bytes): (u8, &[u8]) = match self {
            Self::Ok(bytes) => (0, bytes),
            Self::Refused(text) => (1, text.as_bytes()),
            Self::Failed(_) => (2, &[]),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[tag]).update(bytes);
        ReplyHash::truncated(&hasher.finalize())
    }
}

/// The first 128 bits of a BLAKE3 hash of a reply or a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplyHash(pub [u8; 16]);

impl ReplyHash {
    /// Returns the hash of a transaction's body.
    #[must_use]
    pub fn of_body(body: &[u8]) -> Self {
        Self::truncated(&blake3::hash(body))
    }

    fn truncated(hash: &blake3::Hash) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&hash.as_bytes()[..16]);
        Self(half)
    }
}

/// The reason why a VM could not finish a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum Cause {
    /// The tank ran dry, and a full tank was not enough either.
    #[error(
        "cpu: it needs more than a full tank of {} fuel; send less at once, or deploy the workload as a new service with \
         more fuel",
        grouped(*limit_fuel)
    )]
    Fuel {
        /// The insufficient tank.
        limit_fuel: u64,
    },
    /// Linear memory reached the limit of the largest size that there was room for.
    #[error(
        "memory: {} would exceed the limit of {}; send less at once, or deploy the workload as a new service of a larger \
         size",
        BytesBeside { bytes: *wanted_bytes, bound: *limit_bytes }, ByteCount(*limit_bytes)
    )]
    Memory {
        /// The size that the guest's memory would have grown to, in bytes.
        wanted_bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// A table grew past its limit.
    #[error("table: {wanted} elements exceed the limit of {limit}")]
    TableElements {
        /// The number of elements that the table would have grown to.
        wanted: u64,
        /// The limit, in elements.
        limit: u64,
    },
    /// It took too long. The host causes this, so the same id may be tried again.
    #[error(
        "deadline: not finished within {} ms; try again, send less at once, or deploy the workload as a new service of a \
         size with a longer deadline",
        deadline.as_millis()
    )]
    Deadline {
        /// The exceeded deadline.
        deadline: Duration,
    },
    /// The reply is too long. In records of earlier versions also: the arguments of a call to the host.
    #[error("reply: over {} in one call; return less in one call", ByteCount(*limit_bytes))]
    ReplyBytes {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The guest called `exit`.
    #[error("exit: the guest called exit with {status}; a workload must not exit")]
    Exit {
        /// `success` or `failure`.
        status: String,
    },
    /// The guest trapped, with WebAssembly's message.
    #[error("trap: {message}")]
    Trap {
        /// The message of the trap, on one line.
        message: String,
    },
    /// The virtual disk reached the limit of the largest size that there was room for.
    #[error(
        "disk: {} would exceed the limit of {}; delete files, or deploy the workload as a new service of a larger size",
        BytesBeside { bytes: *wanted_bytes, bound: *limit_bytes }, ByteCount(*limit_bytes)
    )]
    Disk {
        /// What would have been on the disk, in bytes.
        wanted_bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The arguments with which the guest called a function of the host are too long.
    #[error("arguments: over {} in one call to the host; pass less in one call", ByteCount(*limit_bytes))]
    ArgumentBytes {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// Linear memory or the virtual disk reached the limit of the largest size that there was room for. A larger one
    /// would do, and no machine had room for it.
    #[error(
        "{level}: {} would exceed the limit of {}, and no machine has room for size '{}', whose limit is {}; free \
         {level} of the service, add a machine, or give a machine more memory and disk",
        BytesBeside { bytes: *wanted_bytes, bound: *limit_bytes }, ByteCount(*limit_bytes), Printable(size),
        ByteCount(*size_bytes)
    )]
    NoRoom {
        /// What reached its limit.
        level: Resource,
        /// What would have been in use, in bytes.
        wanted_bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
        /// The name of the smallest size that would do.
        size: String,
        /// The limit of that size, in bytes.
        size_bytes: u64,
    },
    /// The network allowance of the VM was used up.
    #[error(
        "network: the allowance of {} calls and {} is used up; make fewer calls, or deploy the workload as a new service \
         of a larger size",
        grouped(*limit_calls), ByteCount(*limit_bytes)
    )]
    Network {
        /// The calls of the allowance.
        limit_calls: u64,
        /// The bytes of the allowance.
        limit_bytes: u64,
    },
    /// The host stopped, or had no room, after the transaction had made calls to the network.
    #[error(
        "interrupted: the host could not end it; send it again: calls whose outcomes were recorded are not made again; an \
         operator or the `retry` of the service settles those in doubt"
    )]
    Interrupted,
    /// The guest trapped or called `exit`, and more is known about that.
    #[error("{summary}")]
    Explained {
        /// The text of [`Cause::Trap`] or [`Cause::Exit`].
        summary: String,
        /// What the guest said about it and the functions that it was in, on one line. Only operators of the service
        /// see it, since it may contain parts of the state.
        details: String,
    },
}

impl Cause {
    /// Returns the text for operators of the service, with all that is known.
    #[must_use]
    pub fn detailed(&self) -> String {
        match self {
            Self::Explained { summary, details } if !details.is_empty() => format!("{summary}; {details}"),
            cause => cause.to_string(),
        }
    }

    /// Returns whether the host caused the failure, so that the same id may run again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::NoRoom { .. } | Self::Network { .. } | Self::Interrupted)
    }

    /// Returns the exhausted resource, if it is one that a failover could cure.
    #[must_use]
    pub fn exhausted(&self) -> Option<Resource> {
        match self {
            Self::Fuel { .. } => Some(Resource::Cpu),
            Self::Memory { .. } => Some(Resource::Memory),
            Self::Disk { .. } => Some(Resource::Disk),
            Self::Network { .. } => Some(Resource::Network),
            Self::NoRoom { level, .. } => Some(*level),
            _ => None,
        }
    }
}

/// The remedy for a quarantined service.
pub const QUARANTINE_REMEDY: &str = "once that is fixed, lifeboat start brings it back; with the server stopped, \
                                     lifeboat data verify --data DIR reports details, and lifeboat data snapshot saves \
                                     the state that can be trusted";

/// The reason why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// It had no effect.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// It may have had an effect.
    #[error(transparent)]
    OutcomeUnknown(#[from] OutcomeUnknown),
}

/// A request was executed, but it is unknown whether it is durable, because the journal failed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", unknown(service, id.as_deref(), reason))]
pub struct OutcomeUnknown {
    /// The service.
    pub service: Name,
    /// The request's id, if the client gave one: a repetition of it is recognised.
    pub id: Option<String>,
    /// The reason.
    pub reason: String,
}

/// The reason why a request never reached the guest. It had no effect and left no trace in the journal, and the same id
/// may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denial {
    /// No user has this token, or it is expired or revoked.
    #[error("not authenticated: {reason}; log in again")]
    NotAuthenticated {
        /// The problem with the token.
        reason: &'static str,
    },
    /// The user may not do this to this service. The same is reported if the service does not exist, so that users
    /// without a grant cannot distinguish the two.
    #[error("user '{user}' has no grant to {grant} service '{service}', or there is no such service; ask an admin")]
    NotGranted {
        /// The user.
        user: String,
        /// The missing grant.
        grant: crate::access::Grant,
        /// The name of the service.
        service: String,
    },
    /// There is no such service. Only users with the grant on it get this denial; an admin has the grant on any
    /// service.
    #[error("there is no service '{}'; deploy it, or list the existing services", Printable(service))]
    NoService {
        /// The requested name.
        service: String,
    },
    /// Only an admin may do this.
    #[error("user '{user}' is not an admin, and only an admin may do this; ask an admin to do it, or log in as one")]
    NotAdmin {
        /// The user.
        user: String,
    },
    /// The body is too long.
    #[error(
        "the body is {} long, the limit is {}; send less",
        BytesBeside { bytes: *bytes as u64, bound: *limit_bytes as u64 }, ByteCount(*limit_bytes as u64)
    )]
    BodyTooLarge {
        /// The length of the body, in bytes.
        bytes: usize,
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// The id is too long.
    #[error("the transaction id is {bytes} bytes long, the limit is {TRANSACTION_ID_BYTES_MAX}; use a shorter one")]
    IdTooLong {
        /// The length of the id, in bytes.
        bytes: usize,
    },
    /// The id cannot be used in a header or a URL.
    #[error(
        "the transaction id '{}' is not valid; use printable ASCII characters, and neither '.' nor '..', which no URL \
         can contain",
        Printable(id)
    )]
    NotAnId {
        /// The id that was sent.
        id: String,
    },
    /// The id was used for another body.
    #[error("id '{id}' was used for another body at sequence {sequence}; use a new id")]
    IdReused {
        /// The id.
        id: String,
        /// The transaction that used it.
        sequence: Sequence,
    },
    /// An earlier attempt made a call whose outcome is unknown, and an operator settles it.
    #[error(
        "id '{}' has call {} in doubt, {} {}: {reason}; an operator settles it with lifeboat doubts {service}, or lifeboat \
         data doubts without a server; then send the id again",
        Printable(&call.transaction), call.index, Printable(&call.method), Printable(&call.target)
    )]
    InDoubt {
        /// The service.
        service: Name,
        /// The call.
        call: Box<NamedCall>,
        /// Why its outcome is unknown.
        reason: DoubtReason,
    },
    /// The time in the id is not later than that of an id whose answer was forgotten: it may have been answered before.
    #[error(
        "id '{id}' has the time {}, and ids up to {} are forgotten: it may have been answered; check the service's \
         state before you use a new id",
        Utc(*time), Utc(*forgotten)
    )]
    TooOld {
        /// The id.
        id: String,
        /// The time in the id.
        time: Timestamp,
        /// The newest time in a forgotten id.
        forgotten: Timestamp,
    },
    /// The user has sent more ids than can be retained for as long as they must be.
    #[error(
        "user '{user}' has used up their share of the ids that service '{service}' retains, and these are too new to \
         be forgotten; use UUIDs of version 7 from a correct clock as ids, or send less; try again in {} s",
        retry_after.as_secs() + 1
    )]
    TooManyIds {
        /// The service.
        service: Name,
        /// The user who sent them.
        user: Name,
        /// The time until the oldest of them may be forgotten.
        retry_after: Duration,
    },
    /// The service has as many waiting requests as it may have.
    #[error("service '{service}' has {limit} waiting requests, the limit; try again later")]
    QueueFull {
        /// The service.
        service: Name,
        /// The maximum number of waiting requests.
        limit: usize,
    },
    /// The memory for answers that clients have not read has no room for the longest possible answer.
    #[error(
        "service '{service}' did not execute it: the memory for unread answers is used up; read the earlier answers, \
         and try again later"
    )]
    NoMemory {
        /// The service.
        service: Name,
    },
    /// The id missed its deadline repeatedly, or the body did with any id.
    #[error(
        "{} missed its deadline {misses} times and is refused for {} s; send smaller requests, or have the service use a \
         size with a longer deadline",
        missed(id.as_deref()), retry_after.as_secs() + 1
    )]
    MissedDeadlines {
        /// The id if it is refused, or none if the body is.
        id: Option<String>,
        /// The number of missed deadlines.
        misses: u32,
        /// The time until it is no longer refused.
        retry_after: Duration,
    },
    /// An operator removed the request from the queue.
    #[error(
        "an operator dropped the request from the queue of service '{service}': it was not executed; ask the operator before \
         you send it again"
    )]
    Dropped {
        /// The service.
        service: Name,
    },
    /// The service accepts no transactions for now: its tank is empty, and a fresh VM is not available.
    #[error("service '{service}' is degraded: {reason}; try again later")]
    Degraded {
        /// The service.
        service: Name,
        /// The missing resource, and the reason.
        reason: String,
    },
    /// The service accepts no transactions: its journal is full, because its state cannot be snapshotted.
    #[error("service '{service}' denies transactions: {reason}")]
    JournalFull {
        /// The service.
        service: Name,
        /// The fill level, the reason, and the remedy.
        reason: String,
    },
    /// The journal is short of room, and cannot begin its next segment. The request was not executed.
    #[error("service '{service}' accepts no transactions for now: {reason}; try again later")]
    Stalled {
        /// The service.
        service: Name,
        /// What is missing.
        reason: String,
    },
    /// The service could not be restored when the host started, and its data was not changed.
    #[error("service '{service}' is quarantined: {reason}; {QUARANTINE_REMEDY}")]
    Quarantined {
        /// The service.
        service: Name,
        /// The reason.
        reason: String,
    },
    /// The data directory has records or snapshots of the service, but the catalog does not list it.
    #[error("service '{service}' is quarantined: {reason}")]
    Orphan {
        /// The service.
        service: Name,
        /// The reason, and the remedy.
        reason: String,
    },
    /// The service does not run: its state was lost while it ran, or it was stopped.
    #[error("service '{service}' is stopped: {reason}")]
    Stopped {
        /// The service.
        service: Name,
        /// The reason.
        reason: String,
    },
}

/// The reply to a request that reached the guest, now or before.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The request's id: the client's own, or the one that the host generated.
    pub id: String,
    /// The transaction's number in the history; for a query, that of the transaction before it.
    pub sequence: Sequence,
    /// The time that the guest saw.
    pub timestamp: Timestamp,
    /// The answer.
    pub answer: Answer,
    /// The fuel that the answered attempt burnt.
    pub fuel_used: u64,
    /// Whether this is the stored answer to an earlier request of the same id.
    pub is_repeated: bool,
    /// The VM that answers now. For a repeated transaction, an earlier VM may have executed it.
    pub vm: VmId,
    /// The failover that this request caused: it has ended, or a shadow has begun it.
    pub failover: Option<Box<Triggered>>,
}

/// Describes what missed its deadline: an id, or a body of the same user.
fn missed(id: Option<&str>) -> String {
    match id {
        Some(id) => format!("id '{}'", Printable(id)),
        None => "this body, sent without an id or with other ids,".into(),
    }
}

/// Describes an unknown outcome and the remedy: without an id, a repetition would be another transaction.
fn unknown(service: &Name, id: Option<&str>, reason: &str) -> String {
    match id {
        Some(id) => {
            let id = Printable(id);
            format!("the outcome of '{id}' on service '{service}' is unknown: {reason}; send it again with the same id")
        }
        None => format!(
            "the outcome of a request without an id on service '{service}' is unknown: {reason}; check the service's \
             state before you send it again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_printable_text_that_a_url_can_name() {
        for id in ["1", "a b", " ", "~", "...", ".a", "a.", "\"\\", &"x".repeat(128)] {
            assert_eq!(check_id(id), Ok(()), "{id:?}");
        }
        for id in ["", ".", "..", "ü", "a\n", "\u{7f}"] {
            assert_eq!(check_id(id), Err(Denial::NotAnId { id: id.into() }), "{id:?}");
        }
    }

    #[test]
    fn an_id_over_the_limit_is_denied_with_its_length() {
        assert_eq!(check_id(&"x".repeat(129)), Err(Denial::IdTooLong { bytes: 129 }));
    }
}
