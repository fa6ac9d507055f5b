//! The encoding of a record, which a service submits to the durable journal and reads back.
//!
//! A record is the [postcard](https://postcard.jamesmunns.com/wire-format) encoding of one enum, whose variants and
//! fields are only ever appended. `docs/format.md` lists them. The frame checks that the bytes are those that were
//! written. A record that cannot be decoded was written by a newer host, or because of a bug.

use super::{
    CallIntent, CallOutcome, NetworkRecord, QueriesRecord, QueryRecord, Record, RelocatedAnswer, TransactionRecord,
};
use bytes::Bytes;
use lifeboat_api::call::{CallError, CallRecord, CallResponse, Field, RequestHash};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::{Failover, FailoverCause, SlaFailure};
use lifeboat_api::id::{Epoch, Sequence, VmId};
use lifeboat_api::meter::{NetworkAmount, Percent, Resource, Unit, Usage};
use lifeboat_api::name::{NAME_BYTES_MAX, Name};
use lifeboat_api::transaction::{Answer, Cause, ReplyHash, TRANSACTION_ID_BYTES_MAX};
use lifeboat_journal::frame::RECORD_LENGTH_BYTES;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The maximum length of the record of an answer before the bytes of its body, in bytes: an id and the name of a user,
/// numbers of up to 10 bytes, a hash, and lengths.
pub(crate) const ANSWER_START_BYTES_MAX: usize = TRANSACTION_ID_BYTES_MAX + NAME_BYTES_MAX + 6 * 10 + 16 + 3 * 5;

/// A record that this host cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a record cannot be decoded: {reason}; use the host that wrote it, or a newer one")]
pub struct RecordError {
    reason: String,
}

#[derive(Serialize, Deserialize)]
enum Stored<'a> {
    Opened {
        timestamp: Timestamp,
        epoch: Epoch,
    },
    #[serde(borrow)]
    Transaction(StoredTransaction<'a>),
    /// Written by earlier versions only.
    SlaFailure(StoredSlaFailure<'a>),
    /// Written by earlier versions only.
    Failover(StoredFailover<'a>),
    Snapshot {
        sequence: Sequence,
    },
    SlaFailureAt {
        timestamp: Timestamp,
        #[serde(borrow)]
        failure: StoredSlaFailure<'a>,
    },
    FailoverAt {
        timestamp: Timestamp,
        forced_by: Option<&'a str>,
        #[serde(borrow)]
        failover: StoredFailover<'a>,
    },
    Queries {
        sequence: Sequence,
        #[serde(borrow)]
        queries: Vec<StoredQuery<'a>>,
    },
    /// A transaction of a user with an incarnation.
    TransactionOf {
        incarnation: u64,
        #[serde(borrow)]
        transaction: StoredTransaction<'a>,
    },
    RelocatedAnswer {
        incarnation: u64,
        body_hash: ReplyHash,
        bytes: u64,
        /// The transaction, without its body.
        #[serde(borrow)]
        transaction: StoredTransaction<'a>,
    },
    /// A failover of a service with something on its disk.
    FailoverWithDisk {
        disk_bytes: u64,
        timestamp: Timestamp,
        forced_by: Option<&'a str>,
        #[serde(borrow)]
        failover: StoredFailover<'a>,
    },
    /// An SLA failure of the network, which has several units.
    NetworkFailureAt {
        unit: Unit,
        timestamp: Timestamp,
        #[serde(borrow)]
        failure: StoredSlaFailure<'a>,
    },
    CallIntent(#[serde(borrow)] StoredIntent<'a>),
    CallOutcome {
        sequence: Sequence,
        #[serde(borrow)]
        call: StoredCall<'a>,
        took: Duration,
        bytes: u64,
    },
    /// A transaction with a network. Results of calls of a kept one are in the records before it.
    TransactionWithCalls {
        incarnation: u64,
        body_hash: ReplyHash,
        #[serde(borrow)]
        transaction: StoredTransaction<'a>,
        #[serde(borrow)]
        network: StoredNetwork<'a>,
    },
    /// A copy of the answer to a failed transaction that made calls.
    RelocatedWithCalls {
        incarnation: u64,
        body_hash: ReplyHash,
        bytes: u64,
        /// The transaction, without its body.
        #[serde(borrow)]
        transaction: StoredTransaction<'a>,
        #[serde(borrow)]
        network: StoredNetwork<'a>,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredIntent<'a> {
    sequence: Sequence,
    id: &'a str,
    is_id_kept: bool,
    user: &'a str,
    incarnation: u64,
    timestamp: Timestamp,
    body_hash: ReplyHash,
    index: u32,
    hash: RequestHash,
    method: &'a str,
    target: &'a str,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredNetwork<'a> {
    charged_calls: u64,
    charged_bytes: u64,
    #[serde(borrow)]
    calls: Vec<StoredCall<'a>>,
}

#[derive(Serialize, Deserialize)]
struct StoredCall<'a> {
    index: u32,
    hash: RequestHash,
    method: &'a str,
    target: &'a str,
    seen: Timestamp,
    #[serde(borrow)]
    result: StoredResult<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredResult<'a> {
    /// It is unknown, or in a record of its own.
    Absent,
    Response {
        status: u16,
        #[serde(borrow)]
        headers: Vec<StoredField<'a>>,
        #[serde(borrow, serialize_with = "as_bytes")]
        body: &'a [u8],
        #[serde(borrow)]
        trailers: Vec<StoredField<'a>>,
    },
    Error(CallError),
}

#[derive(Serialize, Deserialize)]
struct StoredField<'a> {
    name: &'a str,
    #[serde(borrow, serialize_with = "as_bytes")]
    value: &'a [u8],
}

impl<'a> StoredField<'a> {
    fn all(fields: &'a [Field]) -> Vec<Self> {
        fields.iter().map(|Field { name, value }| Self { name, value }).collect()
    }
}

impl StoredField<'_> {
    fn into_field(self) -> Field {
        Field { name: self.name.to_owned(), value: Bytes::copy_from_slice(self.value) }
    }
}

impl<'a> StoredCall<'a> {
    fn of(call: &'a CallRecord, has_result: bool) -> Self {
        let CallRecord { index, hash, method, target, seen, result } = call;
        let result = match result {
            Some(Ok(response)) if has_result => {
                let CallResponse { status, headers, body, trailers } = &**response;
                let (headers, trailers) = (StoredField::all(headers), StoredField::all(trailers));
                StoredResult::Response { status: *status, headers, body, trailers }
            }
            Some(Err(error)) if has_result => StoredResult::Error(error.clone()),
            _ => StoredResult::Absent,
        };
        Self { index: *index, hash: *hash, method, target, seen: *seen, result }
    }
}

impl StoredCall<'_> {
    fn into_call(self) -> CallRecord {
        let fields = |fields: Vec<StoredField<'_>>| fields.into_iter().map(StoredField::into_field).collect();
        let result = match self.result {
            StoredResult::Absent => None,
            StoredResult::Response { status, headers, body, trailers } => {
                let body = Bytes::copy_from_slice(body);
                let (headers, trailers) = (fields(headers), fields(trailers));
                Some(Ok(Arc::new(CallResponse { status, headers, body, trailers })))
            }
            StoredResult::Error(error) => Some(Err(error)),
        };
        CallRecord {
            index: self.index,
            hash: self.hash,
            method: self.method.to_owned(),
            target: self.target.to_owned(),
            seen: self.seen,
            result,
        }
    }
}

impl<'a> StoredNetwork<'a> {
    fn of(network: &'a NetworkRecord, have_results: bool) -> Self {
        Self {
            charged_calls: network.charged.calls,
            charged_bytes: network.charged.bytes,
            calls: network.calls.iter().map(|call| StoredCall::of(call, have_results)).collect(),
        }
    }
}

impl StoredNetwork<'_> {
    fn into_network(self) -> NetworkRecord {
        NetworkRecord {
            charged: NetworkAmount { calls: self.charged_calls, bytes: self.charged_bytes },
            calls: self.calls.into_iter().map(StoredCall::into_call).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredQuery<'a> {
    id: &'a str,
    user: &'a str,
    timestamp: Timestamp,
    #[serde(borrow, serialize_with = "as_bytes")]
    body: &'a [u8],
    reply_hash: ReplyHash,
    fuel_used: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredSlaFailure<'a> {
    vm: u64,
    resource: Resource,
    usage: Usage,
    threshold: Percent,
    transaction: &'a str,
    sequence: Sequence,
}

#[derive(Serialize, Deserialize)]
struct StoredTransaction<'a> {
    sequence: Sequence,
    id: &'a str,
    is_id_kept: bool,
    user: &'a str,
    timestamp: Timestamp,
    #[serde(borrow, serialize_with = "as_bytes")]
    body: &'a [u8],
    #[serde(borrow)]
    answer: StoredAnswer<'a>,
    fuel_used: u64,
    query_fuel_used: u64,
}

#[derive(Serialize, Deserialize)]
enum StoredAnswer<'a> {
    Ok(#[serde(borrow, serialize_with = "as_bytes")] &'a [u8]),
    Refused(&'a str),
    Failed(Cause),
}

#[derive(Serialize, Deserialize)]
struct StoredFailover<'a> {
    cause: FailoverCause,
    from: u64,
    from_machine: &'a str,
    to: u64,
    to_machine: &'a str,
    size: &'a str,
    sequence: Sequence,
    snapshot_bytes: u64,
    replayed_transactions: u64,
    fuel_used: u64,
    pause: Duration,
}

fn as_bytes<S: serde::Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl<'a> StoredTransaction<'a> {
    fn of(record: &'a TransactionRecord) -> Self {
        Self {
            sequence: record.sequence,
            id: &record.id,
            is_id_kept: record.is_id_kept,
            user: &record.user,
            timestamp: record.timestamp,
            body: &record.body,
            answer: match &record.answer {
                Answer::Ok(bytes) => StoredAnswer::Ok(bytes),
                Answer::Refused(text) => StoredAnswer::Refused(text),
                Answer::Failed(cause) => StoredAnswer::Failed(cause.clone()),
            },
            fuel_used: record.fuel_used,
            query_fuel_used: record.query_fuel_used,
        }
    }

    fn into_record(self, incarnation: u64, epoch: Epoch, body_hash: ReplyHash) -> Result<TransactionRecord, String> {
        Ok(TransactionRecord {
            sequence: self.sequence,
            id: self.id.into(),
            is_id_kept: self.is_id_kept,
            user: Name::new(self.user)?,
            incarnation,
            timestamp: self.timestamp,
            epoch,
            body: Bytes::copy_from_slice(self.body),
            body_hash,
            answer: match self.answer {
                StoredAnswer::Ok(bytes) => Answer::Ok(Bytes::copy_from_slice(bytes)),
                StoredAnswer::Refused(text) => Answer::Refused(text.to_owned()),
                StoredAnswer::Failed(cause) => Answer::Failed(cause),
            },
            fuel_used: self.fuel_used,
            query_fuel_used: self.query_fuel_used,
            network: None,
        })
    }
}

/// Encodes `record`.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let stored = match record {
        Record::Opened { timestamp, epoch } => Stored::Opened { timestamp: *timestamp, epoch: *epoch },
        Record::Snapshot { sequence } => Stored::Snapshot { sequence: *sequence },
        Record::Transaction(record) => {
            let transaction = StoredTransaction::of(record);
            match (&record.network, record.incarnation) {
                (Some(network), incarnation) => Stored::TransactionWithCalls {
                    incarnation,
                    body_hash: record.body_hash,
                    transaction,
                    network: StoredNetwork::of(network, !record.answer.is_kept()),
                },
                (None, 0) => Stored::Transaction(transaction),
                (None, incarnation) => Stored::TransactionOf { incarnation, transaction },
            }
        }
        Record::Relocated(RelocatedAnswer { transaction, bytes }) => {
            let (incarnation, body_hash, bytes) = (transaction.incarnation, transaction.body_hash, *bytes);
            let stored = StoredTransaction { body: &[], ..StoredTransaction::of(transaction) };
            match &transaction.network {
                // A replay does not need this copy, and no attempt follows an answer that stands.
                Some(network) if transaction.may_run_again() => {
                    let network = StoredNetwork::of(network, true);
                    Stored::RelocatedWithCalls { incarnation, body_hash, bytes, transaction: stored, network }
                }
                _ => Stored::RelocatedAnswer { incarnation, body_hash, bytes, transaction: stored },
            }
        }
        Record::CallIntent(intent) => Stored::CallIntent(StoredIntent {
            sequence: intent.sequence,
            id: &intent.id,
            is_id_kept: intent.is_id_kept,
            user: &intent.user,
            incarnation: intent.incarnation,
            timestamp: intent.timestamp,
            body_hash: intent.body_hash,
            index: intent.index,
            hash: intent.hash,
            method: &intent.method,
            target: &intent.target,
            bytes: intent.bytes,
        }),
        Record::CallOutcome(outcome) => Stored::CallOutcome {
            sequence: outcome.sequence,
            call: StoredCall::of(&outcome.call, true),
            took: outcome.took,
            bytes: outcome.bytes,
        },
        Record::SlaFailure(record) => {
            let failure = StoredSlaFailure {
                vm: record.vm.number,
                resource: record.resource,
                usage: record.usage,
                threshold: record.threshold_percent,
                transaction: &record.transaction,
                sequence: record.sequence,
            };
            match record.timestamp {
                _ if record.resource == Resource::Network => {
                    let timestamp = record.timestamp.unwrap_or_default();
                    Stored::NetworkFailureAt { unit: record.unit, timestamp, failure }
                }
                Some(timestamp) => Stored::SlaFailureAt { timestamp, failure },
                None => Stored::SlaFailure(failure),
            }
        }
        Record::Failover(record) => {
            let failover = StoredFailover {
                cause: record.cause,
                from: record.from.number,
                from_machine: &record.from_machine,
                to: record.to.number,
                to_machine: &record.to_machine,
                size: &record.size,
                sequence: record.sequence,
                snapshot_bytes: record.snapshot_bytes,
                replayed_transactions: record.replayed_transactions,
                fuel_used: record.fuel_used,
                pause: record.pause,
            };
            let (disk_bytes, forced_by) = (record.disk_bytes, record.forced_by.as_deref());
            match record.timestamp {
                Some(timestamp) if disk_bytes > 0 => {
                    Stored::FailoverWithDisk { disk_bytes, timestamp, forced_by, failover }
                }
                Some(timestamp) => Stored::FailoverAt { timestamp, forced_by, failover },
                None => Stored::Failover(failover),
            }
        }
        Record::Queries(record) => {
            let queries = record.queries.iter().map(|query| StoredQuery {
                id: &query.id,
                user: &query.user,
                timestamp: query.timestamp,
                body: &query.body,
                reply_hash: query.reply_hash,
                fuel_used: query.fuel_used,
            });
            Stored::Queries { sequence: record.sequence, queries: queries.collect() }
        }
    };
    let capacity = match record {
        Record::Transaction(record) => record.bytes(),
        Record::Queries(record) => record.bytes(),
        Record::Relocated(relocated) => relocated.transaction.answer_bytes(),
        Record::CallOutcome(outcome) => outcome.call.bytes(),
        _ => 128,
    };
    let bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or_default());
    postcard::to_extend(&stored, bytes).expect("every field has a form in postcard")
}

/// Returns the bytes that `record` takes in the body of a frame.
#[must_use]
pub fn bytes_in_frame(record: &Record) -> u64 {
    (encode(record).len() + RECORD_LENGTH_BYTES) as u64
}

/// Decodes a record of `service`. `epoch` is that of the last [`Record::Opened`] before it.
/// # Errors
/// [`RecordError`].
pub fn decode(service: &Name, epoch: Epoch, bytes: &[u8]) -> Result<Record, RecordError> {
    decode_with(service, epoch, bytes, None)
}

/// Decodes a record, given the hash of the body if the body was left out.
fn decode_with(
    service: &Name,
    epoch: Epoch,
    bytes: &[u8],
    body_hash: Option<ReplyHash>,
) -> Result<Record, RecordError> {
    let stored: Stored<'_> = postcard::from_bytes(bytes).map_err(|error| RecordError { reason: error.to_string() })?;
    let name = |text: &str| Name::new(text).map_err(|reason| RecordError { reason });
    let record_of = |incarnation, stored: StoredTransaction<'_>, body_hash, network: Option<StoredNetwork<'_>>| {
        let transaction = stored.into_record(incarnation, epoch, body_hash);
        let transaction = transaction.map_err(|reason| RecordError { reason })?;
        let mut network = network.map(StoredNetwork::into_network);
        if let Some(network) = network.as_mut().filter(|_| transaction.answer.is_kept()) {
            // Only the records of their own count.
            network.calls = network.calls.iter().map(|call| CallRecord { result: None, ..call.clone() }).collect();
        }
        Ok(Arc::new(TransactionRecord { network: network.map(Arc::new), ..transaction }))
    };
    let transaction_of = |incarnation, stored: StoredTransaction<'_>| {
        let body_hash = body_hash.unwrap_or_else(|| ReplyHash::of_body(stored.body));
        record_of(incarnation, stored, body_hash, None)
    };
    Ok(match stored {
        Stored::Opened { timestamp, epoch } => Record::Opened { timestamp, epoch },
        Stored::Snapshot { sequence } => Record::Snapshot { sequence },
        Stored::Transaction(transaction) => Record::Transaction(transaction_of(0, transaction)?),
        Stored::TransactionOf { incarnation, transaction } => {
            Record::Transaction(transaction_of(incarnation, transaction)?)
        }
        Stored::RelocatedAnswer { incarnation, body_hash, bytes, transaction } => {
            let transaction = record_of(incarnation, transaction, body_hash, None)?;
            Record::Relocated(RelocatedAnswer { transaction, bytes })
        }
        Stored::RelocatedWithCalls { incarnation, body_hash, bytes, transaction, network } => {
            let mut transaction = record_of(incarnation, transaction, body_hash, Some(network))?;
            if !transaction.may_run_again() {
                Arc::make_mut(&mut transaction).network = None;
            }
            Record::Relocated(RelocatedAnswer { transaction, bytes })
        }
        Stored::TransactionWithCalls { incarnation, body_hash, transaction, network } => {
            Record::Transaction(record_of(incarnation, transaction, body_hash, Some(network))?)
        }
        Stored::CallIntent(intent) => Record::CallIntent(Arc::new(CallIntent {
            sequence: intent.sequence,
            id: intent.id.into(),
            is_id_kept: intent.is_id_kept,
            user: name(intent.user)?,
            incarnation: intent.incarnation,
            timestamp: intent.timestamp,
            body_hash: intent.body_hash,
            index: intent.index,
            hash: intent.hash,
            method: intent.method.to_owned(),
            target: intent.target.to_owned(),
            bytes: intent.bytes,
        })),
        Stored::CallOutcome { sequence, call, took, bytes } => {
            Record::CallOutcome(Arc::new(CallOutcome { sequence, call: call.into_call(), took, bytes }))
        }
        Stored::SlaFailure(failure) => Record::SlaFailure(sla_failure(service, failure, None, None)?),
        Stored::SlaFailureAt { timestamp, failure } => {
            Record::SlaFailure(sla_failure(service, failure, None, Some(timestamp))?)
        }
        Stored::NetworkFailureAt { unit, timestamp, failure } => {
            Record::SlaFailure(sla_failure(service, failure, Some(unit), Some(timestamp))?)
        }
        Stored::Failover(stored) => Record::Failover(failover(service, stored)?),
        Stored::FailoverAt { timestamp, forced_by, failover: stored } => Record::Failover(Failover {
            forced_by: forced_by.map(name).transpose()?,
            timestamp: Some(timestamp),
            ..failover(service, stored)?
        }),
        Stored::FailoverWithDisk { disk_bytes, timestamp, forced_by, failover: stored } => Record::Failover(Failover {
            disk_bytes,
            forced_by: forced_by.map(name).transpose()?,
            timestamp: Some(timestamp),
            ..failover(service, stored)?
        }),
        Stored::Queries { sequence, queries } => {
            let query = |stored: StoredQuery<'_>| {
                Ok(QueryRecord {
                    id: stored.id.into(),
                    user: name(stored.user)?,
                    timestamp: stored.timestamp,
                    body: Bytes::copy_from_slice(stored.body),
                    reply_hash: stored.reply_hash,
                    fuel_used: stored.fuel_used,
                })
            };
            let queries = queries.into_iter().map(query).collect::<Result<_, RecordError>>()?;
            Record::Queries(Arc::new(QueriesRecord { sequence, epoch, queries }))
        }
    })
}

/// The part of an answer's record that an index retains, so that the answer can be read and checked without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerCheck {
    body_hash: ReplyHash,
    /// The first 64 bits of the BLAKE3 hash of the record without its body and the length of the body.
    rest_hash: [u8; 8],
}

impl AnswerCheck {
    /// Returns the check of an encoded record with the answer to a transaction. `body_hash` is the hash of the
    /// transaction's body.
    #[must_use]
    pub fn of(record: &[u8], body_hash: ReplyHash) -> Self {
        let body = body_of(record).filter(|body| body.bytes.end <= record.len());
        let (start, end) =
            body.map_or((record, &[][..]), |body| (&record[..body.length_at], &record[body.bytes.end..]));
        Self { body_hash, rest_hash: rest_hash(start, end) }
    }
}

fn rest_hash(start: &[u8], end: &[u8]) -> [u8; 8] {
    let mut hash = [0; 8];
    hash.copy_from_slice(&blake3::Hasher::new().update(start).update(end).finalize().as_bytes()[..8]);
    hash
}

/// The place of the body in the record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BodyPlace {
    /// The offset of the length of the body, which comes before the body.
    length_at: usize,
    /// The range of the body. Its end is the one that the record claims, and may lie beyond the end of the record.
    pub(crate) bytes: Range<usize>,
}

/// Finds the body in the record of an answer. `start` has at least the first [`ANSWER_START_BYTES_MAX`] bytes of the
/// record, or all of it. Returns none if the record has no answer.
pub(crate) fn body_of(start: &[u8]) -> Option<BodyPlace> {
    let (variant, rest) = postcard::take_from_bytes::<u32>(start).ok()?;
    let rest = match variant {
        // The numbers of the variants of `Stored`.
        1 => rest,
        8 => postcard::take_from_bytes::<u64>(rest).ok()?.1,
        9 | 15 => postcard::take_from_bytes::<(u64, ReplyHash, u64)>(rest).ok()?.1,
        14 => postcard::take_from_bytes::<(u64, ReplyHash)>(rest).ok()?.1,
        _ => return None,
    };
    let (_, rest) = postcard::take_from_bytes::<(Sequence, &str, bool, &str, Timestamp)>(rest).ok()?;
    let length_at = start.len() - rest.len();
    let (bytes, rest) = postcard::take_from_bytes::<u32>(rest).ok()?;
    let first = start.len() - rest.len();
    Some(BodyPlace { length_at, bytes: first..first.checked_add(usize::try_from(bytes).ok()?)? })
}

/// Decodes an answer of `service` from the parts of its record before and after the body. Bytes at the end of `start`
/// that belong to the body or follow it are ignored. Returns none if the check fails.
pub(crate) fn decode_answer(
    service: &Name,
    check: &AnswerCheck,
    start: &[u8],
    body: &BodyPlace,
    end: &[u8],
) -> Option<RelocatedAnswer> {
    let start = start.get(..body.length_at)?;
    if rest_hash(start, end) != check.rest_hash {
        return None;
    }
    // The record as it would be with an empty body.
    let record = [start, &[0], end].concat();
    // The epoch does not matter to the reader of an answer.
    match decode_with(service, Epoch::default(), &record, Some(check.body_hash)).ok()? {
        Record::Transaction(transaction) => {
            let bytes = transaction.answer_bytes().saturating_add(body.bytes.len() as u64);
            Some(RelocatedAnswer { transaction, bytes })
        }
        Record::Relocated(answer) => Some(answer),
        _ => None,
    }
}

/// Returns a failure whose record states the unit, if it is one of the network.
fn sla_failure(
    service: &Name,
    stored: StoredSlaFailure<'_>,
    unit: Option<Unit>,
    timestamp: Option<Timestamp>,
) -> Result<SlaFailure, RecordError> {
    // A resource has one unit, or the record states it.
    let unit = match (stored.resource.unit(), unit) {
        (Some(unit), None) | (None, Some(unit)) => unit,
        _ => return Err(RecordError { reason: format!("an SLA failure of {} in another unit", stored.resource) }),
    };
    Ok(SlaFailure {
        vm: VmId { service: service.clone(), number: stored.vm },
        resource: stored.resource,
        usage: stored.usage,
        unit,
        threshold_percent: stored.threshold,
        transaction: stored.transaction.to_owned(),
        sequence: stored.sequence,
        timestamp,
    })
}

fn failover(service: &Name, stored: StoredFailover<'_>) -> Result<Failover, RecordError> {
    let vm = |number| VmId { service: service.clone(), number };
    let name = |text: &str| Name::new(text).map_err(|reason| RecordError { reason });
    Ok(Failover {
        cause: stored.cause,
        from: vm(stored.from),
        from_machine: name(stored.from_machine)?,
        to: vm(stored.to),
        to_machine: name(stored.to_machine)?,
        size: stored.size.to_owned(),
        sequence: stored.sequence,
        snapshot_bytes: stored.snapshot_bytes,
        disk_bytes: 0,
        replayed_transactions: stored.replayed_transactions,
        fuel_used: stored.fuel_used,
        pause: stored.pause,
        forced_by: None,
        timestamp: None,
    })
}

#[cfg(test)]
mod tests;
