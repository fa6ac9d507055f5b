//! Decoders that no caller outside of this crate needs, for the fuzz targets of `host/fuzz`: not a part of the
//! interface.
//!
//! Those that encode what they decoded panic if that is decoded as something else.

use crate::answers::ForgottenTimes;
use crate::catalog;
use crate::journal::record::{self, AnswerCheck};
use crate::journal::{Record, RelocatedAnswer, TransactionRecord};
use bytes::Bytes;
use lifeboat_api::id::Epoch;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::ReplyHash;
use std::sync::Arc;

/// Decodes a service's entry in the catalog, and returns the encoding of what it holds.
///
/// # Errors
/// Why it is none.
pub fn service_entry(bytes: &[u8]) -> Result<Vec<u8>, String> {
    catalog::recode_service(bytes)
}

/// The same of a user's.
///
/// # Errors
/// Why it is none.
pub fn user_entry(bytes: &[u8]) -> Result<Vec<u8>, String> {
    catalog::recode_user(bytes)
}

/// The same of a token's.
///
/// # Errors
/// Why it is none.
pub fn token_entry(bytes: &[u8]) -> Result<Vec<u8>, String> {
    catalog::recode_token(bytes)
}

/// The same of the section of a snapshot with the newest times in ids whose answers were forgotten.
#[must_use]
pub fn forgotten_times(bytes: &[u8]) -> Option<Vec<u8>> {
    let times = ForgottenTimes::from_bytes(bytes)?;
    let again = times.to_bytes();
    assert_eq!(ForgottenTimes::from_bytes(&again), Some(times), "what was encoded is decoded");
    Some(again)
}

/// Reads the answer in the bytes of a record without the body of its transaction, as a repetition is answered.
#[must_use]
pub fn answer(service: &Name, record: &[u8]) -> Option<RelocatedAnswer> {
    let start = &record[..record.len().min(record::ANSWER_START_BYTES_MAX)];
    let place = record::body_of(start)?;
    let body = record.get(place.bytes.clone())?;
    let check = AnswerCheck::of(record, ReplyHash::of_body(body));
    record::decode_answer(service, &check, start, &place, &record[place.bytes.end..])
}

/// The answer in a record, as [`answer`] must return it.
#[must_use]
pub fn answer_in(record: &Record) -> Option<RelocatedAnswer> {
    let without_body = |transaction: &TransactionRecord| {
        Arc::new(TransactionRecord { body: Bytes::new(), epoch: Epoch::default(), ..transaction.clone() })
    };
    match record {
        Record::Transaction(transaction) => {
            let bytes = transaction.answer_bytes() + transaction.body.len() as u64;
            Some(RelocatedAnswer { transaction: without_body(transaction), bytes })
        }
        Record::Relocated(answer) => {
            Some(RelocatedAnswer { transaction: without_body(&answer.transaction), bytes: answer.bytes })
        }
        _ => None,
    }
}
